"""What those who wait can expect, and somebody who joins them or goes on for longer. Pure.

It goes by the plan of the decision (``planned_queue.py``), so what the waiting page, the form, the dry run of a job and
the log of a decision say of a start is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .placement import Room, place
from .plan import Place, Plan
from .planned_queue import PlannedQueue
from .policy import Policy
from .queue import Facts, Forecast, Held, Promise, Waiting
from .ranking import in_order
from .shares import Shape, ShareRequest
from .tally import Tally
from .timeline import FOREVER

ANYTHING = ShareRequest(Shape.WHOLE, count=1)
"""For one that holds its devices: what it once asked for bears on nothing any more."""
MOST_COUNTED = 999
HALF_A_SECOND = 0.5
"""What is told is rounded to seconds. To what was promised nothing is added."""


def forecast(facts: Facts, policy: Policy, limit: int | None = None) -> dict[str, Forecast]:
    """Position and latest start of the waiting requests, in queue order; beyond ``limit`` the position only."""
    queue = _Outlook(facts, policy)
    return queue.forecast(limit)


def latest_for_new(facts: Facts, policy: Policy, wishes: Sequence[Waiting]) -> list[Forecast]:
    """For each of ``wishes``, each taken alone: when it would start at the latest if it joined the queue's end now."""
    return _Outlook(facts, policy).of_new(wishes)


@dataclass(frozen=True)
class Prospect:
    """What somebody can expect who asks now. ``free``: how many of it would start now, one after the other; ``for_s``:
    for how long at most (seconds, a stop included; infinite: for as long as anybody may)."""

    told: Forecast
    free: int
    for_s: float


def prospects(facts: Facts, policy: Policy, wishes: Sequence[Waiting], least_s: float) -> list[Prospect]:
    """The same as ``latest_for_new``, and what is free now for ``least_s`` (seconds) or longer."""
    outlook = _Outlook(facts, policy)
    told = outlook.of_new(wishes)
    return [outlook.prospect(item, forecast, least_s) for item, forecast in zip(wishes, told, strict=True)]


def delayed(facts: Facts, policy: Policy, longer: Held) -> list[str]:
    """Who would start later than as things are if what is held became ``longer``, which has its id."""
    before = forecast(facts, policy)
    held = tuple(longer if item.id == longer.id else item for item in facts.held)
    after = forecast(replace(facts, held=held), policy)
    return [name for name, told in after.items() if _starts_later(before[name], told)]


def unfit(facts: Facts, policy: Policy, longer: Held) -> str:
    """Why what is held may not become ``longer``, which has its id, whoever waits; empty when it may."""
    others = tuple(item for item in facts.held if item.id != longer.id)
    alone = replace(facts, held=others, waiting=())
    plan = Plan(alone, policy, Tally(facts.all_slots, others, policy))
    item = Waiting(longer.id, longer.owner, ANYTHING, longer.frees_at - facts.now, longer.since, longer.kind)
    return plan.limits_hinder(item, Promise(facts.now, longer.holdings))


