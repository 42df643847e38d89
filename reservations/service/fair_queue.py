"""Whose work comes next: callers take turns, and each has so much of the worker's time while others ask too."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Generic, TypeVar

from .forgetting import make_room

W = TypeVar("W")
ALONE_S = 1.0
"""Whoever has asked alone for so long may have all of the time: nobody waits for it."""
_NOTHING_S = 1e-6


@dataclass(frozen=True)
class Pace:
    """Seconds of the worker's time for one caller: ``share`` in each second, at most ``burst_s`` saved or owed."""

    share: float = 0.2
    burst_s: float = 2.0


@dataclass
class _Account:
    """``left``: seconds, at the time ``at``."""

    left: float
    at: float


class FairQueue(Generic[W]):
    """Lanes of work in turn. One lane is one caller; each caller's work is in order.

    The next lane in turn that has time left comes first. One that has none left waits until it has some again, though
    the worker be idle: whatever is begun for it, somebody else would have to wait for. Lanes in ``free`` are not
    counted. ``clock``: seconds that never step.
    """

    def __init__(self, pace: Pace, clock: Callable[[], float], free: Collection[str] = ()) -> None:
        self._pace, self._clock, self._free = pace, clock, frozenset(free)
        self._lanes: OrderedDict[str, deque[W]] = OrderedDict()
        self._accounts: dict[str, _Account] = {}
        self._latest = self._other = ("", -math.inf)
        """The caller that asked last, and the last one that asked besides it, each with the time."""

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def put(self, lane: str, work: W) -> None:
        """Add ``work`` at the end of ``lane``; a lane that was empty goes behind the others."""
        if lane not in self._free:
            if lane != self._latest[0]:
                self._other = self._latest
            self._latest = (lane, self._clock())
        self._lanes.setdefault(lane, deque()).append(work)

    def take(self) -> W | None:
        """Remove and return the work that comes next; None when nothing is due."""
        now = self._clock()
        lane = next((one for one in self._lanes if self._has_time(one, now)), None)
        if lane is None:
            lane = next((one for one in self._lanes if not self._due_in(one, now)), None)
        return None if lane is None else self._take(lane)

    def take_any(self) -> W | None:
        """The same, but nobody has to wait; None when there is nothing."""
        return self._take(next(iter(self._lanes))) if self._lanes else None

    def due_in(self) -> float:
        """Seconds until something is due, if nobody asks meanwhile; infinite without work."""
        now = self._clock()
        return min((self._due_in(lane, now) for lane in self._lanes), default=math.inf)

    def is_due(self, lane: str) -> bool:
        """Whether work of ``lane`` would only have to wait for its turn."""
        return not self._due_in(lane, self._clock())

    def spend(self, lane: str, seconds: float) -> None:
        """Take ``seconds`` of the worker's time from what ``lane`` has left."""
        if lane in self._free:
            return
        now = self._clock()
        left = self._left(lane, now) - seconds
        if lane not in self._accounts:
            make_room(self._accounts, lambda one: self._now(one, now) >= self._pace.burst_s)
        self._accounts[lane] = _Account(max(-self._pace.burst_s, left), now)

    def _take(self, lane: str) -> W:
        waiting = self._lanes[lane]
        work = waiting.popleft()
        if waiting:
            self._lanes.move_to_end(lane)
        else:
            del self._lanes[lane]
        return work

    def _left(self, lane: str, now: float) -> float:
        account = self._accounts.get(lane)
        return self._pace.burst_s if account is None else self._now(account, now)

    def _now(self, account: _Account, now: float) -> float:
        return min(self._pace.burst_s, account.left + (now - account.at) * self._pace.share)

    def _has_time(self, lane: str, now: float) -> bool:
        return lane in self._free or self._left(lane, now) > -_NOTHING_S

    def _due_in(self, lane: str, now: float) -> float:
        if self._has_time(lane, now):
            return 0.0
        _, others_at = self._other if self._latest[0] == lane else self._latest
        return min(-self._left(lane, now) / self._pace.share, max(0.0, others_at + ALONE_S - now))
