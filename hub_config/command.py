"""The commands of ``timeshare``, but for ``batch``, which belongs to the notebooks.

Of a command only its own module is imported: all of them together take more than a second.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

from ..reservations.files import from_start
from . import console

COMMANDS = {
    "up": ("up", "start hub, proxy and services on this machine"),
    "doctor": ("doctor", "what this machine can enforce"),
    "cluster": ("cluster_command", "several hosts: what each has, and the configuration of a small Slurm of them"),
    "ls": ("ls", "who has what, and who waits"),
    "limits": ("limits_command", "who may have what"),
    "usage": ("usage", "GPU-hours held, by whom and what"),
    "backup": ("backup", "ledger, JupyterHub's database, secrets, limits and configuration in one file"),
    "restore": ("restore", "a state brought back from a backup"),
    "unaccounted": ("unaccounted", "sessions that the ledger does not know, after an older one was restored"),
    "reconcile": ("reconcile", "GPU-hours of the ledger beside those of Slurm's accounting"),
}
"""By name: the module, whose ``add`` knows the options and what to run, and what the command is for."""


def parser(only: Sequence[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """Return the parser of all commands. Those that are not in ``only`` are named and know no options."""
    main = argparse.ArgumentParser(prog="timeshare", description="Interactive GPU sessions for JupyterHub.")
    commands = main.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, (module_name, what) in COMMANDS.items():
        if name in only:
            module = import_module(f".{module_name}", __package__)
            module.add(commands.add_parser(name, help=what, description=module.__doc__), _state)
        else:
            commands.add_parser(name, help=what)
    commands.add_parser("batch", help="jobs that cells were handed over to: timeshare batch --help")
    return main


def _state(command: argparse.ArgumentParser) -> None:
    text = "folder for what must survive; default ~/.local/state/timeshare, with --multi-user /var/lib/timeshare"
    command.add_argument("--state", type=from_start, default="", metavar="DIR", help=text)


def run(words: Sequence[str]) -> int:
    """The exit status."""
    options = parser(words[:1]).parse_args(words)
    with console.seen_output():
        status: int = options.run(options)
    return status
