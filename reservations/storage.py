"""A disk that takes nothing more, in words."""

from __future__ import annotations

import errno
import os
from pathlib import Path

GIB = 1 << 30
_FULL = {errno.ENOSPC: "is full", errno.EDQUOT: "has its quota used up"}


def full_disk(error: OSError, folder: Path) -> str | None:
    """Return what ``error`` means where ``folder`` was written to; None when it is about something else."""
    if error.errno not in _FULL:
        return None
    return full_text(folder, _FULL[error.errno])


def full_text(folder: Path, how: str = "is full") -> str:
    """Say that ``folder`` takes nothing more, and how much is free there."""
    free = free_bytes(folder)
    return f"the disk that holds {folder} {how}" + ("" if free is None else f" ({size_text(free)} free)")


def free_bytes(folder: Path) -> int | None:
    """Return how many bytes can be written below ``folder``; None when nobody can say."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def size_text(size: int) -> str:
    """Return a size for people."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / (1 << 20):.1f} MiB"
