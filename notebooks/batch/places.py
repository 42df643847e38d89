"""Where a person's jobs lie: one folder for each, and one store for what they share."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..capture.own import OwnFolder, Untrusted
from ..capture.store import Store, digest_of
from ..runner.folder import Folder

VARIABLE = "TIMESHARE_DATA"
REQUEST = "request.json"
"""In a job's folder, what the service was asked for."""
_REMOVED = re.compile(r"\..+\.[0-9a-f]{8}")
"""Names of folders of jobs that are being removed."""
SETTLED_S = 3600.0
"""A piece that nothing refers to is kept this long: its job may just be about to be written."""


@dataclass(frozen=True)
class Places:
    """``root`` has ``jobs`` and ``store``; nobody else can read them. Raises Untrusted if they are somebody else's."""

    root: Path

    @staticmethod
    def own() -> Places:
        """In TIMESHARE_DATA, else among her data files; every node that runs her jobs must see the same folder."""
        told = os.environ.get(VARIABLE)
        base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
        return Places(Path(told) if told else Path(base) / "timeshare")

    @property
    def jobs(self) -> Path:
        folder = self.root / "jobs"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        OwnFolder(folder)
        return folder

    @property
    def store(self) -> Store:
        return Store(self.root / "store")

    def new_id(self) -> str:
        """The day and something random: ``1124-3f9a1c``."""
        return f"{time.strftime('%m%d')}-{secrets.token_hex(4)}"

    def ids(self) -> list[str]:
        """Of all jobs, the newest first."""
        jobs = OwnFolder(self.jobs)
        folders = [entry for entry in os.scandir(jobs.path) if entry.is_dir(follow_symlinks=False)]
        dated = sorted(((_submitted_at(Path(entry.path)), entry.name) for entry in folders), reverse=True)
        return [name for _, name in dated if not name.startswith(".")]

    def folders(self, job_id: str) -> list[Path]:
        """Of the job; of a sweep those of its points, in their order."""
        top = self.jobs / job_id
        points = sorted(path for path in top.glob("[0-9]*") if path.is_dir())
        return points or [top]

    def size(self, job_id: str) -> int:
        """Bytes of the job's own files: outputs, modules, status."""
        return sum(path.lstat().st_size for path in (self.jobs / job_id).rglob("*"))

    def pieces(self, job_id: str) -> dict[str, int]:
        """What of the store the job refers to, with the bytes that it takes there."""
        found = {digest for path in self.folders(job_id) for digest in _pieces(path)}
        store = self.store
        return {digest: store.stored(digest) for digest in found}

    def total(self) -> int:
        """Bytes of everything here."""
        return sum(path.lstat().st_size for path in self.root.rglob("*") if path.is_file())

    def remove(self, job_id: str) -> None:
        """The job's folder; ``sweep`` then frees what only it used."""
        jobs = OwnFolder(self.jobs)
        top = jobs.path / job_id
        gone = top.with_name(f".{job_id}.{secrets.token_hex(4)}")
        top.rename(gone)  # at once: nobody finds half of it
        shutil.rmtree(gone)

    def sweep(self, now: float) -> int:
        """Removes pieces of the store that no job refers to; the bytes that came free."""
        used = {digest for job_id in self.ids() for path in self.folders(job_id) for digest in _pieces(path)}
        freed = 0
        store = self.store
        for path in store.files():
            status = path.lstat()
            if digest_of(path) not in used and now - status.st_mtime > SETTLED_S:
                path.unlink(missing_ok=True)
                freed += status.st_size
        jobs = OwnFolder(self.jobs)
        for path in jobs.path.glob(".*"):
            if _REMOVED.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
        return freed


def _submitted_at(folder: Path) -> float:
    """The request is written once, before the job is submitted."""
    try:
        return (folder / REQUEST).lstat().st_mtime
    except FileNotFoundError:
        return folder.lstat().st_mtime


def _pieces(path: Path) -> Iterator[str]:
    """Digests of the snapshots of a job's folder: its variables, its modules and its results."""
    try:
        folder = Folder(path)
        texts = [
            folder.read_if_there(name) for name in ("job.json", "results.json", "unsigned.json", "checkpoint.json")
        ]
    except Untrusted:
        return
    for text in texts:
        data = _body(text)
        snapshot = data.get("snapshot") or data  # a checkpoint is a snapshot
        pieces = [snapshot.get("stream"), *snapshot.get("buffers", ()), *dict(data.get("modules") or {}).values()]
        yield from (str(piece[0]) for piece in pieces if piece)


def _body(text: str | None) -> dict[str, Any]:
    """Without any check: only what to keep is read from it."""
    try:
        data = json.loads(text or "{}")
        return dict(json.loads(data["body"]) if "body" in data else data)
    except (ValueError, TypeError, KeyError):
        return {}
