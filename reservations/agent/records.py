"""What the agent remembers on disk, so that a kill between any two lines loses nothing.

``sessions/<reservation>.<generation>/`` is one start: ``order.json`` (before anything runs), ``shim.json`` (the
launcher's identity, before the server runs), ``exit.json`` (after the last process is gone), ``abandoned`` (it never
ran and never may), ``lock`` (held by the launcher as long as it lives). ``stops/<reservation>.json`` is a tombstone:
no start of that reservation may run any more.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import threading
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""What reading a damaged record raises: of that start alone nobody can say anything."""
ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
MAX_GENERATION = 999_999_999
_NAME = re.compile(rf"(?!removed-)({ID_PATTERN.pattern})\.([1-9][0-9]{{0,8}})")


@dataclass(frozen=True)
class SharePart:
    """What a session holds of one device; ``instance_uuid`` is empty unless it is a MIG instance."""

    device_uuid: str
    instance_uuid: str
    memory_mib: int
    compute: int
    whole: bool


@dataclass(frozen=True)
class Order:
    """One start as the hub asked for it. ``user``: account to run as; None for the agent's own. ``cwd`` None: home.
    ``ends_at``: RFC 3339 text for the session's environment, or None. ``cpus``, ``memory_mib``: see
    ``cgroups.Bounds``. ``server_socket``: it gets a folder of its own for its server's socket. The agent adds ``uid``,
    that of the account, and ``group``, the folders of its control group."""

    reservation_id: str
    generation: int
    owner: str
    user: str | None
    argv: tuple[str, ...]
    cwd: str | None
    log_path: str | None
    share: tuple[SharePart, ...]
    share_text: str = ""
    ends_at: str | None = None
    server_socket: bool = False
    enforcement: str = ""
    started_at: float = 0.0
    filter: dict[str, Any] = field(default_factory=dict)
    cpus: float | None = None
    memory_mib: int | None = None
    uid: int | None = None
    group: tuple[str, ...] = ()


@dataclass(frozen=True)
class Gate:
    """What a session holds now, and the filter that it runs behind. ``turn``: how often that was changed since its
    start. ``left``: UUIDs of the devices that it held before, and may still be using."""

    share: tuple[SharePart, ...]
    filter: dict[str, Any]
    turn: int
    left: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[str, ...]:
        """UUIDs of all devices that it may be using."""
        return tuple(dict.fromkeys((*(part.device_uuid for part in self.share), *self.left)))


@dataclass(frozen=True)
class Shim:
    """The launcher: its pid, start time (clock ticks since boot) and the boot it belongs to."""

    pid: int
    ticks: int
    boot_id: str
    main_pid: int


@dataclass(frozen=True)
class Tombstone:
    """How a reservation is brought to its end. Times are seconds since boot, of boot ``boot_id``. ``generation``: the
    last start that it forbids; a job that was requeued begins again with a higher one."""

    boot_id: str
    interrupt: bool
    term_at: float
    kill_at: float
    generation: int = MAX_GENERATION

    def forbids(self, generation: int) -> bool:
        return generation <= self.generation


