"""GPUs that are not there, behind the interface of those that are. For trying timeshare, and for its tests.

A specification lists models and counts, ``a100-40gb:2,t4:1``; MIG layouts stand in brackets,
``a100-40gb[3g.20gb+2g.10gb]:1``. Sessions on simulated devices run for real, on the CPU.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import PublicError
from ..mig import parse_profile, split_layout
from ..shares import MODEL_PATTERN
from .model import (
    MIB_PER_GIB,
    UNSEEN,
    Device,
    DeviceError,
    DeviceProcess,
    DeviceUse,
    HealthEvent,
    Inventory,
    MigInstance,
)

FAULTS_VARIABLE = "TIMESHARE_SIMULATED_FAULTS"
"""Names a JSON file with what the driver would report: see ``Faults``."""
KNOWN_MEMORY_GIB = {
    "t4": 16,
    "p100": 16,
    "v100": 16,
    "a10": 24,
    "a30": 24,
    "l4": 24,
    "l40s": 48,
    "h100": 80,
    "h200": 141,
}
MAX_DEVICES = 1024
_PART = re.compile(r"([a-z0-9][a-z0-9.+_-]*)(?:\[([^\]]*)\])?(?::([0-9]{1,5}))?")
_SIZE = re.compile(r"(?:^|-)([1-9][0-9]{0,3})gb$")
NOTE = "simulated GPUs: sessions run on the CPU"


def parse_spec(spec: str) -> tuple[Device, ...]:
    """The devices of ``spec``. Raises PublicError naming the part that is wrong and the rule."""
    devices: list[Device] = []
    for part in spec.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None or not MODEL_PATTERN.fullmatch(match[1]):
            raise _wrong(part, "write model:count, such as a100-40gb:2, or with a MIG layout a100-40gb[3g.20gb]:1")
        count = int(match[3] or 1)
        if not 1 <= count <= MAX_DEVICES - len(devices):
            raise _wrong(part, f"a pool simulates from 1 to {MAX_DEVICES} devices")
        for _ in range(count):
            devices.append(_device(part, match[1], match[2], len(devices)))
    return tuple(devices)


def _wrong(part: str, rule: str) -> PublicError:
    shown = part.strip()[:60]
    return PublicError("invalid", f"simulate: {shown!r}: {rule}", 400, {"value": shown, "rule": rule})


def _device(part: str, model: str, layout: str | None, order: int) -> Device:
    memory_mib = _memory_gib(part, model) * MIB_PER_GIB
    uuid = f"GPU-simulated-{order:04d}"
    instances = () if layout is None else _instances(part, layout, order, memory_mib)
    return Device(uuid, model, memory_mib, order=order, instances=instances, simulated=True)


def known_memory_gib(model: str) -> int | None:
    """What its name says, or what is known of it."""
    size = _SIZE.search(model)
    return int(size[1]) if size else KNOWN_MEMORY_GIB.get(model)


def _memory_gib(part: str, model: str) -> int:
    known = known_memory_gib(model)
    if known is not None:
        return known
    raise _wrong(part, f"its memory is not known: add it to the name, such as {model[:20]}-40gb")


def _instances(part: str, layout: str, order: int, memory_mib: int) -> tuple[MigInstance, ...]:
    instances: list[MigInstance] = []
    for profile in split_layout(layout):
        found = parse_profile(profile)
        if found is None:
            raise _wrong(part, f"{profile[:20]!r} is no MIG profile such as 2g.10gb")
        size = found.memory_gb * MIB_PER_GIB
        instances.append(MigInstance(f"MIG-simulated-{order:04d}-{len(instances)}", profile, size, len(instances)))
    if sum(instance.memory_mib for instance in instances) > memory_mib:
        raise _wrong(part, f"its MIG instances need more than the {memory_mib // MIB_PER_GIB} GiB of the device")
    return tuple(instances)


@dataclass(frozen=True)
class Faults:
    """What the file of ``TIMESHARE_SIMULATED_FAULTS`` says: ``processes`` with ``pid``, ``device`` and ``memory_mib``;
    ``use`` with ``device``, ``percent`` (null: the driver does not say) and, if it is that of one, ``instance`` or
    ``pid``; ``health`` with ``device``, ``code``, ``detail``, ``cordon``; ``missing`` UUIDs; ``lost``: why, by UUID of
    each device that does not answer; ``unknown``: no answer at all. A device that ``use`` does not name is at 0 %.
    ``checkpoint``: ``unavailable`` (why), pids of which ``lock``, ``checkpoint`` or ``restore`` is refused, pids that
    are ``failed``, ``delay_s`` before each step."""

    processes: tuple[dict[str, Any], ...] = ()
    use: tuple[dict[str, Any], ...] = ()
    health: tuple[dict[str, Any], ...] = ()
    missing: tuple[str, ...] = ()
    unknown: bool = False
    lost: Mapping[str, str] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] = field(default_factory=dict)


def read_faults(path: Path | None) -> Faults:
    if path is None or not path.exists():
        return Faults()
    try:
        data = json.loads(path.read_text())
        return Faults(
            tuple(data.get("processes", ())),
            tuple(data.get("use", ())),
            tuple(data.get("health", ())),
            tuple(data.get("missing", ())),
            bool(data.get("unknown", False)),
            dict(data.get("lost", {})),
            dict(data.get("checkpoint", {})),
        )
    except (OSError, ValueError, AttributeError) as error:
        raise DeviceError(f"the file of simulated faults cannot be read: {error}") from None


def read_json(path: Path | None) -> dict[str, Any]:
    """Of a file that the simulated driver wrote; empty while there is none."""
    try:
        data: dict[str, Any] = {} if path is None else json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return data


class SimulatedSource:
    """A ``DeviceSource`` for a specification."""

    def __init__(self, spec: str, faults: Path | None = None) -> None:
        self._devices = parse_spec(spec)
        named = os.environ.get(FAULTS_VARIABLE)
        self._faults = faults or (Path(named) if named else None)
        self._reported = 0
        self.checkpoints = None if self._faults is None else self._faults.with_name("checkpoints.json")
        """What the simulated driver remembers of processes: by pid ``state``, and ``gpus`` where they were moved."""

    def _now(self) -> Faults:
        faults = read_faults(self._faults)
        if faults.unknown:
            raise DeviceError("the simulated driver does not answer")
        return faults

    def inventory(self) -> Inventory:
        faults = self._now()
        there = (device for device in self._devices if device.uuid not in faults.missing)
        devices = tuple(replace(device, cordoned=faults.lost.get(device.uuid)) for device in there)
        return Inventory(devices, driver="simulated", cuda="", simulated=True, note=NOTE)

    def processes(self) -> tuple[DeviceProcess, ...]:
        faults = self._now()
        seen = [
            DeviceProcess(int(entry["pid"]), str(entry["device"]), entry.get("memory_mib"), entry.get("instance"))
            for entry in self._present(faults.processes)
        ]
        seen = [process for process in seen if process.device_uuid not in faults.lost]
        return (*seen, *(DeviceProcess(UNSEEN, uuid, None) for uuid in faults.lost))

    def _present(self, entries: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        """``entries`` without the processes that are checkpointed, and of the others where they are now."""
        known = read_json(self.checkpoints)
        found = []
        for entry in entries:
            told = known.get(str(entry.get("pid")), {})
            if told.get("state") != "checkpointed":
                found.append({**entry, "device": told.get("gpus", {}).get(entry["device"], entry["device"])})
        return tuple(found)

    def free_mib(self) -> Mapping[str, int]:
        taken: dict[str, int] = {}
        for process in self.processes():
            taken[process.device_uuid] = taken.get(process.device_uuid, 0) + (process.memory_mib or 0)
        healthy = (device for device in self.inventory().devices if not device.cordoned)
        return {d.uuid: max(0, d.memory_mib - taken.get(d.uuid, 0)) for d in healthy}

    def checkpoint_faults(self) -> Mapping[str, Any]:
        """Of ``Faults``, for the simulated checkpoints. Raises DeviceError."""
        return self._now().checkpoint

    def held_by(self, pid: int, gpus: Mapping[str, str]) -> dict[str, int]:
        """MiB that ``pid`` has by device, if its devices are to be found where ``gpus`` says."""
        found: dict[str, int] = {}
        for entry in self._now().processes:
            if int(entry["pid"]) == pid:
                where = gpus.get(str(entry["device"]), str(entry["device"]))
                found[where] = found.get(where, 0) + (entry.get("memory_mib") or 0)
        return found

    def use(self) -> tuple[DeviceUse, ...]:
        faults = self._now()
        entries = self._present(faults.use) + tuple({"device": uuid, "percent": None} for uuid in faults.lost)
        places = [(d.uuid, i.uuid) for d in self._devices for i in d.instances]
        places += [(d.uuid, "") for d in self._devices if not d.partitioned]
        return tuple(_use(*place, entries) for place in places)

    def health_events(self) -> tuple[HealthEvent, ...]:
        events = self._now().health
        new, self._reported = events[self._reported :], len(events)
        return tuple(
            HealthEvent(str(e["device"]), "xid", str(e["detail"]), bool(e.get("cordon")), e.get("code")) for e in new
        )

    def close(self) -> None:
        """Nothing is held."""


def _use(device: str, instance: str, entries: tuple[dict[str, Any], ...]) -> DeviceUse:
    mine = [entry for entry in entries if (entry["device"], entry.get("instance", "")) == (device, instance)]
    percents = [entry["percent"] for entry in mine]
    if None in percents:
        return DeviceUse(device, instance, None)
    # What is said of the whole device belongs to no process: as where the driver does not tell them apart.
    known = all("pid" in entry for entry in mine)
    by_pid = {int(entry["pid"]): float(entry["percent"]) for entry in mine if "pid" in entry} if known else None
    return DeviceUse(device, instance, min(100.0, float(sum(percents))), by_pid)
