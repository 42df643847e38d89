"""Fair share: how much of the pool somebody has used of late, and who of those that wait is owed most. Pure.

Use is charged on what is held, whatever it does with it. Units are whatever the caller counts in (GPUs, or GPUs times
the weight of a model); a use is in unit-seconds. Times are seconds since the epoch and given, never read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

Path = tuple[str, ...]
"""A person's place in the tree: the names from the top down. Somebody in two groups has two."""

_OWED = itemgetter(0)
_DIGITS = 9
"""Levels that agree to so many digits are tied: what differs further down is arithmetic, not use."""


@dataclass(frozen=True)
class Decayed:
    """A use that is forgotten by half in every half-life.

    ``value``: what it counted, in unit-seconds, at ``at`` (seconds); ``rate``: units held from then on. Exact for any
    distance between events, so it makes no difference how often it is brought up to date. Raises ValueError for a
    ``value`` or ``rate`` below 0.
    """

    value: float = 0.0
    rate: float = 0.0
    at: float = 0.0

    def __post_init__(self) -> None:
        _check("a decayed use", self.value)
        _check("a rate of use", self.rate)

    def moved_to(self, now: float, half_life_s: float | None) -> Decayed:
        """The same use as it counts at ``now``: u·2^(−δ/h) + rate·h/ln2·(1 − 2^(−δ/h)), with δ since ``at``.

        ``half_life_s`` None never forgets (the plain integral of what was held), 0 forgets at once. A ``now`` before
        ``at`` changes nothing: use is not taken back. Raises ValueError for a half-life below 0.
        """
        passed = max(0.0, now - self.at)
        at = max(now, self.at)
        if half_life_s is None or half_life_s == math.inf:
            return replace(self, value=self.value + self.rate * passed, at=at)
        _check("a half-life", half_life_s)
        if half_life_s == 0:
            return replace(self, value=0.0, at=at)
        decay = -math.log(2) * passed / half_life_s
        # expm1: the difference from 1 keeps its digits when little time has passed.
        held = half_life_s / math.log(2) * -math.expm1(decay)
        return replace(self, value=self.value * math.exp(decay) + self.rate * held, at=at)

    def with_rate(self, rate: float, now: float, half_life_s: float | None) -> Decayed:
        """The use at ``now``, with ``rate`` units held from there on. Raises ValueError for a rate below 0."""
        return replace(self.moved_to(now, half_life_s), rate=rate)

    def plus(self, value: float, now: float, half_life_s: float | None) -> Decayed:
        """The use at ``now`` with ``value`` unit-seconds more, such as what a start costs in itself.

        With a half-life of 0 it stays 0. Raises ValueError for a ``value`` below 0.
        """
        _check("a charge", value)
        moved = self.moved_to(now, half_life_s)
        return moved if half_life_s == 0 else replace(moved, value=moved.value + value)


def decayed_interval(rate: float, began: float, ended: float, now: float, half_life_s: float | None) -> float:
    """What ``rate`` units held from ``began`` to ``ended`` count at ``now``, in unit-seconds.

    Only what lies before ``now`` counts; an interval that ends before it begins counts 0. Raises as ``Decayed`` does.
    """
    end = min(ended, now)
    if end <= began:
        return 0.0
    return Decayed(0.0, rate, began).with_rate(0.0, end, half_life_s).moved_to(now, half_life_s).value


def average_use(value: float, half_life_s: float) -> float:
    """A decayed use of ``value`` unit-seconds as units held: what somebody who always held that much would have.

    It is HTCondor's real user priority without its floor: value·ln2/h. Raises ValueError unless the half-life is finite
    and above 0 s, because a use that is never forgotten, or at once, has no such average.
    """
    if not 0 < half_life_s < math.inf:
        raise ValueError(f"the average of a use needs a finite half-life above 0 s, not {half_life_s}")
    return value * math.log(2) / half_life_s


@dataclass(frozen=True)
class Node:
    """A group with its ``children``, or without any a person.

    ``shares``: what it is entitled to, relative to its siblings; ``usage``: what it has used. Both are 0 or more, and
    siblings have different names, else ValueError.
    """

    name: str
    shares: float
    usage: float
    children: tuple[Node, ...] = ()

    def __post_init__(self) -> None:
        if not (0 <= self.shares < math.inf and 0 <= self.usage < math.inf):
            _check(f"the shares of {self.name!r}", self.shares)
            _check(f"the usage of {self.name!r}", self.usage)
        if self.children:
            _check_names(self.children)


def group(name: str, shares: float, children: Iterable[Node]) -> Node:
    """A group that has used what its ``children`` have used together. Raises as ``Node`` does."""
    members = tuple(children)
    return Node(name, shares, math.fsum(child.usage for child in members), members)


