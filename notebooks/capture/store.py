"""Large pieces of data, each kept once under the digest of its bytes: what was sent before is not sent again.

A store belongs to one account and nobody else can read or write it. Whatever is read from it is checked first: the
file's owner, that it is a plain file, and that its bytes have the digest they are asked for by. A large piece that
compresses well lies packed in a file beside (``DIGEST.packed``); its digest is that of its own bytes.
"""

from __future__ import annotations

import mmap
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from blake3 import blake3

from . import packing
from .draft import Backlog, Draft
from .own import OwnFolder, Untrusted, open_own
from .packing import FRAME, Packing

_DIGEST = re.compile(r"[0-9a-f]{64}")
PACKED_FROM = 1024 * 1024
"""Bytes of a piece that may be packed."""
LARGE = 64 * 1024 * 1024
"""Bytes of a piece for which it matters whether packing or the disk is the faster; below, packing saves room."""
BEHIND = 2 * FRAME
"""Bytes that keep the disk busy for as long as a frame takes to be packed."""
_PACKED = ".packed"


@dataclass(frozen=True)
class Blob:
    """``size`` in bytes. ``new``: it was not in the store before."""

    digest: str
    size: int
    new: bool = False


class Store:
    """Made if it is not there, readable by its owner only. ``pack``: whether what compresses well is written packed;
    what is not can be read by many processes from the same pages of memory. ``behind``: bytes for which the disk must
    be waited for before a part of a large piece is packed; 0: all of it is. Raises Untrusted for a folder of somebody
    else."""

    def __init__(self, folder: Path, *, pack: bool = True, behind: int = BEHIND) -> None:
        self.folder = folder
        self._pack, self._behind, self._backlog = pack, behind, Backlog()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._own = OwnFolder(folder)
        self._placing = threading.Lock()

    def put(self, data: memoryview | bytes) -> Blob:
        """Keeps ``data``. It is on the disk, whole, when this returns; an interrupted one leaves no blob. Several
        threads may put at once."""
        view = memoryview(data).cast("B")
        if view.nbytes < FRAME or view.nbytes in self._sizes:
            # It may well be there: to read it is faster than to write it.
            digest = _digest(view)
            if there := self._kept(digest, view.nbytes):
                os.utime(there)  # it is in use again: not to be swept now
                return Blob(digest, view.nbytes)
        kind, draft = self._packing(view), self._draft()
        try:
            digest = self._written(view, kind, draft)
            path = self._at(digest) if kind is None else _packed(self._at(digest))
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with self._placing:
                new = self._kept(digest, view.nbytes) is None
                draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        return Blob(digest, view.nbytes, new)

    def _draft(self) -> Path:
        drafts = self._own.path / "drafts"
        drafts.mkdir(mode=0o700, exist_ok=True)
        return drafts / secrets.token_hex(16)

    def _packing(self, view: memoryview) -> Packing | None:
        """How to write it; None: as it is."""
        return packing.choose(view) if self._pack and view.nbytes >= PACKED_FROM else None

    def _written(self, view: memoryview, kind: Packing | None, path: Path) -> str:
        """Writes it; its digest. Both in one pass over the memory."""
        digest, large = blake3(), view.nbytes >= LARGE
        with Draft(path, self._backlog, direct=large) as draft:
            if kind is not None:
                draft.write(packing.head(0, 0))
            for begin in range(0, view.nbytes, FRAME):
                frame = view[begin : begin + FRAME]
                digest.update(frame)
                if kind is None:
                    draft.write(frame)
                elif large and self._backlog.size < self._behind:
                    draft.write(packing.as_it_is(frame.nbytes))
                    draft.write(frame)
                else:
                    draft.write(kind.packed(frame))
            draft.finish(b"" if kind is None else packing.head(view.nbytes, draft.size))
        return str(digest.hexdigest())

    @cached_property
    def _sizes(self) -> set[int]:
        """Of everything that was kept before: data of another size is certainly new."""
        return {_size(path) for path in self.files()}

    def _kept(self, digest: str, size: int) -> Path | None:
        """The file that has it, whole."""
        path = self._at(digest)
        return next((found for found in (path, _packed(path)) if _size(found) == size), None)

    def has(self, data: memoryview) -> bool:
        """Whether ``data`` is kept already."""
        return data.nbytes in self._sizes and self._kept(_digest(data.cast("B")), data.nbytes) is not None

    def stored(self, digest: str) -> int:
        """Bytes that it takes on the disk; 0 if it is not there."""
        path = self._at(digest)
        return sum(found.lstat().st_size for found in (path, _packed(path)) if _size(found) >= 0)

    def get(self, digest: str, size: int) -> memoryview:
        """The bytes of ``digest``, as memory that may be written without changing the store. Raises Untrusted."""
        path = self._at(digest)
        file = next((found for found in (path, _packed(path)) if os.path.lexists(found)), path)
        view = _read(file)
        if file != path:
            try:
                view = packing.unpack(view, size)
            except packing.Damaged as error:
                raise Untrusted(f"{file.name} is damaged: {error}: submit the cell again") from None
        if view.nbytes != size:
            raise Untrusted(f"{file.name} has {view.nbytes} bytes and should have {size}: submit the cell again")
        if _digest(view) != digest:
            raise Untrusted(f"{file.name} was changed since it was written: submit the cell again")
        return view

    def path(self, digest: str) -> Path:
        """Where ``digest`` is kept. Raises Untrusted for what is no digest."""
        if not _DIGEST.fullmatch(digest):
            raise Untrusted(f"{digest[:80]!r} is no digest: 64 hexadecimal digits are")
        return self.folder / digest[:2] / digest

    def _at(self, digest: str) -> Path:
        """The same, by the folder that is held."""
        return self._own.path / self.path(digest).relative_to(self.folder)

    def files(self) -> Iterator[Path]:
        """Of all pieces, and drafts of such, by the folder that is held."""
        for path in self._own.path.glob("*/*"):
            if path.parent.name == "drafts" or _DIGEST.fullmatch(digest_of(path)):
                yield path


def digest_of(file: Path) -> str:
    """Of the piece that a file of a store has, by the file's name."""
    return file.name.removesuffix(_PACKED)


def _packed(path: Path) -> Path:
    return path.with_name(path.name + _PACKED)


def _size(path: Path) -> int:
    """Bytes of the piece in a file; -1 if it is not there, or not whole."""
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            return -1
        if path.suffix != _PACKED:
            return status.st_size
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            size, stored = packing.sizes(file.read(packing.HEAD_SIZE))
    except (OSError, packing.Damaged):
        return -1
    return size if stored == status.st_size else -1


def _read(path: Path) -> memoryview:
    """A file of our own, as memory that may be written without changing it. Raises Untrusted."""
    try:
        file = open_own(path)
    except FileNotFoundError as error:
        raise Untrusted(f"{path.name}: cannot be read ({error.strerror}): submit the cell again") from None
    with file:
        if not (size := os.fstat(file.fileno()).st_size):
            return memoryview(b"")
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        return memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY))


def _digest(view: memoryview) -> str:
    return str(blake3(view, max_threads=blake3.AUTO).hexdigest())
