"""``timeshare restore``: a state brought back from a backup. What was there before is set aside, never deleted."""

from __future__ import annotations

import argparse
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..reservations.files import from_start
from .console import state_folder
from .ledger_url import LedgerUrlError, ledger_url
from .run.folders import FolderError
from .run.prepare import UpError
from .saved import plan as plans
from .saved.archive import opened
from .saved.making import named
from .saved.manifest import BackupError
from .saved.plan import Plan
from .saved.restoring import Wish, restore
from .saved.running import running
from .up import exclusively

FAILED = "mend that and run `timeshare restore --finish`; if it has nothing to finish, nothing was changed"
ERRORS = (BackupError, LedgerUrlError, FolderError, UpError)


def add(command: argparse.ArgumentParser, state: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the options. ``state`` adds the one that names the deployment."""
    state(command)
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--from", dest="source", type=from_start, metavar="FILE", help="the backup")
    what.add_argument("--finish", action="store_true", help="carry on a restore that was interrupted")
    command.add_argument("--check", action="store_true", help="only read the backup, and say what is in it")
    command.add_argument("--replace", action="store_true", help="set aside what the state folder and the ledger hold")
    text = "database for the ledger, without password; default: as it was; sqlite: a file in the state folder"
    command.add_argument("--ledger", default="", metavar="URL", help=text)
    text = "file whose first line is the password of the database, readable by its owner only"
    command.add_argument("--ledger-password-file", type=from_start, default="", metavar="FILE", help=text)
    command.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Restores, or says why not. The exit code."""
    os.umask(0o077)
    try:
        if options.finish:
            _finish(state_folder(options).absolute())
        else:
            _read(Path(options.source), options)
    except ERRORS as error:
        print(f"timeshare restore: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"timeshare restore: {error.filename or 'the state folder'}: {error.strerror}; {FAILED}", file=sys.stderr)
        return 1
    return 0


def _finish(folder: Path) -> None:
    with _alone(folder):
        plan = plans.load(folder)
        plans.finish(folder, plan)
    _tell(folder, plan)


def _read(source: Path, options: Namespace) -> None:
    try:
        with opened(source) as archive:
            folder = Path(options.state or archive.manifest.state_dir).absolute()
            if options.check:
                archive.check()
                print("\n".join([f"{source} is whole", *(f"  {line}" for line in named(archive.manifest))]))
                return
            url = "sqlite://" if options.ledger == "sqlite" else ""
            if not url and (options.ledger or options.ledger_password_file):
                url = ledger_url(folder, options.ledger, options.ledger_password_file)
            with _alone(folder):
                plan = restore(archive, Wish(folder, url, options.replace))
    except BackupError as error:
        raise BackupError(f"{source}: {error}") from None
    _tell(folder, plan)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nothing of the deployment runs, nor starts meanwhile. Raises BackupError, UpError, FolderError."""
    with exclusively(folder):
        if found := running(folder):
            raise BackupError(f"timeshare runs on {folder}: {', '.join(found)}; stop it first, its sessions go on")
        yield


def _tell(folder: Path, plan: Plan) -> None:
    print(f"{folder} is as it was in the backup.")
    if (folder / plan.aside).exists():
        print(f"What was there lies in {folder / plan.aside}: remove it when you do not need it any more.")
    print("Start timeshare with the options that it had. Sessions that run and that this ledger does not know go on:")
    print("`timeshare unaccounted` lists them.")
