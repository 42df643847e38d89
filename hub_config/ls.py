"""``timeshare ls``: who has what, who waits, and why the last ones ended."""

from __future__ import annotations

import asyncio
import json
import sys
from argparse import Namespace
from pathlib import Path

from ..reservations.client import Json, ServiceClient, ServiceUnreachable
from ..reservations.clock import duration_text
from ..reservations.deployment import FILE_NAME, DeploymentError, load_deployment
from ..reservations.errors import PublicError
from .up import default_state_dir

LIVE = "queued,granted,starting,active,ending"
HEADS = ("OWNER", "SESSION", "STATE", "SHARE", "ON", "HELD BY", "TIME")


def run(options: Namespace) -> int:
    """Prints the table, or JSON. The exit code."""
    folders = [Path(options.state)] if options.state else [default_state_dir(False), default_state_dir(True)]
    folder = next((folder for folder in folders if (folder / FILE_NAME).exists()), folders[0])
    try:
        deployment = load_deployment(folder / FILE_NAME)
        service = ServiceClient(deployment.service_url, deployment.admin_token)
        found = asyncio.run(service.list(states="" if options.all else LIVE, limit=500))
    except (DeploymentError, PublicError) as error:
        print(f"timeshare ls: {error}", file=sys.stderr)
        return 1
    except ServiceUnreachable:
        print(f"timeshare ls: timeshare is not running on {folder}: start it with `timeshare up`", file=sys.stderr)
        return 1
    print(json.dumps(found, indent=2) if options.json else table(found))
    return 0


def table(reservations: list[Json]) -> str:
    """The reservations as text in columns."""
    if not reservations:
        return "No reservations."
    rows = [HEADS, *(_row(reservation) for reservation in reservations)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


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
