"""Logs of components: appended to by the components themselves, kept short by the supervisor.

A component writes into a file, not into a pipe, so that it goes on writing when its supervisor is killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import BinaryIO

MAX_LOG = 10 * 1024 * 1024
"""Bytes of a log; what is longer is put aside as ``NAME.log.1``, in place of what was put aside before."""


def open_log(path: Path) -> BinaryIO:
    """Open a log to append to, readable by its owner alone."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")


def rotate(path: Path, longest: int = MAX_LOG) -> bool:
    """Put a log aside that is longer than ``longest`` bytes, and return whether it was.

    Its writer keeps the descriptor and goes on at the new end, as it appends. So the file is copied and emptied; a
    line written between the two is lost.
    """
    try:
        if path.stat().st_size <= longest:
            return False
        draft, old = path.with_suffix(".log.new"), path.with_suffix(".log.1")
        with open(path, "rb+") as log, open_private(draft) as copy:
            beyond = os.fstat(log.fileno()).st_size - longest
            if beyond > longest:  # it grew faster than it was looked at: the newest lines
                log.seek(beyond)
                log.readline()
            shutil.copyfileobj(log, copy)
            log.truncate(0)
        draft.replace(old)
    except OSError:  # such as a full disk: there is nothing better to do than to try again
        with contextlib.suppress(OSError):
            path.with_suffix(".log.new").unlink()
        return False
    return True


def open_private(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb")
