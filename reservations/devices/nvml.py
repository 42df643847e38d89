"""The machine's GPUs through NVML (package nvidia-ml-py). Nothing is called at import, and a machine without a driver
is a normal case: an inventory without devices and a note that says why."""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from .asking import NOT_THERE, Asking, is_one_of, said
from .gauge import Gauge
from .health import XID, event_of
from .model import UNSEEN, Device, DeviceError, DeviceProcess, DeviceUse, HealthEvent, Inventory
from .reading import MIB, Found, find_device, is_mig, mig_instances, mig_profile, model_name, read_device

__all__ = ["NvmlSource", "mig_profile", "model_name"]

log = logging.getLogger("timeshare.devices")
REOPEN_S = 60.0
"""NVML counts the GPUs when it is opened. One that does not answer may be another one, or well again, after that."""
WHO_COMPUTES, WHO_DRAWS = "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"
"""Every GPU computes; not all draw."""
SILENT_S = 5.0
"""A call about a broken GPU may never return; others then do not wait for it longer than this."""
MOST_EVENTS = 100
"""Of one device in one look."""


class NvmlSource:
    """A ``DeviceSource`` for real GPUs. Opened at the first call. Each device is asked by itself, and what it does not
    answer is about that device alone. ``nvml``: what stands for the module ``pynvml``."""

    def __init__(self, nvml: Any = None) -> None:
        self._module = nvml
        self._nvml: Any = None
        self._absent = ""
        self._gauge = Gauge()
        self._events: dict[str, Any] = {}
        """By UUID: the set of events of each device. One for all would fail as a whole with one lost GPU; None of those
        that report nothing."""
        self._known: dict[str, Device] = {}
        self._places: dict[int, str] = {}
        """What was last known of devices, by UUID, and which was where in NVML's list."""
        self._said: dict[str, str] = {}
        self._unheard: list[HealthEvent] = []
        self._reopen_at = 0.0
        self._lock = threading.RLock()
        """Another thread must not close it in the middle of a call."""

    def inventory(self) -> Inventory:
        with self._asking() as nvml:
            if nvml is None:
                return Inventory(note=self._absent)
            every = self._find(nvml)
            devices = tuple(self._read(nvml, found) for found in every)
            asking = Asking(nvml)
            version = asking.number("its CUDA version", "nvmlSystemGetCudaDriverVersion_v2")
            cuda = "" if version is None else f"{version // 1000}.{version % 1000 // 10}"
            driver = asking.may("its version", "nvmlSystemGetDriverVersion")
            self._tell(devices)
            self._reopen_at_times(nvml, any(found.fault for found in every))
            note = "" if devices else "the NVIDIA driver runs, and reports no GPU"
            return Inventory(devices, str(driver or ""), cuda, note=note)

    def processes(self) -> tuple[DeviceProcess, ...]:
        with self._asking() as nvml:
            if nvml is None:
                return ()
            return tuple(process for found in self._find(nvml) for process in self._processes(nvml, found))

    def free_mib(self) -> Mapping[str, int]:
        with self._asking() as nvml:
            if nvml is None:
                return {}
            told = {
                found.uuid: Asking(nvml).may("its free memory", "nvmlDeviceGetMemoryInfo", found.handle)
                for found in self._find(nvml)
                if found.fault is None
            }
            return {uuid: int(memory.free) // MIB for uuid, memory in told.items() if memory is not None}

    def use(self) -> tuple[DeviceUse, ...]:
        with self._asking() as nvml:
            if nvml is None:
                return ()
            uses: list[DeviceUse] = []
            for found in self._find(nvml):
                if found.fault is None:
                    uses += self._gauge.read(nvml, found.handle, found.uuid)
                else:
                    uses.append(DeviceUse(self._uuid(found), "", None))
            return tuple(uses)

    def health_events(self) -> tuple[HealthEvent, ...]:
        with self._asking() as nvml:
            if nvml is None:
                return ()
            unheard, self._unheard = self._unheard, []
            return (*unheard, *self._hear(nvml))

    def close(self) -> None:
        if not self._lock.acquire(timeout=SILENT_S):
            return  # whoever waits for the driver for ever keeps it open
        try:
            nvml, self._nvml, self._events, self._gauge = self._nvml, None, {}, Gauge()
            if nvml is not None:
                with contextlib.suppress(Exception):
                    nvml.nvmlShutdown()
        finally:
            self._lock.release()

    # --- one device

    def _find(self, nvml: Any) -> list[Found]:
        """All that NVML counts."""
        found = [find_device(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
        told = {one.uuid for one in found}
        self._places = {
            one.index: uuid
            for one in found
            if (uuid := one.uuid or self._places.get(one.index, "")) and (one.uuid or uuid not in told)
        }
        return found

    def _uuid(self, found: Found) -> str:
        """Its own, else that of what was at its place before."""
        return found.uuid or self._places.get(found.index, f"GPU-unknown-{found.index}")

    def _read(self, nvml: Any, found: Found) -> Device:
        device = read_device(nvml, found, self._known.get(self._uuid(found)))
        if found.uuid:
            self._known[found.uuid] = device
        return device

    def _tell(self, devices: tuple[Device, ...]) -> None:
        """What is wrong, in the log once."""
        now = {device.uuid: "; ".join(filter(None, (device.cordoned, device.note))) for device in devices}
        for uuid, text in now.items():
            if text and self._said.get(uuid) != text:
                log.warning("%s: %s", uuid, text)
        self._said = now

    def _reopen_at_times(self, nvml: Any, any_silent: bool) -> None:
        """Looks anew, now and then, at devices that do not answer; what was reported until then is kept."""
        if not any_silent:
            self._reopen_at = 0.0
        elif not self._reopen_at:
            self._reopen_at = time.monotonic() + REOPEN_S
        elif time.monotonic() >= self._reopen_at:
            self._reopen_at = 0.0
            self._unheard += self._hear(nvml)
            self.close()

    def _hear(self, nvml: Any) -> list[HealthEvent]:
        return [e for found in self._find(nvml) if found.fault is None for e in self._heard(nvml, found)]

    def _processes(self, nvml: Any, found: Found) -> list[DeviceProcess]:
        uuid = self._uuid(found)
        unseen = DeviceProcess(UNSEEN, uuid, None)
        if found.fault is not None:
            return [unseen]
        asking = Asking(nvml)
        mode = asking.may("its MIG mode", "nvmlDeviceGetMigMode", found.handle)
        places = mig_instances(asking, asking, found.handle) if is_mig(nvml, mode) else [("", found.handle)]
        seen: dict[tuple[int, str], DeviceProcess] = {}
        for instance, place in places:
            for name in (WHO_COMPUTES, WHO_DRAWS):
                ask = asking.must if name == WHO_COMPUTES else asking.may
                for process in ask("who uses it", name, place) or ():
                    used = None if process.usedGpuMemory is None else int(process.usedGpuMemory) // MIB
                    seen[process.pid, instance] = DeviceProcess(int(process.pid), uuid, used, instance or None)
        return [*seen.values(), *([unseen] if asking.faults else [])]

    def _heard(self, nvml: Any, found: Found) -> list[HealthEvent]:
        """What a device reported of late."""
        if found.uuid not in self._events:
            self._register(nvml, found)
        events = self._events.get(found.uuid)
        heard: list[HealthEvent] = []
        while events is not None and len(heard) < MOST_EVENTS:
            try:
                event = nvml.nvmlEventSetWait_v2(events, 0)
            except Exception as error:
                if not is_one_of(nvml, error, ("NVML_ERROR_TIMEOUT",)):
                    del self._events[found.uuid]  # registered anew with the next look
                    Asking(nvml).may("", "nvmlEventSetFree", events)
                break
            device = getattr(event, "device", found.handle)
            uuid = Asking(nvml).may("its UUID", "nvmlDeviceGetUUID", device) or found.uuid
            xid = event.eventType == nvml.nvmlEventTypeXidCriticalError
            heard.append(event_of(str(uuid), XID if xid else "ecc", int(event.eventData)))
        return heard

    def _register(self, nvml: Any, found: Found) -> None:
        asking = Asking(nvml)
        events = asking.must("its health", "nvmlEventSetCreate")
        if events is None:
            return
        wanted = nvml.nvmlEventTypeXidCriticalError | nvml.nvmlEventTypeDoubleBitEccError
        supported = asking.may("its health", "nvmlDeviceGetSupportedEventTypes", found.handle)
        if supported is not None:
            try:
                nvml.nvmlDeviceRegisterEvents(found.handle, wanted & supported, events)
                self._events[found.uuid] = events
                return
            except Exception as error:
                if not is_one_of(nvml, error, NOT_THERE):
                    asking.faults.append(said(error))
        if not asking.faults:
            self._events[found.uuid] = None
        asking.may("", "nvmlEventSetFree", events)

    # --- the library

    @contextlib.contextmanager
    def _asking(self) -> Iterator[Any]:
        """The open library, or None on a machine without a driver. What goes wrong with it as a whole becomes
        DeviceError: nothing is known."""
        if not self._lock.acquire(timeout=SILENT_S):
            raise DeviceError(f"the NVIDIA driver does not answer: a call to it has not returned for {SILENT_S:g} s")
        try:
            nvml = self._open()
            try:
                yield nvml
            except Exception as error:
                if nvml is None or not isinstance(error, nvml.NVMLError):
                    raise
                self.close()
                raise DeviceError(f"the NVIDIA driver does not answer: {said(error)}") from None
        finally:
            self._lock.release()

    def _open(self) -> Any:
        if self._nvml is not None:
            return self._nvml
        try:
            nvml = self._module or importlib.import_module("pynvml")
        except ImportError as error:
            raise DeviceError(f"the package nvidia-ml-py cannot be used: {said(error)}") from None
        try:
            nvml.nvmlInit()
        except (nvml.NVMLError_LibraryNotFound, nvml.NVMLError_DriverNotLoaded):
            self._absent = "no NVIDIA driver is installed on this machine, so there are no GPUs to give out"
            return None
        except Exception as error:  # also a library that can be found and not loaded
            raise DeviceError(f"the NVIDIA driver does not answer: {said(error)}") from None
        self._nvml = nvml
        return nvml
