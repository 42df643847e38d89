"""What is wrong between values of the limits each of which is right by itself. Pure; every fault is told.

A fault stands where the reference is, or the value that would have to change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ..calendar import parse_moment
from ..clock import duration_text
from .values import UNLIMITED, Fault, Where, amount_text

if TYPE_CHECKING:
    from .schema import CalendarEntry, IdleRules, KindLimits, Limits


def kind_faults(kind: KindLimits) -> Iterator[Fault]:
    """Yield defaults that lie beyond the most that may be asked for."""
    if kind.default_time and kind.max_time and kind.default_time > kind.max_time:
        message = f"default_time ({kind.default_time} s) is longer than max_time ({kind.max_time} s)"
        yield Fault(("default_time",), message)
    for name, unit in (("cpus", "cores"), ("host_memory_gib", "GiB")):
        usual, most = getattr(kind, f"default_{name}"), getattr(kind, f"max_{name}")
        if usual is not None and most is not None and most < usual != UNLIMITED:
            most_text = f"max_{name} ({amount_text(most)} {unit})"
            message = f"default_{name} ({amount_text(usual)} {unit}) is more than {most_text}"
            yield Fault((f"default_{name}",), message)


def file_faults(limits: Limits) -> Iterator[Fault]:
    """Yield what is wrong in the file as a whole."""
    yield from _group_faults(limits)
    for name, pool in limits.pools.items():
        yield from _unknown("groups", limits.groups, pool.groups or (), ("pools", name, "groups"))
    yield from _calendar_faults(limits)
    yield from _parking_faults(limits)
    yield from _file_keeping_faults(limits)


def _group_faults(limits: Limits) -> Iterator[Fault]:
    for name, group in limits.groups.items():
        where = ("groups", name, "inherits")
        if group.inherits is None:
            continue
        if group.inherits not in limits.groups:
            yield _no_entry("groups", limits.groups, group.inherits, where)
            continue
        circle = _circle(limits, name)
        if circle:
            yield Fault(where, f"groups inherit in a circle: {' -> '.join(circle)}")


def _circle(limits: Limits, name: str) -> list[str]:
    """Return the way from ``name`` along ``inherits`` back to a group on it; empty when it ends."""
    seen = [name]
    while (parent := limits.groups[seen[-1]].inherits) is not None and parent in limits.groups:
        seen.append(parent)
        if parent in seen[:-1]:
            return seen
    return []


def _calendar_faults(limits: Limits) -> Iterator[Fault]:
    for number, event in enumerate(limits.events):
        yield from _unknown("groups", limits.groups, event.groups, ("events", number, "groups"))
        yield from _entry_faults(limits, event, ("events", number))
    for number, entry in enumerate(limits.maintenance):
        yield from _entry_faults(limits, entry, ("maintenance", number))


def _entry_faults(limits: Limits, entry: CalendarEntry, where: Where) -> Iterator[Fault]:
    if entry.pool is not None and entry.pool not in limits.pools:
        yield _no_entry("pools", limits.pools, entry.pool, (*where, "pool"))
    moments: list[float] = []
    for key in ("begins", "ends"):
        try:
            moments.append(parse_moment(getattr(entry, key), limits.zone))
        except ValueError as error:
            yield Fault((*where, key), str(error))
    if len(moments) == 2 and moments[1] <= moments[0]:
        message = f"'{entry.name}': ends ({entry.ends}) is not after begins ({entry.begins})"
        yield Fault((*where, "ends"), message)


def _unknown(what: str, known: Iterable[str], names: Iterable[str], where: Where) -> Iterator[Fault]:
    for number, name in enumerate(names):
        if name not in known:
            yield _no_entry(what, known, name, (*where, number))


def _no_entry(what: str, known: Iterable[str], name: str, where: Where) -> Fault:
    return Fault(where, f"there is no entry {name!r} in {what}; known: {', '.join(known) or 'none'}")


def _parking_faults(limits: Limits) -> Iterator[Fault]:
    if limits.parking.host_memory_gib:
        return
    for where, idle in _idle_rules(limits):
        if idle.then == "park":
            yield Fault(
                (*where, "idle", "then"),
                "is park, and parking.host_memory_gib is 0: nothing could be kept; say how much of the node's memory "
                "may be used for it, such as 64",
            )


def _idle_rules(limits: Limits) -> Iterator[tuple[Where, IdleRules]]:
    yield ("defaults",), limits.defaults.idle
    yield from ((("groups", name, "each"), group.each.idle) for name, group in limits.groups.items())
    yield from ((("users", name), person.idle) for name, person in limits.users.items())
    yield from ((("pools", name), pool.idle) for name, pool in limits.pools.items())


def _file_keeping_faults(limits: Limits) -> Iterator[Fault]:
    kept, files = limits.retention.reservations, limits.job_files.keep
    if 0 < kept < files:
        is_said = "reservations" in limits.retention.model_fields_set
        yield Fault(
            ("retention", "reservations") if is_said else ("job_files", "keep"),
            f"retention.reservations is {kept} s ({duration_text(kept)}) and job_files.keep is {files} s "
            f"({duration_text(files)}): a job must be known for as long as its files are kept; make the first one "
            "longer, or 0 for ever",
        )
