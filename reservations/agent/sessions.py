"""Starting sessions of this node and telling what became of them. Everything blocks; callers use threads."""

from __future__ import annotations

import logging
import os
import pwd
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGTERM
from typing import Any
from weakref import WeakValueDictionary

from ..clock import read_boot_id
from ..devices.model import Inventory
from .cgroups import Bounds, Group, GroupError, Groups, group_name, remove, scope_command, sweep
from .environment import session_environment
from .handover import Hidden, Report, compiled_launcher, pack, start_launcher
from .isolation import Way
from .members import Members
from .processes import send
from .records import UNREADABLE, Order, Record, Records
from .refusals import Refused
from .session_folder import SessionFolders
from .sight import sight_of

log = logging.getLogger("timeshare.agent")
START_WAIT_S = 30.0
"""How long a start may take before nobody can say how it ends."""
TERM_GRACE_S = 3.0
"""How long an older start gets to end before a newer one takes over."""
END_WAIT_S = 15.0
"""Processes that a SIGKILL does not end by then wait inside the kernel."""


@dataclass(frozen=True)
class Session:
    """One start as it is now. ``state``: starting, running, stopping, exited or unknown. ``devices``: UUIDs of those
    that it holds."""

    reservation_id: str
    generation: int
    state: str
    pid: int | None
    exit_code: int | None
    message: str
    enforcement: str
    owner: str = ""
    devices: tuple[str, ...] = ()


