"""Free room over time: when does a share fit at the earliest, given who holds what until when."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

from .placement import Holding, Room, Slot, need, place
from .policy import ANYWHERE, Domain
from .shares import Shape, ShareRequest

FOREVER = float("inf")


def cut(at: float, times: list[float], *values: list[Any]) -> int:
    """The index of the step of a step function that begins at ``at``, made by splitting the one that contains it.
    ``values``: what it is from each of ``times`` on."""
    i = bisect_right(times, at) - 1
    if i < 0:
        return 0
    if times[i] == at:
        return i
    times.insert(i + 1, at)
    for steps in values:
        steps.insert(i + 1, steps[i])
    return i + 1


class SlotTimeline:
    """Free memory and compute of one slot as a step function of time; the last step lasts for ever."""

    __slots__ = ("compute", "memory", "slot", "times")

    def __init__(self, slot: Slot, now: float) -> None:
        self.slot = slot
        self.times = [now]
        self.memory = [slot.memory_mib]
        self.compute = [slot.compute]

    def take(self, holding: Holding, start: float, end: float) -> None:
        """Books ``holding`` from ``start`` to ``end`` (seconds)."""
        first = self._cut(start)
        last = self._cut(end) if end != FOREVER else len(self.times)
        for i in range(first, last):
            self.memory[i] -= holding.memory_mib
            self.compute[i] -= holding.compute

    def give_back(self, holding: Holding, start: float, end: float) -> None:
        """Undoes ``take``."""
        for i in range(self._cut(start), self._cut(end)):
            self.memory[i] += holding.memory_mib
            self.compute[i] += holding.compute

    def has(self, holding: Holding, start: float, end: float) -> bool:
        """Whether all of ``holding`` is free from ``start`` to ``end`` (seconds)."""
        first = max(0, bisect_right(self.times, start) - 1)
        steps = range(first, max(first + 1, bisect_left(self.times, end)))
        return all(self.memory[i] >= holding.memory_mib and self.compute[i] >= holding.compute for i in steps)

    def has_before(self, at: float, wanted: tuple[int, int]) -> bool:
        """Whether ``wanted`` is free just before ``at``."""
        i = bisect_left(self.times, at) - 1
        return i >= 0 and self.memory[i] >= wanted[0] and self.compute[i] >= wanted[1]

    def _cut(self, at: float) -> int:
        return cut(at, self.times, self.memory, self.compute)

    def earliest(self, wanted: tuple[int, int], seconds: float, after: float) -> float:
        """The first time from ``after`` on with ``wanted`` free for ``seconds`` on end; FOREVER if there is none."""
        memory_mib, compute = wanted
        times, memory, weights = self.times, self.memory, self.compute
        start = -1.0
        last = len(times) - 1
        for i in range(max(0, bisect_right(times, after) - 1), last + 1):
            if memory[i] < memory_mib or weights[i] < compute:
                start = -1.0
                continue
            if start < 0:
                start = times[i] if times[i] > after else after
            if i == last or times[i + 1] - start >= seconds:
                return start
        return FOREVER

    def free_until(self, wanted: tuple[int, int]) -> float:
        """Until when ``wanted`` is free from the beginning on."""
        for at, memory, compute in zip(self.times, self.memory, self.compute, strict=True):
            if memory < wanted[0] or compute < wanted[1]:
                return at
        return FOREVER

    def room(self, at: float) -> Room:
        i = max(0, bisect_right(self.times, at) - 1)
        return Room(self.slot, self.memory[i], self.compute[i])


class Timeline:
    """The pool's room over time. Booking a plan is what keeps backfill from delaying those ahead."""

    def __init__(self, slots: Sequence[Slot], now: float) -> None:
        self.now = now
        self._by_key = {slot.key: SlotTimeline(slot, now) for slot in slots}
        self._begins: dict[Hashable, list[tuple[SlotTimeline, tuple[int, int], float]]] = {}

    def take(self, holdings: Iterable[Holding], start: float, end: float) -> None:
        """Books holdings; one on a device that is gone or cordoned changes nothing here."""
        self._begins.clear()
        for holding in holdings:
            slot = self._by_key.get(holding.key)
            if slot is not None:
                slot.take(holding, start, end)

    def give_back(self, holdings: Iterable[Holding], start: float, end: float) -> None:
        """Undoes ``take``."""
        self._begins.clear()
        for holding in holdings:
            self._by_key[holding.key].give_back(holding, start, end)

    def knows(self, holdings: Iterable[Holding]) -> bool:
        """Whether all of ``holdings`` are of slots in service."""
        return all(holding.key in self._by_key for holding in holdings)

    def has(self, holdings: Iterable[Holding], start: float, end: float) -> bool:
        """Whether all of ``holdings`` are free from ``start`` to ``end`` (seconds)."""
        return all(self._by_key[holding.key].has(holding, start, end) for holding in holdings)

    def may_begin_before(
        self, request: ShareRequest, seconds: float, domain: Domain, booked: Iterable[Holding], start: float
    ) -> bool:
        """Whether ``request``, which is booked as ``booked`` from ``start`` on, might begin earlier instead. False is
        certain; it costs little, and of a plan in which nothing has changed it says so of nearly all."""
        mine = {holding.key for holding in booked}
        kind = (request, seconds, id(domain))
        if kind not in self._begins:
            self._begins[kind] = [
                (slot, wanted, _clear(slot, wanted, seconds, self.now, domain))
                for slot, wanted in self._candidates(request, domain)
            ]
        free = sum(
            slot.has_before(start, wanted) if slot.slot.key in mine else begin < start
            for slot, wanted, begin in self._begins[kind]
        )
        return free >= max(1, len(mine))

    def free_now(self, request: ShareRequest, domain: Domain) -> list[tuple[Room, float]]:
        """What is free for ``request`` now, and until when each of it is."""
        found = []
        for slot, wanted in self._candidates(request, domain):
            kept = (begins for begins, _ in domain.blocks.get(slot.slot.key, ()) if begins > self.now)
            until = min([slot.free_until(wanted), *kept])
            if until > self.now and _clear(slot, wanted, 0.0, self.now, domain) == self.now:
                found.append((slot.room(self.now), until))
        return found

    def _candidates(self, request: ShareRequest, domain: Domain) -> list[tuple[SlotTimeline, tuple[int, int]]]:
        return [
            (slot, wanted)
            for key, slot in self._by_key.items()
            if domain.has(key) and (wanted := need(slot.slot, request)) is not None
        ]

    def earliest(
        self, request: ShareRequest, seconds: float, after: float, domain: Domain = ANYWHERE
    ) -> tuple[float, tuple[Holding, ...]] | None:
        """The earliest start from ``after`` on within ``domain``, and the holdings placement would choose then; None if
        never."""
        if request.shape is Shape.CPU:
            return after, ()
        candidates = self._candidates(request, domain)
        start = after
        while start != FOREVER:
            starts = [(_clear(slot, wanted, seconds, start, domain), slot) for slot, wanted in candidates]
            ready = [slot.room(start) for begin, slot in starts if begin == start]
            holdings = place(ready, request)
            if holdings is not None:
                return start, holdings
            start = min((begin for begin, _ in starts if begin > start), default=FOREVER)
        return None


def _clear(slot: SlotTimeline, wanted: tuple[int, int], seconds: float, after: float, domain: Domain) -> float:
    """The slot's earliest start that meets no block of time of ``domain``."""
    begin = slot.earliest(wanted, seconds, after)
    while begin != FOREVER and domain.blocks:
        clear = domain.clear(slot.slot.key, begin, seconds)
        if clear == begin:
            break
        begin = slot.earliest(wanted, seconds, clear)
    return begin
