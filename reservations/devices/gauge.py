"""How busy GPUs are, through NVML: the device, its processes, and MIG instances where the chip measures them. Whatever
is not answered is unknown, never idle."""

from __future__ import annotations

from typing import Any

from .asking import Asking, is_one_of
from .model import DeviceUse
from .reading import is_mig, mig_instances

NONE_RAN = ("NVML_ERROR_NOT_FOUND", "NVML_SUCCESS")
"""No new sample; and so nvidia-ml-py says that there are no samples at all."""


class Gauge:
    """Keeps what the next reading needs: the time of the last samples of processes, and the last ones of instances."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._samples: dict[str, Any] = {}

    def read(self, nvml: Any, handle: Any, uuid: str) -> list[DeviceUse]:
        """Of one device, or of each of its MIG instances that it tells."""
        asking = Asking(nvml)
        mode = asking.may("its MIG mode", "nvmlDeviceGetMigMode", handle)
        if asking.faults:
            return [DeviceUse(uuid, "", None)]
        if is_mig(nvml, mode):
            migs = mig_instances(asking, asking, handle)
            return [DeviceUse(uuid, name, self._instance(nvml, handle, mig, name)) for name, mig in migs]
        told = asking.may("how busy it is", "nvmlDeviceGetUtilizationRates", handle)
        percent = None if told is None else float(told.gpu)
        return [DeviceUse(uuid, "", percent, self._processes(nvml, handle, uuid))]

    def _processes(self, nvml: Any, handle: Any, uuid: str) -> dict[int, float] | None:
        """The mean of each process over the samples that are new; None where the driver does not tell them apart."""
        try:
            samples = nvml.nvmlDeviceGetProcessUtilization(handle, self._seen.get(uuid, 0))
        except Exception as error:
            return {} if is_one_of(nvml, error, NONE_RAN) else None
        by_pid: dict[int, list[int]] = {}
        for sample in samples:
            self._seen[uuid] = max(self._seen.get(uuid, 0), int(sample.timeStamp))
            by_pid.setdefault(int(sample.pid), []).append(min(100, int(sample.smUtil)))
        return {pid: sum(values) / len(values) for pid, values in by_pid.items()}

    def _instance(self, nvml: Any, handle: Any, mig: Any, uuid: str) -> float | None:
        """Between the last two readings, by the counters of the chip (GPM, since Hopper); None on older ones."""
        asking = Asking(nvml)
        support = asking.may("whether it counts", "nvmlGpmQueryDeviceSupport", handle)
        if support is None or not support.isSupportedDevice:
            return None
        number = asking.number("its GPU instance", "nvmlDeviceGetGpuInstanceId", mig)
        sample = None if number is None else asking.must("its counters", "nvmlGpmSampleAlloc")
        if sample is None:
            return None
        asking.must("its counters", "nvmlGpmMigSampleGet", handle, number, sample)
        if asking.faults:
            asking.may("", "nvmlGpmSampleFree", sample)
            return None
        before, self._samples[uuid] = self._samples.get(uuid), sample
        if before is None:
            return None
        found = _between(nvml, before, sample)
        asking.may("", "nvmlGpmSampleFree", before)
        return found


def _between(nvml: Any, before: Any, after: Any) -> float | None:
    """Percent of the time between two samples in which anything ran."""
    asked = nvml.c_nvmlGpmMetricsGet_t()
    asked.version = nvml.NVML_GPM_METRICS_GET_VERSION
    asked.numMetrics = 1
    asked.sample1, asked.sample2 = before, after
    asked.metrics[0].metricId = nvml.NVML_GPM_METRIC_GRAPHICS_UTIL
    asking = Asking(nvml)
    asking.must("its counters", "nvmlGpmMetricsGet", asked)
    found = asked.metrics[0]
    if asking.faults or found.nvmlReturn != nvml.NVML_SUCCESS:
        return None
    return float(found.value)
