"""Bringing a state back from a backup: all is checked and laid ready before anything of the old one is touched."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import sqlalchemy as sa

from ...reservations.agent.records import sync_folder
from ...reservations.deployment import FILE_NAME, DeploymentError, load_deployment
from ...reservations.ledger import rowcopy
from . import plan as plans
from .archive import Archive
from .contents import FILES, LEDGER, SET_ASIDE, SIDE, belonging
from .making import keep_ledger, ledger_engine, plainly, reading
from .manifest import BackupError, Manifest, file_part, table_part
from .plan import LEDGER_ROWS, STATE, Plan, folder_of

SPARE = 64 << 20
"""Bytes that stay free on the disk."""
LEDGER_FILES = tuple(f"{LEDGER}{side}" for side in ("", *SIDE))


@dataclass(frozen=True)
class Wish:
    """``ledger_url``: the database named for the ledger; empty: as in the backup. ``replace``: what is there may be set
    aside."""

    state_dir: Path
    ledger_url: str = ""
    replace: bool = False


def restore(archive: Archive, wish: Wish) -> Plan:
    """Bring the state back, and say what was done. The caller has made sure that nothing runs there. Raises
    BackupError; then nothing was changed, unless it says so."""
    state_dir, manifest = wish.state_dir, archive.manifest
    if plans.pending(state_dir):
        raise BackupError("a restore into it was interrupted: run `timeshare restore --finish` first")
    _check_format(manifest)
    archive.check()
    _check_room(state_dir, manifest)
    away = tuple(name for name in _replaced(manifest) if os.path.lexists(state_dir / name))
    url = _database(archive, wish)
    held = bool(url) and _holds_rows(url)
    if (away or held) and not wish.replace:
        what = ", ".join((*away, *(["the database of the ledger"] if held else [])))
        raise BackupError(f"{state_dir} is not empty ({what}): with --replace that is set aside, nothing is deleted")
    plan = _plan(manifest, url, away)
    shutil.rmtree(folder_of(state_dir), ignore_errors=True)
    try:
        _lay_ready(archive, state_dir, plan)
        if held:
            aside = state_dir / plan.aside
            aside.mkdir(mode=0o700)
            keep_ledger(state_dir, url, aside / "ledger.backup")
    except (OSError, sa.exc.SQLAlchemyError, ValueError, BackupError) as error:
        shutil.rmtree(folder_of(state_dir), ignore_errors=True)
        shutil.rmtree(state_dir / plan.aside, ignore_errors=True)
        said = str(error) if isinstance(error, BackupError) else plainly(error)
        raise BackupError(f"{said}; nothing was changed") from None
    plans.commit(state_dir, plan)
    plans.finish(state_dir, plan)
    return plan


def _is_whole(manifest: Manifest) -> bool:
    """Whether it is of a deployment; else of a ledger alone."""
    return file_part(FILE_NAME) in manifest.parts


def _replaced(manifest: Manifest) -> tuple[str, ...]:
    return belonging() if _is_whole(manifest) else LEDGER_FILES


def _check_format(manifest: Manifest) -> None:
    with _nowhere() as connection:
        known = rowcopy.known_revisions(connection)
    if manifest.revision not in known:
        raise BackupError(
            f"its ledger has format {manifest.revision}, and this version of timeshare knows them up to {max(known)}: "
            f"use timeshare {manifest.timeshare} or a later one"
        )


@contextmanager
def _nowhere() -> Iterator[sa.Connection]:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _check_room(state_dir: Path, manifest: Manifest) -> None:
    free, needed = shutil.disk_usage(state_dir).free, 2 * manifest.size + SPARE
    if free < needed:
        have = f"{free >> 20} MiB are free"
        raise BackupError(f"{state_dir} needs {needed >> 20} MiB for it and {have}: make room; nothing was changed")


def _database(archive: Archive, wish: Wish) -> str:
    """The database that is to be the ledger; empty: a file in the state folder."""
    url = wish.ledger_url or _told_url(archive, wish.state_dir)
    return "" if sa.make_url(url).get_backend_name() == "sqlite" else url


def _told_url(archive: Archive, state_dir: Path) -> str:
    if not _is_whole(archive.manifest):
        try:
            return load_deployment(state_dir / FILE_NAME).ledger_url
        except DeploymentError:
            return "sqlite://"
    try:
        url = json.loads(_bytes(archive, file_part(FILE_NAME)))["ledger_url"]
        sa.make_url(url)
    except (ValueError, TypeError, KeyError, sa.exc.ArgumentError):
        raise BackupError(f"its {FILE_NAME} is damaged: name the ledger's database by --ledger") from None
    return str(url)


def _bytes(archive: Archive, part: str) -> bytes:
    pieces: list[bytes] = []
    archive.copy(part, pieces.append)
    return b"".join(pieces)


def _holds_rows(url: str) -> bool:
    try:
        with reading(url) as connection:
            return not rowcopy.is_empty(connection)
    except sa.exc.SQLAlchemyError as error:
        message = f"the database of the ledger does not answer ({plainly(error)}); nothing was changed"
        raise BackupError(message) from None


def _plan(manifest: Manifest, url: str, away: tuple[str, ...]) -> Plan:
    name = uuid.uuid4().hex
    files = [part.removeprefix("state/") for part in manifest.parts if part.startswith("state/")]
    return Plan(
        name=name,
        aside=f"{SET_ASIDE}{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{name[:4]}",
        put=(*sorted(files), *([] if url else [LEDGER])),
        away=away,
        ledger_url=url,
        revision=manifest.revision,
        columns={table: tuple(names) for table, names in manifest.columns.items()},
    )


def _lay_ready(archive: Archive, state_dir: Path, plan: Plan) -> None:
    """Everything as it will lie there, on the disk before anybody relies on it."""
    folder = folder_of(state_dir)
    new, rows = folder / STATE, folder / LEDGER_ROWS
    for made in (folder, new, rows):
        made.mkdir(mode=0o700)
    for table, names in plan.columns.items():
        path = rows / f"{table}.jsonl"
        _extract(archive, table_part(table), path)
        with open(path, encoding="utf-8") as told:  # before anything is promised: filling only goes forward
            rowcopy.check(told, names, table)
    for name in plan.put:
        if name != LEDGER:
            _extract(archive, file_part(name), new / name)
    if (new / FILE_NAME).exists():
        _settle(new / FILE_NAME, Path(archive.manifest.state_dir), state_dir, plan.ledger_url)
    if not plan.ledger_url:
        _build_file(new / LEDGER, plan, rows)
    for made in (new, rows, folder):
        sync_folder(made)


def _extract(archive: Archive, part: str, path: Path) -> None:
    with open(_new(path), "wb") as file:
        archive.copy(part, file.write)
        file.flush()
        os.fsync(file.fileno())


def _new(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)


def _settle(path: Path, before: Path, state_dir: Path, url: str) -> None:
    """The deployment as it is here: its folder may be another one."""
    told = json.loads(path.read_bytes())
    if not isinstance(told, dict):
        raise ValueError(f"{FILE_NAME} in it is no deployment")
    told["state_dir"], told["ledger_url"] = str(state_dir), url or f"sqlite:///{state_dir / LEDGER}"
    limits = Path(str(told.get("limits_path") or ""))
    if limits.parent == before and limits.name in FILES:
        told["limits_path"] = str(state_dir / limits.name)
    path.unlink()
    with open(_new(path), "w", encoding="utf-8") as file:
        json.dump(told, file, indent=2)
        file.flush()
        os.fsync(file.fileno())


def _build_file(path: Path, plan: Plan, rows: Path) -> None:
    os.close(_new(path))
    plans.fill(f"sqlite:///{path}", plan, rows)
    with closing(ledger_engine(f"sqlite:///{path}").raw_connection()) as connection:
        found = connection.cursor().execute("PRAGMA quick_check").fetchone()
    if found != ("ok",):
        raise BackupError(f"the ledger that was made is not sound ({found[0]}): is the disk?")
    with open(path, "rb") as file:
        os.fsync(file.fileno())
