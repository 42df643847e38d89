"""The decision: queue, devices, policy, now -> grants, refusals, preemptions, expected starts. Pure; time is a
parameter.

Rules. Waiting requests are served in their order (``ranking.py``). When the first of them does not fit, later ones may
start now only if, by the time limits that everyone declared, nobody ahead of them starts later for it (conservative
backfill, which delays neither the head nor anyone else). Only the first ``backfill_depth`` in the queue are planned
for;
those beyond never overtake. A request that its own limits keep back stands in nobody's way. So the latest start told
to a
person is an upper bound as long as time limits hold, no device fails, and nobody who comes later goes first (which only
fair share and quotas allow: a forecast says whether it is firm).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .errors import PublicError
from .placement import Holding, Room, Slot, SlotKey, need, place, rooms_of
from .policy import ANYWHERE, Domain, Policy
from .preemption import give_way, may_give_way
from .queue import Decision, Facts, Forecast, Grant, Held, Refusal, Waiting
from .ranking import in_order
from .shares import ShareRequest
from .tally import Tally, Wait
from .timeline import Timeline


def schedule(facts: Facts, policy: Policy) -> Decision:
    """Who starts now, who never can, and who gives way."""
    decision = Decision()
    while True:
        one_pass = _Pass(facts, policy)
        one_pass.run(only_one=policy.fair is not None)
        decision.grants += one_pass.decision.grants
        decision.refusals += one_pass.decision.refusals
        if policy.fair is None or not one_pass.decision.grants:
            decision.preemptions = give_way(
                one_pass.facts_after(), policy, one_pass.tally, one_pass.slots, one_pass.backfill.ahead
            )
            return decision
        facts = one_pass.facts_after()  # what is held counts at once: the next may be somebody else's
        if not facts.waiting:
            return decision


class _Pass:
    """Once through the queue."""

    def __init__(self, facts: Facts, policy: Policy) -> None:
        self.facts, self.policy = facts, policy
        self.all_slots, self.slots = facts.all_slots, facts.slots
        self.tally = Tally(self.all_slots, facts.held, policy)
        self.rooms = {room.slot.key: room for room in rooms_of(self.slots, _all(facts.held))}
        self.backfill = _Backfill(facts, self.slots, policy)
        self.wishes: dict[tuple[ShareRequest, int], _Wish] = {}
        self.decision = Decision()
        self._new: list[Held] = []

    def run(self, only_one: bool) -> None:
        for item in self._in_order():
            wish = self._wish(item)
            if self.tally.blocked(item) is None and self._grant(item, wish):
                if only_one:
                    return
            elif (error := self._never(wish)) is not None:
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
        if self.tally.blocked(item) is not None:
            return False
        wish = self._wish(item)
        if wish.fits is None:
            wish.fits = place(self._usable(item, wish), item.request) is not None
        return wish.fits

    def facts_after(self) -> Facts:
        """The facts with this pass's grants and refusals carried out."""
        gone = {g.id for g in self.decision.grants} | {r.id for r in self.decision.refusals}
        rest = tuple(item for item in self.facts.waiting if item.id not in gone)
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
            wish.judged, wish.error = True, self.policy.never_fits(self.all_slots, wish.request)
        return wish.error

    def _grant(self, item: Waiting, wish: _Wish) -> bool:
        holdings = self._holdings(item, wish)
        if holdings is None:
            if self._never(wish) is None:
                self.backfill.waits(item, wish)
            return False
        if self.tally.refuses(item, holdings, self.facts.now) is not None:
            return False  # its own limits keep it back; nobody waits behind it
        now = self.facts.now
        self.decision.grants.append(Grant(item.id, holdings))
        self.backfill.granted(item, holdings)
        self.tally.granted(item, holdings)
        gpus = self.tally.gpus(holdings)
        self._new.append(Held(item.id, item.owner, holdings, now + item.seconds, item.kind, gpus, now))
        _occupy(self.rooms, holdings)
        return True

    def _holdings(self, item: Waiting, wish: _Wish) -> tuple[Holding, ...] | None:
        if wish.no_room:
            return None
        holdings = place(self._usable(item, wish), item.request)
        if holdings is None:
            wish.no_room = True
        elif self.backfill.waiting:
            holdings = self.backfill.start_now(item, wish, self.rooms)
        return holdings

    def _usable(self, item: Waiting, wish: _Wish) -> Sequence[Room]:
        if wish.domain is ANYWHERE:
            return tuple(self.rooms.values())
        now = self.facts.now
        return [room for key, room in self.rooms.items() if wish.domain.allows(key, now, item.seconds)]


