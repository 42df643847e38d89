"""What a GPU is to timeshare. Plain facts, no I/O; every inventory (NVML, simulated) answers in these."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

MIB_PER_GIB = 1024


@dataclass(frozen=True)
class MigInstance:
    """One hardware partition (MIG) of a device.

    ``profile`` is the vendor's name without the product part, such as ``1g.10gb``; ``memory_mib`` is in MiB.
    ``cordoned`` says why nothing new may be placed on it; None means healthy.
    """

    uuid: str
    profile: str
    memory_mib: int
    gpu_instance_id: int = 0
    compute_instance_id: int = 0
    cordoned: str | None = None


@dataclass(frozen=True)
class Device:
    """One physical GPU, known by its UUID.

    ``memory_mib`` is what sessions can get: total memory less what the driver keeps for itself, in MiB; 0: unknown, and
    nothing can be placed on it. ``mig``: MIG mode is on.
    ``order`` is the fixed place of the device on its node; placement breaks ties by it.
    A device with ``instances``, or with ``mig``, is handed out by instance, never whole or by fraction. ``note``: what
    an administrator should know of it beside that.
    ``cordoned`` says why no new share may be placed here; None means healthy. ``engine``: the one that places work on
    it, empty: this machine's own node agent.
    """

    uuid: str
    model: str
    memory_mib: int
    node: str = "local"
    order: int = 0
    minor: int | None = None
    compute_capability: str = ""
    instances: tuple[MigInstance, ...] = ()
    cordoned: str | None = None
    simulated: bool = False
    engine: str = ""
    mig: bool = False
    note: str = ""

    @property
    def partitioned(self) -> bool:
        return self.mig or bool(self.instances)


@dataclass(frozen=True)
class DeviceProcess:
    """A process that holds GPU memory. ``memory_mib`` is None where the driver does not say. One of pid ``UNSEEN``
    stands for all that may use a device of which the driver does not say who does."""

    pid: int
    device_uuid: str
    memory_mib: int | None
    instance_uuid: str | None = None


UNSEEN = 0
"""A pid that no process has."""


def unseen_devices(seen: Iterable[DeviceProcess]) -> frozenset[str]:
    """Return UUIDs of the devices of which nobody can say who uses them."""
    return frozenset(process.device_uuid for process in seen if process.pid == UNSEEN)


def seen_on(devices: Collection[str], seen: Iterable[DeviceProcess]) -> tuple[DeviceProcess, ...]:
    """Return ``seen`` for a question about ``devices`` (UUIDs). Raises DeviceError when one of them is not seen: who
    uses it is unknown, not gone."""
    seen = tuple(seen)
    unseen = sorted(unseen_devices(seen).intersection(devices))
    if unseen:
        raise DeviceError(f"the driver does not say who uses {', '.join(unseen)}")
    return seen


@dataclass(frozen=True)
class DeviceUse:
    """How busy a device, or one MIG instance of it, was of late. ``percent``: of the time in which anything ran on it;
    None where the driver does not say. ``by_pid``: of that time by process, those at 0 left out; None where the driver
    does not tell them apart."""

    device_uuid: str
    instance_uuid: str
    percent: float | None
    by_pid: Mapping[int, float] | None = None


@dataclass(frozen=True)
class Inventory:
    """Everything one look at a node's GPUs told.

    ``driver`` and ``cuda`` are version strings, empty without a driver. ``note`` says in words why there are
    no devices, or that they are simulated.
    """

    devices: tuple[Device, ...] = ()
    driver: str = ""
    cuda: str = ""
    simulated: bool = False
    note: str = ""

    def by_uuid(self) -> Mapping[str, Device]:
        return {device.uuid: device for device in self.devices}


@dataclass(frozen=True)
class HealthEvent:
    """Something the driver reported about a device. ``cordon`` is True when no new work may go there."""

    device_uuid: str
    kind: str
    detail: str
    cordon: bool
    code: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


class DeviceSource(Protocol):
    """The one interface behind which NVML and the simulated inventory stand."""

    def inventory(self) -> Inventory:
        """The devices as they are now; one that does not answer is among them, cordoned. Raises DeviceError when the
        driver does not answer at all (unknown, not gone)."""

    def processes(self) -> tuple[DeviceProcess, ...]:
        """Who holds GPU memory now, with ``UNSEEN`` for devices of which that is not known. Raises DeviceError when it
        is not known of any."""

    def free_mib(self) -> Mapping[str, int]:
        """Memory of each device that nobody has taken now, in MiB by UUID; without those of which it is not known.
        Raises DeviceError when the driver does not answer at all."""

    def use(self) -> tuple[DeviceUse, ...]:
        """How busy each device and each MIG instance was since the last call, None where that is not known. Raises
        DeviceError when the driver does not answer at all."""

    def health_events(self) -> tuple[HealthEvent, ...]:
        """Events since the last call, without waiting."""

    def close(self) -> None:
        """Let go of the driver. Safe to call twice."""


class DeviceError(Exception):
    """The driver did not answer: the facts are unknown. Never read as 'no devices'."""
