"""New files that are brought to the disk while they are written.

A write counts as done when its bytes are on the disk. So what is still on its way tells which of disk and processor
keeps the other waiting, without a measurement: nothing has to be known of the disk before, and who else uses it counts.

A large file on a disk of this machine is written around the page cache (``O_DIRECT``): half the work of the processor,
and the notebook's own memory is not pushed out. On a network's file system or in memory it goes through the cache.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

CHUNK = 4 * 1024 * 1024
"""Bytes that are written at once. A multiple of what disks want their writes to begin and end at."""
IN_FLIGHT = 2
"""Writes of one file at a time: the disk has the next one when it is done with one."""
# Of sync_file_range(2): wait for what is being written, write, wait.
_TO_THE_DISK = 1 | 2 | 4


class Backlog:
    """Bytes that the disk was given and has not taken yet, of all files that share this. For several threads."""

    def __init__(self) -> None:
        self.size = 0
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        with self._lock:
            self.size += size


class Draft:
    """A new file at ``path`` of ``size`` bytes so far, all on the disk when it is left; an exception leaves what there
    is. ``direct``: around the page cache, where that can be done. Raises OSError, for earlier writes too."""

    def __init__(self, path: Path, backlog: Backlog, *, direct: bool) -> None:
        self._descriptor, self._direct = _opened(path, direct)
        self._backlog = backlog
        self._writers = ThreadPoolExecutor(IN_FLIGHT)
        self._writes: deque[tuple[Future[None], mmap.mmap]] = deque()
        self._buffer, self._filled = mmap.mmap(-1, CHUNK), 0
        self.size = 0

    def write(self, data: memoryview | bytes) -> None:
        """``data`` may change once this returns."""
        left = memoryview(data)
        while left:
            part = left[: CHUNK - self._filled]
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            self.size += len(part)
            left = left[len(part) :]
            if self._filled == CHUNK:
                self._send()

    def _send(self) -> None:
        self._backlog.add(CHUNK)
        write = self._writers.submit(self._bring, self._buffer, self.size - CHUNK)
        self._writes.append((write, self._buffer))
        if len(self._writes) <= IN_FLIGHT:
            self._buffer = mmap.mmap(-1, CHUNK)
        else:
            earlier, self._buffer = self._writes.popleft()
            earlier.result()
        self._filled = 0

    def _bring(self, buffer: mmap.mmap, at: int) -> None:
        try:
            self._put(memoryview(buffer), at)
            if not self._direct:
                _sync_range(self._descriptor, at, CHUNK, _TO_THE_DISK)
        finally:
            self._backlog.add(-CHUNK)

    def _put(self, left: memoryview, at: int) -> None:
        while left:
            done = os.pwrite(self._descriptor, left, at)
            left, at = left[done:], at + done

    def finish(self, begin: bytes = b"") -> None:
        """Nothing is written after it. The file's first bytes become ``begin``."""
        for write, _ in self._writes:
            write.result()
        if self._direct:  # what is left is no multiple of anything
            flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
            fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
        self._put(memoryview(self._buffer)[: self._filled], self.size - self._filled)
        self._put(memoryview(begin), 0)
        os.fsync(self._descriptor)

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_: object) -> None:
        self._writers.shutdown()
        os.close(self._descriptor)


def _opened(path: Path, direct: bool) -> tuple[int, bool]:
    """A new file, and whether it is written around the page cache."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    if direct and os.major(os.fstat(descriptor).st_dev):  # network and memory have no device
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_DIRECT)
            return descriptor, True
        except OSError:  # a file system that cannot
            pass
    return descriptor, False


_sync_range = ctypes.CDLL(None).sync_file_range
_sync_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
