"""What is ours: files and folders of this account that nobody else can write.

Data may lie in a folder that several people share. Whoever can write there can rename what is ours and put something
else under its name, between any look at it and its use. So a folder is opened once, looked at through its descriptor,
and reached through that from then on; a file is opened, looked at through its descriptor, and read through that.
"""

from __future__ import annotations

import os
import stat
import weakref
from pathlib import Path
from typing import BinaryIO

_HELD = "/proc/self/fd/"


class Untrusted(Exception):
    """A file is not what it should be, and was not loaded. The text names it, the reason, and what to do."""


class OwnFolder:
    """A folder of ours, held open. ``path`` leads to it for as long as this object lives, whatever has its name by now.

    Raises Untrusted for a link, for what belongs to somebody else and for what others can write; FileNotFoundError.
    """

    def __init__(self, folder: Path) -> None:
        try:
            held = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Untrusted(f"{folder} is not a plain file or folder (a link, perhaps): it is not loaded") from error
        self._close = weakref.finalize(self, os.close, held)
        self.path = Path(f"{_HELD}{held}")
        check_own(folder, os.fstat(held), stat.S_ISDIR)


def open_own(path: Path) -> BinaryIO:
    """Open a plain file of ours for reading. Raises Untrusted, and FileNotFoundError."""
    try:  # without waiting, if it is a pipe
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Untrusted(f"{shown(path)} cannot be read as a plain file ({error.strerror}): it is not loaded") from None
    try:
        check_own(path, os.fstat(descriptor), stat.S_ISREG)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_own(path: Path, status: os.stat_result, right_type: object) -> None:
    """Raises Untrusted unless ``status`` is of a file of our own that nobody else can write."""
    if not callable(right_type) or not right_type(status.st_mode):
        raise Untrusted(f"{shown(path)} is not a plain file or folder (a link, perhaps): it is not loaded")
    if status.st_uid != os.geteuid():
        text = f"{shown(path)} belongs to the account with number {status.st_uid}, not to you"
        raise Untrusted(f"{text}: it is not loaded")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        text = f"{shown(path)} can be written by others: it is not loaded"
        raise Untrusted(f"{text}; make it your own with chmod go-w")


def shown(path: Path | str) -> Path:
    """Return the name, for people, of a file that is reached through an ``OwnFolder``; other paths as they are."""
    held, _, rest = str(path).removeprefix(_HELD).partition("/")
    if not str(path).startswith(_HELD):
        return Path(path)
    try:
        return Path(os.readlink(f"{_HELD}{held}")) / rest
    except OSError:
        return Path(path)
