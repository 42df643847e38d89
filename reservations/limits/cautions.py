"""What a valid limits file says that probably is not intended, as far as the file alone tells. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..clock import duration_text
from .effective import Effective, resolve, said
from .engines import is_elsewhere, stated, text_of
from .pools import restricts, shadow_of
from .schema import CalendarEntry, GroupLimits, Limits, PersonLimits, PoolLimits
from .values import UNLIMITED, Fault, Where, amount_text

NOBODY = ""
"""A name that no person has."""
BUILT = "built in"
"""The source of what no file says."""


@dataclass(frozen=True)
class Scope:
    """What holds for people of one scope of the file. ``own``: keys that stand in it, below ``where``; ``values``: with
    what wider scopes say; ``sources``: who says it."""

    where: Where
    own: Mapping[str, Any]
    values: Mapping[str, Any]
    sources: Mapping[str, str]

    def place(self, *keys: str) -> Where:
        """Where the first of ``keys`` stands that this scope says itself."""
        key = next((key for key in keys if key in self.own), keys[0])
        return (*self.where, *key.split("."))

    def text(self, key: str, shown: Callable[[Any], str]) -> str:
        """``key`` with its value, and who says it where that is another scope."""
        by = "" if key in self.own else f" ({self.sources[key]})"
        return f"{key} is {shown(self.values[key])}{by}"


def scopes(limits: Limits) -> Iterator[Scope]:
    """Yield every scope of the file that says what people may have."""
    yield _scope(("defaults",), limits.defaults, resolve(limits, NOBODY, ()))
    for name, group in limits.groups.items():
        yield _scope(("groups", name, "each"), group.each, resolve(limits, NOBODY, [name]))
    for name, person in limits.users.items():
        yield _scope(("users", name), person, resolve(limits, name, ()))


def _scope(where: Where, section: PersonLimits, effective: Effective) -> Scope:
    return Scope(where, said(section), effective.values, effective.sources)


def file_cautions(limits: Limits) -> Iterator[Fault]:
    """Yield what is valid but probably not intended."""
    for scope in scopes(limits):
        yield from _person_cautions(scope)
    for name, group in limits.groups.items():
        yield from _group_cautions(name, group)
    for name, pool in limits.pools.items():
        yield from _pool_cautions(limits, name, pool)
    entries: list[tuple[Where, CalendarEntry]] = [(("events", n), one) for n, one in enumerate(limits.events)]
    entries += [(("maintenance", n), one) for n, one in enumerate(limits.maintenance)]
    for where, entry in entries:
        if entry.pool is not None and is_elsewhere(limits.pools[entry.pool]):
            yield Fault((*where, "pool"), not_held(f"'{entry.name}'", f"the pool {entry.pool}"))
    for number, event in enumerate(limits.events):
        if not event.groups and not event.users:
            yield Fault(("events", number), f"'{event.name}' is for no groups and no users: nobody may use its devices")
        elif not event.gpus:
            yield Fault(("events", number, "gpus"), f"is 0: nothing is kept for '{event.name}'")


PAIRS: tuple[tuple[str, str, Callable[[Any], str], str], ...] = (
    ("largest", "gpus", amount_text, "a share of more than gpus is refused, so largest never holds"),
    ("extension.longest", "extension.total", duration_text, "no session can be extended by so much"),
    *(
        (f"{kind}.default_{what}", f"{kind}.max_{what}", shown, "who chooses nothing gets the most instead")
        for kind in ("sessions", "jobs")
        for what, shown in (("time", duration_text), ("cpus", amount_text), ("host_memory_gib", amount_text))
    ),
)
"""Two keys of which the first must not be larger than the second, how they are shown, and what follows if it is."""


def _person_cautions(scope: Scope) -> Iterator[Fault]:
    for smaller, larger, shown, follows in PAIRS:
        one, other = scope.values[smaller], scope.values[larger]
        is_here = smaller in scope.own or larger in scope.own
        if is_here and scope.sources[smaller] != BUILT and one > other and one != UNLIMITED:
            message = f"{scope.text(smaller, shown)} and {scope.text(larger, shown)}: {follows}"
            yield Fault(scope.place(larger, smaller) if smaller == "largest" else scope.place(smaller, larger), message)
    for key in ("shapes", "models"):
        if scope.own.get(key) == ():
            yield Fault(scope.place(key), f"is empty: whom this holds for may ask for no GPU at all ({key})")


def _group_cautions(name: str, group: GroupLimits) -> Iterator[Fault]:
    most = UNLIMITED if group.gpus is None else group.gpus
    if group.quota is not None and group.quota > most:
        message = (
            f"is {amount_text(group.quota)} and gpus of the group is {amount_text(most)}: it may never hold what it is "
            f"guaranteed; make quota at most {amount_text(most)}"
        )
        yield Fault(("groups", name, "quota"), message)
    for key in ("gpus", "largest"):
        each = getattr(group.each, key)
        if each is not None and most < each != UNLIMITED:
            message = (
                f"is {amount_text(each)} and all of the group may hold {amount_text(most)} together (groups.{name}."
                f"gpus): make it at most {amount_text(most)}"
            )
            yield Fault(("groups", name, "each", key), message)


def _pool_cautions(limits: Limits, name: str, pool: PoolLimits) -> Iterator[Fault]:
    earlier = shadow_of(limits.pools, name)
    if earlier:
        closed = (
            "; until that is corrected, what it says of groups, kinds and max_time holds beside the other's for the "
            "devices that it names"
            if restricts(pool)
            else ""
        )
        message = (
            f"never has a device: the pool {earlier} before it names all that it names, and a device belongs to the "
            f"first pool that does{closed}; put {name} before {earlier}"
        )
        yield Fault(("pools", name), message)
    for key in ("models", "nodes", "engines", "kinds", "groups"):
        if getattr(pool, key) == ():
            yield Fault(("pools", name, key), f"is empty: the pool {name} is for nothing and nobody")
    if is_elsewhere(pool):
        yield from _elsewhere(limits, name, pool)


def _elsewhere(limits: Limits, name: str, pool: PoolLimits) -> Iterator[Fault]:
    """What an engine decides that places work itself: timeshare cannot hold it there."""
    where = f"the pool {name} ({', '.join(pool.engines)})"
    for place, found in stated(limits, ("pools", name)):
        if not found.holds:
            yield Fault(place, text_of(place, found, where))
    if pool.idle.then in ("give_back", "park"):
        yield Fault(("pools", name, "idle", "then"), stopped(pool.idle.then))


def stopped(then: str) -> str:
    """That idle sessions are stopped where ``then`` says something else."""
    return (
        f"is {then}, and an engine such as Slurm takes back the whole allocation or nothing: idle sessions there are "
        "stopped; say stop"
    )


def not_held(key: str, where: str) -> str:
    """That ``key`` does not hold at an engine that places work itself."""
    return (
        f"does not hold in {where}: an engine such as Slurm places and orders the work itself, and {key} holds on this "
        "machine only; say it there in the engine's own terms, see docs/slurm.md"
    )
