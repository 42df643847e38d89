"""The options of ``timeshare up``."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ..reservations.files import from_start

PORT = (
    "port to open in the browser, such as 443; default: that of the last start, and 8000 at the first one, or any free "
    "one if 8000 is taken; 0: any free one at each start"
)
LEDGER_PASSWORD_FILE = (
    "file whose first line is the password of the database, readable by its owner only, such as "
    "/etc/timeshare/ledger_password; default: TIMESHARE_LEDGER_PASSWORD in the environment, else what PostgreSQL's own "
    "PGPASSFILE says"
)
PUBLIC_URL = (
    "what people open in the browser where a web server is in front, such as https://hub.lab.example/gpu/ (cookies are "
    "then sent by https only), or with --for-hub; default: the address that is listened on"
)
WEB_SERVER = (
    "addresses of the web server in front, by commas, whose X-Forwarded-For and X-Forwarded-Proto are believed; "
    "default: 127.0.0.1 and ::1 where only this machine can connect (--ip), else nobody's"
)
KEEP_ENV = (
    "further environment variables that hub and other parts get when root starts them, comma-separated, such as "
    "MY_CLIENT_SECRET for jupyterhub_site.py; default: none but the usual ones (PATH, HOME, LANG, TZ, proxies, "
    "TIMESHARE_*, OAUTH*, OIDC_*)"
)
FOR_HUB = (
    "serve a JupyterHub that is there already instead of starting one: the address at which its API listens, with its "
    "base path, such as http://127.0.0.1:8081/. Its configuration calls adopt.configure; with --port a proxy runs too, "
    "to which the one of that hub passes everything on"
)


def add_options(command: argparse.ArgumentParser, state: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add them. ``state`` adds the option that names the deployment."""
    state(command)
    command.add_argument("--port", type=int, help=PORT)
    command.add_argument("--ip", default="127.0.0.1", help="address to listen on; default 127.0.0.1, this machine only")
    command.add_argument(
        "--base-url", metavar="PATH", help="path below which everything is; default: that of --public-url, else /"
    )
    command.add_argument("--public-url", default="", metavar="URL", help=PUBLIC_URL)
    command.add_argument("--web-server", metavar="ADDRESSES", help=WEB_SERVER)
    command.add_argument(
        "--subdomains",
        default="",
        metavar="HOST",
        help="give each person's server a host of its own below HOST, such as hub.lab.example (*.HOST must resolve to "
        "this machine); with a server in front its address, such as https://hub.lab.example; default: all share one",
    )
    command.add_argument("--simulate", default="", metavar="SPEC", help="simulated GPUs, such as a100-40gb:2,t4:1")
    command.add_argument(
        "--limits",
        type=from_start,
        default="",
        metavar="FILE",
        help="the limits; default: limits.yaml in the state folder",
    )
    command.add_argument(
        "--ledger", default="", metavar="URL", help="database, without password; default: SQLite in the state folder"
    )
    command.add_argument(
        "--ledger-password-file", type=from_start, default="", metavar="FILE", help=LEDGER_PASSWORD_FILE
    )
    command.add_argument("--keep-env", default="", metavar="NAMES", help=KEEP_ENV)
    command.add_argument(
        "--prepare-only",
        action="store_true",
        help="write what the processes need, start none, and end: for units of systemd, which hold the sockets",
    )
    command.add_argument("--people", default="", metavar="NAMES", help="who may log in, by commas; default: you")
    command.add_argument("--multi-user", action="store_true", help="accounts of this machine log in (needs root)")
    command.add_argument(
        "--no-local", action="store_true", help="nothing runs on this machine itself: all sessions and batch at Slurm"
    )
    command.add_argument("--for-hub", default="", metavar="URL", help=FOR_HUB)
    command.add_argument(
        "--account-prefix",
        default="",
        metavar="TEXT",
        help="what stands before a person's name in that of their account, such as jupyter-; with --multi-user",
    )
    command.add_argument("--admins", default="", metavar="NAMES", help="administrators of timeshare, by commas")
