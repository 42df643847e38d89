"""Making a backup, also while the deployment runs: of each database one moment, the hub's before the ledger's.

In this order: what began between the two is in the ledger, which then counts its share as held, and never the other way
round.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import sqlalchemy as sa

from ...reservations.agent.records import sync_folder
from ...reservations.clock import rfc3339
from ...reservations.deployment import FILE_NAME, Deployment, load_deployment
from ...reservations.files import open_plain
from ...reservations.ledger import rowcopy
from ..run.folders import check_way
from .archive import PIECE, Writer
from .contents import FILES, HUB, LIMITS_ELSEWHERE, RESTORING, hub_database_elsewhere, others
from .manifest import BackupError, Manifest, file_part, table_part

WORK = ".timeshare-backup-"
LARGEST_FILE = 16 << 20
"""Of a file that is taken as it is: limits and configuration."""


@dataclass
class Contents:
    """What was put into a backup so far."""

    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    revision: str = ""
    database: str = ""


def make_backup(state_dir: Path, target: Path) -> tuple[Path, Manifest]:
    """Write a backup of the deployment in ``state_dir``: a new file called ``target``, or in that folder. Its path and
    manifest. Raises BackupError, DeploymentError, FolderError."""
    if (state_dir / RESTORING / "plan.json").exists():
        raise BackupError("a restore into it was interrupted: run `timeshare restore --finish` first")
    deployment = load_deployment(state_dir / FILE_NAME)
    now = datetime.now(timezone.utc)
    path = target / f"timeshare-{now:%Y%m%d-%H%M%S}.backup" if target.is_dir() else target
    return path, _written(path, Source(state_dir, deployment.ledger_url, deployment))


def keep_ledger(state_dir: Path, url: str, path: Path) -> None:
    """Write a backup of nothing but the ledger at ``url``. Raises BackupError."""
    _written(path, Source(state_dir, url))


@dataclass(frozen=True)
class Source:
    """What is backed up. ``deployment`` None: the ledger alone."""

    state_dir: Path
    ledger_url: str
    deployment: Deployment | None = None


def _written(path: Path, source: Source) -> Manifest:
    try:
        if os.path.lexists(path):
            raise BackupError(f"{path} is there already, and no backup is overwritten: name another file, or a folder")
        with _work_folder(path.parent) as work:
            manifest = _write(source, work)
            _publish(work / "backup", path)
    except OSError as error:
        raise BackupError(f"{error.filename or path}: {error.strerror}; nothing was left there") from None
    return manifest


@contextlib.contextmanager
def _work_folder(folder: Path) -> Iterator[Path]:
    """A private folder in ``folder`` that goes away afterwards; those that earlier, killed runs left there too."""
    work = folder / f"{WORK}{secrets.token_hex(4)}"
    work.mkdir(mode=0o700)
    try:
        check_way(work, option="--to")  # else others could lead what is written here, by links, to files elsewhere
        for left in folder.glob(f"{WORK}*"):
            if left != work:
                _remove_unused(left)
        with open(work / "lock", "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _remove_unused(left: Path) -> None:
    with contextlib.suppress(OSError):
        if left.is_symlink() or left.stat().st_uid != os.geteuid():
            return
        with open(left / "lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # whoever is at work holds it
            shutil.rmtree(left, ignore_errors=True)


def _write(source: Source, work: Path) -> Manifest:
    contents, state_dir = Contents(), source.state_dir
    draft = os.open(work / "backup", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    with open(draft, "w+b") as file, Writer(file) as writer:
        if source.deployment is not None:
            _add_hub(state_dir, work, writer, contents)
        _add_ledger(source.ledger_url, writer, contents)
        if source.deployment is not None:
            _add_files(state_dir, source.deployment, writer, contents)
            contents.notes += [f"{name} is not in it: no file of timeshare" for name in others(state_dir)]
        manifest = Manifest(
            timeshare=version("timeshare"),
            made_at=rfc3339(time.time()) or "",
            state_dir=str(state_dir),
            database=contents.database,
            revision=contents.revision,
            columns=contents.columns,
            rows=contents.rows,
            parts=writer.parts,
            notes=tuple(contents.notes),
        )
        writer.close(manifest)
        file.flush()
        os.fsync(file.fileno())
    return manifest


def _publish(draft: Path, path: Path) -> None:
    """Give it its name, unless somebody took that meanwhile."""
    try:
        os.link(draft, path, follow_symlinks=False)
    except FileExistsError:
        raise BackupError(f"{path} is there already, and no backup is overwritten: name another file") from None
    except OSError:  # a file system without hard links
        os.rename(draft, path)
    sync_folder(path.parent)


def _add_hub(state_dir: Path, work: Path, writer: Writer, contents: Contents) -> None:
    if line := hub_database_elsewhere(state_dir):
        contents.notes.append(
            f"jupyterhub_site.py names another database of JupyterHub (line {line}, db_url): that one is not in it, "
            "back it up by its own means"
        )
    elif not (state_dir / HUB).exists():
        contents.notes.append(f"{HUB} is not there: JupyterHub has not run yet")
    if (state_dir / HUB).exists():
        writer.add(file_part(HUB), _pieces(copied(state_dir / HUB, work / HUB)))


def copied(database: Path, to: Path) -> Path:
    """Copy one moment of an SQLite database, whoever writes to it meanwhile. Raises BackupError."""
    try:
        with (
            contextlib.closing(sqlite3.connect(database, timeout=30)) as source,
            contextlib.closing(sqlite3.connect(to)) as copy,
        ):
            source.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.Error as error:
        raise BackupError(f"{database} cannot be read: {error}") from None
    return to


def _pieces(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            yield piece


def _add_ledger(url: str, writer: Writer, contents: Contents) -> None:
    try:
        with reading(url) as connection:
            contents.database = connection.dialect.name
            contents.revision = rowcopy.revision(connection)
            for table, names in rowcopy.columns(connection).items():
                contents.columns[table], contents.rows[table] = tuple(names), 0
                writer.add(table_part(table), _counted(connection, table, names, contents))
    except sa.exc.SQLAlchemyError as error:
        raise BackupError(f"the ledger cannot be read: {plainly(error)}") from None
    if not contents.revision:
        raise BackupError("the ledger is empty: timeshare has not run yet")


def _counted(connection: sa.Connection, table: str, names: Sequence[str], contents: Contents) -> Iterator[bytes]:
    for line in rowcopy.lines(connection, table, names):
        contents.rows[table] += 1
        yield f"{line}\n".encode()


@contextlib.contextmanager
def reading(url: str) -> Iterator[sa.Connection]:
    """A connection that sees one moment of the ledger and changes nothing. Raises BackupError, SQLAlchemyError."""
    engine = ledger_engine(url)
    try:
        with engine.connect() as connection:
            if connection.dialect.name != "sqlite":
                connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                yield connection
    finally:
        engine.dispose()


def ledger_engine(url: str) -> sa.Engine:
    """To a ledger that is there; text that is no text comes as it is. Raises BackupError when there is none."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return sa.create_engine(parsed, poolclass=sa.NullPool)
    if not parsed.database or not Path(parsed.database).exists():
        raise BackupError(f"the ledger {parsed.database} is not there: timeshare has not run yet")
    engine = sa.create_engine(parsed, poolclass=sa.NullPool, connect_args={"timeout": 30})

    @sa.event.listens_for(engine, "connect")
    def _as_it_is(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def plainly(error: Exception) -> str:
    """What a database says, in its own words."""
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]


