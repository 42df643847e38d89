"""Large pieces of data, each kept once under the digest of its bytes: what was sent before is not sent again.

A store belongs to one account and nobody else can read or write it. Whatever is read from it is checked first: the
file's owner, that it is a plain file, and that its bytes have the digest they are asked for by.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import secrets
import stat
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from blake3 import blake3

_DIGEST = re.compile(r"[0-9a-f]{64}")
CHUNK = 4 * 1024 * 1024
"""Bytes that are written at once."""


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
        self._placing = threading.Lock()

    def put(self, data: memoryview | bytes) -> Blob:
        """Keeps ``data``. It is on the disk, whole, when this returns; an interrupted one leaves no blob. Several
        threads may put at once."""
        view = memoryview(data).cast("B")
        if view.nbytes < CHUNK or view.nbytes in self._sizes:
            # It may well be there: to read it is faster than to write it.
            digest = _digest(view)
            if _size(self.path(digest)) == view.nbytes:
                os.utime(self.path(digest))  # it is in use again: not to be swept now
                return Blob(digest, view.nbytes)
        drafts = self.folder / "drafts"
        drafts.mkdir(mode=0o700, exist_ok=True)
        draft = drafts / secrets.token_hex(16)
        try:
            digest = _written(view, draft)
            path = self.path(digest)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with self._placing:
                new = _size(path) != view.nbytes
                draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        return Blob(digest, view.nbytes, new)

    @cached_property
    def _sizes(self) -> set[int]:
        """Of everything that was kept before: data of another size is certainly new."""
        return {path.lstat().st_size for path in self.folder.glob("*/*")}

    def has(self, data: memoryview) -> bool:
        """Whether ``data`` is kept already."""
        return data.nbytes in self._sizes and _size(self.path(_digest(data.cast("B")))) == data.nbytes

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
        if _digest(view) != digest:
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


def _digest(view: memoryview) -> str:
    return str(blake3(view, max_threads=blake3.AUTO).hexdigest())


def _written(view: memoryview, path: Path) -> str:
    """Writes it; its digest. Both in one pass over the memory, and the disk begins before the end."""
    digest = blake3()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        for begin in range(0, view.nbytes, CHUNK):
            chunk = view[begin : begin + CHUNK]
            digest.update(chunk)
            while chunk:
                chunk = chunk[os.write(descriptor, chunk) :]
            if _begin_to_store is not None:
                _begin_to_store(descriptor, begin, CHUNK, _WRITE)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return str(digest.hexdigest())


_WRITE = 2
"""SYNC_FILE_RANGE_WRITE of sync_file_range(2)."""
_begin_to_store = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _begin_to_store is not None:
    _begin_to_store.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
