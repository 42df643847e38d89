"""Keeps what a session puts out within bounds. Imported by the launcher alone, as a file beside it, so nothing here but
what Python has loaded anyway.

The session writes into a pipe, and never has a descriptor of the log itself: with one it could make a file of root's as
long as the disk.
"""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False  # the launcher starts faster without this
if TYPE_CHECKING:
    from _thread import LockType

MOST_BYTES = 10 * 1024 * 1024
"""Of the log, and of the older part beside it (``….log.1``)."""
PIECE = 64 * 1024


class Log:
    """A file that is moved aside when it is full. Raises OSError when it cannot be opened."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise OSError(None, "it is not a plain file", self._path)
        self._descriptor, self._size = descriptor, status.st_size

    def write(self, data: bytes) -> None:
        """Add ``data``; what cannot be written, on a full disk for one, is lost."""
        try:
            if self._size + len(data) > MOST_BYTES:
                self._begin_anew()
            while data:
                written = os.write(self._descriptor, data)
                self._size += written
                data = data[written:]
        except OSError:
            pass

    def _begin_anew(self) -> None:
        if os.path.lexists(self._path):
            os.replace(self._path, f"{self._path}.1")
        full = self._descriptor
        self._open()  # if that fails, it is tried again with what comes next
        os.close(full)


def open_log(path: str) -> Log:
    """Open the log ``path``, which must be a plain file or not be there. Raises OSError."""
    return Log(path)


def pump(reader: int, log: Log, done: LockType) -> None:
    """Write everything that comes out of ``reader``, until nobody is left who could write into it; then let ``done``
    go. The session never waits for more than the disk."""
    try:
        while data := os.read(reader, PIECE):
            log.write(data)
    finally:
        done.release()
