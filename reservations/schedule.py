"""The decision: queue, devices, policy, now -> grants, refusals, preemptions, promises. Pure; time is a parameter.

Rules. Waiting requests are served in their order (``ranking.py``). Where that order is first come, first served, each
of the first ``backfill_depth`` is promised a latest start, with the devices for it (``plan.py``). A promise is a
constraint of every later decision: a request starts now only where no promise to anybody is delayed by it, whoever that
is and wherever they stand in the queue. What becomes free early brings promised starts forward, in the order of the
queue. So a promise holds as long as time limits do, and no device fails.

Nothing is promised to a request that limits of its owner's own keep back, and it stands in nobody's way; nor where a
budget may run out, beyond the depth, or where fair share and quotas may let somebody who comes later go first. Those
are told what to expect. Requests beyond the depth start only on slots that nobody ahead could use at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from .errors import PublicError
from .kind import Kind
from .placement import Holding, Room, SlotKey, need, place, rooms_of
from .plan import Place
from .planned_queue import PlannedQueue
from .policy import ANYWHERE, Domain, Policy
from .preemption import give_way, may_give_way
from .queue import Decision, Facts, Grant, Held, Promise, Refusal, Waiting
from .ranking import in_order
from .shares import Shape, ShareRequest
from .timeline import FOREVER

LEAST_GAIN_S = 1.0
"""A promise is brought forward by no less, unless that lets it start now."""


def schedule(facts: Facts, policy: Policy) -> Decision:
    """Who starts now, who never can, who gives way, and what is promised to those who wait on."""
    decision = Decision()
    for one_pass in _passes(facts, policy):
        done = one_pass.decision
        decision.grants += done.grants
        decision.refusals += done.refusals
        decision.promises |= done.promises
        decision.broken += done.broken
    gone = {grant.id for grant in decision.grants} | {refusal.id for refusal in decision.refusals}
    decision.promises = {name: told for name, told in decision.promises.items() if name not in gone}
    decision.preemptions = give_way(one_pass.after, policy, one_pass.tally, one_pass.ahead, starts_in)
    return decision


def starts_in(facts: Facts, policy: Policy, name: str) -> bool:
    """Whether a decision on ``facts`` would start the request ``name``."""
    return any(grant.id == name for one_pass in _passes(facts, policy) for grant in one_pass.decision.grants)


def _passes(facts: Facts, policy: Policy) -> Iterator[_Pass]:
    """Through the queue until nothing more follows: what is held counts at once, and the next may be somebody else's;
    what was brought forward leaves room. Where pools have limits, a place that a grant took may have hidden another
    one, in a pool that is still open to somebody ahead."""
    again = True
    while again:
        one_pass = _Pass(facts, policy)
        one_pass.run(only_one=policy.fair is not None)
        facts = one_pass.after = one_pass.facts_after()
        yield one_pass
        grants = bool(one_pass.decision.grants)
        again = grants if policy.fair is not None else one_pass.moved or (grants and bool(policy.pools))
        again = again and bool(facts.waiting)


@dataclass
class _Wish:
    """What this decision has found out about one kind of request; hundreds may wait for the same.

    Rooms only shrink and claims only grow during a decision: what found nothing once finds nothing later.
    """

    request: ShareRequest
    domain: Domain
    fits: bool | None = None
    judged: bool = False
    error: PublicError | None = None
    no_room: bool = False
    claims: bool = False
    apart_in_vain: bool = False


class _Pass(PlannedQueue):
    """Once through the queue."""

    def __init__(self, facts: Facts, policy: Policy) -> None:
        super().__init__(facts, policy)
        self.rooms = {room.slot.key: room for room in rooms_of(facts.slots, _all(facts.held))}
        self.wishes: dict[tuple[ShareRequest, int], _Wish] = {}
        self.decision = Decision()
        self.after = facts
        """The facts once this pass is carried out."""
        self.ahead: list[Waiting] = []
        """Those who stay in the queue for lack of room alone, as far as they are planned for."""
        self.moved = False
        """Whether somebody's promise was brought forward."""
        self._unplanned: list[Waiting] = []
        self._waiting = 0
        self._claimed: set[SlotKey] = set()
        self._new: list[Held] = []
        self._kept_back: set[tuple[str, Kind, ShareRequest, float]] = set()
        self._turn = facts.now

    def run(self, only_one: bool) -> None:
        self.keep_promises()
        self.decision.promises |= self.replaced
        self.decision.broken += [
            item.id
            for item in self.facts.waiting
            if item.id in self.replaced and _later(item.promise, self.replaced[item.id])
        ]
        for item in self._in_order():
            wish = self._wish(item)
            if self._start(item, wish):
                if only_one:
                    return
            elif item.id not in self.promised and (error := self._never(wish)) is not None:
                self.decision.refusals.append(Refusal(item.id, error))

    def _in_order(self) -> Sequence[Waiting]:
        """Ranking takes longer than all the rest, and makes no difference where nobody can start or give way."""
        if len(self.facts.waiting) < 2:
            return self.facts.waiting
        facts = self.facts
        may_matter = any(self._could_start(item) for item in facts.waiting) or (
            bool(self.tally.over_quota) and may_give_way(facts, self.policy, self.tally)
        )
        return in_order(facts, self.policy, self.tally) if may_matter else facts.waiting

    def _could_start(self, item: Waiting) -> bool:
        wish = self._wish(item)
        if wish.fits is None:
            wish.fits = place(self._usable(item, wish), item.request) is not None
        return wish.fits and self.tally.blocked(item) is None

    def facts_after(self) -> Facts:
        """The facts with this pass's grants, refusals and promises carried out."""
        gone = {g.id for g in self.decision.grants} | {r.id for r in self.decision.refusals}
        told = self.decision.promises
        rest = tuple(
            replace(item, promise=told[item.id]) if item.id in told else item
            for item in self.facts.waiting
            if item.id not in gone
        )
        return replace(self.facts, held=(*self.facts.held, *self._new), waiting=rest)

    def _wish(self, item: Waiting) -> _Wish:
        domain = self.policy.domain(item)
        # Blocks of time are met or not by length, so equal wishes of unequal length are not equal among them.
        key = (item.request, id(domain) if not domain.blocks else hash((id(domain), item.seconds)))
        wish = self.wishes.get(key)
        if wish is None:
            wish = self.wishes[key] = _Wish(item.request, domain)
        return wish

    def _never(self, wish: _Wish) -> PublicError | None:
        """Why it could never be granted. Looked for only where nothing was found: what fits now is no question."""
        if not wish.judged:
            wish.judged, wish.error = True, self.policy.never_fits(self.facts.all_slots, wish.request)
        return wish.error

    def _start(self, item: Waiting, wish: _Wish) -> bool:
        """Grants ``item`` if it may start now; otherwise sees to its place in the plan."""
        if item.id in self.promised:
            return self._start_promised(item)
        if item.request.shape is Shape.CPU:
            return self._grant_unbooked(item)
        if self._waiting >= self.depth:
            return self._start_apart(item, wish)
        if self.tally.used_up(item) is not None:
            return False
        if not self._fits_now(item, wish) and not self.may_promise(item):
            self._waits(item, wish)
            self._unplanned.append(item)
            return False
        return self._start_planned(item, wish)

    def _start_promised(self, item: Waiting) -> bool:
        promise = self.promised[item.id]
        movable = promise.start > self.now and item.id not in self.overdue
        if movable and self.plan.may_be_earlier(item, promise):
            promise = self._brought_forward(item, promise)
        if promise.start > self.now:
            self._waits(item, self._wish(item))
            self._turn = max(self._turn, promise.start)
            return False
        self._grant(item, promise.holdings)
        return True

    def _brought_forward(self, item: Waiting, promise: Promise) -> Promise:
        self._plan_ahead()
        self.plan.cancel(item, promise)
        found = self.plan.earliest(item, self._turn if self._strict else None)
        gained = found is not None and (found.start <= self.now or found.start <= promise.start - LEAST_GAIN_S)
        if found is None or not gained or self.is_late(found):
            self.plan.book(item, promise)
            return promise
        self.moved = True
        earlier = Promise(found.start, found.holdings)
        self.promise(item, earlier)
        self.decision.promises[item.id] = earlier
        return earlier

    @property
    def _strict(self) -> bool:
        """Whether nobody may overtake."""
        return self.policy.backfill_depth == 0

    def _fits_now(self, item: Waiting, wish: _Wish) -> bool:
        """Whether there is room now, if nobody else's place in the plan were in the way."""
        if not wish.no_room:
            wish.no_room = place(self._usable(item, wish), item.request) is None
        return not wish.no_room

    def _start_planned(self, item: Waiting, wish: _Wish) -> bool:
        kind = (item.owner, item.kind, item.request, item.seconds)
        if kind in self._kept_back:
            return False
        self._plan_ahead()
        found = self.plan.earliest(item, self._turn) if self._strict else self.plan.next(item)
        if found is not None and found.start <= self.now:
            self.plan.book(item, found)
            self._grant(item, found.holdings)
            return True
        if found is not None and found.excess is not None:
            self._kept_back.add(kind)  # limits of its own keep it back; nobody waits behind it
            return False
        if self._never(wish) is not None:
            return False
        self._waits(item, wish)
        self._turn = FOREVER if found is None else max(self._turn, found.start)
        if found is not None:
            self._book(item, found)
        return False

    def _book(self, item: Waiting, found: Place) -> None:
        if self.promisable(item, found):
            promise = Promise(found.start, found.holdings)
            self.promise(item, promise)
            self.decision.promises[item.id] = promise
        else:
            self.plan.book(item, found)

    def _waits(self, item: Waiting, wish: _Wish) -> None:
        """``item`` stays in the queue, and nobody behind it may delay it."""
        self._waiting += 1
        if len(self.ahead) < self.depth:
            self.ahead.append(item)
        if not wish.claims:
            wish.claims = True
            self._claimed |= {
                slot.key
                for slot in self.facts.slots
                if wish.domain.has(slot.key) and need(slot, item.request) is not None
            }

    def _plan_ahead(self) -> None:
        """Books those ahead to whom nothing is promised, so that whoever comes after them does not delay them."""
        for item in self._unplanned:
            found = self.plan.next(item)
            if found is not None and found.excess is None:
                self.plan.book(item, found)
        self._unplanned.clear()

    def _start_apart(self, item: Waiting, wish: _Wish) -> bool:
        """Beyond the depth: only on slots that nobody ahead could use."""
        if wish.claims and (wish.no_room or wish.apart_in_vain or self._strict):
            return False
        if self.tally.blocked(item) is not None:
            return False  # limits of its own keep it back; nobody waits behind it
        holdings = None if self._strict else self._apart(item, wish)
        if holdings is None:
            if self._never(wish) is None:
                self._waits(item, wish)
            return False
        self.plan.book(item, Place(self.now, holdings))
        self._grant(item, holdings)
        return True

    def _apart(self, item: Waiting, wish: _Wish) -> tuple[Holding, ...] | None:
        if wish.apart_in_vain or not self._fits_now(item, wish):
            return None
        free = [room for room in self._usable(item, wish) if room.slot.key not in self._claimed]
        holdings = place(free, wish.request)
        wish.apart_in_vain = holdings is None
        return holdings if holdings is not None and self.plan.allows(item, holdings, self.now) else None

    def _grant_unbooked(self, item: Waiting) -> bool:
        """One that holds no devices."""
        if self.tally.blocked(item) is not None:
            return False
        self._grant(item, ())
        return True

    def _grant(self, item: Waiting, holdings: tuple[Holding, ...]) -> None:
        """``item`` starts now on what is booked for it."""
        self.decision.grants.append(Grant(item.id, holdings))
        self.decision.promises.pop(item.id, None)
        self.tally.granted(item, holdings)
        gpus = self.tally.gpus(holdings)
        held = Held(item.id, item.owner, holdings, self.now + item.seconds, item.kind, gpus, self.now)
        self._new.append(held)
        _occupy(self.rooms, holdings)

    def _usable(self, item: Waiting, wish: _Wish) -> Sequence[Room]:
        if wish.domain is ANYWHERE:
            return tuple(self.rooms.values())
        return [room for key, room in self.rooms.items() if wish.domain.allows(key, self.now, item.seconds)]


def _later(before: Promise | None, after: Promise | None) -> bool:
    return before is not None and (after is None or after.start > before.start)


def _all(held: Iterable[Held]) -> Iterable[Holding]:
    return (holding for item in held for holding in item.holdings)


def _occupy(rooms: dict[SlotKey, Room], holdings: Iterable[Holding]) -> None:
    for holding in holdings:
        room = rooms[holding.key]
        rooms[holding.key] = Room(room.slot, room.memory_mib - holding.memory_mib, room.compute - holding.compute)
