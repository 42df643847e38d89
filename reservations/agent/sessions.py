"""Starting, finding and stopping the sessions of this node. Everything blocks; callers use threads."""

from __future__ import annotations

import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM
from typing import Any

from ..clock import read_boot_id
from ..devices.model import Inventory
from ..devices.nodes import gpu_nodes, wanted_paths
from ..enforcement import COOPERATIVE, HARDWARE, NONE_NEEDED, SIMULATED, WATCHDOG
from .environment import session_environment
from .isolation import FilterError, Way
from .processes import Process, kernels, read_processes, send, session_pids
from .records import Order, Record, Records, Tombstone

log = logging.getLogger("timeshare.agent")
LAUNCHER = Path(__file__).with_name("launcher.py")
REPORT_WAIT_S = 30.0
REPLACE_GRACE_S = 3.0


class Refused(Exception):
    """A request that cannot be carried out. ``reason`` is its code."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Session:
    """One start as it is now. ``state``: starting, running, stopping, exited or unknown."""

    reservation_id: str
    generation: int
    state: str
    pid: int | None
    exit_code: int | None
    message: str
    enforcement: str


def boot_seconds() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Sessions:
    """``way`` is the device filter, None when this machine has none."""

    def __init__(self, root: Path, way: Way | None, simulated: bool) -> None:
        self.records = Records(root)
        self.way = way
        self.simulated = simulated
        self._boot_id = read_boot_id()
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)
        self._launchers: list[subprocess.Popen[bytes]] = []
        self._ended: dict[tuple[str, int], Session] = {}
        self._launching: set[tuple[str, int]] = set()
        self.messages: dict[tuple[str, int], str] = {}
        """What the watchdog has to say about how a session ended."""

    # --- launch

    def launch(self, order: Order, env: Mapping[str, str], inventory: Inventory) -> dict[str, Any]:
        """Starts it, unless it was started already. Raises Refused; then nothing of this order runs."""
        with self._locks[order.reservation_id]:
            if self.records.tombstone(order.reservation_id) is not None:
                raise Refused("stopped", "this reservation was stopped: it cannot be started any more")
            known = self.records.of(order.reservation_id)
            if known and known[-1].generation > order.generation:
                message = f"generation {known[-1].generation} was started already; {order.generation} is an older one"
                raise Refused("older-generation", message)
            if known and known[-1].generation == order.generation:
                return self._already(known[-1])
            for record in known:
                self._end_lower(record)
            return self._start(order, env, inventory)

    def _already(self, record: Record) -> dict[str, Any]:
        shim, order = record.shim(), record.order()
        if shim is None or not shim.main_pid:
            raise Refused("failed", (record.exit() or {}).get("message") or "it did not start")
        return {"pid": shim.main_pid, "enforcement": order.enforcement, "started_at": order.started_at}

    def _start(self, order: Order, env: Mapping[str, str], inventory: Inventory) -> dict[str, Any]:
        key = f"{order.reservation_id}.{order.generation}"
        filter_ = self._filter(key, order, inventory)
        level = self._enforcement(order, filter_, inventory)
        order = replace(order, enforcement=level, filter=filter_, started_at=time.time())
        variables = {**env, **session_environment(order, self.simulated)}
        under_way = (order.reservation_id, order.generation)
        self._launching.add(under_way)
        try:
            record = self.records.create(order, variables)
            told = self._run_launcher(record, filter_.get("launcher_prefix", []))
        finally:
            self._launching.discard(under_way)
        if "pid" in told:
            return {"pid": told["pid"], "enforcement": level, "started_at": order.started_at}
        if told.get("stopped"):
            raise Refused("stopped", "this reservation was stopped while it started")
        if "failed" in told:
            raise Refused("failed", told["failed"])
        if not record.abandon_unless_started() and record.launcher_lives():
            raise Refused("unknown", "the start takes unusually long; nobody can say yet how it ends")
        raise Refused("failed", "its launcher was ended before the server ran")

    def _run_launcher(self, record: Record, prefix: list[str]) -> dict[str, Any]:
        reader, writer = os.pipe()
        tombstone = self.records.stops / f"{record.reservation_id}.json"
        words = [*prefix, sys.executable, "-I", "-S", str(LAUNCHER), str(record.path), str(tombstone), str(writer)]
        marks = {
            "TIMESHARE_RESERVATION_ID": record.reservation_id,
            "TIMESHARE_GENERATION": str(record.generation),
            "PATH": os.environ.get("PATH", os.defpath),
        }
        try:
            launcher = subprocess.Popen(
                words, env=marks, pass_fds=(writer,), start_new_session=True, cwd="/", stdin=subprocess.DEVNULL
            )
        except OSError as error:
            os.close(reader)
            return {"failed": f"the launcher could not be started: {error.strerror}"}
        finally:
            os.close(writer)
        self._launchers.append(launcher)
        with os.fdopen(reader, "rb") as pipe:
            ready, _, _ = select.select([pipe], [], [], REPORT_WAIT_S)
            line = pipe.readline() if ready else b""
        told: dict[str, Any] = json.loads(line) if line else {}
        return told

    def _filter(self, key: str, order: Order, inventory: Inventory) -> dict[str, Any]:
        if self.way is None or self.simulated:
            return {}
        devices = inventory.by_uuid()
        held = [devices[part.device_uuid] for part in order.share if part.device_uuid in devices]
        wanted = wanted_paths(held, [part.instance_uuid for part in order.share])
        hidden = [node for node in gpu_nodes() if node.path not in wanted]
        if not hidden:
            return {}
        try:
            return self.way.prepare(key, hidden)
        except FilterError as error:
            # Running without the filter would show a person's GPU to others while everybody believes it hidden.
            raise Refused("failed", f"the device filter could not be made: {error}") from None

    def _enforcement(self, order: Order, filter_: dict[str, Any], inventory: Inventory) -> str:
        if not order.share:
            return NONE_NEEDED if filter_ or self.simulated or not inventory.devices else COOPERATIVE
        if self.simulated:
            return SIMULATED
        if any(not part.whole and not part.instance_uuid for part in order.share):
            return WATCHDOG
        # With nothing left to hide the session holds every device there is.
        return HARDWARE if self.way is not None else COOPERATIVE

    def _end_lower(self, record: Record) -> None:
        """A new start takes over: what an older one left behind is ended first."""
        until = time.monotonic() + REPLACE_GRACE_S
        while self.look(record, table := read_processes()).state != "exited":
            pids = self._pids(record, table)
            send(table, pids, SIGTERM if time.monotonic() < until else SIGKILL)
            if not pids:
                record.abandon_unless_started()
            time.sleep(0.05)

    # --- look

    def all(self) -> list[Session]:
        table: dict[int, Process] | None = None
        found = []
        for record in self.records.all():
            key = (record.reservation_id, record.generation)
            if key not in self._ended and table is None:
                table = read_processes()
            try:
                found.append(self._ended.get(key) or self.look(record, table or {}))
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("the record of %s cannot be read: %s", record.path.name, error)
                found.append(Session(*key, "unknown", None, None, "its record cannot be read", ""))
        return found

    def look(self, record: Record, table: dict[int, Process]) -> Session:
        """What became of this start. ``table`` must be read after the record was listed."""
        order, shim = record.order(), record.shim()

        def session(state: str, code: int | None = None, message: str = "") -> Session:
            pid = shim.main_pid if shim and shim.main_pid else None
            message = message or (self.messages.get((record.reservation_id, record.generation), "") if code else "")
            return Session(record.reservation_id, record.generation, state, pid, code, message, order.enforcement)

        ended = record.exit()
        if ended is None and not record.launcher_lives():
            # Read again: it may have written its end and gone between the two looks.
            ended = record.exit()
            if ended is None and shim is None:
                shim = record.shim()
            if ended is None:
                ended = self._without_launcher(record, shim is not None and shim.boot_id == self._boot_id)
        if ended is not None:
            done = session("exited", ended["code"], ended["message"])
            self._ended[record.reservation_id, record.generation] = done
            if self.way is not None:
                self.way.clean(f"{record.reservation_id}.{record.generation}")
            return done
        if self.records.tombstone(record.reservation_id) is not None:
            return session("stopping")
        return session("running" if shim is not None and shim.main_pid else "starting")

    def _without_launcher(self, record: Record, this_boot: bool) -> dict[str, Any] | None:
        """The end of a start whose launcher is gone without a word; None while something of it still runs."""
        if not this_boot:
            if (record.reservation_id, record.generation) in self._launching:
                return None  # its launcher has not come to its first line yet
            if record.abandon_unless_started():
                return {"code": None, "message": "it was never started"}
            if record.shim() is None:
                return None  # a launcher is just beginning
        if self._pids(record, read_processes()):
            return None
        record.write_exit(None, "")
        return {"code": None, "message": ""}

    def _pids(self, record: Record, table: dict[int, Process]) -> set[int]:
        shim = record.shim()
        known = shim is not None and shim.boot_id == self._boot_id
        launcher = shim.pid if shim and known and shim.pid in table and table[shim.pid].ticks == shim.ticks else None
        return session_pids(table, (record.reservation_id, record.generation), launcher)

    def pids_by_session(self) -> dict[tuple[str, int], set[int]]:
        """Every process of every session that runs, for the watchdog."""
        table = read_processes()
        return {
            (record.reservation_id, record.generation): self._pids(record, table)
            for record in self.records.all()
            if (record.reservation_id, record.generation) not in self._ended
        }

    # --- stop

    def stop(self, reservation_id: str, interrupt: bool, save_grace_s: float, term_grace_s: float) -> str:
        """Forbids any later start, begins the end, and says how far it is."""
        now = boot_seconds()
        wanted = Tombstone(self._boot_id, interrupt, now + save_grace_s, now + save_grace_s + term_grace_s)
        first = self._bury(reservation_id, wanted)
        with self._locks[reservation_id]:  # a launch that was under way has seen the tombstone, or has begun
            records = self.records.of(reservation_id)
            if first and interrupt:
                table = read_processes()
                for record in records:
                    send(table, kernels(self._pids(record, table)), SIGINT)
            return self._advance(reservation_id, records)

    def _bury(self, reservation_id: str, wanted: Tombstone) -> bool:
        """True the first time. A later and stricter request makes the end come sooner, never later."""
        known = self.records.tombstone(reservation_id)
        if known is None or known.boot_id != self._boot_id:
            self.records.bury(reservation_id, wanted)
            return True
        sooner = replace(known, term_at=min(known.term_at, wanted.term_at), kill_at=min(known.kill_at, wanted.kill_at))
        if sooner != known:
            self.records.bury(reservation_id, sooner)
        return False

    def _advance(self, reservation_id: str, records: list[Record]) -> str:
        """One step of a stop: nothing, SIGTERM or SIGKILL, by the tombstone's times."""
        tombstone = self.records.tombstone(reservation_id)
        assert tombstone is not None
        state = "exited"
        for record in records:
            if record.abandon_unless_started():
                continue
            table = read_processes()
            if self.look(record, table).state == "exited":
                continue
            state = "stopping"
            now = boot_seconds()
            if now >= tombstone.kill_at:
                send(table, self._pids(record, table), SIGKILL)
            elif now >= tombstone.term_at:
                self._terminate_once(record, table)
        return state

    def _terminate_once(self, record: Record, table: dict[int, Process]) -> None:
        """Asks every process once: a server that is shutting down kernels in order takes a second request badly."""
        done = record.path / "terminated"
        if not done.exists():
            done.touch()
            send(table, self._pids(record, table), SIGTERM)

    def advance_stops(self) -> None:
        """Carries every stop further; call it several times a second. Also takes note of launchers that ended."""
        self._launchers = [launcher for launcher in self._launchers if launcher.poll() is None]
        waiting = defaultdict(list)
        for record in self.records.all():
            if (record.reservation_id, record.generation) not in self._ended:
                waiting[record.reservation_id].append(record)
        for reservation_id, records in waiting.items():
            if self.records.tombstone(reservation_id) is None:
                continue
            lock = self._locks[reservation_id]
            if lock.acquire(blocking=False):
                try:
                    self._advance(reservation_id, records)
                finally:
                    lock.release()

    # --- forget

    def forget(self, reservation_id: str, generation: int) -> None:
        with self._locks[reservation_id]:
            record = self.records.find(reservation_id, generation)
            if record is None:
                return
            if self.look(record, read_processes()).state != "exited":
                raise Refused("running", "it has not ended: only an ended start is forgotten")
            record.remove()
            self._ended.pop((reservation_id, generation), None)
            self.messages.pop((reservation_id, generation), None)