def fair_tree(children: Sequence[Node]) -> dict[Path, float]:
    """Everybody's rank in (0, 1], 1 for who is owed most, best first: Slurm's Fair Tree of this top level.

    Siblings are ordered by level = share/usage, both as parts of what the siblings have together: no usage comes first,
    no share last. All members of a group come before all of one that is behind it. Who is tied shares a rank: siblings
    of one level, and a person with the best of a group of its level; groups of one level are taken as one. The rank is
    the number of people not ahead, divided by the number of people. Raises ValueError for two siblings of one name.

    Source: "Fair Tree Fairshare Algorithm", Slurm's documentation.
    """
    _check_names(children)
    places = _places(_levels((), children))
    people = sum(map(len, places))
    ranks: dict[Path, float] = {}
    for place in places:
        rank = (people - len(ranks)) / people
        ranks.update(dict.fromkeys(place, rank))
    return ranks


def classic(children: Sequence[Node], damping: float = 1.0) -> dict[Path, float]:
    """Everybody's factor in [0, 1], 0.5 for who has used just her share: F = 2^(−U_E/S/d) with ``damping`` d.

    S: the share of the whole, the product of the parts down the tree; no share gives 0. U_E: the part of all use that
    counts against a person, U_E = U + (U_E,parent − U)·S_child/S_siblings; at the top U_E = U. So what the group has
    used weighs on its members, too. Raises ValueError for a damping of 0 or less, and for two siblings of one name.

    Source: "Multifactor Priority Plugin", Slurm's documentation, the algorithm before Fair Tree.
    """
    if not damping > 0:
        raise ValueError(f"the damping is {damping}: it must be above 0; 1 does nothing, more makes use weigh less")
    _check_names(children)
    total = math.fsum(child.usage for child in children)
    whole = math.fsum(child.shares for child in children)
    factors: dict[Path, float] = {}
    for child in children:
        charged = _Charged((child.name,), _part(child.shares, whole), _part(child.usage, total))
        factors.update((item.path, item.factor(damping)) for item in _people(child, charged, total))
    return factors


def jain(values: Iterable[float]) -> float:
    """Jain's index of fairness (Σx)²/(n·Σx²): 1 when all have the same, k/n when k of n have all.

    ``values``: what each one got of what she is entitled to, 0 or more, else ValueError. None, or all 0, gives 1.
    """
    given = list(values)
    for value in given:
        _check("a value for Jain's index", value)
    most = max(given, default=0.0)
    if most == 0:
        return 1.0
    parts = [value / most for value in given]  # against overflow; the index knows no scale
    return min(1.0, math.fsum(parts) ** 2 / (len(parts) * math.fsum(part * part for part in parts)))


class _Level(NamedTuple):
    """A node with how well it stands among its siblings; ``owed`` sorts who is owed most first."""

    owed: float
    path: Path
    node: Node


def _levels(path: Path, siblings: Sequence[Node]) -> list[_Level]:
    shares = math.fsum([node.shares for node in siblings])
    usage = math.fsum([node.usage for node in siblings])
    return [
        _Level(-_level(_part(node.shares, shares), _part(node.usage, usage)), (*path, node.name), node)
        for node in siblings
    ]


def _level(share: float, usage: float) -> float:
    if share == 0:
        return 0.0
    return math.inf if usage == 0 else float(f"{share / usage:.{_DIGITS}g}")


def _places(levels: Iterable[_Level]) -> list[list[Path]]:
    """The people, best first, those of one rank together."""
    places: list[list[Path]] = []
    for _, same in groupby(sorted(levels, key=_OWED), key=_OWED):
        tied = list(same)
        if len(tied) == 1 and not tied[0].node.children:
            places.append([tied[0].path])
            continue
        people = [item.path for item in tied if not item.node.children]
        groups = [item for item in tied if item.node.children]
        below = _places(child for item in groups for child in _levels(item.path, item.node.children))
        if people:
            below[:1] = [people + (below[0] if below else [])]
        places += below
    return places


@dataclass(frozen=True)
class _Charged:
    """A node's share of the whole, and the part of all use that counts against it."""

    path: Path
    share: float
    usage: float

    def factor(self, damping: float) -> float:
        return 0.5 ** (self.usage / self.share / damping) if self.share > 0 else 0.0


def _people(node: Node, charged: _Charged, total: float) -> Iterable[_Charged]:
    """The people below ``node``; itself if it is one."""
    if not node.children:
        yield charged
    shares = math.fsum(child.shares for child in node.children)
    for child in node.children:
        part, used = _part(child.shares, shares), _part(child.usage, total)
        usage = used + (charged.usage - used) * part
        yield from _people(child, _Charged((*charged.path, child.name), charged.share * part, usage), total)


def _part(value: float, whole: float) -> float:
    return value / whole if whole > 0 else 0.0


def _check(what: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{what} is {value}: it must be a finite number, 0 or more")


def _check_names(siblings: Sequence[Node]) -> None:
    names = [node.name for node in siblings]
    if len(set(names)) == len(names):
        return
    seen: set[str] = set()
    for node in siblings:
        if node.name in seen:
            raise ValueError(f"there are two named {node.name!r} in one group: names of siblings must differ")
        seen.add(node.name)
