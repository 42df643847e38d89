"""A file system that takes its bytes at a given rate, as one that many share gives them.

A loop device with a file system of its own, held by the kernel's block throttle of control groups v1
(``blkio.throttle.write_bps_device``) for the group that the kernel's own writing is in: whatever way bytes go to it,
through the page cache or around it, they are held. As root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

THROTTLE = Path("/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device")


def obstacle() -> str:
    """Why that cannot be done here; empty: it can."""
    if not os.access(THROTTLE, os.W_OK):
        return "it needs root and the block throttle of control groups v1"
    if not Path("/dev/loop-control").exists() or shutil.which("mkfs.ext4") is None:
        return "it needs loop devices and mkfs.ext4"
    if _own_group() != "/":
        return "this process is in a control group of its own, and the kernel's writing is not"
    return ""


@contextlib.contextmanager
def held_to(bytes_a_second: int, size: int, folder: Path) -> Iterator[Path]:
    """The folder of a new file system of ``size`` bytes, whose bytes lie in ``folder``."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        image, mounted = Path(place) / "image", Path(place) / "mounted"
        mounted.mkdir()
        with open(image, "wb") as file:
            file.truncate(size)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], check=True)
        device = _device(mounted)
        try:
            THROTTLE.write_text(f"{device} {bytes_a_second}")
            yield mounted
        finally:
            THROTTLE.write_text(f"{device} 0")
            subprocess.run(["umount", str(mounted)], check=True)


def _device(folder: Path) -> str:
    number = os.stat(folder).st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def _own_group() -> str:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return next(line.split(":", 2)[2] for line in lines if "blkio" in line.split(":", 2)[1].split(","))
