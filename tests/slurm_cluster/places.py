"""Where clusters of tests lie, and the end of those whose test run crashed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from slurm_cluster.cluster import Cluster

PREFIX = "timeshare-slurm-test-"


@contextlib.contextmanager
def folder_for_tests() -> Iterator[Path]:
    """A new folder that everybody may enter (pytest's own are closed to other users, whose commands read slurm.conf).

    First ends clusters in such folders whose test run is gone; one that lives holds a lock, and is left alone.
    """
    for left in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        if left.lstat().st_uid == os.geteuid() and not left.is_symlink():
            _end_if_abandoned(left)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    with _lock(folder):
        folder.chmod(0o755)
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _end_if_abandoned(folder: Path) -> None:
    # A folder without a cluster may be a moment old and not locked yet.
    if (folder / "layout.json").exists():
        with contextlib.suppress(BlockingIOError, FileNotFoundError), _lock(folder):
            Cluster.load(folder).stop()
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Ends with this process, however it ends."""
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
