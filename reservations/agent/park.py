"""Parks processes: what they hold on GPUs goes into the node's memory, and comes back later. What is about to be done
is written down first (``parked.json`` in the record's folder); that, and the driver's own state of each process, is all
that is needed to go on, or to undo it, after an agent was killed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, replace

from ..devices.checkpoint import Checkpointer, CheckpointError
from ..devices.model import DeviceError, DeviceSource, seen_on
from .events import Events
from .hostmemory import HostMemory, Limit
from .parkplan import (
    PARKED,
    PARKING,
    UNDOING,
    Holder,
    Impossible,
    NotYet,
    Parked,
    Room,
    Sight,
    gpu_map,
    holders,
    shortage,
    too_little,
)
from .processes import names_of, start_ticks
from .records import UNREADABLE, Record, SharePart, durable_write, read_json
from .sessions import Sessions

log = logging.getLogger("timeshare.agent")
LOCK_S = 10.0
"""How long a process gets to finish what it has given to its GPU."""
GONE_S = 10.0
"""How long the driver may still show a process that was checkpointed."""
NOT_SUPPORTED = "processes with managed memory, under MPS, with a profiler or with CUDA IPC cannot be parked"


class Parker:
    """One for a node. Callers hold the lock of the reservation; ``Impossible`` and ``CheckpointError`` of ``keep`` say
    why it must be undone."""

    def __init__(
        self,
        sessions: Sessions,
        source: DeviceSource,
        checkpointer: Checkpointer,
        events: Events,
        host: HostMemory | None = None,
    ) -> None:
        self._sessions = sessions
        self._source = source
        self._checkpointer = checkpointer
        self._events = events
        self._host = host or HostMemory()
        self._node = threading.Lock()
        """One at a time: the memory that was found free must still be so when it is taken."""

    # --- what is written down

    def available(self) -> str:
        """Why nothing can be parked on this node; empty: it can."""
        return self._checkpointer.available()

    def parked(self, record: Record) -> Parked | None:
        """What is, or is just being, parked of it: the processes that still live. None: nothing."""
        data = read_json(record.path / "parked.json")
        if data is None or data["boot_id"] != self._sessions.boot_id:
            return None
        parked = Parked.from_json(data)
        return replace(parked, processes=tuple(p for p in parked.processes if _lives(p)))

    def kept_mib(self, record: Record) -> int:
        """GPU memory of it that is kept in the node's memory."""
        parked = self.parked(record)
        return 0 if parked is None else parked.mib

    def kept_by_session(self) -> dict[tuple[str, int], int]:
        """The same of each; of one whose record cannot be read nobody knows it."""
        found = {}
        for record in self._sessions.live():
            try:
                found[record.key] = self.kept_mib(record)
            except UNREADABLE as error:
                log.warning("the record of %s cannot be read: %s", record.path.name, error)
        return found

    def _write(self, record: Record, parked: Parked) -> None:
        durable_write(record.path / "parked.json", asdict(parked))

    def _forget(self, record: Record) -> None:
        (record.path / "parked.json").unlink(missing_ok=True)

    def restored(self, record: Record) -> tuple[Holder, ...]:
        """Processes of it that were ever restored and still live: a driver may hang when one of them is killed while
        it is on a GPU."""
        data = read_json(record.path / "restored.json")
        if data is None or data["boot_id"] != self._sessions.boot_id:
            return ()
        return tuple(p for p in map(Holder.from_json, data["processes"]) if _lives(p))

    def _remember_restored(self, record: Record, processes: Iterable[Holder]) -> None:
        known = {(p.pid, p.ticks): p for p in (*self.restored(record), *processes)}
        rows = [asdict(process) for process in known.values()]
        durable_write(record.path / "restored.json", {"boot_id": self._sessions.boot_id, "processes": rows})

    # --- park

    def holders(self, record: Record) -> tuple[Holder, ...]:
        """Its processes that hold GPU memory now. Raises Impossible, DeviceError."""
        pids = self._sessions.members.of(record)
        return holders(seen_on(record.gate().devices, self._source.processes()), pids, start_ticks)

    def keep(self, record: Record, pool_mib: int) -> Parked | None:
        """Checkpoints every process of it that holds GPU memory, and those with which that was begun before. None:
        there is none. ``pool_mib``: of the node's memory, for all that is parked on it. Raises Impossible (nothing was
        begun by this call), CheckpointError, DeviceError."""
        with self._node:
            before = self.parked(record)
            known = before.processes if before is not None else ()
            new = [p for p in self.holders(record) if p.pid not in {k.pid for k in known}]
            if not known and not new:
                self._forget(record)
                return None
            self._check(record, known, new, pool_mib)
            share = record.gate().share or (before.share if before is not None else ())
            sight = self._sight(share)
            new = [replace(p, devices=sight.devices, visible=sight.visible) for p in new]
            parked = Parked(self._sessions.boot_id, PARKING, share, (*self._where_they_are(known, sight), *new))
            self._write(record, parked)
            self._take_off(parked.processes)
            return parked

    def _take_off(self, processes: Sequence[Holder]) -> None:
        """Each of them off its devices, from whatever state it is in. Raises CheckpointError, DeviceError."""
        for process in processes:
            self._step(process, "running", lambda pid: self._checkpointer.lock(pid, LOCK_S))
        for process in processes:
            self._step(process, "locked", self._checkpointer.checkpoint)
        self._await_gone({process.pid for process in processes}, {uuid for p in processes for uuid in p.memory})

    def _where_they_are(self, processes: Iterable[Holder], sight: Sight) -> tuple[Holder, ...]:
        """Those that are not checkpointed are on the devices that their session has now."""
        return tuple(p if self._checkpointed(p) else p.at(sight) for p in processes)

    def _checkpointed(self, process: Holder) -> bool:
        return not _lives(process) or self._checkpointer.state(process.pid) == "checkpointed"

    def _check(self, record: Record, known: Sequence[Holder], new: Sequence[Holder], pool_mib: int) -> None:
        why = self._checkpointer.available()
        if why:
            raise Impossible(why)
        states = {p.pid: self._checkpointer.state(p.pid) for p in (*known, *new) if _lives(p)}
        lost = [pid for pid, state in states.items() if state == "failed"]
        if lost:
            raise Impossible(f"the driver has lost the GPU state of {_named(lost)}: restart its kernel")
        to_come = [p for p in (*known, *new) if states.get(p.pid) != "checkpointed"]
        others = (mib for key, mib in self.kept_by_session().items() if key != record.key)
        done = sum(p.mib for p in known if p not in to_come)
        taken = done + sum(others)
        needed = sum(p.mib for p in to_come)
        why = shortage(needed, Room(pool_mib, taken, self._host.available_mib(), self._limits(to_come)))
        if to_come and why:
            raise Impossible(why)

    def _limits(self, processes: Iterable[Holder]) -> list[tuple[Limit, int]]:
        """Of the cgroups in whose account the memory will be: the copy lies in each process itself."""
        added: dict[str, tuple[Limit, int]] = {}
        for process in processes:
            try:
                limits = self._host.limits(process.pid)
            except OSError:
                continue  # it has ended
            for limit in limits:
                added[limit.where] = (limit, added.get(limit.where, (limit, 0))[1] + process.mib)
        return list(added.values())

    def finish(self, record: Record, parked: Parked) -> int:
        """All of it was seen checkpointed and off its devices; MiB that are kept."""
        self._write(record, replace(parked, phase=PARKED))
        return self.kept_mib(record)

    def begin_undo(self, record: Record, parked: Parked, why: str) -> None:
        """From now on it goes back to where it was, whoever is asked next."""
        self._write(record, replace(parked, phase=UNDOING, why=why))

    # --- bring back

    def bring_back(self, record: Record, share: tuple[SharePart, ...], *, undo: bool = False) -> str:
        """Restores on ``share`` what is parked of it, and lets it go on. What is lost by it, in words; empty: nothing.
        Raises NotYet; Impossible and CheckpointError: then all of it is still parked, as far as the driver lets it;
        DeviceError. What an ``undo`` cannot restore is lost: only a person may want to try that again."""
        with self._node:
            parked = self.parked(record)
            if parked is None:
                return ""
            states = [(p, self._checkpointer.state(p.pid)) for p in parked.processes]
            lost = [p.pid for p, state in states if state == "failed"]
            kept = [p for p, state in states if state == "checkpointed"]
            if kept:
                sight = self._sight(share)
                why = too_little(kept, sight, self._source.free_mib())
                if why:
                    raise NotYet(why)
                self._remember_restored(record, kept)
                lost += self._restore_undo(parked, sight) if undo else self._restore_all(record, parked, sight)
            for process in parked.processes:
                try:
                    self._step(process, "locked", self._checkpointer.unlock)
                except CheckpointError as error:
                    log.warning("%s: %s", record.reservation_id, error)
                    lost.append(process.pid)
            self._forget(record)
        if not lost:
            return ""
        words = f"the driver could not bring back the GPU state of {_named(lost)}: restart its kernel"
        self.tell(record, words)
        return words

    def tell(self, record: Record, words: str) -> None:
        """Its owner must read it."""
        log.warning("%s: %s", record.reservation_id, words)
        self._events.add("parking", words, reservation_id=record.reservation_id)

    def _restore_all(self, record: Record, parked: Parked, sight: Sight) -> list[int]:
        """All of them or none: what came back before one failed is parked again, from where it is now. Raises
        CheckpointError."""
        try:
            for process in parked.processes:
                self._restore(process, sight)
        except CheckpointError:
            self._write(record, replace(parked, processes=self._where_they_are(parked.processes, sight)))
            self._take_off(list(reversed(parked.processes)))
            raise
        return []

    def _restore_undo(self, parked: Parked, sight: Sight) -> list[int]:
        """As many of them as can be. Pids of the others."""
        lost = []
        for process in parked.processes:
            try:
                self._restore(process, sight)
            except CheckpointError as error:
                log.warning("not restored: %s", error)
                lost.append(process.pid)
        return lost

    def _restore(self, process: Holder, sight: Sight) -> None:
        gpus = gpu_map(process, sight)
        self._step(process, "checkpointed", lambda pid: self._checkpointer.restore(pid, gpus))

    # --- before the end

    def quiet(self, record: Record, pids: Collection[int] | None = None) -> None:
        """Takes those of its processes (of ``pids``) that were ever restored off their devices again, as far as that
        can be done: then they can be killed safely. Raises nothing."""
        with self._node:
            mine = [p for p in self.restored(record) if pids is None or p.pid in pids]
            for process in mine:
                try:
                    self._quiet(record, process)
                except (CheckpointError, Impossible, DeviceError) as error:
                    log.warning("%s: it is ended while it is on its GPU: %s", record.reservation_id, error)

    def _quiet(self, record: Record, process: Holder) -> None:
        held = [p for p in self.holders(record) if p.pid == process.pid]
        needed = sum(p.mib for p in held)
        why = shortage(needed, Room(max(1, needed), 0, self._host.available_mib(), self._limits(held)))
        if held and why:
            raise Impossible(why)
        self._take_off([process])

    # --- parts

    def _step(self, process: Holder, state: str, act: Callable[[int], None]) -> None:
        """``act``, if it lives and is in ``state``: so everything may be done again. Raises CheckpointError."""
        try:
            if _lives(process) and self._checkpointer.state(process.pid) == state:
                act(process.pid)
        except CheckpointError:
            if _lives(process):
                raise

    def _await_gone(self, pids: Collection[int], devices: Collection[str]) -> None:
        until = time.monotonic() + GONE_S
        while left := {p.pid for p in seen_on(devices, self._source.processes())} & set(pids):
            if time.monotonic() > until:
                raise CheckpointError(f"the driver still shows {_named(left)} on a GPU")
            time.sleep(0.05)

    def _sight(self, share: Iterable[SharePart]) -> Sight:
        """What a session with ``share`` sees: its own devices behind a filter, all where there is none."""
        devices = tuple(dict.fromkeys(part.device_uuid for part in share))
        filtered = self._sessions.way is not None and not self._sessions.simulated
        return Sight(devices, devices if filtered else tuple(self._source.inventory().by_uuid()))


def _lives(process: Holder) -> bool:
    return start_ticks(process.pid) == process.ticks


def _named(pids: Iterable[int]) -> str:
    pids = sorted(pids)
    names = names_of(pids)
    return ", ".join(f"process {pid} ({names.get(pid, 'ended')})" for pid in pids)
