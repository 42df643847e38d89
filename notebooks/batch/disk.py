"""A disk that takes nothing more, in words."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from ..capture.own import shown
from ..capture.preflight import size_text
from .preparation import CannotGo

_FULL = {errno.ENOSPC: "is full", errno.EDQUOT: "has your quota used up"}
_SHUT = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.EFBIG)


@contextlib.contextmanager
def in_words(root: Path, what: str = "") -> Iterator[None]:
    """Raises CannotGo, beginning with ``what``, where ``root`` does not take what is to be kept below it."""
    try:
        yield
    except OSError as error:
        if (why := _told(error, root)) is None:
            raise
        raise CannotGo(f"{what}{why}") from None


def _told(error: OSError, root: Path) -> str | None:
    """None: it is about something else, such as an object of the cell."""
    why = (error.strerror or str(error)).lower()
    if error.errno in _FULL:
        return (
            f"the disk of {root} {_FULL[error.errno]} ({why}{_free(root)}). %gpu_batch ls shows what your jobs take, "
            "%gpu_batch rm ID removes one; or set TIMESHARE_DATA to a folder with room that every node sees, and "
            "restart the kernel. What was written by now is not sent again"
        )
    name = shown(str(error.filename)) if error.filename else root
    if error.errno in _SHUT and name.is_relative_to(root):
        return (
            f"{name} cannot be written ({why}): make it writable for you, or set TIMESHARE_DATA to a "
            "folder of yours that every node sees, and restart the kernel"
        )
    return None


def _free(root: Path) -> str:
    try:
        found = os.statvfs(root)
    except OSError:
        return ""
    return f", {size_text(found.f_bavail * found.f_frsize)} free"
