"""A restore that has begun: what it does yet, written down before anything of the old state is touched.

From then on every step is done once however often it is begun: a kill between any two is made good by ``finish``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ...reservations.agent.records import durable_write, sync_folder
from ...reservations.ledger import rowcopy
from .contents import RESTORING
from .making import ledger_engine, plainly
from .manifest import BackupError

FILE = "plan.json"
STATE, LEDGER_ROWS = "state", "ledger"
"""In the folder of a restore: files as they will lie in the state folder, and the ledger's rows by table."""


@dataclass(frozen=True)
class Plan:
    """``name``: of this restore. ``aside``: the folder, in the state folder, that gets what was there. ``put``: files
    to put in place; ``away``: what goes aside. ``ledger_url``: a database to fill; empty: the ledger is a file.
    ``revision``, ``columns``: of the rows it is filled with."""

    name: str
    aside: str
    put: tuple[str, ...]
    away: tuple[str, ...]
    ledger_url: str
    revision: str
    columns: dict[str, tuple[str, ...]]


def folder_of(state_dir: Path) -> Path:
    """Return the folder of a restore into ``state_dir``."""
    return state_dir / RESTORING


def pending(state_dir: Path) -> bool:
    """Whether a restore has begun there and is not done."""
    return (folder_of(state_dir) / FILE).exists()


def commit(state_dir: Path, plan: Plan) -> None:
    """Write the plan down: from now on the restore is carried on, not taken back."""
    durable_write(folder_of(state_dir) / FILE, asdict(plan))
    sync_folder(state_dir)


def load(state_dir: Path) -> Plan:
    """Raises BackupError when there is none."""
    try:
        told: dict[str, Any] = json.loads((folder_of(state_dir) / FILE).read_text())
        put, away = tuple(told.pop("put")), tuple(told.pop("away"))
        return Plan(put=put, away=away, **told)
    except FileNotFoundError:
        raise BackupError(f"no restore into {state_dir} was interrupted: nothing is to be finished") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BackupError(f"{folder_of(state_dir) / FILE} is damaged ({error})") from None


def finish(state_dir: Path, plan: Plan) -> None:
    """Do what is not done yet. Raises BackupError; what it says about the state is true then."""
    if plan.ledger_url:
        _fill_database(state_dir, plan)
    aside, new = state_dir / plan.aside, folder_of(state_dir) / STATE
    aside.mkdir(mode=0o700, exist_ok=True)
    for name in plan.away:
        if name not in plan.put:
            _set_aside(state_dir / name, aside)
    for name in plan.put:
        if (new / name).exists():  # else it is in place already
            _set_aside(state_dir / name, aside)
            os.rename(new / name, state_dir / name)
    sync_folder(aside)
    sync_folder(state_dir)
    drop(state_dir)
    if not any(aside.iterdir()):
        aside.rmdir()


def drop(state_dir: Path) -> None:
    """Remove the folder of a restore, the plan first."""
    (folder_of(state_dir) / FILE).unlink(missing_ok=True)
    sync_folder(folder_of(state_dir))
    shutil.rmtree(folder_of(state_dir), ignore_errors=True)


def _set_aside(path: Path, aside: Path) -> None:
    if os.path.lexists(path):
        to, number = aside / path.name, 1
        while os.path.lexists(to):
            to, number = aside / f"{path.name}.{number}", number + 1
        os.rename(path, to)


def _fill_database(state_dir: Path, plan: Plan) -> None:
    """In one transaction, unless it was done. Raises BackupError."""
    try:
        fill(plan.ledger_url, plan, folder_of(state_dir) / LEDGER_ROWS)
    except (sa.exc.SQLAlchemyError, ValueError) as error:
        done = _is_done(plan)
        if done:
            return  # only the answer was lost
        if done is None:
            message = "nobody knows whether it was changed: once it answers, run `timeshare restore --finish`"
            raise BackupError(f"the database of the ledger broke off ({plainly(error)}); {message}") from None
        drop(state_dir)
        message = "nothing was changed, neither there nor in the state folder"
        raise BackupError(f"the database of the ledger did not take it ({plainly(error)}): {message}") from None


def _is_done(plan: Plan) -> bool | None:
    """Whether the database has it; None: nobody can say."""
    engine = ledger_engine(plan.ledger_url)
    try:
        with engine.begin() as connection:
            return rowcopy.restored_from(connection) == plan.name
    except sa.exc.SQLAlchemyError:
        return None
    finally:
        engine.dispose()


def fill(url: str, plan: Plan, rows: Path) -> None:
    """Fill a ledger from files of rows, whole or not at all, unless it was. Raises SQLAlchemyError, ValueError."""
    engine = ledger_engine(url)
    try:
        with ExitStack() as files, engine.begin() as connection:
            if rowcopy.restored_from(connection) == plan.name:
                return
            if connection.dialect.name != "sqlite":
                connection.execute(sa.text("SET LOCAL lock_timeout = '30s'"))
            told: dict[str, Iterator[str]] = {
                name: iter(files.enter_context(open(rows / f"{name}.jsonl", encoding="utf-8"))) for name in plan.columns
            }
            rowcopy.fill(connection, rowcopy.Filled(plan.revision, plan.columns, told, plan.name))
    finally:
        engine.dispose()
