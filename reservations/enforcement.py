"""What actually holds a share to its size. Shown to people everywhere, so never overstated. Pure."""

from __future__ import annotations

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


def share_enforcement(share: ShareRequest, device_filter: str | None, simulated: bool) -> str:
    """The level for ``share``. ``device_filter``: what hides other devices from a session; None when nothing does."""
    if share.shape is Shape.CPU:
        return NONE_NEEDED if device_filter or simulated else COOPERATIVE
    if simulated:
        return SIMULATED
    if share.shape is Shape.FRACTION:
        return WATCHDOG
    return HARDWARE if device_filter else COOPERATIVE
