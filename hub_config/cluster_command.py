"""``timeshare cluster``: what a host has, and the configuration of a small Slurm of several hosts."""

from __future__ import annotations

import argparse
import json
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from ..reservations.devices.model import DeviceError
from ..reservations.devices.sources import open_source
from ..reservations.errors import PublicError
from ..reservations.files import from_start
from .cluster.ask import Answers, ask_all, read_all
from .cluster.hosts import Hosts, HostsError, read_hosts
from .cluster.output import SURVEYS, close_secrets, differences, files_of, is_new, password_in, write_into, write_new
from .cluster.plan import Plan, plan
from .cluster.survey import survey

DIFFERS = 3
"""Exit status: something is to be looked at, and the rest was done."""


def add(command: argparse.ArgumentParser, _: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the sub-commands."""
    kinds = command.add_subparsers(title="commands", required=True, metavar="COMMAND")

    surveys = kinds.add_parser("survey", help="what this host has, as one JSON document")
    surveys.add_argument("--simulate", default="", metavar="SPEC", help="with simulated GPUs, such as a100-40gb:2")
    surveys.set_defaults(run=run_survey)

    describes = kinds.add_parser("describe", help="write the configuration of a Slurm from a list of hosts")
    describes.add_argument("hosts", type=from_start, metavar="HOSTS.yaml", help="see docs/several_hosts.md")
    describes.add_argument("--out", type=from_start, required=True, metavar="DIR", help="a new folder for the files")
    describes.add_argument(
        "--surveys",
        type=from_start,
        default="",
        metavar="DIR",
        help="read HOST.json from there; default: ask every host by ssh",
    )
    describes.add_argument(
        "--timeout", type=float, default=60.0, metavar="S", help="seconds for the answer of a host; default 60"
    )
    describes.add_argument("--replace", action="store_true", help="write what differs from an earlier run")
    describes.set_defaults(run=run_describe)


def run_survey(options: Namespace) -> int:
    """Print what this host has."""
    try:
        source = open_source(options.simulate)
        try:
            print(json.dumps(survey(source), indent=1))
        finally:
            source.close()
    except (DeviceError, PublicError, OSError) as error:
        print(f"timeshare cluster survey: {error}", file=sys.stderr)
        return 1
    return 0


def run_describe(options: Namespace) -> int:
    """Write the files, or show what they would change."""
    out = Path(options.out)
    try:
        hosts = read_hosts(Path(options.hosts))
        new = is_new(out)
        found, away = plan_of(hosts, options, out)
        if not found.nodes:
            print("\n".join(["timeshare cluster describe: no host has a survey", *found.notes]), file=sys.stderr)
            return 1
        status = write(out, found, new, options.replace)
    except HostsError as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"timeshare cluster describe: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    for note in (*found.notes, *away):
        print(f"note: {note}", file=sys.stderr)
    return status or (DIFFERS if len(found.nodes) < len(hosts.hosts) else 0)


def plan_of(hosts: Hosts, options: Namespace, out: Path) -> tuple[Plan, list[str]]:
    """Return the plan from what hosts say now, else from what they said before: one that is away stays in it. The
    second tells which these are."""
    now = read_all(hosts, Path(options.surveys)) if options.surveys else ask_all(hosts, options.timeout)
    before = read_all(hosts, out / SURVEYS) if (out / SURVEYS).is_dir() else Answers({}, {})
    kept = {name: one for name, one in before.surveys.items() if name not in now.surveys}
    away = [f"{name}: what it said before is used ({now.silent[name]})" for name in kept]
    return plan(hosts, {**now.surveys, **kept}, now.silent), away


def write(out: Path, found: Plan, new: bool, replace: bool) -> int:
    """Write a new folder; of one that is there show the difference, and write it only when that was asked for. Raises
    OSError."""
    password = password_in(out)
    files = files_of(found, password)
    if new:
        write_new(out, files)
        print(f"Written: {', '.join(sorted(files))}, in {out}. What to copy where: {out / 'NEXT_STEPS.md'}")
        return 0
    close_secrets(out)
    changed = list(differences(out, files, password))
    for one in changed:
        print(one.text, end="")
    if not changed:
        print(f"Nothing has changed in {out}.")
        return 0
    names = ", ".join(one.name for one in changed)
    if not replace:
        print(f"Nothing was written: {names} would change in {out}. To write them: --replace", file=sys.stderr)
        return DIFFERS
    write_into(out, {one.name: files[one.name] for one in changed})
    print(f"Written anew: {names}, in {out}")
    return 0