def forecast(facts: Facts, policy: Policy, limit: int | None = None) -> dict[str, Forecast]:
    """Position and latest start of the waiting requests, in queue order; beyond ``limit`` the position only."""
    slots = facts.slots
    tally = Tally(facts.all_slots, facts.held, policy)
    planner = _Planner(facts, slots, policy)
    firm = not policy.ranked
    result: dict[str, Forecast] = {}
    for position, item in enumerate(in_order(facts, policy, tally), start=1):
        if limit is not None and position > limit:
            result[item.id] = Forecast(position, None, firm=firm)
            continue
        kept_back = tally.blocked(item) or _kept_back(item, planner, tally)
        after = facts.now if kept_back is None else _unblocked_at(item, kept_back, facts, tally)
        start = None if after is None else planner.plan(item, after)
        why = kept_back.text if kept_back is not None else _why(position, start, facts.now)
        result[item.id] = Forecast(position, start, why, firm and kept_back is None)
    return result


def latest_for_new(facts: Facts, policy: Policy, wishes: Sequence[Waiting]) -> list[Forecast]:
    """For each of ``wishes``, each taken alone: when it would start at the latest if it joined the queue's end now."""
    slots = facts.slots
    tally = Tally(facts.all_slots, facts.held, policy)
    planner = _Planner(facts, slots, policy)
    for item in in_order(facts, policy, tally):
        if tally.blocked(item) is None:
            planner.plan(item, facts.now)
    found = []
    for item in wishes:
        kept_back = tally.blocked(item) or _kept_back(item, planner, tally)
        after = facts.now if kept_back is None else _unblocked_at(item, kept_back, facts, tally)
        start = None if after is None else planner.earliest(item, after)
        found.append(Forecast(len(facts.waiting) + 1, start, kept_back.text if kept_back else "", not policy.ranked))
    return found


def _kept_back(item: Waiting, planner: _Planner, tally: Tally) -> Wait | None:
    """Why limits refuse what there would be room for now."""
    if not tally.policy.pools:
        return None
    holdings = planner.now(item)
    return None if holdings is None else tally.refuses(item, holdings, planner.facts.now)


def _unblocked_at(item: Waiting, wait: Wait, facts: Facts, tally: Tally) -> float | None:
    """When enough of what counts against the limit has ended at the latest; None when nobody can say."""
    if not (wait.owner or wait.account):
        return None
    policy = tally.policy
    person = policy.person(item.owner)
    if wait.owner:
        excess = tally.by_owner[item.owner] + tally.least_of(item.request) - person.gpus
        mine = [held for held in facts.held if held.owner == item.owner]
    else:
        account = person.account
        excess = tally.by_account[account] + tally.least_of(item.request) - policy.account(account).gpus
        mine = [held for held in facts.held if policy.person(held.owner).account == account]
    for held in sorted(mine, key=lambda held: held.frees_at):
        excess -= held.gpus
        if excess <= 1e-9:
            return max(held.frees_at, facts.now)
    return None


def _why(position: int, start: float | None, now: float) -> str:
    if start is None:
        return "every device that could give it is out of service, or kept for others"
    if position == 1:
        return "nothing that fits is free yet; it is the first in line"
    return f"nothing that fits is free, and {position - 1} ahead of it in line wait as well"


class _Planner:
    """Books those who wait, one after the other, each at its earliest."""

    def __init__(self, facts: Facts, slots: Sequence[Slot], policy: Policy) -> None:
        self.facts, self.policy = facts, policy
        self._timeline = _timeline(facts, slots)
        self._floor: dict[tuple[ShareRequest, float, int], float] = {}

    def plan(self, item: Waiting, after: float) -> float | None:
        """Its start, which is booked; None when there is none."""
        # Room only shrinks while we plan: an equal request further back cannot start before this one.
        domain = self.policy.domain(item)
        kind = (item.request, item.seconds, id(domain))
        found = self._timeline.earliest(item.request, item.seconds, max(after, self._floor.get(kind, after)), domain)
        if found is None:
            return None
        start, holdings = found
        if after == self.facts.now:
            self._floor[kind] = start
        self._timeline.take(holdings, start, start + item.seconds)
        return start

    def earliest(self, item: Waiting, after: float) -> float | None:
        domain = self.policy.domain(item)
        found = self._timeline.earliest(item.request, item.seconds, after, domain)
        return found[0] if found else None

    def now(self, item: Waiting) -> tuple[Holding, ...] | None:
        """What it would get if it started now; None when there is no room."""
        domain = self.policy.domain(item)
        found = self._timeline.earliest(item.request, item.seconds, self.facts.now, domain)
        return found[1] if found is not None and found[0] == self.facts.now else None


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


