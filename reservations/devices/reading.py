"""One device as NVML has it, field by field. What it does not answer is as it was last known, and the device is
cordoned with the reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..mig import parse_profile
from .asking import CLOSED, NOT_THERE, Asking
from .model import Device, MigInstance

MIB = 1024 * 1024
UNKNOWN_MODEL = "unknown"
NO_INSTANCES = (
    "MIG mode is on and it has no MIG instances, so nothing of it can be used: make some (nvidia-smi mig -cgi), "
    "or turn the mode off (nvidia-smi -mig 0)"
)
_PRODUCT = re.compile(r"^(nvidia|tesla|quadro|geforce)\s+", re.IGNORECASE)
_MEMORY = re.compile(r"(\d+)\s?gb", re.IGNORECASE)


def model_name(product: str, memory_mib: int) -> str:
    """A short name such as ``a100-40gb`` for a product name such as ``NVIDIA A100-SXM4-40GB``.

    Form factors are left out. Where the product comes in several sizes, its name says so and the size stays.
    """
    text = product.strip()
    while _PRODUCT.match(text):
        text = _PRODUCT.sub("", text)
    size = _MEMORY.search(text)
    words = re.findall(r"[a-z0-9][a-z0-9.]*", text.lower())
    form = re.compile(r"(sxm\d?|pcie|pcie\d+|hbm\d?e?|nvl|graphics|device|\d+gb|gb)")
    kept = [word for word in words if not form.fullmatch(word)] or ["gpu"]
    if not size and kept[0] in ("a100", "h100", "v100"):
        size = re.match(r"(\d+)", str(round(memory_mib / 1024)))
    name = "-".join(kept[:3]) + (f"-{size[1]}gb" if size else "")
    return name[:63]


def mig_profile(name: str, slices: int, memory_mib: int) -> str:
    """``1g.10gb`` out of an instance's name such as ``NVIDIA A100-SXM4-80GB MIG 1g.10gb``; else put together. Empty
    where neither gives the name of a profile."""
    match = re.search(r"MIG\s+(\S+)", name)
    found = match[1].lower() if match else f"{slices}g.{round(memory_mib / 1024)}gb"
    return found if parse_profile(found) else ""


@dataclass(frozen=True)
class Found:
    """A device at its place in NVML's list. ``fault``: why it cannot be asked anything; None: it can."""

    index: int
    handle: Any
    uuid: str
    fault: str | None


def find_device(nvml: Any, index: int) -> Found:
    """Return the device at ``index``, whether it answers or not."""
    asking = Asking(nvml)
    handle = asking.must("of a GPU that it counts", "nvmlDeviceGetHandleByIndex", index)
    uuid = None if handle is None else asking.must("its UUID", "nvmlDeviceGetUUID", handle)
    fault = asking.fault or (None if uuid else "the driver does not tell its UUID")
    return Found(index, handle, str(uuid or ""), fault)


def read_device(nvml: Any, found: Found, last: Device | None) -> Device:
    """Return the facts about ``found``. ``last``: what was known of it before; None: nothing."""
    before = last or Device(found.uuid or f"GPU-unknown-{found.index}", UNKNOWN_MODEL, 0)
    before = replace(before, order=found.index, note="", cordoned=None)
    if found.fault is not None:
        return replace(before, cordoned=found.fault)
    asking = Asking(nvml)
    usable_mib, total_mib = _memory(asking, found.handle)
    product = asking.must("what it is", "nvmlDeviceGetName", found.handle)
    minor = asking.number("its device file", "nvmlDeviceGetMinorNumber", found.handle)
    mode = asking.may("its MIG mode", "nvmlDeviceGetMigMode", found.handle)
    mig = before.mig if asking.fault and mode is None else is_mig(nvml, mode)
    instances, unread = _instances(asking, found.handle, before) if mig else ((), None)
    device = Device(
        uuid=found.uuid,
        model=before.model if product is None or not total_mib else model_name(str(product), total_mib),
        memory_mib=usable_mib or before.memory_mib,
        order=found.index,
        minor=before.minor if minor is None else minor,
        compute_capability=_capability(asking, found.handle) or before.compute_capability,
        instances=instances,
        mig=mig,
    )
    broken = _broken(asking, found.handle)
    empty = (unread or NO_INSTANCES) if mig and not instances else None
    odd = [f"{i.uuid}: {i.cordoned}" for i in instances if i.cordoned]
    notes = [*([unread] if unread else []), *odd]
    return replace(device, cordoned=asking.fault or broken or empty, note="; ".join(notes))


def is_mig(nvml: Any, mode: Any) -> bool:
    """Return whether ``mode``, the current and the pending one, says that MIG is on now."""
    return bool(mode) and mode[0] == nvml.NVML_DEVICE_MIG_ENABLE


