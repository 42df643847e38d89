"""How busy GPUs are, through NVML: the device, its processes, and MIG instances where the chip measures them."""

from __future__ import annotations

import contextlib
from typing import Any

from .model import DeviceUse


def mig_handles(nvml: Any, handle: Any) -> list[Any]:
    """Of the MIG instances of a device; none where MIG is off or unknown."""
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError_NotSupported:
        return []
    if current != nvml.NVML_DEVICE_MIG_ENABLE:
        return []
    handles = []
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        with contextlib.suppress(nvml.NVMLError_NotFound):  # the indices have gaps
            handles.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
    return handles


class Gauge:
    """Keeps what the next reading needs: the time of the last samples of processes, and the last ones of instances."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._samples: dict[str, Any] = {}

    def read(self, nvml: Any, handle: Any) -> list[DeviceUse]:
        """Of one device, or of each of its MIG instances. NVML's errors but "not supported" go on to the caller."""
        uuid = nvml.nvmlDeviceGetUUID(handle)
        migs = mig_handles(nvml, handle)
        if migs:
            return [DeviceUse(uuid, nvml.nvmlDeviceGetUUID(m), self._instance(nvml, handle, m)) for m in migs]
        try:
            percent: float | None = float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        except nvml.NVMLError_NotSupported:
            percent = None
        return [DeviceUse(uuid, "", percent, self._processes(nvml, handle, uuid))]

    def _processes(self, nvml: Any, handle: Any, uuid: str) -> dict[int, float] | None:
        """The mean of each process over the samples that are new; None where the driver does not tell them apart."""
        try:
            samples = nvml.nvmlDeviceGetProcessUtilization(handle, self._seen.get(uuid, 0))
        except nvml.NVMLError_NotFound:
            return {}  # no new sample: nothing ran
        except nvml.NVMLError as error:
            if error.value == nvml.NVML_SUCCESS:
                return {}  # so nvidia-ml-py says that there are no samples at all
            if error.value in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND):
                return None
            raise
        by_pid: dict[int, list[int]] = {}
        for sample in samples:
            self._seen[uuid] = max(self._seen.get(uuid, 0), int(sample.timeStamp))
            by_pid.setdefault(int(sample.pid), []).append(min(100, int(sample.smUtil)))
        return {pid: sum(values) / len(values) for pid, values in by_pid.items()}

    def _instance(self, nvml: Any, handle: Any, mig: Any) -> float | None:
        """Between the last two readings, by the counters of the chip (GPM, since Hopper); None on older ones."""
        try:
            if not nvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice:
                return None
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound):
            return None
        sample = nvml.nvmlGpmSampleAlloc()
        try:
            nvml.nvmlGpmMigSampleGet(handle, nvml.nvmlDeviceGetGpuInstanceId(mig), sample)
        except nvml.NVMLError:
            nvml.nvmlGpmSampleFree(sample)
            raise
        uuid = nvml.nvmlDeviceGetUUID(mig)
        before, self._samples[uuid] = self._samples.get(uuid), sample
        if before is None:
            return None
        try:
            return _between(nvml, before, sample)
        finally:
            nvml.nvmlGpmSampleFree(before)


def _between(nvml: Any, before: Any, after: Any) -> float | None:
    """Percent of the time between two samples in which anything ran."""
    asked = nvml.c_nvmlGpmMetricsGet_t()
    asked.version = nvml.NVML_GPM_METRICS_GET_VERSION
    asked.numMetrics = 1
    asked.sample1, asked.sample2 = before, after
    asked.metrics[0].metricId = nvml.NVML_GPM_METRIC_GRAPHICS_UTIL
    nvml.nvmlGpmMetricsGet(asked)
    found = asked.metrics[0]
    return float(found.value) if found.nvmlReturn == nvml.NVML_SUCCESS else None
