"""NVML without GPUs: a module of the functions that NVIDIA's ``pynvml`` has, with its own errors and constants. It
answers any mix of errors, for any device and at any call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml

MIB = 1024 * 1024
OWN_CALLS = (
    *("nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID", "nvmlDeviceGetName", "nvmlDeviceGetMemoryInfo"),
    *("nvmlDeviceGetMinorNumber", "nvmlDeviceGetCudaComputeCapability", "nvmlDeviceGetMigMode"),
    *("nvmlDeviceGetRemappedRows", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetProcessUtilization"),
    *("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"),
    *("nvmlDeviceGetSupportedEventTypes", "nvmlDeviceRegisterEvents", "nvmlEventSetWait_v2"),
)
MIG_CALLS = (
    *("nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex", "nvmlDeviceGetGpuInstanceId"),
    *("nvmlDeviceGetComputeInstanceId", "nvmlDeviceGetAttributes_v2", "nvmlGpmQueryDeviceSupport"),
    *("nvmlGpmMigSampleGet", "nvmlGpmMetricsGet"),
)
CALLS = OWN_CALLS + MIG_CALLS
"""All that are about one device."""
CODES = tuple(
    sorted(getattr(pynvml, name) for name in dir(pynvml) if name.startswith("NVML_ERROR_") and name != "NVML_SUCCESS")
)


@dataclass
class FakeGpu:
    """``migs``: profile and MiB of each instance; None: MIG mode is off. ``errors``: by call what it answers instead.
    ``busy``: percent. ``processes``: MiB by pid, in the last instance if there are any."""

    uuid: str
    name: str = "NVIDIA A100-SXM4-40GB"
    memory_mib: int = 40_960
    migs: tuple[tuple[str, int], ...] | None = None
    errors: dict[str, int] = field(default_factory=dict)
    busy: int = 0
    processes: dict[int, int | None] = field(default_factory=dict)
    events: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Handle:
    """Of a GPU, or of the MIG instance at the place ``mig`` of it."""

    index: int
    mig: int | None = None


class FakeNvml:
    """``errors``: of the library as a whole, by call. ``opened``: how often."""

    def __init__(self, *gpus: FakeGpu) -> None:
        self.gpus = list(gpus)
        self.errors: dict[str, int] = {}
        self.opened = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(pynvml, name)
        if name.startswith("nvml") and callable(found):
            raise AttributeError(f"this stand-in has no {name}")
        return found

    # --- the library

    def _fails(self, call: str) -> None:
        if call in self.errors:
            raise pynvml.NVMLError(self.errors[call])

    def nvmlInit(self) -> None:
        self._fails("nvmlInit")
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self._fails("nvmlShutdown")

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        self._fails("nvmlSystemGetCudaDriverVersion_v2")
        return 12080

    def nvmlSystemGetDriverVersion(self) -> str:
        self._fails("nvmlSystemGetDriverVersion")
        return "570.1"

    def nvmlDeviceGetCount(self) -> int:
        self._fails("nvmlDeviceGetCount")
        return len(self.gpus)

    # --- one device

    def _gpu(self, handle: Handle, call: str) -> FakeGpu:
        gpu = self.gpus[handle.index]
        if call in gpu.errors:
            raise pynvml.NVMLError(gpu.errors[call])
        return gpu

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Handle:
        self._gpu(Handle(index), "nvmlDeviceGetHandleByIndex")
        return Handle(index)

    def nvmlDeviceGetUUID(self, handle: Handle) -> str:
        gpu = self._gpu(handle, "nvmlDeviceGetUUID")
        return gpu.uuid if handle.mig is None else f"MIG-{gpu.uuid}-{handle.mig}"

    def nvmlDeviceGetName(self, handle: Handle) -> str:
        gpu = self._gpu(handle, "nvmlDeviceGetName")
        return gpu.name if handle.mig is None else f"{gpu.name} MIG {(gpu.migs or ())[handle.mig][0]}"

    def nvmlDeviceGetMemoryInfo(self, handle: Handle, version: int | None = None) -> SimpleNamespace:
        gpu = self._gpu(handle, "nvmlDeviceGetMemoryInfo")
        size = gpu.memory_mib if handle.mig is None else (gpu.migs or ())[handle.mig][1]
        used = sum(mib or 0 for mib in gpu.processes.values())
        reserved = 300 if version is not None else 0
        return SimpleNamespace(total=size * MIB, reserved=reserved * MIB, free=(size - used) * MIB, used=used * MIB)

    def nvmlDeviceGetMinorNumber(self, handle: Handle) -> int:
        self._gpu(handle, "nvmlDeviceGetMinorNumber")
        return handle.index

    def nvmlDeviceGetCudaComputeCapability(self, handle: Handle) -> list[int]:
        self._gpu(handle, "nvmlDeviceGetCudaComputeCapability")
        return [8, 0]

    def nvmlDeviceGetRemappedRows(self, handle: Handle) -> tuple[int, int, int, int]:
        self._gpu(handle, "nvmlDeviceGetRemappedRows")
        return 0, 0, 0, 0

    # --- MIG

    def nvmlDeviceGetMigMode(self, handle: Handle) -> list[int]:
        on = int(self._gpu(handle, "nvmlDeviceGetMigMode").migs is not None)
        return [on, on]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Handle) -> int:
        self._gpu(handle, "nvmlDeviceGetMaxMigDeviceCount")
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Handle, index: int) -> Handle:
        gpu = self._gpu(handle, "nvmlDeviceGetMigDeviceHandleByIndex")
        if index >= len(gpu.migs or ()):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return Handle(handle.index, index)

    def nvmlDeviceGetAttributes_v2(self, handle: Handle) -> SimpleNamespace:
        self._gpu(handle, "nvmlDeviceGetAttributes_v2")
        return SimpleNamespace(gpuInstanceSliceCount=1)

    def nvmlDeviceGetGpuInstanceId(self, handle: Handle) -> int:
        self._gpu(handle, "nvmlDeviceGetGpuInstanceId")
        return 1 + (handle.mig or 0)

    def nvmlDeviceGetComputeInstanceId(self, handle: Handle) -> int:
        self._gpu(handle, "nvmlDeviceGetComputeInstanceId")
        return 0

    # --- use

    def nvmlDeviceGetUtilizationRates(self, handle: Handle) -> SimpleNamespace:
        return SimpleNamespace(gpu=self._gpu(handle, "nvmlDeviceGetUtilizationRates").busy)

    def nvmlDeviceGetProcessUtilization(self, handle: Handle, since: int) -> list[SimpleNamespace]:
        gpu = self._gpu(handle, "nvmlDeviceGetProcessUtilization")
        if not gpu.processes:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return [SimpleNamespace(pid=pid, timeStamp=since + 1, smUtil=gpu.busy) for pid in gpu.processes]

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Handle) -> list[SimpleNamespace]:
        gpu = self._gpu(handle, "nvmlDeviceGetComputeRunningProcesses")
        if handle.mig is not None and handle.mig != len(gpu.migs or ()) - 1:
            return []
        used = gpu.processes.items()
        return [SimpleNamespace(pid=p, usedGpuMemory=None if m is None else m * MIB) for p, m in used]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: Handle) -> list[SimpleNamespace]:
        self._gpu(handle, "nvmlDeviceGetGraphicsRunningProcesses")
        return []

    def nvmlGpmQueryDeviceSupport(self, handle: Handle) -> SimpleNamespace:
        self._gpu(handle, "nvmlGpmQueryDeviceSupport")
        return SimpleNamespace(isSupportedDevice=1)

    def nvmlGpmSampleAlloc(self) -> dict[str, Any]:
        return {}

    def nvmlGpmMigSampleGet(self, handle: Handle, instance: int, sample: dict[str, Any]) -> None:
        sample["gpu"] = self._gpu(handle, "nvmlGpmMigSampleGet")

    def nvmlGpmSampleFree(self, sample: dict[str, Any]) -> None:
        assert not sample.pop("freed", False)
        sample["freed"] = True

    def c_nvmlGpmMetricsGet_t(self) -> SimpleNamespace:
        return SimpleNamespace(metrics=[SimpleNamespace(metricId=0, nvmlReturn=0, value=0.0)])

    def nvmlGpmMetricsGet(self, asked: Any) -> None:
        gpu = asked.sample2["gpu"]
        if "nvmlGpmMetricsGet" in gpu.errors:
            raise pynvml.NVMLError(gpu.errors["nvmlGpmMetricsGet"])
        asked.metrics[0].value = float(gpu.busy)

    # --- events

    def nvmlEventSetCreate(self) -> list[Handle]:
        self._fails("nvmlEventSetCreate")
        return []

    def nvmlEventSetFree(self, events: list[Handle]) -> None:
        events.clear()

    def nvmlDeviceGetSupportedEventTypes(self, handle: Handle) -> int:
        self._gpu(handle, "nvmlDeviceGetSupportedEventTypes")
        return int(pynvml.nvmlEventTypeXidCriticalError)

    def nvmlDeviceRegisterEvents(self, handle: Handle, kinds: int, events: list[Handle]) -> None:
        self._gpu(handle, "nvmlDeviceRegisterEvents")
        events.append(handle)

    def nvmlEventSetWait_v2(self, events: Iterable[Handle], timeout_ms: int) -> SimpleNamespace:
        """As NVML does, fails as a whole when one of the registered devices is lost."""
        gpus = [(handle, self._gpu(handle, "nvmlEventSetWait_v2")) for handle in events]
        for handle, gpu in gpus:
            if gpu.events:
                kind = pynvml.nvmlEventTypeXidCriticalError
                return SimpleNamespace(device=handle, eventType=kind, eventData=gpu.events.pop(0))
        raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
