"""Time that does not step. Wall clocks are set back and forth; leases must not be freed or stretched by it.

``SteadyClock`` gives seconds since the epoch as the wall clock stood when this boot was first seen, plus the time since
boot (suspend included). The anchor is stored in the ledger, so that a restarted service goes on with the same time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone, tzinfo
from pathlib import Path

Clock = Callable[[], float]


@dataclass(frozen=True)
class ClockAnchor:
    """What the wall clock said (``wall``, seconds since the epoch) at ``boot_seconds`` after this boot."""

    boot_id: str
    boot_seconds: float
    wall: float


def read_boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def anchor_now() -> ClockAnchor:
    return ClockAnchor(read_boot_id(), time.clock_gettime(time.CLOCK_BOOTTIME), time.time())


class SteadyClock:
    """Callable: the time now. ``stored`` is the anchor of an earlier start; it counts within the same boot only."""

    def __init__(self, stored: ClockAnchor | None) -> None:
        here = anchor_now()
        self.anchor = stored if stored is not None and stored.boot_id == here.boot_id else here

    def __call__(self) -> float:
        return self.anchor.wall + time.clock_gettime(time.CLOCK_BOOTTIME) - self.anchor.boot_seconds


def rfc3339(seconds: float | None) -> str | None:
    """UTC text such as ``2026-03-01T12:00:00Z``; None stays None."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment_text(seconds: float, zone: tzinfo) -> str:
    """``2026-12-07 00:00 (Europe/Zurich)``: a moment for reading, by the clock of ``zone``."""
    return f"{datetime.fromtimestamp(seconds, tz=zone):%Y-%m-%d %H:%M} ({zone})"


def duration_text(seconds: float) -> str:
    """``5400`` -> ``1 h 30 min``; below two minutes in seconds."""
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    if hours and minutes:
        return f"{hours} h {minutes} min"
    return f"{hours} h" if hours else f"{minutes} min"