def _memory(asking: Asking, handle: Any) -> tuple[int, int]:
    """MiB that sessions can get, and of all; 0: unknown. Drivers before R510 do not tell what they reserve."""
    older = (*NOT_THERE, "NVML_ERROR_ARGUMENT_VERSION_MISMATCH")
    before = len(asking.faults)
    what, name = "how much memory it has", "nvmlDeviceGetMemoryInfo"
    told = asking.may(what, name, handle, unless=older, version=asking.nvml.nvmlMemory_v2)
    if told is None and len(asking.faults) == before:
        told = asking.must(what, name, handle)
    if told is None:
        return 0, 0
    usable_mib = int(told.total - getattr(told, "reserved", 0)) // MIB
    if usable_mib < 1:
        asking.faults.append("the driver does not tell how much memory it has: it says none")
        return 0, 0
    return usable_mib, int(told.total) // MIB


def _capability(asking: Asking, handle: Any) -> str:
    told = asking.may("its compute capability", "nvmlDeviceGetCudaComputeCapability", handle, unless=CLOSED)
    return "" if told is None else f"{told[0]}.{told[1]}"


def _broken(asking: Asking, handle: Any) -> str | None:
    """Why the driver itself asks for a repair of this device; None when it does not. Older ones remap no rows."""
    told = asking.may("the state of its memory", "nvmlDeviceGetRemappedRows", handle, unless=CLOSED)
    if told is None:
        return None
    _, _, pending, failure = told
    if failure:
        return "its memory is failing: a row could not be remapped; replace the GPU"
    return "bad memory rows wait to be remapped: reset the GPU when it is free" if pending else None


def mig_instances(asking: Asking, one: Asking, handle: Any) -> list[tuple[str, Any]]:
    """Return UUIDs and handles of the MIG instances of a device with MIG mode on, as far as it tells them. ``asking``
    is about the device, ``one`` about single instances: what is not told of these says nothing about the others."""
    count = asking.number("how many MIG instances it has", "nvmlDeviceGetMaxMigDeviceCount", handle) or 0
    gap, found = ("NVML_ERROR_NOT_FOUND",), []
    for index in range(count):
        what, name = "of one of its MIG instances", "nvmlDeviceGetMigDeviceHandleByIndex"
        mig = one.may(what, name, handle, index, unless=gap)
        uuid = None if mig is None else one.must("the UUID of one of its MIG instances", "nvmlDeviceGetUUID", mig)
        if uuid:
            found.append((str(uuid), mig))
    return found


def _instances(asking: Asking, handle: Any, before: Device) -> tuple[tuple[MigInstance, ...], str | None]:
    """Those that it tells, and why some are not told. Which these are nobody can say: of those before, any that is
    missing may be one, and stays, out of service."""
    known, one = {instance.uuid: instance for instance in before.instances}, Asking(asking.nvml)
    faults = len(asking.faults)
    told = mig_instances(asking, one, handle)
    found = {uuid: _instance(asking.nvml, mig, uuid, known) for uuid, mig in told}
    if one.fault or len(asking.faults) > faults:
        why = one.fault or asking.fault
        found = {**{uuid: replace(instance, cordoned=why) for uuid, instance in known.items()}, **found}
    return tuple(found.values()), one.fault


def _instance(nvml: Any, mig: Any, uuid: str, known: Mapping[str, MigInstance]) -> MigInstance:
    """What is not answered is as it was ``known``; the instance alone is cordoned for it."""
    asking = Asking(nvml)
    last = known.get(uuid, MigInstance(uuid, "", 0))
    memory = asking.must("how much memory it has", "nvmlDeviceGetMemoryInfo", mig)
    memory_mib = 0 if memory is None else int(memory.total) // MIB
    name = asking.may("its name", "nvmlDeviceGetName", mig) or ""
    profile = mig_profile(str(name), 0, 0)
    if not profile and (told := asking.may("its profile", "nvmlDeviceGetAttributes_v2", mig)) is not None:
        profile = mig_profile("", int(told.gpuInstanceSliceCount), memory_mib)
    gpu = asking.number("its GPU instance", "nvmlDeviceGetGpuInstanceId", mig)
    compute = asking.number("its compute instance", "nvmlDeviceGetComputeInstanceId", mig)
    if not profile and not asking.faults:
        asking.faults.append(f"its name {str(name)!r:.60} has no MIG profile in it")
    if not memory_mib and not asking.faults:
        asking.faults.append("the driver does not tell how much memory it has: it says none")
    return MigInstance(
        uuid,
        profile or last.profile,
        memory_mib or last.memory_mib,
        last.gpu_instance_id if gpu is None else gpu,
        last.compute_instance_id if compute is None else compute,
        asking.fault,
    )