def _add_files(state_dir: Path, deployment: Deployment, writer: Writer, contents: Contents) -> None:
    for name in FILES:
        if os.path.lexists(state_dir / name):
            writer.add(file_part(name), [_small(state_dir / name)])
    limits = Path(deployment.limits_path) if deployment.limits_path else None
    if limits is not None and limits.parent != state_dir:
        contents.notes.append(f"the limits are {limits}: a copy of that file is in it, as {LIMITS_ELSEWHERE}")
        if limits.exists():
            writer.add(file_part(LIMITS_ELSEWHERE), [_small(limits)])


def _small(path: Path) -> bytes:
    with open_plain(path) as file:
        data = file.read(LARGEST_FILE + 1)
    if len(data) > LARGEST_FILE:
        raise BackupError(f"{path} is larger than {LARGEST_FILE >> 20} MiB: it is not what its name says")
    return data


def named(manifest: Manifest) -> list[str]:
    """What is in a backup, in words."""
    files = sorted(name.removeprefix("state/") for name in manifest.parts if name.startswith("state/"))
    rows = manifest.rows
    counted = ", ".join(f"{rows[name]} {name}" for name in ("reservations", "charges", "overrides") if name in rows)
    return [
        f"made {manifest.made_at} of {manifest.state_dir} by timeshare {manifest.timeshare}",
        f"ledger ({manifest.database}, format {manifest.revision}): {counted}",
        f"files: {', '.join(files)}",
        *(f"note: {note}" for note in manifest.notes),
    ]
