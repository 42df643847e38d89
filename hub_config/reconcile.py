"""``timeshare reconcile``: GPU-hours of the ledger beside those of Slurm's accounting, and every job in which they
differ. Changes nothing."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import urlencode

from ..reservations.client import Json, ServiceClient
from ..reservations.clock import rfc3339
from ..reservations.deployment import FILE_NAME, load_deployment
from ..reservations.engines.slurm.accounting import accounting_argv, parse_accounting
from ..reservations.engines.slurm.cluster import shards_each
from ..reservations.engines.slurm.commands import new_separator
from ..reservations.engines.slurm.comparison import Charged, Period, Report, compare, ran_of
from ..reservations.engines.slurm.config import ConfigError, SlurmPool, read_pools
from ..reservations.engines.slurm.errors import SchedulerRefused, SchedulerSilent
from ..reservations.engines.slurm.nodes import NODES_ARGV, parse_nodes
from ..reservations.engines.slurm.odd import Odd
from ..reservations.service.settings import engine_tag
from .console import columns, state_folder, with_service
from .run.folders import FolderError, check_state_dir

_SPAN = re.compile(r"(\d+)([hdw])")
_SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}
NEW_S = 60.0
"""Accounting hears of a job within this time."""


def add(command: argparse.ArgumentParser, state: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the options. ``state`` adds the one that names the deployment."""
    state(command)
    command.add_argument("--since", default="7d", metavar="SPAN", type=span, help="such as 12h, 7d or 4w; default 7d")
    command.add_argument(
        "--tolerance",
        default=0.05,
        metavar="PART",
        type=part,
        help="durations that differ by no more than this part, or than two minutes, agree; default 0.05",
    )
    command.add_argument("--json", action="store_true", help="for programs")
    command.set_defaults(run=run)


def span(text: str) -> float:
    """``7d`` in seconds."""
    found = _SPAN.fullmatch(text)
    if not found or not int(found[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no span: write hours, days or weeks, such as 12h, 7d or 4w")
    return float(int(found[1]) * _SECONDS[found[2]])


def part(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no part: write a number from 0 to 1, such as 0.05")
    return value


def run(options: Namespace) -> int:
    """Prints the report. 0: both agree, 1: they could not be compared, 3: they differ."""
    folder, reports = state_folder(options), {}
    try:
        if folder.exists():
            check_state_dir(folder)
        pools = read_pools(folder)
    except (ConfigError, FolderError) as error:
        print(f"timeshare reconcile: {error}", file=sys.stderr)
        return 1
    if not pools:
        print(f"timeshare reconcile: there is no Slurm: {folder} has no timeshare_slurm.py", file=sys.stderr)
        return 1
    until = time.time()
    period = Period(until - options.since, until)

    async def deed(service: ServiceClient) -> None:
        asked = urlencode({"since": rfc3339(period.since), "until": rfc3339(period.until)})
        found = (await service.call("GET", f"usage/engines?{asked}"))["reservations"]
        for pool in pools:
            mine = [row for row in found if row["engine"] == pool.name]
            reports[pool.name] = await report(folder, pool, mine, period, options.tolerance)

    try:
        failed = with_service(options, "reconcile", deed)
    except (SchedulerSilent, SchedulerRefused) as error:
        print(f"timeshare reconcile: Slurm's accounting does not answer: {error}", file=sys.stderr)
        return 1
    if failed:
        return failed
    print(as_json(reports, period) if options.json else as_text(reports, period))
    return 3 if any(one.differences for one in reports.values()) else 0


async def report(folder: Path, pool: SlurmPool, rows: Sequence[Json], period: Period, tolerance: float) -> Report:
    """Raises SchedulerSilent, SchedulerRefused."""
    commands = pool.commands()
    separator = new_separator()
    since = datetime.fromtimestamp(period.since, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    told, nodes = await asyncio.gather(commands.run(accounting_argv(separator, [], since)), commands.run(NODES_ARGV))
    odd = Odd()
    each = {node.name: shards_each(node) for node in parse_nodes(nodes.out, odd)}
    tag = engine_tag(load_deployment(folder / FILE_NAME).signing_key, pool.name)
    ran = ran_of(parse_accounting(told.out, separator, odd), tag, period, each)
    for text in odd.texts():
        print(f"timeshare reconcile: {pool.name}: {text}", file=sys.stderr)
    return compare([charged(row) for row in rows], ran, tolerance)


def charged(row: Json) -> Charged:
    """From the service's answer."""
    return Charged(
        row["id"],
        (row["name"], row["index"]),
        row["owner"],
        row["job"],
        row["gpus"],
        row["held_s"],
        row["gpu_hours"],
        row["handed_over_s"] < NEW_S,
    )


def as_json(reports: dict[str, Report], period: Period) -> str:
    engines = {name: asdict(found) for name, found in reports.items()}
    return json.dumps({"since": rfc3339(period.since), "until": rfc3339(period.until), "engines": engines}, indent=2)


def as_text(reports: dict[str, Report], period: Period) -> str:
    parts = [f"GPU-hours from {rfc3339(period.since)} to {rfc3339(period.until)}"]
    for name, found in reports.items():
        parts.append(_totals(name, found))
        parts.append(_differences(found))
    return "\n\n".join(parts)


def _totals(name: str, found: Report) -> str:
    heads = (f"PERSON ({name})", "LEDGER", "SLURM", "DIFFERENCE")
    rows = [(one.owner, *_hours(one.ledger, one.slurm)) for one in found.totals]
    everybody = ("all", *_hours(sum(one.ledger for one in found.totals), sum(one.slurm for one in found.totals)))
    return columns([heads, *rows, everybody])


def _hours(ledger: float, slurm: float) -> tuple[str, str, str]:
    return f"{ledger:.2f}", f"{slurm:.2f}", f"{ledger - slurm:+.2f}"


def _differences(found: Report) -> str:
    if not found.differences:
        return "No job differs."
    heads = ("WHAT", "PERSON", "RESERVATION", "JOB", "LEDGER", "SLURM", "DETAIL")
    rows = [
        (one.kind, one.owner, one.reservation or "-", one.job or "-", *_hours(one.ledger, one.slurm)[:2], one.detail)
        for one in found.differences
    ]
    return columns([heads, *rows])
