"""The backup file: a ZIP whose parts are named in its manifest.

Nothing is unpacked by the names or kinds that the ZIP gives: parts are read, one by one, by names that are known here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from ...reservations.files import open_plain
from .manifest import LARGEST, NAME, PARTS, BackupError, Manifest, Part, read_manifest

PIECE = 1 << 20
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, struct.error, ValueError)


class Writer:
    """Writes parts into ``file``, and counts them."""

    def __init__(self, file: IO[bytes]) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6)
        self.parts: dict[str, Part] = {}

    def add(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write a part."""
        digest, size = hashlib.sha256(), 0
        with self._zip.open(_entry(name), "w", force_zip64=True) as part:
            for piece in pieces:
                part.write(piece)
                digest.update(piece)
                size += len(piece)
        self.parts[name] = Part(size, digest.hexdigest())

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        """What was not ended in order is nothing; ended all the same, while its file is open."""
        with contextlib.suppress(OSError, ValueError):
            self._zip.close()

    def close(self, manifest: Manifest) -> None:
        """Write the manifest and the end."""
        with self._zip.open(_entry(NAME), "w") as part:
            part.write(manifest.text().encode())
        self._zip.close()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o600 << 16
    return entry


class Archive:
    """A backup that was opened, its manifest read. ``copy`` gives parts."""

    def __init__(self, file: IO[bytes]) -> None:
        try:
            self._zip = zipfile.ZipFile(file)
            self.manifest = self._manifest()
        except _DAMAGED as error:
            raise BackupError(f"it is damaged, or no backup of timeshare ({error})") from None

    def _manifest(self) -> Manifest:
        entries = self._zip.infolist()
        names = [entry.filename for entry in entries]
        if NAME not in names:
            raise BackupError("it has no manifest: it is no backup of timeshare")
        odd = [name for name in names if name not in PARTS and name != NAME]
        if odd or len(set(names)) != len(names):
            raise BackupError(f"it holds what no backup does ({(odd or names)[0][:80]!r}): nothing of it is used")
        if any(entry.compress_type not in PACKED for entry in entries):
            raise BackupError("its parts are packed as no backup's are: it is damaged")
        if self._zip.getinfo(NAME).file_size > LARGEST:
            raise BackupError("its manifest is too long: it is damaged")
        with self._zip.open(NAME) as part:
            manifest = read_manifest(part.read(LARGEST))
        sizes = {entry.filename: entry.file_size for entry in entries if entry.filename != NAME}
        if sizes != {name: part.size for name, part in manifest.parts.items()}:
            raise BackupError("its parts are not those that its manifest names: it is damaged")
        return manifest

    def copy(self, name: str, write: Callable[[bytes], object]) -> None:
        """Give the bytes of a part to ``write``, no more than its manifest says. Raises BackupError when they are
        others."""
        wanted, digest, left = self.manifest.parts[name], hashlib.sha256(), self.manifest.parts[name].size
        try:
            with self._zip.open(name) as part:
                while piece := part.read(min(PIECE, left + 1)):
                    left -= len(piece)
                    if left < 0:
                        break
                    digest.update(piece)
                    write(piece)
        except _DAMAGED as error:
            raise BackupError(f"its part {name} is damaged ({error}): use another backup") from None
        if left or digest.hexdigest() != wanted.sha256:
            raise BackupError(f"its part {name} is not what was written: it is damaged, use another backup")

    def check(self) -> None:
        """Read all of it. Raises BackupError for the first part that is damaged."""
        for name in self.manifest.parts:
            self.copy(name, len)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """A backup in which others had no say: what is in it is run and obeyed. Raises BackupError."""
    try:
        file = open_plain(path)
    except OSError as error:
        raise BackupError(error.strerror or str(error)) from None
    with file:
        status = os.fstat(file.fileno())
        if status.st_uid not in (0, os.geteuid()):
            raise BackupError(f"it belongs to another account (number {status.st_uid}): `chown` it if you trust it")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise BackupError(f"others can write to it (mode {status.st_mode & 0o777:o}): `chmod 600` it")
        yield Archive(file)