class _Backfill:
    """Plans for those who wait ahead, made only when somebody behind them could start now.

    Only the first ``backfill_depth`` of them are planned. Further back a request starts only on slots that nobody ahead
    could use at all, so a long queue for one model never keeps another one idle.
    """

    def __init__(self, facts: Facts, slots: tuple[Slot, ...], policy: Policy) -> None:
        self.waiting = 0
        self.ahead: list[Waiting] = []
        self._claimed: set[SlotKey] = set()
        self._facts = facts
        self._slots = slots
        self._timeline: Timeline | None = None
        self._planned = 0
        self._grants: list[tuple[Waiting, tuple[Holding, ...]]] = []
        self._depth = policy.backfill_depth
        self._policy = policy

    def waits(self, item: Waiting, wish: _Wish) -> None:
        """``item`` stays in the queue, and nobody behind it may delay it."""
        self.waiting += 1
        if len(self.ahead) < self._depth:
            self.ahead.append(item)
        if not wish.claims:
            wish.claims = True
            self._claimed |= {
                slot.key for slot in self._slots if wish.domain.has(slot.key) and need(slot, item.request) is not None
            }

    def granted(self, item: Waiting, holdings: tuple[Holding, ...]) -> None:
        if self._timeline is None:
            self._grants.append((item, holdings))
        else:
            self._timeline.take(holdings, self._facts.now, self._facts.now + item.seconds)

    def start_now(self, item: Waiting, wish: _Wish, rooms: Mapping[SlotKey, Room]) -> tuple[Holding, ...] | None:
        """Holdings for ``item`` from now on that delay nobody ahead; None when there are none."""
        if self._depth == 0:
            return None
        if self.waiting > self._depth:
            return self._apart(item, wish, rooms)
        timeline = self._plan_ahead()
        found = timeline.earliest(item.request, item.seconds, self._facts.now, wish.domain)
        return found[1] if found is not None and found[0] == self._facts.now else None

    def _apart(self, item: Waiting, wish: _Wish, rooms: Mapping[SlotKey, Room]) -> tuple[Holding, ...] | None:
        if wish.apart_in_vain:
            return None
        now = self._facts.now
        usable = [
            room
            for key, room in rooms.items()
            if key not in self._claimed and wish.domain.allows(key, now, item.seconds)
        ]
        holdings = place(usable, wish.request)
        wish.apart_in_vain = holdings is None
        return holdings

    def _plan_ahead(self) -> Timeline:
        now = self._facts.now
        if self._timeline is None:
            self._timeline = _timeline(self._facts, self._slots)
            for item, holdings in self._grants:
                self._timeline.take(holdings, now, now + item.seconds)
        for item in self.ahead[self._planned :]:
            domain = self._policy.domain(item)
            found = self._timeline.earliest(item.request, item.seconds, now, domain)
            if found is not None:
                self._timeline.take(found[1], found[0], found[0] + item.seconds)
        self._planned = len(self.ahead)
        return self._timeline


def _timeline(facts: Facts, slots: Sequence[Slot]) -> Timeline:
    timeline = Timeline(slots, facts.now)
    for held in facts.held:
        # One that is past its end still holds its devices until it is seen gone.
        timeline.take(held.holdings, facts.now, max(held.frees_at, facts.now + 1.0))
    return timeline


def _all(held: Iterable[Held]) -> Iterable[Holding]:
    return (holding for item in held for holding in item.holdings)


def _occupy(rooms: dict[SlotKey, Room], holdings: Iterable[Holding]) -> None:
    for holding in holdings:
        room = rooms[holding.key]
        rooms[holding.key] = Room(room.slot, room.memory_mib - holding.memory_mib, room.compute - holding.compute)
