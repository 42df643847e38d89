"""A job's folder: what is in it, and how it is written so that a reader never sees half of it.

job.json        what to run; written before the job is submitted, never changed
spool.jsonl     every message of the kernel, one a line, numbered from 1 over all attempts
checkpoint.json how far a resumable loop is, and its state; survives attempts
results.json    what came back: the header of a snapshot, and what could not be returned and why; signed
status.json     how it ended; written last, so whoever sees it finds the rest
job.ipynb       the cell with its outputs, for any notebook program
stop            somebody wants the job to end at the next step
ranks/R/        of a cell that runs as several processes: what rank R put out, as spool.jsonl; rank 0 is the job itself
"""

from __future__ import annotations

import io
import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from ..capture.own import OwnFolder, Untrusted, open_own
from ..capture.snapshot import Header
from .torchrun import LAUNCHES, Layout

MAX_FILE = 64 * 1024 * 1024
PRIVATE = "TIMESHARE_JOB_PRIVATE"
"""Variable with a folder of the kernel on its node, below one that lets nobody rename it; it goes with the kernel."""


@dataclass(frozen=True)
class Job:
    """What to run. ``cell``: its source as it was typed. ``returns``: names to bring back whether or not they changed;
    ``store``: where the pieces of ``snapshot`` are kept. ``path``: the notebook's import path, in its order.
    ``environment``: variables that the cell is to see. ``modules``: local source files, by relative path, as digest
    and size; ``packages``: the versions that the notebook has of what the snapshot imports. ``point``: what a sweep
    sets. ``trials``: which way a trial's value is better; empty when it is none. ``launch``: ``torchrun`` for a cell
    that runs as ``processes`` on each of ``nodes``; empty: as one. ``stream``: whose random numbers it draws; empty:
    the notebook's."""

    id: str
    cell: str
    snapshot: Header
    store: str
    cwd: str
    path: tuple[str, ...] = ()
    returns: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    modules: dict[str, tuple[str, int]] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    point: dict[str, Any] = field(default_factory=dict)
    trials: str = ""
    launch: str = ""
    nodes: int = 1
    processes: int = 1
    stream: str = ""

    @property
    def layout(self) -> Layout:
        return Layout(self.nodes, self.processes) if self.launch else Layout()

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "snapshot": json.loads(self.snapshot.to_json())}, indent=1)

    @staticmethod
    def from_json(text: str) -> Job:
        """Raises ValueError for anything but a job."""
        data = json.loads(text)
        if isinstance(data, dict):
            data.setdefault("stream", "")  # of a job that an earlier version submitted
        if not isinstance(data, dict) or set(data) != set(Job.__dataclass_fields__):
            raise ValueError("this is not a job")
        try:
            return Job(
                **{name: str(data[name]) for name in ("id", "cell", "store", "cwd", "trials", "stream")},
                launch=_launch(data["launch"]),
                nodes=max(1, int(data["nodes"])),
                processes=max(1, int(data["processes"])),
                snapshot=Header.from_json(json.dumps(data["snapshot"])),
                path=tuple(map(str, data["path"])),
                returns=tuple(map(str, data["returns"])),
                environment={str(name): str(value) for name, value in data["environment"].items()},
                modules={str(name): (str(piece[0]), int(piece[1])) for name, piece in data["modules"].items()},
                packages={str(name): str(version) for name, version in data["packages"].items()},
                point=dict(data["point"]),
            )
        except (AttributeError, TypeError, IndexError) as error:
            raise ValueError(f"this is not a job: {error}") from None


def _launch(value: Any) -> str:
    if value not in LAUNCHES:
        raise ValueError(f"launch is {value!r}: this runner knows {', '.join(filter(None, LAUNCHES))}")
    return str(value)


class Folder:
    """Raises Untrusted for a folder, or a file in it, that is not the account's own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._own = OwnFolder(path)
        except FileNotFoundError:
            raise Untrusted(f"{path} does not exist: the job was removed, or belongs to another machine") from None

    @staticmethod
    def make(path: Path, job: Job) -> Folder:
        path.mkdir(mode=0o700, parents=True)
        folder = Folder(path)
        folder.write("job.json", job.to_json())
        return folder

    def at(self, name: str) -> Path:
        """Where ``name`` is in this folder, even if another folder has its name by now; while this object lives."""
        return self._own.path / name

    def job(self, digest: str = "") -> Job:
        """Raises Untrusted unless its file has ``digest``, if one is given."""
        text = self.read("job.json")
        if digest and self.digest() != digest:
            raise Untrusted(f"{self.path / 'job.json'} was changed since it was submitted: submit the cell again")
        return Job.from_json(text)

    def digest(self) -> str:
        """Of what is to be run."""
        return str(blake3(self.read("job.json").encode()).hexdigest())

    def status(self) -> dict[str, Any] | None:
        """How it ended; None while it has not."""
        text = self.read_if_there("status.json")
        return None if text is None else dict(json.loads(text))

    def write(self, name: str, text: str) -> None:
        """At once or not at all, and on the disk when this returns."""
        draft = self.at(f".{name}.{secrets.token_hex(4)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.at(name))
        except OSError:  # such as a full disk, which half of it would only make fuller
            draft.unlink(missing_ok=True)
            raise

    def read(self, name: str) -> str:
        text = self.read_if_there(name)
        if text is None:
            raise Untrusted(f"{self.path / name} does not exist: this is not a job's folder, or not a whole one")
        return text

    def read_if_there(self, name: str) -> str | None:
        try:
            file = open_own(self.at(name))
        except FileNotFoundError:
            return None
        with io.TextIOWrapper(file, encoding="utf-8") as text:
            return text.read(MAX_FILE)


def folder_of(job: Path, rank: int) -> Path:
    """Where the outputs of ``rank`` are in a job's folder; those of rank 0 are the job's own."""
    return job / "ranks" / str(rank) if rank else job
