"""``timeshare ls``: who has what, who waits, and why the last ones ended."""

from __future__ import annotations

import argparse
import json
from argparse import Namespace
from collections.abc import Callable

from ..reservations.client import Json, ServiceClient
from ..reservations.clock import duration_text
from .console import columns, with_service

LIVE = "queued,granted,starting,active,parked,ending"
HEADS = ("OWNER", "SESSION", "STATE", "SHARE", "ON", "HELD BY", "TIME")


def add(command: argparse.ArgumentParser, state: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the options. ``state`` adds the one that names the deployment."""
    state(command)
    command.add_argument("--all", action="store_true", help="those that have ended too")
    command.add_argument("--json", action="store_true", help="for programs")
    command.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Prints the table, or JSON. The exit code."""

    async def deed(service: ServiceClient) -> None:
        found = await service.list(states="" if options.all else LIVE, limit=500)
        print(json.dumps(found, indent=2) if options.json else table(found))

    return with_service(options, "ls", deed)


def table(reservations: list[Json]) -> str:
    """The reservations as text in columns."""
    if not reservations:
        return "No reservations."
    return columns([HEADS, *(_row(reservation) for reservation in reservations)])


def _row(r: Json) -> tuple[str, ...]:
    devices = sorted({holding["device_uuid"] for holding in r["placement"]})
    return (
        r["owner"],
        r["server_name"] or "(default)",
        r["state"] if r["reason"] is None else f"{r['state']}: {r['reason']}",
        r["share_text"],
        ",".join(devices) or "-",
        r["enforcement"] or "-",
        _time(r),
    )


def _time(r: Json) -> str:
    if r["state"] == "queued":
        start = r["latest_start_in_s"]
        return f"position {r['position']}" + ("" if start is None else f", starts within {duration_text(start)}")
    if r["remaining_s"] is not None:
        return f"{duration_text(r['remaining_s'])} left"
    return r["ended_at"] or "-"
