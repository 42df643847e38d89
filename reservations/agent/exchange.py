"""Takes the devices of a session that runs on, and gives it others. Done step by step: whoever asks, asks until it is
done, and an agent that was killed in between goes on where the last one was."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM

from ..devices.model import DeviceSource, Inventory
from .isolation import Way
from .processes import kernels, read_processes, send
from .records import Record, SharePart, durable_write, read_json
from .refusals import Refused
from .sessions import Sessions
from .sight import sight_of
from .stopping import boot_seconds

MOVABLE = ("cgroup-v2", "cgroup-v1")
"""Device filters that a running session can be moved between; the others are fixed when it starts."""


def can_exchange(way: Way | None, simulated: bool) -> bool:
    """Whether devices can be taken from a session without ending it."""
    return simulated or way is None or way.name in MOVABLE


@dataclass(frozen=True)
class Graces:
    """Seconds from the interrupt to SIGTERM, and from there to SIGKILL."""

    save_s: float
    term_s: float


class Exchange:
    """``release`` and ``resume`` of one session."""

    def __init__(self, sessions: Sessions, source: DeviceSource) -> None:
        self._sessions = sessions
        self._source = source

    def release(self, record: Record, graces: Graces) -> bool:
        """Shuts the session out of its devices and ends what still uses them: kernels are interrupted and get time to
        save, then they and everything else are ended. True once nothing of it uses them. Raises DeviceError while
        nobody can say."""
        with self._sessions.lock(record.reservation_id):
            self._gate(record, (), self._source.inventory)
            return self._emptied(record, graces)

    def resume(self, record: Record, share: tuple[SharePart, ...]) -> None:
        """Lets the session use ``share``. Raises Refused, DeviceError."""
        with self._sessions.lock(record.reservation_id):
            self._gate(record, share, self._source.inventory)
            (record.path / "releasing.json").unlink(missing_ok=True)

    def _gate(self, record: Record, share: tuple[SharePart, ...], inventory: Callable[[], Inventory]) -> None:
        """Its processes run behind a device filter for ``share`` when this returns."""
        way, sessions = self._sessions.way, self._sessions
        if not can_exchange(way, sessions.simulated):
            assert way is not None
            raise Refused("failed", f"the device filter of this node ({way.name}) cannot be changed while it runs")
        now = record.gate()
        if now.share != share:
            key = f"{record.reservation_id}.{record.generation}.{now.turn + 1}"
            order = record.order_with(share)
            filter_ = sight_of(order, inventory(), sessions.device_root, sessions.simulated).filter(way, key)
            record.write_gate(share, filter_, now.turn + 1)
        target = [Path(folder) for folder in record.gate().filter.get("cgroups", ())]
        for old in record.older_cgroups():
            if target and old.is_dir():
                _move(old, target[0])

    def _emptied(self, record: Record, graces: Graces) -> bool:
        table = read_processes()
        pids = self._sessions.pids(record, table)
        users = {process.pid for process in self._source.processes()} & pids
        if not users:
            return True
        times = read_json(record.path / "releasing.json")
        now = boot_seconds()
        if times is None or times["boot_id"] != self._sessions.boot_id:
            send(table, kernels(users), SIGINT)
            term_at = now + graces.save_s
            times = {"boot_id": self._sessions.boot_id, "term_at": term_at, "kill_at": term_at + graces.term_s}
            durable_write(record.path / "releasing.json", times)
        elif now >= times["kill_at"]:
            send(table, users, SIGKILL)
        elif now >= times["term_at"]:
            send(table, users, SIGTERM)
        return False


def _move(old: Path, new: Path) -> None:
    """Every process of one cgroup into another, those too that are born meanwhile; then the first is removed."""
    for _ in range(100):
        pids = (old / "cgroup.procs").read_text().split()
        if not pids:
            break
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                (new / "cgroup.procs").write_text(pid)
    else:
        raise Refused("unknown", "processes of this session are born faster than they can be moved: try again")
    with contextlib.suppress(OSError):
        os.rmdir(old)
