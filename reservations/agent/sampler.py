"""Measures what sessions use: their CPU, and of the devices that they hold the part that is theirs. A look a second;
what is told is the mean over a window."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from ..devices.model import DeviceError, DeviceSource, DeviceUse
from .guard import Guard
from .looks import TICKS_A_SECOND, Look, gpu_of, mean
from .processes import cpu_ticks
from .records import SharePart
from .sessions import Sessions

KEPT_S = 180.0
"""How far back a window may reach."""
Key = tuple[str, int]


def _within(looks: list[Look], begin: float) -> list[Look]:
    """The looks since ``begin``, with the one before: CPU time is what was used between two."""
    first = next((number for number, look in enumerate(looks) if look.at >= begin), len(looks))
    return looks[max(0, first - 1) :] if first < len(looks) else []


class Sampler:
    """``look`` is called by one thread; ``readings`` by any."""

    def __init__(self, sessions: Sessions, source: DeviceSource, guard: Guard) -> None:
        self._sessions = sessions
        self._source = source
        self._guard = guard
        self._looks: dict[Key, deque[Look]] = {}
        self._lock = threading.Lock()

    def look(self) -> None:
        """One look at every session."""
        pids = self._sessions.members.owned().by_session()
        if not pids:
            with self._lock:
                self._looks = {}
            return
        uses: Mapping[tuple[str, str], DeviceUse] | None
        try:
            uses = {(use.device_uuid, use.instance_uuid): use for use in self._source.use()}
        except DeviceError:
            uses = None
        now = time.monotonic()
        shares = {key: gate.share for key, gate in self._sessions.members.gates().items()}
        new = {key: self._one(now, shares[key], uses, own) for key, own in pids.items() if key in shares}
        with self._lock:
            self._looks = {key: self._with(key, look) for key, look in new.items()}

    @staticmethod
    def _one(
        now: float,
        share: Sequence[SharePart],
        uses: Mapping[tuple[str, str], DeviceUse] | None,
        pids: Iterable[int],
    ) -> Look:
        pids = list(pids)
        gpu = 0.0 if not share else None if uses is None else gpu_of(share, uses, pids)
        ticks = [found for pid in pids if (found := cpu_ticks(pid)) is not None]
        return Look(now, sum(ticks) / TICKS_A_SECOND if ticks else None, gpu)

    def _with(self, key: Key, look: Look) -> deque[Look]:
        looks = self._looks.get(key) or deque()
        while looks and looks[0].at < look.at - KEPT_S:
            looks.popleft()
        looks.append(look)
        return looks

    def readings(self, window_s: float) -> list[dict[str, object]]:
        """Of every session that was looked at of late."""
        now = time.monotonic()
        with self._lock:
            recent = {key: _within(list(looks), now - window_s) for key, looks in self._looks.items()}
        found: list[dict[str, object]] = []
        for (reservation_id, generation), looks in recent.items():
            if looks:
                reading = mean(looks)
                memory = self._guard.memory_of((reservation_id, generation))
                row = {"reservation_id": reservation_id, "generation": generation, "memory_mib": memory}
                found.append({**row, "gpu": reading.gpu, "cpu": reading.cpu})
        return found
