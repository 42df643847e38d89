"""What actually holds a share to its size. Shown to people everywhere, so never overstated. Pure."""

from __future__ import annotations

from collections.abc import Collection

from .mig import shares_memory
from .shares import Shape, ShareRequest

HARDWARE = "hardware"
DRIVER = "driver"
WATCHDOG = "watchdog"
COOPERATIVE = "cooperative"
SIMULATED = "simulated"
NONE_NEEDED = "none needed"

MEANING = {
    HARDWARE: "the device itself: nobody can take more than the share",
    DRIVER: "the GPU driver: an allocation beyond the share fails",
    WATCHDOG: "memory is measured every second; a session over its share is warned, then stopped",
    COOPERATIVE: "environment variables only: programs that ignore them can take more",
    SIMULATED: "simulated: there is no GPU",
    NONE_NEEDED: "no GPU is held, and none is seen",
}

KERNEL = "kernel"
NOT_ENFORCED = "not enforced"
ELSEWHERE = "engine"

BOUND_MEANING = {
    KERNEL: "the kernel, by a control group of the session's own",
    NOT_ENFORCED: "this machine gives sessions no control group for it: they are asked to keep to it",
    ELSEWHERE: "the cluster where it runs, as that is configured",
}
"""What holds a session to its cores and its main memory."""


def bound_enforcement(what: str, session_bounds: Collection[str], engine: str = "") -> str:
    """What holds ``what`` (``cpu`` or ``memory``). ``session_bounds``: what control groups hold on this machine, as its
    agent says."""
    if engine:
        return ELSEWHERE
    return KERNEL if what in session_bounds else NOT_ENFORCED


def share_enforcement(share: ShareRequest, device_filter: str | None, simulated: bool) -> str:
    """The level for ``share``. ``device_filter``: what hides other devices from a session; None when nothing does."""
    if share.shape is Shape.CPU:
        return NONE_NEEDED if device_filter or simulated else COOPERATIVE
    if simulated:
        return SIMULATED
    if share.shape is Shape.FRACTION:
        return WATCHDOG
    # Compute instances of one GPU instance have its memory together (NVIDIA, MIG User Guide, "Compute Instances").
    return HARDWARE if device_filter and not shares_memory(share.profile) else COOPERATIVE
