"""``timeshare unaccounted``: sessions that run on this machine and that the ledger does not know, as after an older one
was restored, and reservations whose row in it is damaged. They stay until they are ended here; their GPUs are out of
service."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Callable

from ..reservations.client import ServiceClient
from .console import columns, with_service


def add(command: argparse.ArgumentParser, state: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the options. ``state`` adds the one that names the deployment."""
    state(command)
    command.add_argument("--end", default="", metavar="ID", help="end this one; default: list them")
    command.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Lists them, or ends one. The exit code."""

    async def deed(service: ServiceClient) -> None:
        if options.end:
            await service.call("POST", f"devices/unaccounted/{options.end}/end", {})
            print(f"{options.end} is being ended: it has its grace to save")
            return
        found = (await service.call("GET", "devices"))["unaccounted"]
        rows = [(s["owner"], s["id"], ",".join(s["devices"]) or "-") for s in found]
        print(columns([("OWNER", "SESSION", "ON"), *rows]) if rows else "Nothing runs that the ledger does not know.")

    return with_service(options, "unaccounted", deed)
