"""Free room over time: when does a share fit at the earliest, given who holds what until when."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from .placement import Holding, Room, Slot, need, place
from .policy import ANYWHERE, Domain
from .shares import Shape, ShareRequest

FOREVER = float("inf")


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

    def _cut(self, at: float) -> int:
        """The index of the step that begins at ``at``, made by splitting the one that contains it."""
        i = bisect_right(self.times, at) - 1
        if i < 0:
            return 0
        if self.times[i] == at:
            return i
        self.times.insert(i + 1, at)
        self.memory.insert(i + 1, self.memory[i])
        self.compute.insert(i + 1, self.compute[i])
        return i + 1

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

    def room(self, at: float) -> Room:
        i = max(0, bisect_right(self.times, at) - 1)
        return Room(self.slot, self.memory[i], self.compute[i])


class Timeline:
    """The pool's room over time. Booking a plan is what keeps backfill from delaying those ahead."""

    def __init__(self, slots: Sequence[Slot], now: float) -> None:
        self.now = now
        self._by_key = {slot.key: SlotTimeline(slot, now) for slot in slots}

    def take(self, holdings: Iterable[Holding], start: float, end: float) -> None:
        """Books holdings; one on a device that is gone or cordoned changes nothing here."""
        for holding in holdings:
            slot = self._by_key.get(holding.key)
            if slot is not None:
                slot.take(holding, start, end)

    def earliest(
        self, request: ShareRequest, seconds: float, after: float, domain: Domain = ANYWHERE
    ) -> tuple[float, tuple[Holding, ...]] | None:
        """The earliest start from ``after`` on within ``domain``, and the holdings placement would choose then; None if
        never."""
        if request.shape is Shape.CPU:
            return after, ()
        candidates = [
            (slot, wanted)
            for key, slot in self._by_key.items()
            if domain.has(key) and (wanted := need(slot.slot, request)) is not None
        ]
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
