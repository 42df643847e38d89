"""Which devices each pool of the limits has, and what becomes of a restriction whose pool has none. Pure.

A device belongs to the first pool that names it. A pool that restricts who may use its devices, for what, and for how
long, and has no device, is probably a mistake: its restriction must not be lost. So it holds where it may have been
meant:

* where an earlier pool names all that it names (it can never have a device), for the devices that it names;
* where it names no device at all (a model or node that is not here), for the devices of its engines that are in no
  pool. A last pool that names everything says who may use those, and leaves nothing to that rule.

A pool whose devices all happen to belong to earlier ones, which name them in other words, restricts nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..kind import Kind
from ..placement import Slot
from .schema import PoolLimits

WILD = frozenset("*?[]")


@dataclass(frozen=True)
class Membership:
    """``of``: the devices of each pool. ``unmatched``: of pools that have none and restrict something, the devices for
    which their restriction holds all the same."""

    of: Mapping[str, tuple[Slot, ...]]
    unmatched: Mapping[str, tuple[Slot, ...]]


def membership(pools: Mapping[str, PoolLimits], slots: Sequence[Slot]) -> Membership:
    """Which of ``slots`` belong to which of ``pools``."""
    mine: dict[str, tuple[Slot, ...]] = {}
    left = list(slots)
    for name, pool in pools.items():
        mine[name] = tuple(slot for slot in left if belongs(slot, pool))
        left = [slot for slot in left if not belongs(slot, pool)]
    unmatched: dict[str, tuple[Slot, ...]] = {}
    for name, pool in pools.items():
        if mine[name] or not restricts(pool):
            continue
        named = tuple(slot for slot in slots if belongs(slot, pool))
        if not named:
            unmatched[name] = tuple(slot for slot in left if matches(engine_of(slot), pool.engines))
        elif shadow_of(pools, name):
            unmatched[name] = named
    return Membership(mine, {name: found for name, found in unmatched.items() if found})


def belongs(slot: Slot, pool: PoolLimits) -> bool:
    """Whether ``pool`` names ``slot``, by model, node and engine."""
    found = ((slot.model, pool.models), (slot.node, pool.nodes), (engine_of(slot), pool.engines))
    return all(matches(value, patterns) for value, patterns in found)


def engine_of(slot: Slot) -> str:
    """The engine of ``slot`` as the limits call it; this machine's is ``local``."""
    return slot.engine or "local"


def matches(value: str, patterns: Iterable[str]) -> bool:
    """Whether any of ``patterns`` is about ``value``."""
    return any(fnmatchcase(value, pattern) for pattern in patterns)


def restricts(pool: PoolLimits) -> bool:
    """Whether ``pool`` says who may use its devices, for what, or for how long."""
    return pool.groups is not None or set(pool.kinds) != set(Kind) or pool.max_time is not None


def shadow_of(pools: Mapping[str, PoolLimits], name: str) -> str:
    """Return the earlier pool that names everything that the pool ``name`` names, whatever there is; empty: none."""
    for earlier, pool in pools.items():
        if earlier == name:
            return ""
        mine = pools[name]
        pairs = ((pool.models, mine.models), (pool.nodes, mine.nodes), (pool.engines, mine.engines))
        if all(_covers(all_of, each) for all_of, wanted in pairs for each in wanted):
            return earlier
    return ""


def _covers(patterns: Iterable[str], pattern: str) -> bool:
    """Whether whatever ``pattern`` means is among ``patterns``, as far as that can be said."""
    return any(
        other in ("*", pattern)
        or (other[-1:] == "*" and not WILD & set(other[:-1]) and pattern.startswith(other[:-1]))
        or (not WILD & set(pattern) and fnmatchcase(pattern, other))
        for other in patterns
    )