class Record:
    """One start of one reservation on disk."""

    def __init__(self, path: Path) -> None:
        match = _NAME.fullmatch(path.name)
        assert match is not None
        self.path = path
        self.reservation_id, self.generation = match[1], int(match[2])
        self.key = (self.reservation_id, self.generation)

    def order(self) -> Order:
        data = json.loads((self.path / "order.json").read_text())
        share = tuple(SharePart(**part) for part in data.pop("share"))
        return Order(**{**data, "argv": tuple(data["argv"]), "group": tuple(data.get("group", ())), "share": share})

    def gate(self) -> Gate:
        """What it holds now, and behind which filter."""
        changed = read_json(self.path / "gate.json")
        if changed is None:
            order = self.order()
            return Gate(order.share, order.filter, 0)
        share = tuple(SharePart(**part) for part in changed["share"])
        return Gate(share, changed["filter"], changed["turn"], tuple(changed.get("left", ())))

    def write_gate(self, share: tuple[SharePart, ...], filter_: dict[str, Any], turn: int) -> None:
        before = self.gate()
        left = tuple(part.device_uuid for part in before.share) or before.left
        durable_write(self.path / "gate.json", asdict(Gate(share, filter_, turn, left)))

    def order_with(self, share: tuple[SharePart, ...]) -> Order:
        """Its order as if it had asked for ``share``."""
        return replace(self.order(), share=share)

    def older_cgroups(self) -> list[Path]:
        """Of filters that it ran behind before, the first of them of its order."""
        now = self.gate()
        first = [Path(folder) for folder in self.order().filter.get("cgroups", ())] if now.turn else []
        between = [folder.with_name(str(turn)) for folder in first for turn in range(1, now.turn)]
        return [*first, *between]

    def shim(self) -> Shim | None:
        data = read_json(self.path / "shim.json")
        return None if data is None else Shim(**data)

    def exit(self) -> dict[str, Any] | None:
        """``code`` (None: unknown) and ``message`` once nothing of it runs any more."""
        if (self.path / "abandoned").exists():
            return {"code": None, "message": "it was never started"}
        return read_json(self.path / "exit.json")

    def exit_written(self) -> bool:
        """Whether somebody saw how it ended."""
        return (self.path / "exit.json").exists()

    def write_exit(self, code: int | None, message: str) -> None:
        durable_write(self.path / "exit.json", {"code": code, "message": message})

    def note(self) -> str:
        """Why the watchdog ended the server; empty when it did not."""
        return str((read_json(self.path / "note.json") or {}).get("message", ""))

    def write_note(self, message: str) -> None:
        durable_write(self.path / "note.json", {"message": message})

    def launcher_lives(self) -> bool:
        """True while the launcher holds its lock, which the kernel lets go with the process and not before."""
        with open(self.path / "lock", "ab") as file:
            try:
                # Shared: two looks at the same time must not take each other for the launcher.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    def abandon_unless_started(self) -> bool:
        """Forbids a launcher that has not begun to begin. False when one has: it holds the lock, or left a trace."""
        with open(self.path / "lock", "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            if (self.path / "shim.json").exists():
                return False
            durable_write(self.path / "abandoned", {})
            return True

    def remove(self) -> None:
        doomed = self.path.with_name(f"removed-{self.path.name}")
        self.path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


class Records:
    """All starts and tombstones below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sessions = root / "sessions"
        self.stops = root / "stops"
        for folder in (root, self.sessions, self.stops):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in self.sessions.glob("removed-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def create(self, order: Order) -> Record:
        """Durable when it returns. The environment is no part of it: it holds a token."""
        draft = self.sessions / f"removed-{order.reservation_id}.{order.generation}.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        durable_write(draft / "order.json", asdict(order))
        (draft / "lock").touch(mode=0o600)
        path = self.sessions / f"{order.reservation_id}.{order.generation}"
        draft.rename(path)
        sync_folder(self.sessions)
        return Record(path)

    def find(self, reservation_id: str, generation: int) -> Record | None:
        path = self.sessions / f"{reservation_id}.{generation}"
        return Record(path) if path.is_dir() else None

    def all(self) -> list[Record]:
        names = sorted(entry.name for entry in self.sessions.iterdir())
        return [Record(self.sessions / name) for name in names if _NAME.fullmatch(name)]

    def of(self, reservation_id: str) -> list[Record]:
        """Its starts, the lowest generation first."""
        found = [record for record in self.all() if record.reservation_id == reservation_id]
        return sorted(found, key=lambda record: record.generation)

    def tombstone(self, reservation_id: str) -> Tombstone | None:
        data = read_json(self.stops / f"{reservation_id}.json")
        return None if data is None else Tombstone(**data)

    def forbidden(self, reservation_id: str, generation: int) -> bool:
        """Whether this start of it was stopped, or stopped before it began."""
        tombstone = self.tombstone(reservation_id)
        return tombstone is not None and tombstone.forbids(generation)

    def exhume(self, reservation_id: str) -> None:
        """Drops the tombstone of earlier starts: a later one begins."""
        (self.stops / f"{reservation_id}.json").unlink(missing_ok=True)

    def bury(self, reservation_id: str, tombstone: Tombstone) -> None:
        durable_write(self.stops / f"{reservation_id}.json", asdict(tombstone))


def durable_write(path: Path, data: Any) -> None:
    """All of it or nothing, and on disk when it returns."""
    # Two threads may write the same fact at the same time; each needs a draft of its own.
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(data, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:  # such as a full disk, which half of it would only make fuller
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None when there is no file. Raises one of ``UNREADABLE``."""
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    if not isinstance(data, dict):
        raise ValueError(f"{path.name} holds no object")
    return data
