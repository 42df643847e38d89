"""Moves what a process holds on GPUs into host memory and back, by the NVIDIA driver's process checkpoint.
Experimental: the driver does not promise that a process is usable after an operation that failed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeVar

T = TypeVar("T")
State = Literal["running", "locked", "checkpointed", "failed"]
"""Of a process, as the driver has it: it runs; its CUDA calls wait; what it holds is in host memory; it is lost."""
OLDEST_CUDA = 12080
"""CUDA 12.8, which drivers from R570 on speak: the first with these calls."""
PACKAGES = "pip install 'timeshare[park]'"


class CheckpointError(Exception):
    """The driver did not do it; the text is for a person."""


class Checkpointer(Protocol):
    """The one interface behind which the driver and its simulation stand. Calls block; every call but ``available``
    raises CheckpointError."""

    def available(self) -> str:
        """Empty where it can be done; else why not, and what would help. Touches no GPU."""

    def state(self, pid: int) -> State: ...

    def lock(self, pid: int, timeout_s: float) -> None:
        """running -> locked: waits for the work that it has given to its GPU, for ``timeout_s`` at most."""

    def checkpoint(self, pid: int) -> None:
        """locked -> checkpointed: what it held on GPUs is in its own host memory, and the GPUs are free of it."""

    def restore(self, pid: int, gpus: Mapping[str, str]) -> None:
        """checkpointed -> locked. ``gpus``: where each GPU that it sees is to be found now, by UUID; empty: where it
        was. Never to be tried where memory may be short: the process would be lost."""

    def unlock(self, pid: int) -> None:
        """locked -> running."""


class CudaCheckpointer:
    """NVIDIA's own library, the package ``cuda-core``. Imported when it is needed; what it needs of the driver begins
    with the first call, not before: a process that has called ``cuInit`` keeps GPUs from being reset."""

    def __init__(self) -> None:
        self._ready = False

    def available(self) -> str:
        try:
            driver = importlib.import_module("cuda.bindings.driver")
            module = importlib.import_module("cuda.core.checkpoint")
        except ImportError as error:
            return f"the package cuda-core is not installed ({error.name or error}): {PACKAGES}"
        except Exception as error:  # whatever it makes of a driver that is broken: the node has other things to do
            return f"the package cuda-core cannot be used: {_one_line(error)}"
        try:
            code, version = driver.cuDriverGetVersion()
        except Exception:
            return "no NVIDIA driver was found"
        if code != driver.CUresult.CUDA_SUCCESS:
            return f"the NVIDIA driver does not say its version ({code.name})"
        if version < OLDEST_CUDA:
            have = f"{version // 1000}.{version % 1000 // 10}"
            return f"the NVIDIA driver speaks CUDA {have}: it must be 12.8 (R570) or later"
        missing = [name for name in ("lock", "checkpoint", "restore", "unlock") if not hasattr(module.Process, name)]
        return f"this cuda-core has no {', '.join(missing)}: {PACKAGES}" if missing else ""

    def state(self, pid: int) -> State:
        found: State = self._do(pid, "its state", lambda process: process.state)
        return found

    def lock(self, pid: int, timeout_s: float) -> None:
        # 0 would wait for ever.
        self._do(pid, "lock", lambda process: process.lock(timeout_ms=max(1, round(timeout_s * 1000))))

    def checkpoint(self, pid: int) -> None:
        self._do(pid, "checkpoint", lambda process: process.checkpoint())

    def restore(self, pid: int, gpus: Mapping[str, str]) -> None:
        bare = {bare_uuid(old): bare_uuid(new) for old, new in gpus.items()}
        self._do(pid, "restore", lambda process: process.restore(gpu_mapping=bare or None))

    def unlock(self, pid: int) -> None:
        self._do(pid, "unlock", lambda process: process.unlock())

    def _do(self, pid: int, what: str, act: Callable[[Any], T]) -> T:
        self._prepare()
        try:
            return act(importlib.import_module("cuda.core.checkpoint").Process(pid))
        except Exception as error:  # CUDAError, RuntimeError for what this driver lacks, and what ctypes may say
            raise CheckpointError(f"process {pid}: {what}: {_one_line(error)}") from None

    def _prepare(self) -> None:
        """A restore needs persistence mode, or that whoever asks has called ``cuInit``."""
        if self._ready:
            return
        why = self.available()
        if why:
            raise CheckpointError(why)
        driver = importlib.import_module("cuda.bindings.driver")
        (code,) = driver.cuInit(0)
        if code != driver.CUresult.CUDA_SUCCESS:
            raise CheckpointError(f"the NVIDIA driver cannot be used by this process ({code.name})")
        self._ready = True


def bare_uuid(uuid: str) -> str:
    """``GPU-…`` of NVML as CUDA has it."""
    return uuid.removeprefix("GPU-")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
