"""What may be parked, where it may come back, and why not. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..devices.model import DeviceProcess
from .hostmemory import Limit
from .records import SharePart

HOST_MARGIN_MIB = 2048
"""Of the node's memory that stays free beside what is parked."""
DEVICE_MARGIN_MIB, DEVICE_MARGIN = 512, 0.05
"""Of a device's memory that must be free beside what comes back: the driver's own, and what the copy needs."""
PARKING, PARKED, UNDOING = "parking", "parked", "undoing"


class Impossible(Exception):
    """It cannot be parked; the text is for a person."""


class NotYet(Exception):
    """It cannot come back now, and may later; the text is for a person."""


@dataclass(frozen=True)
class Holder:
    """A process that holds GPU memory, or held it until it was parked. ``ticks``: its start; ``memory``: MiB by
    device. ``devices``: those of the share that it had then; ``visible``: all that it sees."""

    pid: int
    ticks: int
    memory: Mapping[str, int]
    devices: tuple[str, ...] = ()
    visible: tuple[str, ...] = ()

    @property
    def mib(self) -> int:
        return sum(self.memory.values())

    def at(self, sight: Sight) -> Holder:
        """The same where it was restored with ``sight``. Raises Impossible."""
        gpus = gpu_map(self, sight)
        memory = {gpus.get(uuid, uuid): mib for uuid, mib in self.memory.items()}
        return replace(self, memory=memory, devices=sight.devices, visible=sight.visible)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Holder:
        return Holder(data["pid"], data["ticks"], data["memory"], tuple(data["devices"]), tuple(data["visible"]))


@dataclass(frozen=True)
class Sight:
    """``devices``: of a session's share, ``visible``: all that its processes see; by UUID."""

    devices: tuple[str, ...]
    visible: tuple[str, ...]


@dataclass(frozen=True)
class Parked:
    """What is written down before anything is done. ``phase``: ``parking`` (any of its processes may be as it was,
    locked or checkpointed), ``parked`` (all were seen checkpointed and off their devices), ``undoing`` (for ``why``
    each is being put back). ``share``: what it held."""

    boot_id: str
    phase: str
    share: tuple[SharePart, ...]
    processes: tuple[Holder, ...]
    why: str = ""

    @property
    def mib(self) -> int:
        return sum(process.mib for process in self.processes)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Parked:
        share = tuple(SharePart(**part) for part in data["share"])
        processes = tuple(Holder.from_json(process) for process in data["processes"])
        return Parked(data["boot_id"], data["phase"], share, processes, data["why"])


def holders(
    seen: Iterable[DeviceProcess], pids: Iterable[int], ticks_of: Callable[[int], int | None]
) -> tuple[Holder, ...]:
    """Those of ``pids`` that hold GPU memory. Raises Impossible for what can never be parked."""
    own = set(pids)
    memory: dict[int, dict[str, int]] = {}
    for process in seen:
        if process.pid not in own:
            continue
        if process.instance_uuid:
            raise Impossible("a MIG instance cannot be parked: the driver has no checkpoint of one")
        if process.memory_mib is None:
            raise Impossible(f"the driver does not say how much GPU memory process {process.pid} holds")
        mine = memory.setdefault(process.pid, {})
        mine[process.device_uuid] = mine.get(process.device_uuid, 0) + process.memory_mib
    found = [(pid, ticks_of(pid), mine) for pid, mine in sorted(memory.items())]
    return tuple(Holder(pid, ticks, mine) for pid, ticks, mine in found if ticks is not None)


@dataclass(frozen=True)
class Room:
    """Memory of the node in MiB. ``pool``: set aside for what is parked, ``taken``: of it, by others; ``available``:
    of the node, None: unknown. ``limits``: of cgroups, with what would be added to each."""

    pool_mib: int
    taken_mib: int
    available_mib: int | None
    limits: Sequence[tuple[Limit, int]]


def shortage(needed_mib: int, room: Room) -> str:
    """Why ``needed_mib`` more cannot be kept in the node's memory; empty: they can."""
    need = f"{gib(needed_mib)} of GPU memory would have to be kept"
    if not room.pool_mib:
        return "the limits set no memory of the node aside for it (parking.host_memory_gib)"
    if room.taken_mib + needed_mib > room.pool_mib:
        left = max(0, room.pool_mib - room.taken_mib)
        return f"{need}, and of the {gib(room.pool_mib)} set aside for it {gib(left)} are left"
    if room.available_mib is None:
        return "nobody knows how much memory the node has left"
    if room.available_mib < needed_mib + HOST_MARGIN_MIB:
        return f"{need}, and the node has {gib(room.available_mib)} left, of which {gib(HOST_MARGIN_MIB)} stay free"
    for limit, added in room.limits:
        if limit.used_mib + added > limit.limit_mib:
            text = f"the session may use {gib(limit.limit_mib)} of the node's memory and uses {gib(limit.used_mib)}"
            return f"{gib(added)} of GPU memory would have to be kept, and {text} ({limit.where})"
    return ""


def gpu_map(process: Holder, sight: Sight) -> dict[str, str]:
    """Where each device that a parked process sees is now, if it comes back with ``sight``; empty: all where they were.
    The driver wants every one of them in it. Raises Impossible."""
    before, after = process.devices, sight.devices
    moved = [uuid for uuid in before if uuid not in after], [uuid for uuid in after if uuid not in before]
    if len(moved[0]) != len(moved[1]):
        raise Impossible(f"it held {len(before)} GPUs and would get {len(after)}")
    found = {uuid: uuid for uuid in before if uuid in after} | dict(zip(*moved, strict=True))
    free = [uuid for uuid in sight.visible if uuid not in found.values()]
    for uuid in process.visible:
        if uuid not in found:
            if not free:
                raise Impossible(f"it saw {len(process.visible)} GPUs, and would see {len(sight.visible)} now")
            found[uuid] = uuid if uuid in free else free[0]
            free.remove(found[uuid])
    return {} if all(old == new for old, new in found.items()) else found


def too_little(processes: Iterable[Holder], sight: Sight, free: Mapping[str, int]) -> str:
    """Why they cannot come back with ``sight`` now: a restore that runs out of memory loses the process. Empty: they
    can. ``free``: MiB by device. Raises Impossible."""
    needed: dict[str, int] = {}
    for process in processes:
        for uuid, mib in process.at(sight).memory.items():
            needed[uuid] = needed.get(uuid, 0) + mib
    for uuid, mib in needed.items():
        with_margin = mib + max(DEVICE_MARGIN_MIB, round(mib * DEVICE_MARGIN))
        if uuid not in free:
            return f"nobody knows how much memory {uuid} has left"
        if free[uuid] < with_margin:
            return (
                f"what was kept needs {gib(with_margin)} on its GPU, and {gib(free[uuid])} are free there: others "
                "use more of it than they hold"
            )
    return ""


def gib(mib: int) -> str:
    return f"{mib / 1024:.1f} GiB"
