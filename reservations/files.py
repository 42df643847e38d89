"""Files that somebody names, in folders that may belong to somebody else.

Root may type a command in a folder of another account. Nothing there is read but what is named, a link or a pipe in
place of a named file does no harm, and nothing is imported from there.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path
from typing import IO

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISLNK, "a link"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_start: str | None = None


def leave_folder() -> None:
    """Make ``/`` the working folder of this process. Names given afterwards still count from the one before.

    Python looks for modules in the working folder of ``python -c`` and ``-m``, multiprocessing starts such processes,
    and matplotlib takes its settings from there: so nothing that runs as root stands in a folder of others.
    """
    global _start
    try:
        _start = os.getcwd()
    except FileNotFoundError:  # removed meanwhile: relative names lead nowhere
        _start = "/"
    os.chdir("/")


def from_start(name: str) -> str:
    """Return the absolute path of a file that was named where this process was started."""
    return os.path.join(_start if _start is not None else os.getcwd(), name) if name else name


def open_plain(path: Path) -> IO[bytes]:
    """Open a plain file, or a link to one, for reading. Raises OSError, also for pipes, devices and folders.

    What is there is looked at before it is opened: to open a pipe can wait for ever, and to open a device can act.
    """
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)  # open(2): gets hold of a file without opening it
    try:
        mode = os.fstat(place).st_mode
        if not stat.S_ISREG(mode):
            raise _not_plain(mode, path)
        return open(f"/proc/self/fd/{place}", "rb")  # the same file, whatever has the name by now
    finally:
        os.close(place)


def write_anew(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a new file under this name, in place of an older plain one, at once or not at all. Raises OSError.

    A link under that name is not followed: it may have been made to have root write elsewhere.
    """
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    draft = f".{path.name}.{secrets.token_hex(4)}"
    try:
        try:
            there = os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode
            if not stat.S_ISREG(there):
                raise _not_plain(there, path)
        except FileNotFoundError:
            pass
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(draft, flags, mode, dir_fd=folder), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path.name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(folder)


def _not_plain(mode: int, path: Path) -> OSError:
    kind = next((words for is_it, words in _KINDS if is_it(mode)), "no plain file")
    return OSError(errno.EINVAL, f"it is {kind}: name a plain file", str(path))
