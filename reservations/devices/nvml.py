"""The machine's GPUs through NVML (package nvidia-ml-py). Nothing is called at import, and a machine without a driver
is a normal case: an inventory without devices and a note that says why."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .gauge import Gauge, mig_handles
from .health import XID, event_of
from .model import Device, DeviceError, DeviceProcess, DeviceUse, HealthEvent, Inventory, MigInstance

MIB = 1024 * 1024
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


class NvmlSource:
    """A ``DeviceSource`` for real GPUs. Opened at the first call; after an error it is opened anew."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._events: Any = None
        self._absent = ""
        self._gauge = Gauge()

    def inventory(self) -> Inventory:
        with self._asking() as nvml:
            if nvml is None:
                return Inventory(note=self._absent)
            version = int(nvml.nvmlSystemGetCudaDriverVersion_v2())
            count = nvml.nvmlDeviceGetCount()
            devices = tuple(_device(nvml, nvml.nvmlDeviceGetHandleByIndex(index), index) for index in range(count))
            note = "" if devices else "the NVIDIA driver runs, and reports no GPU"
            cuda = f"{version // 1000}.{version % 1000 // 10}"
            return Inventory(devices, nvml.nvmlSystemGetDriverVersion(), cuda, note=note)

    def processes(self) -> tuple[DeviceProcess, ...]:
        with self._asking() as nvml:
            if nvml is None:
                return ()
            found: list[DeviceProcess] = []
            for index in range(nvml.nvmlDeviceGetCount()):
                found += _processes(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
            return tuple(found)

    def free_mib(self) -> Mapping[str, int]:
        with self._asking() as nvml:
            if nvml is None:
                return {}
            handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
            return {nvml.nvmlDeviceGetUUID(h): int(nvml.nvmlDeviceGetMemoryInfo(h).free) // MIB for h in handles}

    def use(self) -> tuple[DeviceUse, ...]:
        with self._asking() as nvml:
            if nvml is None:
                return ()
            found: list[DeviceUse] = []
            for index in range(nvml.nvmlDeviceGetCount()):
                found += self._gauge.read(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
            return tuple(found)

    def health_events(self) -> tuple[HealthEvent, ...]:
        with self._asking() as nvml:
            if nvml is None:
                return ()
            if self._events is None:
                self._events = _register(nvml)
            found: list[HealthEvent] = []
            while len(found) < 100:
                try:
                    event = nvml.nvmlEventSetWait_v2(self._events, 0)
                except nvml.NVMLError_Timeout:
                    break
                uuid = nvml.nvmlDeviceGetUUID(event.device)
                xid = event.eventType == nvml.nvmlEventTypeXidCriticalError
                found.append(event_of(uuid, XID if xid else "ecc", int(event.eventData)))
            return tuple(found)

    def close(self) -> None:
        nvml, self._nvml, self._events, self._gauge = self._nvml, None, None, Gauge()
        if nvml is not None:
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()

    @contextlib.contextmanager
    def _asking(self) -> Iterator[Any]:
        """The open library, or None on a machine without a driver. Its errors become DeviceError: nothing is known."""
        nvml = self._open()
        try:
            yield nvml
        except Exception as error:
            if nvml is None or not isinstance(error, nvml.NVMLError):
                raise
            self.close()
            raise DeviceError(f"the NVIDIA driver does not answer: {error}") from None

    def _open(self) -> Any:
        if self._nvml is not None:
            return self._nvml
        import pynvml

        try:
            pynvml.nvmlInit()
        except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
            self._absent = "no NVIDIA driver is installed on this machine, so there are no GPUs to give out"
            return None
        except pynvml.NVMLError as error:
            raise DeviceError(f"the NVIDIA driver does not answer: {error}") from None
        self._nvml = pynvml
        return pynvml


def _device(nvml: Any, handle: Any, index: int) -> Device:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    usable_mib = int(memory.total - memory.reserved) // MIB
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Device(
        uuid=nvml.nvmlDeviceGetUUID(handle),
        model=model_name(nvml.nvmlDeviceGetName(handle), int(memory.total) // MIB),
        memory_mib=usable_mib,
        order=index,
        minor=int(nvml.nvmlDeviceGetMinorNumber(handle)),
        compute_capability=f"{major}.{minor}",
        instances=tuple(_instance(nvml, mig) for mig in mig_handles(nvml, handle)),
        cordoned=_broken(nvml, handle),
    )


def _instance(nvml: Any, mig: Any) -> MigInstance:
    memory_mib = int(nvml.nvmlDeviceGetMemoryInfo(mig).total) // MIB
    slices = int(nvml.nvmlDeviceGetAttributes_v2(mig).gpuInstanceSliceCount)
    return MigInstance(
        uuid=nvml.nvmlDeviceGetUUID(mig),
        profile=mig_profile(nvml.nvmlDeviceGetName(mig), slices, memory_mib),
        memory_mib=memory_mib,
        gpu_instance_id=int(nvml.nvmlDeviceGetGpuInstanceId(mig)),
        compute_instance_id=int(nvml.nvmlDeviceGetComputeInstanceId(mig)),
    )


def mig_profile(name: str, slices: int, memory_mib: int) -> str:
    """``1g.10gb`` out of an instance's name such as ``NVIDIA A100-SXM4-80GB MIG 1g.10gb``; else put together."""
    match = re.search(r"MIG\s+(?:\d+c\.)?(\S+)", name)
    return match[1].lower() if match else f"{slices}g.{round(memory_mib / 1024)}gb"


def _broken(nvml: Any, handle: Any) -> str | None:
    """Why the driver itself asks for a repair of this device; None when it does not."""
    try:
        _, _, pending, failure = nvml.nvmlDeviceGetRemappedRows(handle)
    except nvml.NVMLError:
        return None  # devices without row remapping
    if failure:
        return "its memory is failing: a row could not be remapped; replace the GPU"
    return "bad memory rows wait to be remapped: reset the GPU when it is free" if pending else None


def _processes(nvml: Any, handle: Any) -> list[DeviceProcess]:
    uuid = nvml.nvmlDeviceGetUUID(handle)
    migs = mig_handles(nvml, handle)
    found: dict[tuple[int, str], DeviceProcess] = {}
    for place, instance in [(mig, nvml.nvmlDeviceGetUUID(mig)) for mig in migs] or [(handle, "")]:
        for ask in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
            try:
                running = ask(place)
            except nvml.NVMLError_NotSupported:
                continue
            for process in running:
                used = None if process.usedGpuMemory is None else int(process.usedGpuMemory) // MIB
                found[process.pid, instance] = DeviceProcess(int(process.pid), uuid, used, instance or None)
    return list(found.values())


def _register(nvml: Any) -> Any:
    events = nvml.nvmlEventSetCreate()
    wanted = nvml.nvmlEventTypeXidCriticalError | nvml.nvmlEventTypeDoubleBitEccError
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        with contextlib.suppress(nvml.NVMLError_NotSupported):
            nvml.nvmlDeviceRegisterEvents(handle, wanted & nvml.nvmlDeviceGetSupportedEventTypes(handle), events)
    return events
