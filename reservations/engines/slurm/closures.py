"""When nodes take none of our jobs, because Slurm sets them aside: for maintenance, or for others. Pure.

Slurm starts no job that would still run when such a time begins.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

from .nodes import SlurmReservation

MAINTENANCE = "maintenance"


@dataclass(frozen=True)
class Closure:
    """Of ``nodes``, from ``begins_at`` to ``ends_at`` (seconds since the epoch; infinite where there is no such end).
    ``why``: in words, such as ``maintenance``. ``open_to``: people whose jobs run there all the same."""

    why: str
    begins_at: float
    ends_at: float
    nodes: frozenset[str]
    open_to: frozenset[str] = frozenset()

    def concerns(self, node: str, owner: str = "") -> bool:
        return node in self.nodes and owner not in self.open_to

    def covers(self, at: float) -> bool:
        return self.begins_at <= at < self.ends_at

    def text(self, zone: tzinfo) -> str:
        """``maintenance from 2026-12-01 09:00 to 12:00 (UTC)``, by the clock of ``zone``."""
        if math.isinf(self.begins_at):
            return f"{self.why} before {_moment(self.ends_at, zone)} ({zone})"
        if math.isinf(self.ends_at):
            return f"{self.why} from {_moment(self.begins_at, zone)} on ({zone})"
        begins, ends = _moment(self.begins_at, zone), _moment(self.ends_at, zone)
        same_day = begins.partition(" ")[0] == ends.partition(" ")[0]
        return f"{self.why} from {begins} to {ends.partition(' ')[2] if same_day else ends} ({zone})"


def _moment(at: float, zone: tzinfo) -> str:
    return datetime.fromtimestamp(at, zone).strftime("%Y-%m-%d %H:%M")


def closures_of(reservations: Iterable[SlurmReservation], own: str, cpus: Mapping[str, int]) -> tuple[Closure, ...]:
    """``own``: the reservations that jobs are submitted to, by commas; outside of their times their nodes are closed.
    ``cpus``: of each node; what sets aside only some of them leaves room, though nobody says for which GPUs."""
    mine, found = own_names(own), []
    for one in reservations:
        nodes = frozenset(one.nodes)
        if one.name in mine:
            why = f"outside the reservation {one.name}"
            found.append(Closure(why, -math.inf, one.begins_at, nodes))
            found.append(Closure(why, one.ends_at, math.inf, nodes))
        elif nodes and not _is_part(one, cpus):
            # A magnetic one draws in the jobs of those who may use it, though they do not ask for it.
            invited = frozenset(one.users) if "MAGNETIC" in one.flags else frozenset()
            why = MAINTENANCE if one.maintenance else f"kept for others (reservation {one.name})"
            found.append(Closure(why, one.begins_at, one.ends_at, nodes, invited))
    return tuple(sorted(found, key=lambda closure: (closure.begins_at, closure.ends_at)))


def own_names(own: str) -> list[str]:
    return [name for name in own.split(",") if name]


def _is_part(one: SlurmReservation, cpus: Mapping[str, int]) -> bool:
    return one.cpus is not None and one.cpus < sum(cpus.get(node, 0) for node in one.nodes)


def window_s(closures: Sequence[Closure], at: float) -> float:
    """For how long one of these nodes is open from ``at`` on; 0: it is closed then. ``closures``: of the node."""
    if any(closure.covers(at) for closure in closures):
        return 0.0
    return min((closure.begins_at - at for closure in closures if closure.begins_at > at), default=math.inf)


def opening(closures: Sequence[Closure], at: float, seconds: float) -> float:
    """The first moment from ``at`` on at which something can begin that takes so long; infinite: never."""
    for closure in closures:  # in the order in which they begin
        if closure.begins_at < at + seconds and closure.ends_at > at:
            at = closure.ends_at
    return at


def first_in(closures: Iterable[Closure], at: float, seconds: float) -> Closure | None:
    """The one that something runs into that begins at ``at`` and takes so long."""
    return next((one for one in closures if one.begins_at < at + seconds and one.ends_at > at), None)
