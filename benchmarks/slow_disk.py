"""This process held to a rate at which the disk takes its bytes, as a file system that many share gives it.

By the kernel's block throttle of control groups v1 (``blkio.throttle.write_bps_device``); as root.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup/blkio")


def obstacle(folder: Path) -> str:
    """Why that cannot be done for files in ``folder``; empty: it can."""
    if not (ROOT / "blkio.throttle.write_bps_device").exists() or not os.access(ROOT, os.W_OK):
        return "it needs root and the block throttle of control groups v1"
    if not Path(f"/sys/dev/block/{_device(folder)}").exists():
        return f"{folder} is on no block device"
    return ""


@contextlib.contextmanager
def held_to(bytes_a_second: int, folder: Path) -> Iterator[None]:
    """For all that this process brings to the disk of ``folder`` itself."""
    group, before = ROOT / f"timeshare-bench-{secrets.token_hex(4)}", ROOT / _own_group()
    group.mkdir()
    try:
        (group / "blkio.throttle.write_bps_device").write_text(f"{_device(folder)} {bytes_a_second}")
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield
    finally:
        (before / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def _device(folder: Path) -> str:
    number = os.stat(folder).st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def _own_group() -> str:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return next(line.split(":", 2)[2] for line in lines if "blkio" in line.split(":", 2)[1].split(",")).lstrip("/")
