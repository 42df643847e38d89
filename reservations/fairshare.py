"""Fair share: uses that decay, and the order that follows from shares and use. Pure; time is a parameter.

Sources: the decay is that of Slurm's ``PriorityDecayHalfLife`` and HTCondor's user priority, in closed form;
``fair_tree`` and ``classic`` are Slurm's two algorithms, as its documentation states them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

Path = tuple[str, ...]


@dataclass(frozen=True)
class Decayed:
    """A use that decays: ``value`` (unit-seconds) at the time ``at``, while ``rate`` units are held from then on."""

    value: float = 0.0
    rate: float = 0.0
    at: float = 0.0

    def moved_to(self, now: float, half_life_s: float | None) -> Decayed:
        """The same use at ``now``. Half-life None: nothing is ever forgotten; 0: everything at once."""
        value = self.value * _kept(now - self.at, half_life_s)
        value += decayed_interval(self.rate, self.at, now, now, half_life_s)
        return Decayed(value, self.rate, now)


def _kept(seconds: float, half_life_s: float | None) -> float:
    if half_life_s is None:
        return 1.0
    return 0.5 ** (seconds / half_life_s) if half_life_s else 0.0


def decayed_interval(rate: float, began: float, ended: float, now: float, half_life_s: float | None) -> float:
    """What holding ``rate`` units from ``began`` to ``ended`` counts at ``now``, in unit-seconds."""
    if half_life_s is None:
        return rate * (ended - began)
    if half_life_s == 0:
        return 0.0
    full = rate * half_life_s / math.log(2)
    # expm1 keeps the digits of short intervals
    return -full * _kept(now - ended, half_life_s) * math.expm1(-math.log(2) * (ended - began) / half_life_s)


def average_use(value: float, half_life_s: float) -> float:
    """A decayed use in units held: what holding that much for ever would come to. HTCondor's real user priority."""
    return value * math.log(2) / half_life_s


@dataclass(frozen=True)
class Node:
    """A group with its members, or a member. ``shares``: weight among its siblings. ``usage``: of a group, that of all
    its members together."""

    name: str
    shares: float
    usage: float
    children: tuple[Node, ...] = ()


def fair_tree(children: Sequence[Node]) -> dict[Path, float]:
    """By path of each leaf its rank / number of leaves, in (0, 1].

    At each level siblings are ordered by level fair share (shares over usage); all members of a better placed group
    come before all of a worse one; equals share a rank, and the children of equal groups are ordered together.
    """
    ordered = list(_ranked([((node.name,), node) for node in children]))
    count = sum(len(paths) for paths in ordered)
    factors: dict[Path, float] = {}
    rank = count
    for paths in ordered:
        for path in paths:
            factors[path] = rank / count
        rank -= len(paths)
    return factors


def _ranked(siblings: list[tuple[Path, Node]]) -> Iterable[list[Path]]:
    """Paths of leaves, those of equal rank together, best first."""
    ordered = sorted(siblings, key=lambda entry: -_level(entry[1]))
    for _, equals in groupby(ordered, key=lambda entry: _level(entry[1])):
        tied = list(equals)
        leaves = [path for path, node in tied if not node.children]
        if leaves:
            yield leaves
        merged = [((*path, child.name), child) for path, node in tied for child in node.children]
        if merged:
            yield from _ranked(merged)


def _level(node: Node) -> float:
    """Shares over usage: infinite for one that has used nothing, and below everyone (-1) for one without shares."""
    if node.shares <= 0:
        return -1.0
    return node.shares / node.usage if node.usage > 0 else math.inf


def classic(children: Sequence[Node], damping: float = 1.0, total: float | None = None) -> dict[Path, float]:
    """Slurm's classic factor 2^(-U/S/damping) by path of each leaf, with U the effective usage: a member's own, moved
    towards its group's by its part of the group's shares. 0.5 is exactly the share; 0 for one without shares.
    ``total``: what all use is a part of; None: the sum of it."""
    factors: dict[Path, float] = {}
    if total is None:
        total = sum(node.usage for node in children)
    _classic(children, (), (1.0, None, total), damping, factors)
    return factors


def _classic(
    siblings: Sequence[Node],
    path: Path,
    parent: tuple[float, float | None, float],
    damping: float,
    factors: dict[Path, float],
) -> None:
    """``parent``: its normalised shares, its effective usage (None at the root), and all usage there is."""
    shares_above, effective_above, total = parent
    sum_of_shares = sum(node.shares for node in siblings)
    for node in siblings:
        part = node.shares / sum_of_shares if sum_of_shares else 0.0
        actual = node.usage / total if total else 0.0
        effective = actual if effective_above is None else actual + (effective_above - actual) * part
        shares = shares_above * part
        if node.children:
            _classic(node.children, (*path, node.name), (shares, effective, total), damping, factors)
        else:
            factors[(*path, node.name)] = 2 ** (-effective / shares / damping) if shares else 0.0


def jain(values: Iterable[float]) -> float:
    """Jain's index of fairness: 1 when all are equal, 1/n when one has everything."""
    found = list(values)
    squares = sum(value * value for value in found)
    return sum(found) ** 2 / (len(found) * squares) if squares else 1.0
