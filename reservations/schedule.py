"""The decision: queue, devices, limits, now -> grants, refusals, expected starts. Pure; time is a parameter.

Rules. Waiting requests are served in their order. When the first of them does not fit, later ones may start now only
if, by the time limits that everyone declared, nobody ahead of them starts later for it (conservative backfill, which
delays neither the head nor anyone else). Only the first ``backfill_depth`` in the queue are planned for; those beyond
never overtake. So the latest start told to a person is an upper bound as long as time limits hold and no device fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from .devices.model import Device
from .errors import PublicError
from .placement import Holding, Room, Slot, need, never_fits, place, rooms_of, slots_of
from .shares import ShareRequest
from .timeline import Timeline

SlotKey = tuple[str, str]


@dataclass(frozen=True)
class Waiting:
    """A request in the queue. ``seconds`` is its declared time limit with the grace a stop may take."""

    id: str
    owner: str
    request: ShareRequest
    seconds: float
    submitted_at: float


@dataclass(frozen=True)
class Held:
    """A reservation that holds devices. ``frees_at``: when these are free at the latest, stop grace included."""

    id: str
    owner: str
    holdings: tuple[Holding, ...]
    frees_at: float


@dataclass(frozen=True)
class Rules:
    """What the decision needs of the limits.

    ``backfill_depth``: how many waiting requests are planned for; 0 means strictly first come, first served.
    """

    backfill_depth: int = 100


@dataclass(frozen=True)
class Facts:
    """The world at ``now`` (seconds): devices, who holds what, and who waits, in queue order."""

    devices: tuple[Device, ...]
    held: tuple[Held, ...]
    waiting: tuple[Waiting, ...]
    now: float


@dataclass(frozen=True)
class Grant:
    id: str
    holdings: tuple[Holding, ...]


@dataclass(frozen=True)
class Refusal:
    id: str
    error: PublicError


@dataclass(frozen=True)
class Forecast:
    """Where a waiting request stands: ``position`` from 1; ``latest_start`` in seconds, None when nobody can say."""

    position: int
    latest_start: float | None


@dataclass
class Decision:
    grants: list[Grant] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


def schedule(facts: Facts, rules: Rules) -> Decision:
    """Who starts now and who never can."""
    decision = Decision()
    all_slots = slots_of(facts.devices, include_cordoned=True)
    healthy = slots_of(facts.devices)
    rooms = {room.slot.key: room for room in rooms_of(healthy, _all(facts.held))}
    backfill = _Backfill(facts, healthy, rules)
    wishes: dict[ShareRequest, _Wish] = {}
    for item in facts.waiting:
        wish = wishes.get(item.request)
        if wish is None:
            wish = wishes[item.request] = _Wish(item.request, never_fits(all_slots, item.request))
        if wish.error is not None:
            decision.refusals.append(Refusal(item.id, wish.error))
            continue
        holdings = None if wish.no_room else place(tuple(rooms.values()), item.request)
        if holdings is None:
            wish.no_room = True
        elif backfill.waiting:
            holdings = backfill.start_now(item, wish, rooms)
        if holdings is None:
            backfill.waits(item, wish)
            continue
        decision.grants.append(Grant(item.id, holdings))
        backfill.granted(item, holdings)
        _occupy(rooms, holdings)
    return decision


def forecast(facts: Facts, rules: Rules, limit: int | None = None) -> dict[str, Forecast]:
    """Position and latest start of the waiting requests, in queue order; beyond ``limit`` the position only."""
    slots = slots_of(facts.devices)
    timeline = _timeline(facts, slots)
    floor: dict[tuple[ShareRequest, float], float] = {}
    result: dict[str, Forecast] = {}
    for position, item in enumerate(facts.waiting, start=1):
        if limit is not None and position > limit:
            result[item.id] = Forecast(position, None)
            continue
        kind = (item.request, item.seconds)
        # Room only shrinks while we plan: an equal request further back cannot start before this one.
        found = timeline.earliest(item.request, item.seconds, floor.get(kind, facts.now))
        if found is None:
            result[item.id] = Forecast(position, None)
            continue
        start, holdings = found
        floor[kind] = start
        timeline.take(holdings, start, start + item.seconds)
        result[item.id] = Forecast(position, start)
    return result


def earliest_for_new(facts: Facts, requests: Sequence[tuple[ShareRequest, float]]) -> list[float | None]:
    """For each (request, seconds): when it would start at the latest if it joined the queue now; None for never."""
    timeline = _timeline(facts, slots_of(facts.devices))
    floor: dict[tuple[ShareRequest, float], float] = {}
    for item in facts.waiting:
        kind = (item.request, item.seconds)
        found = timeline.earliest(item.request, item.seconds, floor.get(kind, facts.now))
        if found is not None:
            floor[kind] = found[0]
            timeline.take(found[1], found[0], found[0] + item.seconds)
    starts = []
    for request, seconds in requests:
        found = timeline.earliest(request, seconds, facts.now)
        starts.append(found[0] if found else None)
    return starts


@dataclass
class _Wish:
    """What this decision has found out about one kind of request; hundreds may wait for the same.

    Rooms only shrink and claims only grow during a decision: what found nothing once finds nothing later.
    """

    request: ShareRequest
    error: PublicError | None
    no_room: bool = False
    claims: bool = False
    apart_in_vain: bool = False


class _Backfill:
    """Plans for those who wait ahead, made only when somebody behind them could start now.

    Only the first ``backfill_depth`` of them are planned. Further back a request starts only on slots that nobody ahead
    could use at all, so a long queue for one model never keeps another one idle.
    """

    def __init__(self, facts: Facts, slots: tuple[Slot, ...], rules: Rules) -> None:
        self.waiting = 0
        self._ahead: list[Waiting] = []
        self._claimed: set[SlotKey] = set()
        self._facts = facts
        self._slots = slots
        self._timeline: Timeline | None = None
        self._planned = 0
        self._grants: list[tuple[Waiting, tuple[Holding, ...]]] = []
        self._depth = rules.backfill_depth

    def waits(self, item: Waiting, wish: _Wish) -> None:
        """``item`` stays in the queue, and nobody behind it may delay it."""
        self.waiting += 1
        if len(self._ahead) < self._depth:
            self._ahead.append(item)
        if not wish.claims:
            wish.claims = True
            self._claimed |= {slot.key for slot in self._slots if need(slot, item.request) is not None}

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
            return self._apart(wish, rooms)
        timeline = self._plan_ahead()
        found = timeline.earliest(item.request, item.seconds, self._facts.now)
        return found[1] if found is not None and found[0] == self._facts.now else None

    def _apart(self, wish: _Wish, rooms: Mapping[SlotKey, Room]) -> tuple[Holding, ...] | None:
        if wish.apart_in_vain:
            return None
        holdings = place([room for key, room in rooms.items() if key not in self._claimed], wish.request)
        wish.apart_in_vain = holdings is None
        return holdings

    def _plan_ahead(self) -> Timeline:
        now = self._facts.now
        if self._timeline is None:
            self._timeline = _timeline(self._facts, self._slots)
            for item, holdings in self._grants:
                self._timeline.take(holdings, now, now + item.seconds)
        for item in self._ahead[self._planned :]:
            found = self._timeline.earliest(item.request, item.seconds, now)
            if found is not None:
                self._timeline.take(found[1], found[0], found[0] + item.seconds)
        self._planned = len(self._ahead)
        return self._timeline


def _timeline(facts: Facts, slots: Sequence[Slot]) -> Timeline:
    timeline = Timeline(slots, facts.now)
    for held in facts.held:
        # One that is past its end still holds its devices until it is seen gone.
        timeline.take(held.holdings, facts.now, max(held.frees_at, facts.now + 1.0))
    return timeline


def _all(held: Iterable[Held]) -> Iterable[Holding]:
    return (holding for item in held for holding in item.holdings)


def _occupy(rooms: dict[tuple[str, str], Room], holdings: Iterable[Holding]) -> None:
    for holding in holdings:
        room = rooms[holding.key]
        rooms[holding.key] = Room(room.slot, room.memory_mib - holding.memory_mib, room.compute - holding.compute)
