"""Watches over fractions and over the health of devices, once a second."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Collection, Mapping

from ..devices.model import DeviceError, DeviceProcess, DeviceSource, unseen_devices
from .events import Events
from .processes import Process, names_of, signal_one, start_ticks
from .records import Gate, Record
from .sessions import Sessions
from .watchdog import Key, Use, Verdict, judge

log = logging.getLogger("timeshare.agent")
KILL_AFTER_S = 1.0


Quiet = Callable[[Record, Collection[int]], None]


class Guard:
    """``check`` is one look; it keeps what the next one needs. ``quiet``: makes processes safe to be ended."""

    def __init__(self, sessions: Sessions, source: DeviceSource, events: Events, quiet: Quiet) -> None:
        self._sessions = sessions
        self._source = source
        self._events = events
        self._quiet = quiet
        self._warned: frozenset[Key] = frozenset()
        self._stopping: dict[int, int] = {}
        self.memory_mib: dict[tuple[str, int], int] = {}
        """By session; what it is of one that is missing here, ``memory_of`` says."""
        self.holders: dict[tuple[str, int], set[int]] = {}
        """Processes of each session that hold GPU memory, as far as that is known."""
        self._known = False
        self._blind: frozenset[tuple[str, int]] = frozenset()
        """Sessions with a device of which the driver does not say who uses it."""
        self._table: Mapping[int, Process] = {}
        self._gates: Mapping[tuple[str, int], Gate] = {}

    def check(self) -> None:
        """Unknown is never over: without an answer of the driver nothing happens."""
        try:
            processes = self._source.processes()
        except DeviceError as error:
            log.warning("nothing is known about GPU memory now: %s", error)
            self.memory_mib, self._known = {}, False
        else:
            uses = self._uses(processes)
            verdicts, self._warned = judge({key: use for key, use in uses.items() if use.share_mib}, self._warned)
            for verdict in verdicts:
                self._carry_out(verdict)
            self._known = True
        self._hear()

    def memory_of(self, key: tuple[str, int]) -> int | None:
        """GPU memory that a session uses, MiB; None: unknown."""
        if key in self._blind:
            return None
        if key in self.memory_mib:
            return self.memory_mib[key]
        return 0 if self._known and not self.holders.get(key) else None

    def _hear(self) -> None:
        try:
            for event in self._source.health_events():
                message = f"{event.device_uuid}: {event.detail}"
                self._events.add("health", message, device_uuid=event.device_uuid, cordon=event.cordon)
        except DeviceError as error:
            log.warning("nothing is known about the health of GPUs now: %s", error)

    def _uses(self, processes: tuple[DeviceProcess, ...]) -> dict[Key, Use]:
        """Use by session and device. Shares of a whole device or a MIG instance have size 0 here: nothing to watch."""
        self._gates = self._sessions.members.gates() if processes else {}
        self._blind = self._blind_to(unseen_devices(processes))
        if not processes:
            self.memory_mib, self.holders = {}, {}
            return {}
        owned = self._sessions.members.owned()
        self._table = owned.table
        by_key: dict[Key, dict[int, int | None]] = {}
        total: dict[tuple[str, int], int] = {}
        for process in processes:
            owner = owned.owners.get(process.pid)
            if owner is None:
                continue
            by_key.setdefault((*owner, process.device_uuid), {})[process.pid] = process.memory_mib
            if process.memory_mib is not None and owner not in self._blind:  # what is not known is not nothing
                total[owner] = total.get(owner, 0) + process.memory_mib
        self.memory_mib = total
        holders: dict[tuple[str, int], set[int]] = {}
        for (reservation_id, generation, _), pids in by_key.items():
            holders.setdefault((reservation_id, generation), set()).update(pids)
        self.holders = holders
        return {key: Use(self._fraction(key), by_pid, names_of(by_pid)) for key, by_pid in by_key.items()}

    def _blind_to(self, unseen: frozenset[str]) -> frozenset[tuple[str, int]]:
        return frozenset(key for key, gate in self._gates.items() if not unseen.isdisjoint(gate.devices))

    def _fraction(self, key: Key) -> int:
        gate = self._gates.get((key[0], key[1]))
        if gate is None:
            return 0
        parts = [part for part in gate.share if part.device_uuid == key[2]]
        return sum(part.memory_mib for part in parts if not part.whole and not part.instance_uuid)

    def _carry_out(self, verdict: Verdict) -> None:
        reservation_id, generation, device_uuid = verdict.key
        pid = verdict.stop
        # That of the process that was judged, not of another one which has got its pid.
        judged = self._table.get(pid) if pid is not None else None
        ticks = judged.ticks if judged is not None else None
        if pid is not None and (ticks is None or self._stopping.get(pid) == ticks):
            return  # it is on its way out already
        kind = "over_memory" if pid is None else "stopped_over_memory"
        log.warning("%s: %s", reservation_id, verdict.message)
        self._events.add(kind, verdict.message, reservation_id=reservation_id, device_uuid=device_uuid)
        if pid is None or ticks is None:
            return
        self._stopping = {pid: ticks, **{p: t for p, t in self._stopping.items() if start_ticks(p) == t}}
        record = self._sessions.records.find(reservation_id, generation)
        shim = record.shim() if record is not None else None
        if record is not None and shim is not None and shim.main_pid == pid:
            record.write_note(verdict.message)  # only then is it what ended the session, not just one kernel of it
        if record is not None:
            self._quiet(record, {pid})
        signal_one(pid, ticks, signal.SIGTERM)
        timer = threading.Timer(KILL_AFTER_S, signal_one, (pid, ticks, signal.SIGKILL))
        timer.daemon = True
        timer.start()