class _Outlook(PlannedQueue):
    """What those who wait can expect, and somebody who joins them."""

    def __init__(self, facts: Facts, policy: Policy) -> None:
        super().__init__(facts, policy)
        self.keep_promises()
        self._order = in_order(facts, policy, self.tally)
        self._turn = facts.now

    def forecast(self, limit: int | None) -> dict[str, Forecast]:
        found: dict[str, Forecast] = {}
        later: list[tuple[int, Waiting]] = []
        for position, item in enumerate(self._order, start=1):
            if limit is not None and position > limit:
                found[item.id] = Forecast(position, None, firm=False)
            elif not self._known(position, item, found):
                later.append((position, item))
        for position, item in later:
            place = self.plan.earliest(item)
            if place is not None and place.start != FOREVER:
                self.plan.book(item, place)  # what else its owner waits for comes after it
            found[item.id] = self._told(position, item, place)
        return {item.id: found[item.id] for item in self._order}

    def of_new(self, wishes: Sequence[Waiting]) -> list[Forecast]:
        """What each of ``wishes`` could expect at the end of the queue."""
        found: dict[str, Forecast] = {}
        for position, item in enumerate(self._order, start=1):
            self._known(position, item, found)
        position = len(self._order) + 1
        return [self._new(position, item) for item in wishes]

    def prospect(self, item: Waiting, told: Forecast, least_s: float) -> Prospect:
        """What is free of ``item`` now, which is ``told`` so of its start."""
        now, starts_now = self.now, told.latest_start is not None and told.latest_start <= self.now
        if item.request.shape is Shape.CPU or told.why or (told.position > self.depth and not starts_now):
            return Prospect(told, int(starts_now), FOREVER)
        free = [(room, until) for room, until in self.plan.free_now(item) if until - now >= least_s]
        longest = next(
            (at for at in sorted({at for _, at in free}, reverse=True) if _fits([r for r, u in free if u >= at], item)),
            now,
        )
        return Prospect(told, _how_many([room for room, _ in free], item.request), longest - now)

    def _known(self, position: int, item: Waiting, found: dict[str, Forecast]) -> bool:
        """Whether the plan has a place for ``item``, which is booked, or cannot have any. False: its own limits keep
        it back."""
        promise = self.promised.get(item.id)
        if promise is not None:
            why = self._why(position, item, promise.start)
            found[item.id] = Forecast(position, promise.start, why, self.is_firm(item))
            self._turn = max(self._turn, promise.start)
            return True
        used_up = self.tally.used_up(item)
        if used_up is not None:
            found[item.id] = Forecast(position, None, used_up.text, firm=False)
            return True
        place = self._next(item)
        if place is not None and place.excess is not None:
            return False
        if place is not None:
            self.plan.book(item, place)
        self._turn = FOREVER if place is None else max(self._turn, place.start)
        found[item.id] = self._told(position, item, place)
        return True

    def _next(self, item: Waiting) -> Place | None:
        return self.plan.earliest(item, self._turn) if self.policy.backfill_depth == 0 else self.plan.next(item)

    def _told(self, position: int, item: Waiting, place: Place | None) -> Forecast:
        start = None if place is None or place.start == FOREVER else place.start
        why = self._why(position, item, start)
        if place is not None and place.excess is not None:
            why = place.excess.wait.text
        return Forecast(position, start, why, firm=False)

    def _why(self, position: int, item: Waiting, start: float | None) -> str:
        blocked = self.tally.blocked(item)
        if blocked is not None:
            return blocked.text  # its owner can do something about it, whatever else it waits for
        if start is None:
            return "every device that could give it is out of service, or kept for others"
        if position == 1:
            return "nothing that fits is free yet; it is the first in line"
        return f"nothing that fits is free, and {position - 1} ahead of it in line wait as well"

    def _new(self, position: int, item: Waiting) -> Forecast:
        used_up = self.tally.used_up(item)
        if used_up is not None:
            return Forecast(position, None, used_up.text, firm=False)
        place = self.plan.earliest(item, self._turn if self.policy.backfill_depth == 0 else None)
        if place is None:
            return Forecast(position, None, firm=False)
        if place.excess is not None:
            start = None if place.start == FOREVER else place.start
            return Forecast(position, start, place.excess.wait.text, firm=False)
        return Forecast(position, place.start, "", position <= self.depth and self.promisable(item, place))


def _starts_later(before: Forecast, after: Forecast) -> bool:
    if before.latest_start is None:
        return False
    most = before.latest_start if before.firm else before.latest_start + HALF_A_SECOND
    return after.latest_start is None or after.latest_start > most


def _fits(rooms: Sequence[Room], item: Waiting) -> bool:
    return place(rooms, item.request) is not None


def _how_many(rooms: Sequence[Room], request: ShareRequest) -> int:
    """How many of ``request`` ``rooms`` can take one after the other."""
    free = {room.slot.key: room for room in rooms}
    count = 0
    while count < MOST_COUNTED and (holdings := place(tuple(free.values()), request)) is not None:
        count += 1
        for holding in holdings:
            room = free[holding.key]
            free[holding.key] = Room(room.slot, room.memory_mib - holding.memory_mib, room.compute - holding.compute)
    return count
