"""``timeshare backup``: ledger, JupyterHub's database, secrets, limits and configuration in one file, also while all of
it runs."""

from __future__ import annotations

import argparse
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from ..reservations.deployment import DeploymentError
from ..reservations.files import from_start
from .console import state_folder
from .run.folders import FolderError, check_state_dir
from .saved.making import make_backup, named
from .saved.manifest import BackupError


def add(command: argparse.ArgumentParser, state: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the options. ``state`` adds the one that names the deployment."""
    state(command)
    text = "the new file, or a folder, in which it gets a name with the time; it holds secrets, for you alone"
    command.add_argument("--to", required=True, type=from_start, metavar="PLACE", help=text)
    command.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Writes the file. The exit code."""
    os.umask(0o077)
    folder = state_folder(options).absolute()
    try:
        if folder.exists():
            check_state_dir(folder)
        path, manifest = make_backup(folder, Path(options.to))
    except (BackupError, DeploymentError, FolderError) as error:
        print(f"timeshare backup: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"timeshare backup: {error.filename or folder}: {error.strerror}", file=sys.stderr)
        return 1
    print(f"{path} ({path.stat().st_size / 1024:.0f} KiB)")
    for line in named(manifest):
        print(f"  {line}")
    return 0
