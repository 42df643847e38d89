"""Takes the devices of a session that runs on, and gives it others. Done step by step: whoever asks, asks until it is
done, and an agent that was killed in between goes on where the last one was."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM
from typing import Any, NoReturn

from ..devices.checkpoint import CheckpointError
from ..devices.model import DeviceSource, Inventory, seen_on
from .cgroups import group_name
from .ending import freeze, group_pids, thaw
from .isolation import Way
from .park import NOT_SUPPORTED, Parker
from .parkplan import PARKED, Impossible, NotYet
from .processes import Process, kernels, send
from .records import Record, SharePart, durable_write, read_json
from .refusals import Refused
from .sessions import Sessions
from .sight import sight_of
from .steps import Steps
from .stopping import boot_seconds

ROUNDS = 5
"""How often new processes of a session may begin to use its devices while it is parked."""
STILL_KEPT = (
    "what was kept of it could not be brought back, and is still kept. Give the GPU back and ask for it again to try "
    "once more, or restart the kernel"
)
TURNS, FREELY = 100, 20
"""How often what runs behind one filter is moved to another, and after how many times it is frozen for that."""
MOVABLE = ("cgroup-v2", "cgroup-v1")
"""Device filters that a running session can be moved between; the others are fixed when it starts."""


def can_exchange(way: Way | None, simulated: bool) -> bool:
    """Whether devices can be taken from a session without ending it."""
    return simulated or way is None or way.name in MOVABLE


def fixed(way: Way | None) -> str:
    """Why devices cannot be taken from a session that runs."""
    return f"the device filter of this node ({way.name if way else 'none'}) cannot be changed while it runs"


@dataclass(frozen=True)
class Graces:
    """Seconds from the interrupt to SIGTERM, and from there to SIGKILL."""

    save_s: float
    term_s: float


class Exchange:
    """``release``, ``park`` and ``resume`` of one session."""

    def __init__(self, sessions: Sessions, source: DeviceSource, parker: Parker) -> None:
        self._sessions = sessions
        self._source = source
        self._parker = parker
        self._steps = Steps()

    def release(self, record: Record, graces: Graces) -> bool:
        """Shuts the session out of its devices and ends what still uses them: kernels are interrupted and get time to
        save, then they and everything else are ended. True once nothing of it uses them. Raises DeviceError while
        nobody can say."""
        with self._sessions.lock(record.reservation_id):
            self._settle(record)
            self._gate(record, (), self._source.inventory)
            return self._emptied(record, graces)

    def park(self, record: Record, pool_mib: int) -> int | None:
        """Shuts the session out of its devices, and moves what its processes hold there into the node's memory, where
        all that is parked may take ``pool_mib``. MiB that are kept; None: not done yet, ask again. Raises Refused:
        then it has its devices as before; DeviceError while nobody can say."""
        return self._steps.run(record.key, "park", lambda: self._park(record, pool_mib))

    def resume(self, record: Record, share: tuple[SharePart, ...]) -> bool:
        """Lets the session use ``share``, and brings back there what was parked of it, as far as the driver can.
        False: not done yet, ask again. Raises Refused (``not-yet``: it may work later), DeviceError."""
        return bool(self._steps.run(record.key, f"resume {share}", lambda: self._resume(record, share)))

    def _park(self, record: Record, pool_mib: int) -> int:
        """The driver needs the devices until it is done, so the filter comes last; what began to use them in between
        is parked too."""
        with self._sessions.lock(record.reservation_id):
            self._settle(record)
            try:
                for _ in range(ROUNDS):
                    parked = self._parker.keep(record, pool_mib)
                    share = record.gate().share if parked is None else parked.share
                    self._gate(record, (), self._source.inventory)
                    if not self._parker.holders(record):
                        return 0 if parked is None else self._parker.finish(record, parked)
                    self._gate(record, share, self._source.inventory)
                raise Impossible("new processes of it begin to use its GPU over and over")
            except CheckpointError as error:
                self._undo(record, f"{error} ({NOT_SUPPORTED})")
            except (Impossible, Refused) as error:
                self._undo(record, str(error))

    def _settle(self, record: Record) -> None:
        """Goes on to undo what an earlier agent began to undo. Raises Refused once that is done."""
        parked = self._parker.parked(record)
        if parked is not None and parked.why:
            self._undo(record, parked.why)

    def _undo(self, record: Record, why: str) -> NoReturn:
        """Puts everything back as it was. Raises Refused with ``why``."""
        parked = self._parker.parked(record)
        if parked is not None and parked.phase != PARKED:
            self._parker.begin_undo(record, parked, why)
            self._gate(record, parked.share, self._source.inventory)
            try:
                lost = self._parker.bring_back(record, parked.share, undo=True)
            except (NotYet, CheckpointError, Impossible) as error:
                raise Refused(
                    "unknown", f"it was not parked ({why}), and is not back on its GPU yet: {error}"
                ) from None
            why = f"{why}; {lost}" if lost else why
        raise Refused("failed", why)

    def _resume(self, record: Record, share: tuple[SharePart, ...]) -> bool:
        with self._sessions.lock(record.reservation_id):
            self._gate(record, share, self._source.inventory)
            (record.path / "releasing.json").unlink(missing_ok=True)
            try:
                self._parker.bring_back(record, share)
            except NotYet as error:
                raise Refused("not-yet", str(error)) from None
            except (CheckpointError, Impossible) as error:
                self._parker.tell(record, f"{error}: {STILL_KEPT}")
            return True

    def _gate(self, record: Record, share: tuple[SharePart, ...], inventory: Callable[[], Inventory]) -> None:
        """Its processes run behind a device filter for ``share`` when this returns."""
        way, sessions = self._sessions.way, self._sessions
        if not can_exchange(way, sessions.simulated):
            raise Refused("failed", fixed(way))
        now = record.gate()
        if now.share != share:
            key = f"{group_name(sessions.records.root, *record.key)}/{now.turn + 1}"
            order = record.order_with(share)
            filter_ = sight_of(order, inventory(), sessions.device_root, sessions.simulated).filter(way, key)
            record.write_gate(share, filter_, now.turn + 1)
        target = [Path(folder) for folder in record.gate().filter.get("cgroups", ())]
        for old in record.older_cgroups():
            if target and old.is_dir():
                _move(old, target[0])

    def _emptied(self, record: Record, graces: Graces) -> bool:
        owned = self._sessions.members.owned()
        table, pids = owned.table, owned.of(record.key)
        times = read_json(record.path / "releasing.json")
        if times is not None and times["boot_id"] != self._sessions.boot_id:
            times = None
        doomed = set(times.get("doomed", ())) & pids if times is not None else set()
        send(table, doomed, SIGKILL)
        seen = seen_on(record.gate().devices, self._source.processes())
        users = {process.pid for process in seen} & pids - doomed
        if not users:
            return not doomed
        now = boot_seconds()
        if times is None:
            send(table, kernels(users), SIGINT)
            term_at = now + graces.save_s
            times = {"boot_id": self._sessions.boot_id, "term_at": term_at, "kill_at": term_at + graces.term_s}
            durable_write(record.path / "releasing.json", times)
        elif now >= times["term_at"]:
            restored = users & {process.pid for process in self._parker.restored(record)}
            if restored:
                self._end_restored(record, table, restored, times)
            send(table, users - restored, SIGKILL if now >= times["kill_at"] else SIGTERM)
        return False

    def _end_restored(
        self, record: Record, table: Mapping[int, Process], pids: set[int], times: dict[str, Any]
    ) -> None:
        """What was ever restored is taken off its device before it is killed. It is written down first: once it is off
        the device, nothing else would show that it must still be ended."""
        durable_write(record.path / "releasing.json", {**times, "doomed": sorted(pids)})
        self._parker.quiet(record, pids)
        send(table, pids, SIGKILL)


def _move(old: Path, new: Path) -> None:
    """Every process of one cgroup into another, those too that are born meanwhile; then the first is removed, which the
    kernel does not do while anything runs there: a list of pids may have missed it. Raises Refused, OSError."""
    for turn in range(TURNS):
        if turn == FREELY:
            freeze(str(old))  # what does not run has no children; in the other one it runs on
        for pid in group_pids(str(old)):
            with contextlib.suppress(ProcessLookupError):
                (new / "cgroup.procs").write_text(str(pid))
        with contextlib.suppress(OSError):
            os.rmdir(old)
        if not old.exists():
            return
    thaw(str(old))
    raise Refused("unknown", "processes of this session are born faster than they can be moved: try again")
