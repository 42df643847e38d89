"""What the job was given on this node, and what holds it to that. Never more is claimed than was seen."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from errno import EACCES, ENOENT, EPERM
from pathlib import Path

from ..agent.records import SharePart
from ..devices.model import Device, DeviceError, DeviceSource, Inventory
from ..devices.nodes import wanted_paths
from ..enforcement import COOPERATIVE, HARDWARE, NONE_NEEDED, SIMULATED, WATCHDOG
from ..mig import shares_memory
from ..shares import FULL_COMPUTE, Shape
from .setting import Setting

DRIVER = Path("/proc/driver/nvidia")
_GPU = re.compile(r"nvidia[0-9]+")
_CAPABILITY = re.compile(r"nvidia-cap[0-9]+")
_NO_GATES = ("nvidia-cap1", "nvidia-cap2")
"""For configuring and watching MIG: they give no instance."""


@dataclass(frozen=True)
class Places:
    """Where device files are, and what the driver tells of all GPUs of the node."""

    devices: Path = Path("/dev")
    driver: Path = DRIVER


@dataclass(frozen=True)
class Seat:
    """``share`` has the driver's UUIDs where it can be asked. ``measured``: the driver tells what they do."""

    share: tuple[SharePart, ...]
    level: str
    measured: bool

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(part.instance_uuid or part.device_uuid for part in self.share)


def take_seat(setting: Setting, source: DeviceSource | None, places: Places | None = None) -> Seat:
    """Looks at what the job was given. ``source`` None: NVML is not installed here."""
    places = places or Places()
    try:
        inventory = Inventory() if source is None else source.inventory()
    except DeviceError:
        inventory = Inventory()
    share = _share(setting, inventory)
    known = inventory.by_uuid()
    measured = bool(share) and all(part.device_uuid in known for part in share)
    return Seat(share, _level(setting, share, inventory, places), measured)


def _share(setting: Setting, inventory: Inventory) -> tuple[SharePart, ...]:
    if setting.share.shape is Shape.CPU:
        return ()
    if setting.share.shape is Shape.MIG:
        return _instances(setting, inventory)
    # One that does not tell its number may be any: it must not stand for another.
    told = [device for device in inventory.devices if device.minor is not None or not device.cordoned]
    by_number = {device.order if device.minor is None else device.minor: device for device in told}
    return tuple(_part(setting, number, by_number.get(number)) for number in setting.gpus)


def _part(setting: Setting, number: int, device: Device | None) -> SharePart:
    asked, whole = setting.share, setting.share.shape is Shape.WHOLE
    memory_mib = device.memory_mib if whole and device is not None else asked.memory_mib
    uuid = f"{setting.node}/gpu{number}" if device is None else device.uuid
    return SharePart(uuid, "", memory_mib, FULL_COMPUTE if whole else asked.compute, whole)


def _instances(setting: Setting, inventory: Inventory) -> tuple[SharePart, ...]:
    """The MIG instances that the batch system names by UUID; only the driver knows of which device they are."""
    named = [name for name in setting.visible if name.startswith("MIG-")]
    owner = {instance.uuid: device.uuid for device in inventory.devices for instance in device.instances}
    asked = setting.share
    return tuple(SharePart(owner.get(name, ""), name, asked.memory_mib, asked.compute, False) for name in named)


def _level(setting: Setting, share: tuple[SharePart, ...], inventory: Inventory, places: Places) -> str:
    shape, known = setting.share.shape, inventory.by_uuid()
    if setting.share.simulated:
        return NONE_NEEDED if shape is Shape.CPU else SIMULATED
    if shape is Shape.CPU:
        return NONE_NEEDED if nothing_else_opens(set(), places) else COOPERATIVE
    held = [known[part.device_uuid] for part in share if part.device_uuid in known]
    if not share or (shape is not Shape.WHOLE and len(held) < len(share)):
        return COOPERATIVE
    if shape is Shape.FRACTION:
        return WATCHDOG if setting.share.memory_mib else COOPERATIVE
    if shape is Shape.WHOLE:
        own = {f"nvidia{number}" for number in setting.gpus}
    else:
        chosen = {part.instance_uuid for part in share}
        if any(shares_memory(i.profile) for device in held for i in device.instances if i.uuid in chosen):
            return COOPERATIVE
        wanted = wanted_paths(held, [part.instance_uuid for part in share], places.devices)
        own = {Path(path).name for path in wanted}
    return HARDWARE if nothing_else_opens(own, places) else COOPERATIVE


def nothing_else_opens(own: set[str], places: Places) -> bool:
    """Whether every GPU of this node whose file is not among ``own`` is closed to this job.

    A file that is missing for a GPU that the driver lists proves nothing: nvidia-modprobe makes it for anybody.
    """
    found = {path.name: path for path in _files(places.devices)}
    others = [path for name, path in found.items() if name not in own]
    missing = {f"nvidia{minor}" for minor in _minors(places.driver)} - set(found) - own
    return not missing and not any(_opens(path) for path in others)


def _files(root: Path) -> Iterable[Path]:
    for path in root.glob("nvidia*"):
        if _GPU.fullmatch(path.name):
            yield path
    for path in (root / "nvidia-caps").glob("nvidia-cap*"):
        if _CAPABILITY.fullmatch(path.name) and path.name not in _NO_GATES:
            yield path


def _minors(driver: Path) -> Iterable[int]:
    """Of every GPU that the driver of this node knows."""
    for facts in driver.glob("gpus/*/information"):
        match = re.search(r"Device Minor:\s*(\d+)", facts.read_text(errors="replace"))
        if match:
            yield int(match[1])


def _opens(path: Path) -> bool:
    """False only where it is refused for certain."""
    how = os.O_RDONLY if _CAPABILITY.fullmatch(path.name) else os.O_RDWR
    try:
        os.close(os.open(path, how | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return error.errno not in (EPERM, EACCES, ENOENT)
    return True
