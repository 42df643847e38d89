"""Measures what the session uses of its job, once a second, and holds a part of a device to its memory: a thread of
its own, for a driver may take its time."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from signal import SIGKILL, SIGTERM

from ..agent.looks import TICKS_A_SECOND, Look, gpu_of, mean
from ..agent.processes import Process, cpu_ticks, names_of, send
from ..agent.watchdog import Key, Use, Verdict, judge
from ..devices.model import DeviceError, DeviceProcess, DeviceSource, DeviceUse, unseen_devices
from .seat import Seat
from .talk import Reading
from .tree import processes_below

log = logging.getLogger("timeshare.jobagent")
LOOK_S = 1.0
KILL_AFTER_S = 1.0
MOST_LOOKS = 300


@dataclass
class Told:
    """What a watchdog's verdict says; ``pid``: the process that it ended, None for a warning."""

    kind: str
    message: str
    pid: int | None


class Meter:
    """``run`` is its thread; everything else may be called by another."""

    def __init__(self, reservation_id: str, source: DeviceSource | None, seat: Seat) -> None:
        self._id = reservation_id
        self._source = source
        self._seat = seat
        self._parts = {part.device_uuid: part for part in seat.share if not part.whole and not part.instance_uuid}
        self._lock = threading.Lock()
        self._looks: list[Look] = []
        self._memory_mib: int | None = None
        self._told: list[Told] = []
        self._generation = 0
        self._warned: frozenset[Key] = frozenset()
        self._ended: dict[int, tuple[int, float]] = {}

    def watch(self, generation: int) -> None:
        """Measures the server of that start; 0: nothing."""
        with self._lock:
            self._generation, self._looks, self._memory_mib = generation, [], None

    def reading(self) -> Reading | None:
        """Over the time since it was asked last; None: there was nothing to measure."""
        with self._lock:
            if not self._looks:
                return None
            found = mean(self._looks)
            self._looks = self._looks[-1:]
            return Reading(found.gpu, found.cpu, self._memory_mib)

    def told(self) -> list[Told]:
        """Verdicts since it was asked last."""
        with self._lock:
            told, self._told = self._told, []
            return told

    def run(self) -> None:
        while True:
            try:
                self._look()
            except Exception:
                log.exception("a measurement failed; the next one follows")
            time.sleep(LOOK_S)

    def _look(self) -> None:
        with self._lock:
            generation = self._generation
        if not generation:
            return
        table = processes_below(os.getpid())
        gpu = 0.0 if not self._seat.share else self._gpu(table)
        ticks = [found for pid in table if (found := cpu_ticks(pid)) is not None]
        look = Look(time.monotonic(), sum(ticks) / TICKS_A_SECOND if ticks else None, gpu)
        memory_mib = 0 if not self._seat.share else self._memory(table)
        with self._lock:
            if generation == self._generation:
                self._looks = [*self._looks, look][-MOST_LOOKS:]
                self._memory_mib = memory_mib

    def _gpu(self, table: Mapping[int, Process]) -> float | None:
        if self._source is None or not self._seat.measured:
            return None
        try:
            uses: dict[tuple[str, str], DeviceUse] = {
                (use.device_uuid, use.instance_uuid): use for use in self._source.use()
            }
        except DeviceError:
            return None
        return gpu_of(self._seat.share, uses, table)

    def _memory(self, table: dict[int, Process]) -> int | None:
        """GPU memory of the session; what is over its part is judged on the way. Unknown is never over."""
        if self._source is None or not self._seat.measured:
            return None
        try:
            seen = self._source.processes()
        except DeviceError as error:
            log.warning("nothing is known about GPU memory now: %s", error)
            return None
        own = [process for process in seen if process.pid in table]
        self._judge(own, table)
        if not unseen_devices(seen).isdisjoint(part.device_uuid for part in self._seat.share):
            return None
        known = [process.memory_mib for process in own if process.memory_mib is not None]
        return sum(known) if len(known) == len(own) else None

    def _judge(self, own: list[DeviceProcess], table: dict[int, Process]) -> None:
        by_device: dict[str, dict[int, int | None]] = {}
        for process in own:
            if process.device_uuid in self._parts:
                by_device.setdefault(process.device_uuid, {})[process.pid] = process.memory_mib
        uses = {
            (self._id, self._generation, uuid): Use(self._parts[uuid].memory_mib, by_pid, names_of(by_pid))
            for uuid, by_pid in by_device.items()
            if self._parts[uuid].memory_mib
        }
        verdicts, self._warned = judge(uses, self._warned)
        for verdict in verdicts:
            self._carry_out(verdict, table)
        self._ended = {pid: (ticks, at) for pid, (ticks, at) in self._ended.items() if pid in table}
        for pid, (ticks, at) in self._ended.items():
            if table[pid].ticks == ticks and time.monotonic() >= at:
                send(table, [pid], SIGKILL)

    def _carry_out(self, verdict: Verdict, table: dict[int, Process]) -> None:
        pid = verdict.stop
        if pid is not None:
            ticks = table[pid].ticks
            if self._ended.get(pid, (0, 0.0))[0] == ticks:
                return  # it is on its way out already
            self._ended[pid] = (ticks, time.monotonic() + KILL_AFTER_S)
        log.warning("%s", verdict.message)
        kind = "over_memory" if pid is None else "stopped_over_memory"
        with self._lock:
            # Before the signal: who sees the process end must be able to say why.
            self._told.append(Told(kind, verdict.message, pid))
        if pid is not None:
            with contextlib.suppress(KeyError):
                send(table, [pid], SIGTERM)