class Sessions:
    """``way`` is the device filter, ``groups`` the way to make control groups; None when this machine has none.
    ``device_root``: where device files are. ``run_dir``: where sessions get the folders of their sockets, None: they
    get none."""

    def __init__(
        self,
        root: Path,
        way: Way | None,
        simulated: bool,
        device_root: Path = Path("/dev"),
        run_dir: Path | None = None,
        groups: Groups | None = None,
    ) -> None:
        self.records = Records(root)
        self.folders = SessionFolders(run_dir)
        self.folders.sweep(record.key for record in self.records.all())
        self.way = way
        self.groups = groups
        self.simulated = simulated
        self.boot_id = read_boot_id()
        self.device_root = device_root
        self._program = compiled_launcher(root)
        self._locks: WeakValueDictionary[str, threading.RLock] = WeakValueDictionary()
        self._locking = threading.Lock()
        self._launchers: list[subprocess.Popen[bytes]] = []
        self._ended: dict[tuple[str, int], Session] = {}
        self._launching: set[tuple[str, int]] = set()
        self.members = Members(self.live, self.boot_id)
        sweep(root, self.members.thaw_all())
        self._drop_unbegun()

    def lock(self, reservation_id: str) -> threading.RLock:
        """Held by whoever starts or ends something of this reservation."""
        with self._locking:
            return self._locks.setdefault(reservation_id, threading.RLock())

    # --- launch

    def launch(self, order: Order, hidden: Hidden, inventory: Callable[[], Inventory]) -> dict[str, Any]:
        """Starts it, unless it was started already. Raises Refused; then nothing of this order runs, but for reason
        ``unknown``. ``inventory`` is asked only when devices are needed; it may raise DeviceError."""
        with self.lock(order.reservation_id):
            if self.records.forbidden(order.reservation_id, order.generation):
                raise Refused("stopped", "this reservation was stopped: it cannot be started any more")
            known = self.records.of(order.reservation_id)
            if known and known[-1].generation > order.generation:
                message = f"generation {known[-1].generation} was started already; {order.generation} is an older one"
                raise Refused("older-generation", message)
            if known and known[-1].generation == order.generation:
                return self._already(known[-1])
            for record in known:
                self._end(record)
            self.records.exhume(order.reservation_id)
            return self._start(order, hidden, inventory() if order.share else Inventory())

    def _already(self, record: Record) -> dict[str, Any]:
        """The answer to a launch that was begun before, perhaps by an agent that died meanwhile."""
        until = time.monotonic() + START_WAIT_S
        while True:
            shim = record.shim()
            if shim is not None and shim.main_pid:
                order = record.order()
                return {"pid": shim.main_pid, "enforcement": order.enforcement, "started_at": order.started_at}
            session = self.look(record)
            if session.state == "exited":
                raise Refused("failed", session.message or "its launcher was ended before the server ran")
            if not record.launcher_lives():
                self._end(record)
            elif time.monotonic() > until:
                raise Refused("unknown", "the start takes unusually long; nobody can say yet how it ends")
            time.sleep(0.02)

    def _start(self, order: Order, hidden: Hidden, inventory: Inventory) -> dict[str, Any]:
        name = group_name(self.records.root, order.reservation_id, order.generation)
        sight = sight_of(order, inventory, self.device_root, self.simulated)
        group = self._group(name, Bounds(order.cpus, order.memory_mib))
        try:
            filter_ = sight.filter(self.way, f"{name}/0")
        except Refused:
            remove(group.folders)
            raise
        level = sight.enforcement(self.way, filter_)
        order = replace(order, enforcement=level, filter=filter_, started_at=time.time(), group=group.folders)
        order = replace(order, uid=_uid_of(order.user))
        try:
            env = {**hidden.env, **session_environment(order, self.simulated)}
            packed = pack(order, replace(hidden, env=env))
        except ValueError as error:
            raise Refused("invalid", str(error)) from None
        prefix = scope_command(name, [*group.properties, *filter_.get("properties", ())])
        under_way = (order.reservation_id, order.generation)
        self._launching.add(under_way)
        try:
            record = self.records.create(order)
            if order.server_socket:
                self._make_folder(record, order.user)
            told = self._run_launcher(record, packed, prefix)
        finally:
            self._launching.discard(under_way)
        if told.pid:
            return {"pid": told.pid, "enforcement": level, "started_at": order.started_at}
        if told.stopped:
            raise Refused("stopped", "this reservation was stopped while it started")
        if not told.failed and not record.abandon_unless_started():
            return self._already(record)
        raise Refused("failed", told.failed or "its launcher was ended before the server ran")

    def _group(self, name: str, bounds: Bounds) -> Group:
        """Raises Refused: without it a session would run without the bounds that everybody believes it has."""
        if self.groups is None:
            return Group(())
        try:
            return self.groups.prepare(name, bounds)
        except GroupError as error:
            raise Refused("failed", f"its control group could not be made: {error}") from None

    def _run_launcher(self, record: Record, packed: bytes, prefix: list[str]) -> Report:
        tombstone = self.records.stops / f"{record.reservation_id}.json"
        try:
            started = start_launcher(self._program, record, tombstone, packed, prefix)
        except OSError as error:
            record.abandon_unless_started()
            return Report(failed=f"the launcher could not be started: {error.strerror}")
        self._launchers.append(started.process)
        return started.report()

    def _make_folder(self, record: Record, user: str | None) -> None:
        try:
            self.folders.make(record.key, user)
        except Refused:
            record.abandon_unless_started()
            raise

    def _end(self, record: Record) -> None:
        """Ends what an older or broken start left. Raises Refused when it cannot be ended."""
        began = time.monotonic()
        while self.look(record).state != "exited":
            waited = time.monotonic() - began
            if waited > END_WAIT_S:
                named = ", ".join(map(str, sorted(self.members.of(record)))) or "its launcher"
                message = f"an older start still runs ({named}) and cannot be ended: the node may need a restart"
                raise Refused("unknown", message)
            if waited < TERM_GRACE_S:
                owned = self.members.owned()
                send(owned.table, owned.of(record.key), SIGTERM)
            else:
                self.members.kill(record)
            record.abandon_unless_started()
            time.sleep(0.05)

    def _drop_unbegun(self) -> None:
        """What an agent that died had written down and not begun is as if nobody had asked: whoever did asks again."""
        for record in self.records.all():
            try:
                begun = record.exit_written() or not record.abandon_unless_started()
                if not begun and not self.records.forbidden(*record.key):
                    self._clean(record)
                    record.remove()
            except UNREADABLE as error:
                log.warning("the record of %s cannot be read: %s", record.path.name, error)

    def reap(self) -> None:
        """Takes note of launchers that ended, so that no zombies stay."""
        self._launchers = [launcher for launcher in self._launchers if launcher.poll() is None]

    # --- look

    def all(self) -> list[Session]:
        found = []
        for record in self.records.all():
            try:
                found.append(self._ended.get(record.key) or self.look(record))
            except UNREADABLE as error:
                log.warning("the record of %s cannot be read: %s", record.path.name, error)
                found.append(Session(*record.key, "unknown", None, None, "its record cannot be read", ""))
        return found

    def live(self) -> list[Record]:
        """The starts that are not known to have ended."""
        return [record for record in self.records.all() if record.key not in self._ended]

    def look(self, record: Record) -> Session:
        """What became of this start."""
        ended = self._end_of(record)
        order, shim = record.order(), record.shim()
        pid = shim.main_pid if shim and shim.main_pid else None
        if ended is None:
            began = "running" if pid else "starting"
            state = "stopping" if self.records.forbidden(record.reservation_id, record.generation) else began
            devices = tuple(part.device_uuid for part in record.gate().share)
            return Session(*record.key, state, pid, None, "", order.enforcement, order.owner, devices)
        message = ended["message"] or (record.note() if ended["code"] != 0 else "")
        done = Session(*record.key, "exited", pid, ended["code"], message, order.enforcement)
        self._ended[record.key] = done
        self._clean(record)
        return done

    def _end_of(self, record: Record) -> dict[str, Any] | None:
        """Its end; None while anything of it may run. Written here when the launcher could not."""
        ended = record.exit()
        if ended is not None and not record.launcher_lives():  # it is itself a process of the session
            return ended
        # In this order: a launcher that had begun and holds its lock no more is gone for good.
        shim = record.shim()
        if record.launcher_lives():
            return None
        ended = record.exit()
        if ended is not None:
            return ended
        if shim is None:
            if record.key in self._launching or not record.abandon_unless_started():
                return None  # its launcher is just about to begin
            return record.exit()
        self.members.thaw(record)  # its launcher may have been killed while everything else was stopped
        if self.members.remain(record):
            return None
        record.write_exit(None, "")
        return record.exit()

    def _clean(self, record: Record) -> None:
        self.folders.remove(record.key)
        order = record.order()
        if self.way is not None:
            name = group_name(self.records.root, *record.key)
            for turn in range(record.gate().turn + 1):
                self.way.clean(f"{name}/{turn}")
        remove(order.group)

    # --- forget

    def forget(self, reservation_id: str, generation: int) -> None:
        """Drops the record of an ended start. Raises Refused ``running`` for another."""
        with self.lock(reservation_id):
            record = self.records.find(reservation_id, generation)
            if record is None:
                return
            if self.look(record).state != "exited":
                raise Refused("running", "it has not ended: only an ended start is forgotten")
            self._clean(record)  # again: the launcher may just have been leaving its cgroup
            record.remove()
            self._ended.pop(record.key, None)
            self.members.forget(record)


def _uid_of(user: str | None) -> int | None:
    """None for an account that is not there: the launcher says so."""
    try:
        return os.geteuid() if user is None else pwd.getpwnam(user).pw_uid
    except KeyError:
        return None
