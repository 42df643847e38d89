"""The commands of ``timeshare``, but for ``batch``, which belongs to the notebooks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..reservations.files import from_start
from . import console, doctor, limits_command, ls, reconcile, up, usage

PORT = (
    "port to open in the browser, such as 443; default: that of the last start, and 8000 at the first one, or any free "
    "one if 8000 is taken; 0: any free one at each start"
)
LEDGER_PASSWORD_FILE = (
    "file whose first line is the password of the database, readable by its owner only, such as "
    "/etc/timeshare/ledger_password; default: TIMESHARE_LEDGER_PASSWORD in the environment, else what PostgreSQL's own "
    "PGPASSFILE says"
)
KEEP_ENV = (
    "further environment variables that hub and other parts get when root starts them, comma-separated, such as "
    "MY_CLIENT_SECRET for jupyterhub_site.py; default: none but the usual ones (PATH, HOME, LANG, TZ, proxies, "
    "TIMESHARE_*, OAUTH*, OIDC_*)"
)


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(prog="timeshare", description="Interactive GPU sessions for JupyterHub.")
    commands = main.add_subparsers(title="commands", required=True, metavar="COMMAND")

    starts = commands.add_parser("up", help="start hub, proxy and services on this machine", description=up.__doc__)
    starts.set_defaults(run=up.run)
    _state(starts)
    starts.add_argument("--port", type=int, help=PORT)
    starts.add_argument("--ip", default="127.0.0.1", help="address to listen on; default 127.0.0.1, this machine only")
    starts.add_argument("--base-url", default="/", help="path below which everything is; default /")
    starts.add_argument(
        "--subdomains",
        default="",
        metavar="HOST",
        help="give each person's server a host of its own below HOST, such as hub.lab.example (*.HOST must resolve to "
        "this machine); with a server in front its address, such as https://hub.lab.example; default: all share one",
    )
    starts.add_argument("--simulate", default="", metavar="SPEC", help="simulated GPUs, such as a100-40gb:2,t4:1")
    starts.add_argument(
        "--limits",
        type=from_start,
        default="",
        metavar="FILE",
        help="the limits; default: limits.yaml in the state folder",
    )
    starts.add_argument(
        "--ledger", default="", metavar="URL", help="database, without password; default: SQLite in the state folder"
    )
    starts.add_argument(
        "--ledger-password-file", type=from_start, default="", metavar="FILE", help=LEDGER_PASSWORD_FILE
    )
    starts.add_argument("--keep-env", default="", metavar="NAMES", help=KEEP_ENV)
    starts.add_argument(
        "--prepare-only",
        action="store_true",
        help="write what the processes need, start none, and end: for units of systemd, which hold the sockets",
    )
    starts.add_argument("--people", default="", metavar="NAMES", help="who may log in, by commas; default: you")
    starts.add_argument("--multi-user", action="store_true", help="accounts of this machine log in (needs root)")
    starts.add_argument(
        "--no-local", action="store_true", help="nothing runs on this machine itself: all sessions and batch at Slurm"
    )
    starts.add_argument("--admins", default="", metavar="NAMES", help="administrators of timeshare, by commas")

    looks = commands.add_parser("doctor", help="what this machine can enforce", description=doctor.__doc__)
    looks.set_defaults(run=doctor.run)
    _state(looks)
    looks.add_argument("--simulate", default="", metavar="SPEC", help="look at simulated GPUs instead")
    looks.add_argument("--limits", type=from_start, default="", metavar="FILE", help="the limits to check")
    looks.add_argument("--json", action="store_true", help="for programs")
    looks.add_argument(
        "--engine", default="", choices=["slurm"], help="look at the pools of timeshare_slurm.py instead"
    )
    looks.add_argument(
        "--user", default="", metavar="NAME", help="of an engine: whose jobs are tried; default: the first account"
    )
    looks.add_argument("--job", action="store_true", help="of an engine: submit a tiny job that tries a node, and wait")

    lists = commands.add_parser("ls", help="who has what, and who waits", description=ls.__doc__)
    lists.set_defaults(run=ls.run)
    _state(lists)
    lists.add_argument("--all", action="store_true", help="those that have ended too")
    lists.add_argument("--json", action="store_true", help="for programs")

    limits_command.add(commands, _state)
    usage.add(commands, _state)
    reconcile.add(commands, _state)
    commands.add_parser("batch", help="jobs that cells were handed over to: timeshare batch --help")
    return main


def _state(command: argparse.ArgumentParser) -> None:
    text = "folder for what must survive; default ~/.local/state/timeshare, with --multi-user /var/lib/timeshare"
    command.add_argument("--state", type=from_start, default="", metavar="DIR", help=text)


def run(words: Sequence[str]) -> int:
    """The exit status."""
    options = parser().parse_args(words)
    with console.seen_output():
        status: int = options.run(options)
    return status
