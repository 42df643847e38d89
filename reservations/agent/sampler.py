"""Measures what sessions use: their CPU, and of the devices that they hold the part that is theirs. A look a second;
what is told is the mean over a window."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..devices.model import DeviceError, DeviceSource, DeviceUse
from .guard import Guard
from .processes import cpu_ticks
from .records import SharePart
from .sessions import Sessions

KEPT_S = 180.0
"""How far back a window may reach."""
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
Key = tuple[str, int]


@dataclass(frozen=True)
class Look:
    """At one session. ``at`` in seconds of a clock that does not step; ``cpu_s``: used so far by what runs now, None
    where that cannot be read; ``gpu`` in percent, None: unknown."""

    at: float
    cpu_s: float | None
    gpu: float | None


@dataclass(frozen=True)
class Reading:
    """Over a window. ``gpu`` in percent of what it holds, ``cpu`` in percent of one core, None: unknown."""

    gpu: float | None
    cpu: float | None


def gpu_of(share: Sequence[SharePart], uses: Mapping[tuple[str, str], DeviceUse], pids: Iterable[int]) -> float | None:
    """How busy a session's share is in percent, the busiest part of it; 0 of no share. None: nobody can say.

    A whole device and a MIG instance are its own. Of a device that it shares only its own processes count; where they
    cannot be told apart, nobody can say, unless nothing runs there at all.
    """
    found = []
    for part in share:
        use = uses.get((part.device_uuid, part.instance_uuid))
        if use is None or use.percent is None:
            return None
        if part.whole or part.instance_uuid or not use.percent:
            found.append(use.percent)
        elif use.by_pid is None:
            return None
        else:
            found.append(sum(use.by_pid.get(pid, 0.0) for pid in pids))
    return max(found, default=0.0)


def mean(looks: Sequence[Look]) -> Reading:
    """Over all of them. One look in two may miss what the GPU does; with fewer nobody can say."""
    known = [look.gpu for look in looks if look.gpu is not None]
    gpu = sum(known) / len(known) if known and 2 * len(known) >= len(looks) else None
    counted = [look for look in looks if look.cpu_s is not None]
    if len(counted) < 2 or counted[-1].at <= counted[0].at:
        return Reading(gpu, None)
    used = 0.0
    for before, after in itertools.pairwise(counted):
        assert before.cpu_s is not None
        assert after.cpu_s is not None
        used += max(0.0, after.cpu_s - before.cpu_s)  # less: a process with a long past has ended
    return Reading(gpu, 100.0 * used / (counted[-1].at - counted[0].at))


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
        pids = self._sessions.pids_by_session()
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
        shares = {record.key: record.gate().share for record in self._sessions.live()}
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
