"""Logs of sessions that have ended: kept for a time, and together no larger than the limits say."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

GIB = 1024**3
_NAME = re.compile(r"([A-Za-z0-9-]{1,64})\.log(\.[0-9]+)?")


@dataclass(frozen=True)
class Log:
    """One file. ``size`` in bytes as it lies on the disk; ``written_at`` in seconds since the epoch."""

    name: str
    size: int
    written_at: float

    @property
    def reservation_id(self) -> str:
        return self.name.partition(".")[0]


def to_remove(logs: Iterable[Log], live: frozenset[str], before: float, most: float) -> list[Log]:
    """Those of ``logs`` that go: of sessions that are not ``live``, first what was written to last before ``before``,
    then the oldest until all together are no larger than ``most`` bytes."""
    found = sorted(logs, key=lambda log: log.written_at)
    size = sum(log.size for log in found)
    gone = []
    for log in found:
        if log.reservation_id not in live and (log.written_at < before or size > most):
            gone.append(log)
            size -= log.size
    return gone


def read_logs(folder: Path) -> list[Log]:
    """The logs in ``folder``. Files of other names, links and what is no file are not among them."""
    found = []
    with opened(folder) as descriptor:
        for name in os.listdir(descriptor):
            if _NAME.fullmatch(name) is None:
                continue
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    found.append(Log(name, status.st_blocks * 512, status.st_mtime))
    return found


def remove_logs(folder: Path, logs: Iterable[Log]) -> None:
    """Remove ``logs`` from ``folder``; one that is gone already does no harm."""
    with opened(folder) as descriptor:
        for log in logs:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(log.name, dir_fd=descriptor)


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[int]:
    """The folder itself, wherever its name leads later."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
