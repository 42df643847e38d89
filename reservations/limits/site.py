"""What a valid limits file says that does not fit where it holds: its devices, nodes and people. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..placement import Slot
from . import engines
from .cautions import file_cautions, not_held, scopes, stopped
from .engines import HERE, is_elsewhere
from .pools import belongs, engine_of, matches, membership
from .schema import CalendarEntry, Event, Limits, PersonLimits, PoolLimits
from .values import UNLIMITED, Fault, Where, amount_text, gpus_text, near

MOST_NAMED = 12


@dataclass(frozen=True)
class Site:
    """Where limits hold. ``slots``: of all devices, those that are out of service too. ``unseen``: engines whose
    devices are not known now. ``groups``: those that somebody is in, by JupyterHub; None: not known."""

    slots: Sequence[Slot]
    unseen: tuple[str, ...] = ()
    groups: frozenset[str] | None = None

    @cached_property
    def models(self) -> list[str]:
        return sorted({slot.model for slot in self.slots})

    @cached_property
    def nodes(self) -> list[str]:
        return sorted({slot.node for slot in self.slots})

    @cached_property
    def engines(self) -> list[str]:
        return sorted({engine_of(slot) for slot in self.slots} | set(self.unseen))

    @property
    def note(self) -> str:
        """What could not be looked at, in words; empty: everything was."""
        if not self.unseen:
            return ""
        return f"the devices of {', '.join(self.unseen)} are not known now: whether rules match those was not checked"


def site_cautions(limits: Limits, site: Site | None) -> list[Fault]:
    """Everything that is valid but probably not intended. ``site`` None: nothing is known of devices and people."""
    found = list(file_cautions(limits))
    if site is not None:
        found += _group_cautions(limits, site)
    if site is not None and (site.slots or site.unseen):
        found += [*_model_cautions(limits, site), *_pool_cautions(limits, site), *_calendar_cautions(limits, site)]
        found += _quota_cautions(limits, site)
    return found


def count(slots: Iterable[Slot]) -> float:
    """How many GPUs ``slots`` are; MIG instances count as parts of theirs."""
    return round(sum(slot.part for slot in slots), 3)


def named(words: Collection[str]) -> str:
    """``words`` for reading, the first of them."""
    listed = list(words)
    more = f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else ""
    return (", ".join(listed[:MOST_NAMED]) or "none") + more


def _no_match(where: Where, patterns: Iterable[str] | None, what: str, known: Sequence[str]) -> Iterator[Fault]:
    """Patterns that are about none of ``known``."""
    for number, pattern in enumerate(patterns or ()):
        if not any(matches(name, [pattern]) for name in known):
            message = f"no device here is of the {what} {pattern!r}; {what}s here: {named(known)}{near(pattern, known)}"
            yield Fault((*where, number), message)


def _no_node(where: Where, patterns: Iterable[str], site: Site) -> Iterator[Fault]:
    """Nodes that there are not. Their key looks as if it could name hosts that the hub has no hold of."""
    alone = "; without Slurm a hub is one machine, see docs/several_hosts.md" if site.engines == [HERE] else ""
    for fault in _no_match(where, patterns, "node", site.nodes):
        yield Fault(fault.where, fault.message + alone)


def _model_cautions(limits: Limits, site: Site) -> Iterator[Fault]:
    if site.unseen:
        return
    for pattern in limits.weights:
        if not any(matches(model, [pattern]) for model in site.models):
            models = f"models here: {named(site.models)}{near(pattern, site.models)}"
            yield Fault(("weights", pattern), f"no device here is of the model {pattern!r}; {models}")
    people: list[tuple[Where, PersonLimits]] = [(("defaults",), limits.defaults)]
    people += [(("groups", name, "each"), group.each) for name, group in limits.groups.items()]
    people += [(("users", name), person) for name, person in limits.users.items()]
    for where, person in people:
        yield from _no_match((*where, "models"), person.models, "model", site.models)


def _pool_cautions(limits: Limits, site: Site) -> Iterator[Fault]:
    shared = membership(limits.pools, site.slots)
    for name, pool in limits.pools.items():
        where = ("pools", name)
        if not any(matches(engine, pool.engines) for engine in site.unseen):
            yield from _no_match((*where, "models"), pool.models, "model", site.models)
            yield from _no_node((*where, "nodes"), pool.nodes, site)
            yield from _no_match((*where, "engines"), pool.engines, "engine", site.engines)
            if not shared.of[name]:
                yield from _without_devices(limits, site, name, shared.unmatched.get(name, ()))
                continue
        yield from _more_than_there_are(name, pool, shared.of[name], site)
        yield from _not_only_here(limits, name, shared.of[name])


def _without_devices(limits: Limits, site: Site, name: str, unmatched: Sequence[Slot]) -> Iterator[Fault]:
    """A pool that has no device here. ``unmatched``: for which its restriction holds all the same."""
    if any(fault.where == ("pools", name) for fault in file_cautions(limits)):
        return  # told already: it could have none anywhere
    taken = not unmatched and any(belongs(slot, limits.pools[name]) for slot in site.slots)
    why = "all that it names belong to pools before it" if taken else "nothing here is what it names"
    closed = (
        f": what it says of groups, kinds and max_time holds for the {gpus_text(count(unmatched))} that are in no "
        "pool, until it is corrected; to leave those open to everybody, end `pools` with one that names all, such as "
        "`others: {}`"
        if unmatched
        else ""
    )
    yield Fault(("pools", name), f"has no device: {why}{closed}")


def _more_than_there_are(name: str, pool: PoolLimits, slots: Sequence[Slot], site: Site) -> Iterator[Fault]:
    there = count(slots)
    if site.unseen or not slots:
        return
    if pool.keep_for_sessions is not None and there < pool.keep_for_sessions.gpus != UNLIMITED:
        message = (
            f"keeps {gpus_text(pool.keep_for_sessions.gpus)} for sessions and the pool {name} has "
            f"{amount_text(there)}: batch that cannot be preempted never runs there; keep at most {amount_text(there)}"
        )
        yield Fault(("pools", name, "keep_for_sessions", "gpus"), message)


def _not_only_here(limits: Limits, name: str, slots: Sequence[Slot]) -> Iterator[Fault]:
    """Rules that hold on this machine only, of a pool with devices of other engines too."""
    elsewhere = sorted({engine_of(slot) for slot in slots} - {HERE})
    if not elsewhere or is_elsewhere(limits.pools[name]):
        return  # nothing to tell, or told of the file alone
    part = f"that part of the pool {name} which is {named(elsewhere)}"
    for place, found in engines.stated(limits, ("pools", name)):
        if not found.holds:
            yield Fault(place, engines.text_of(place, found, part))


def _calendar_cautions(limits: Limits, site: Site) -> Iterator[Fault]:
    entries: list[tuple[Where, CalendarEntry]] = [(("events", n), one) for n, one in enumerate(limits.events)]
    entries += [(("maintenance", n), one) for n, one in enumerate(limits.maintenance)]
    if site.unseen:
        return
    shared = membership(limits.pools, site.slots)
    for where, entry in entries:
        yield from _no_node((*where, "nodes"), entry.nodes, site)
        of_pool = site.slots if entry.pool is None else shared.of[entry.pool]
        mine = [slot for slot in of_pool if matches(slot.node, entry.nodes)]
        devices = len({slot.device_uuid for slot in mine})
        place = f"the pool {entry.pool}" if entry.pool else "this site"
        if entry.pool is None or not is_elsewhere(limits.pools[entry.pool]):  # else told of the file alone
            yield from _only_elsewhere(where, entry, mine, site)
        if not devices and any(matches(node, entry.nodes) for node in site.nodes):
            yield Fault((*where, "pool" if entry.pool else "nodes"), f"'{entry.name}' is about no device of {place}")
        elif isinstance(entry, Event) and devices and devices < entry.gpus != UNLIMITED:
            message = (
                f"'{entry.name}' keeps {gpus_text(entry.gpus)} and {place} has {devices} that match: all of them are "
                f"kept; ask for at most {devices}"
            )
            yield Fault((*where, "gpus"), message)


def _only_elsewhere(where: Where, entry: CalendarEntry, mine: Sequence[Slot], site: Site) -> Iterator[Fault]:
    """An entry about devices of other engines alone, where others of this machine would let one think otherwise."""
    places = {engine_of(slot) for slot in mine}
    if places and HERE not in places and HERE in site.engines:
        yield Fault(where, not_held(f"'{entry.name}'", named(sorted(places))))


def _quota_cautions(limits: Limits, site: Site) -> Iterator[Fault]:
    if HERE not in site.engines:
        yield from _ordered_elsewhere(limits)
    here = count(slot for slot in site.slots if not slot.engine)
    if HERE in site.unseen or not here:
        return
    so_far = 0.0
    for name, group in limits.groups.items():
        if not group.quota or group.quota == UNLIMITED:
            continue
        before, so_far = so_far, so_far + group.quota
        if before <= here < so_far:
            together = f", {amount_text(so_far)} with the groups before it," if before else ""
            message = (
                f"is {amount_text(group.quota)}{together} and this machine has {gpus_text(here)}: not all of it can "
                "be guaranteed"
            )
            yield Fault(("groups", name, "quota"), message)


def _ordered_elsewhere(limits: Limits) -> Iterator[Fault]:
    """Rules that do not hold where nothing runs on this machine."""
    yield from engines.not_held(limits, "this deployment, in which nothing runs on this machine")
    for scope in scopes(limits):
        then = str(scope.own.get("idle.then", ""))
        if then in ("give_back", "park") and scope.values["idle.after"]:
            yield Fault(scope.place("idle.then"), stopped(then))


def _group_cautions(limits: Limits, site: Site) -> Iterator[Fault]:
    """Groups that nobody is in while there is one of nearly that name: what is misspelt keeps nobody to anything. Of
    others that nobody is in, somebody may come."""
    if not site.groups:
        return
    for name, group in limits.groups.items():
        is_parent = any(other.inherits == name for other in limits.groups.values())
        if name in site.groups or group.members or is_parent:
            continue
        alike = near(name, site.groups - set(limits.groups))
        if alike:
            message = f"nobody is in this group, as far as JupyterHub has told, so what it says holds for nobody{alike}"
            yield Fault(("groups", name), message)
