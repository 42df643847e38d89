"""Who gives way. Pure.

A waiting session, and a waiting job within its group's quota, may have the devices of batch jobs by which another
group is over its quota, where the pool says so. Never of a session, never of work within quota, never of a job that was
started a short while ago. Stopping the victim is one thing and placing the winner another: the winner takes what comes
free, by the order of the queue, in which what was preempted stands behind it. Those preempted least often go first, of
these who was started last: no job is stopped again and again while others run through.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from .kind import Kind
from .placement import Holding, Room, SlotKey, place, rooms_of
from .policy import Policy, Preemption
from .queue import Facts, Held, Preempted, Waiting
from .tally import Tally, victims_first

Rooms = dict[SlotKey, Room]


def give_way(
    facts: Facts, policy: Policy, tally: Tally, waits: Iterable[Waiting], starts: Callable[[Facts, Policy, str], bool]
) -> list[Preempted]:
    """The batch jobs that end for ``waits``: those that lack nothing but room, in their order.

    ``starts``: whether a decision on such facts starts the request of that id. Nobody gives way for somebody who would
    not start then, whatever the reason: limits of their own, what is announced, a promise to others, their rank.
    """
    rules = {job.id: (job, rule) for job in facts.held if (rule := _may_end(job, facts, policy, tally)) is not None}
    if not rules:
        return []
    rooms = {room.slot.key: room for room in rooms_of(facts.slots, (h for held in facts.held for h in held.holdings))}
    for held in facts.held:
        if held.stopping:
            _give_back(rooms, held.holdings)
    found: list[Preempted] = []
    ending = {held.id for held in facts.held if held.stopping}
    for item in waits:
        if not _may_claim(item, policy, tally):
            continue
        jobs = victims_first(job for job, _ in rules.values())
        for usable in _usable(item, facts, policy):
            chosen = _fewest(item, rooms, jobs, usable)
            if chosen is None:
                continue
            grace = max((rules[job.id][1].grace for job in chosen), default=0.0)
            if chosen and not starts(_once_ended(facts, ending | {job.id for job in chosen}, grace), policy, item.id):
                continue
            for job in chosen:
                _give_back(rooms, job.holdings)
                _, rule = rules.pop(job.id)
                ending.add(job.id)
                found.append(Preempted(job.id, item.id, rule.grace, _why(job, item, policy)))
            _take(rooms, place([room for key, room in rooms.items() if usable(key)], item.request) or ())
            break
    return found


def _once_ended(facts: Facts, ended: Collection[str], grace: float) -> Facts:
    """The facts when ``ended`` are gone. What was preempted of them waits behind whoever it gave way to."""
    held = tuple(job for job in facts.held if job.id not in ended)
    return replace(facts, held=held, now=facts.now + grace)


def may_give_way(facts: Facts, policy: Policy, tally: Tally) -> bool:
    """Whether ``give_way`` could find anything, whatever the order of the queue."""
    return any(_may_claim(item, policy, tally) for item in facts.waiting) and any(
        _may_end(job, facts, policy, tally) is not None for job in facts.held
    )


def _may_claim(item: Waiting, policy: Policy, tally: Tally) -> bool:
    if item.kind in policy.person(item.owner).later:
        return False  # it goes behind everyone else, so what gave way would be back before it
    return item.kind is Kind.SESSION or not tally.beyond_quota(item)


def _may_end(job: Held, facts: Facts, policy: Policy, tally: Tally) -> Preemption | None:
    """The rule by which ``job`` may be ended now; None when it may not."""
    if job.id not in tally.over_quota or job.stopping or not job.holdings:
        return None
    pools = [policy.pool_of.get(holding.key) for holding in job.holdings]
    rules = [pool.preempt for pool in pools if pool is not None and pool.preempt is not None]
    if len(rules) < len(pools):
        return None
    rule = max(rules, key=lambda rule: rule.after)
    return rule if facts.now - job.since >= rule.after else None


def _usable(item: Waiting, facts: Facts, policy: Policy) -> Iterator[Callable[[SlotKey], bool]]:
    """Where ``item`` may go: anywhere that is open to it, then one pool after the other, as one may be closed to it."""
    domain = policy.domain(item)

    def within(slots: Collection[SlotKey] | None) -> Callable[[SlotKey], bool]:
        return lambda key: (slots is None or key in slots) and domain.allows(key, facts.now, item.seconds)

    yield within(None)
    if len(policy.pools) > 1:
        yield from (within(pool.slots) for pool in policy.pools)


def _fewest(item: Waiting, rooms: Rooms, jobs: Sequence[Held], usable: Callable[[SlotKey], bool]) -> list[Held] | None:
    """Jobs whose end makes room for ``item``, none of them in vain; None when no end of theirs would."""
    trial = dict(rooms)
    chosen: list[Held] = []
    while not _fits(trial, item, usable):
        if len(chosen) == len(jobs):
            return None
        chosen.append(jobs[len(chosen)])
        _give_back(trial, chosen[-1].holdings)
    for job in list(chosen):
        without = dict(trial)
        _take(without, job.holdings)
        if _fits(without, item, usable):
            chosen.remove(job)
            trial = without
    return chosen


def _fits(rooms: Rooms, item: Waiting, usable: Callable[[SlotKey], bool]) -> bool:
    return place([room for key, room in rooms.items() if usable(key)], item.request) is not None


def _give_back(rooms: Rooms, holdings: Iterable[Holding]) -> None:
    for holding in holdings:
        room = rooms.get(holding.key)
        if room is not None:
            memory, compute = room.memory_mib + holding.memory_mib, room.compute + holding.compute
            rooms[holding.key] = Room(room.slot, memory, compute)


def _take(rooms: Rooms, holdings: Iterable[Holding]) -> None:
    for holding in holdings:
        room = rooms.get(holding.key)
        if room is not None:
            memory, compute = room.memory_mib - holding.memory_mib, room.compute - holding.compute
            rooms[holding.key] = Room(room.slot, memory, compute)


def _why(job: Held, item: Waiting, policy: Policy) -> str:
    account = policy.person(job.owner).account
    who = "a person who waits for a session" if item.kind is Kind.SESSION else "work of a group within its quota"
    quota = policy.account(account).quota
    return (
        f"it made room for {who}: the group {account} held more than its {quota:g} GPUs. "
        "It goes back into the queue and is started again"
    )
