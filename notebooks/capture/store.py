"""Large pieces of data, each kept once under the digest of its bytes: what was sent before is not sent again.

A store belongs to one account and nobody else can read or write it. Whatever is read from it is checked first: the
file's owner, that it is a plain file, and that its bytes have the digest they are asked for by.
"""

from __future__ import annotations

import mmap
import os
import re
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

_DIGEST = re.compile(r"[0-9a-f]{64}")
CHUNK = 16 * 1024 * 1024


class Untrusted(Exception):
    """A file is not what it should be, and was not loaded. The text names it, the reason, and what to do."""


@dataclass(frozen=True)
class Blob:
    """``size`` in bytes. ``new``: it was not in the store before."""

    digest: str
    size: int
    new: bool = False


class Store:
    """Made if it is not there, readable by its owner only. Raises Untrusted for a folder of somebody else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_own(folder, os.lstat(folder), stat.S_ISDIR)

    def put(self, data: memoryview | bytes) -> Blob:
        """Keeps ``data``. It is on the disk, whole, when this returns; an interrupted one leaves no blob."""
        view = memoryview(data).cast("B")
        digest = blake3(view, max_threads=blake3.AUTO).hexdigest()
        path = self.path(digest)
        if _size(path) == view.nbytes:
            os.utime(path)  # it is in use again: not to be swept now
            return Blob(digest, view.nbytes)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        draft = path.with_name(f".{digest[:16]}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                for begin in range(0, view.nbytes, CHUNK):
                    _write_all(file.fileno(), view[begin : begin + CHUNK])
                os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        return Blob(digest, view.nbytes, new=True)

    def has(self, data: memoryview) -> bool:
        """Whether ``data`` is kept already."""
        digest = blake3(data.cast("B"), max_threads=blake3.AUTO).hexdigest()
        return _size(self.path(digest)) == data.nbytes

    def get(self, digest: str, size: int) -> memoryview:
        """The bytes of ``digest``, as memory that may be written without changing the store. Raises Untrusted."""
        path = self.path(digest)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            raise Untrusted(f"{path.name}: cannot be read ({error.strerror}): submit the cell again") from None
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            check_own(path, status, stat.S_ISREG)
            if status.st_size != size:
                raise Untrusted(f"{path.name} has {status.st_size} bytes and should have {size}: submit the cell again")
            view = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)) if size else memoryview(b"")
        if blake3(view, max_threads=blake3.AUTO).hexdigest() != digest:
            raise Untrusted(f"{path.name} was changed since it was written: submit the cell again")
        return view

    def path(self, digest: str) -> Path:
        """Where ``digest`` is kept. Raises Untrusted for what is no digest."""
        if not _DIGEST.fullmatch(digest):
            raise Untrusted(f"{digest[:80]!r} is no digest: 64 hexadecimal digits are")
        return self.folder / digest[:2] / digest


def check_own(path: Path, status: os.stat_result, right_type: object) -> None:
    """Raises Untrusted unless ``status`` is of a file of our own that nobody else can write."""
    if not callable(right_type) or not right_type(status.st_mode):
        raise Untrusted(f"{path} is not a plain file or folder (a link, perhaps): it is not loaded")
    if status.st_uid != os.geteuid():
        raise Untrusted(f"{path} belongs to the account with number {status.st_uid}, not to you: it is not loaded")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Untrusted(f"{path} can be written by others: it is not loaded; make it your own with chmod go-w")


def _size(path: Path) -> int:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


def _write_all(descriptor: int, view: memoryview) -> None:
    while view:
        view = view[os.write(descriptor, view) :]
