"""``timeshare limits``: check a file, try it, show what is in force, explain it for one person, put it in force, make
exceptions."""

from __future__ import annotations

import argparse
import json
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..reservations.client import Json, ServiceClient
from ..reservations.files import from_start
from ..reservations.limits.engines import with_differences
from ..reservations.limits.load import LimitsError, parse_limits, read_limits, text_in, version_of
from ..reservations.limits.schema import Limits
from ..reservations.review import NAME, Judged, judge
from ..reservations.whatif.command import add_try
from .console import columns, state_folder, with_service
from .limits_findings import served


def add(command: argparse.ArgumentParser, state: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the sub-commands. ``state`` adds the option that names the deployment."""
    kinds = command.add_subparsers(title="commands", required=True, metavar="COMMAND")

    checks = kinds.add_parser(
        "check", help="is this file valid, and does it fit; devices and people are known only while timeshare runs"
    )
    state(checks)
    checks.add_argument("file", type=from_start, metavar="FILE")
    checks.set_defaults(run=check)

    schema = kinds.add_parser("schema", help="the file's JSON schema, for editors")
    schema.set_defaults(run=print_schema)

    shows = kinds.add_parser("show", help="the limits in force, as they are written")
    state(shows)
    shows.set_defaults(run=show)

    explains = kinds.add_parser("explain", help="what one person may have, has used, and waits for, and why")
    state(explains)
    explains.add_argument("user", metavar="USER")
    explains.add_argument("--json", action="store_true", help="for programs")
    explains.set_defaults(run=explain)

    applies = kinds.add_parser("apply", help="puts a file in force, without a restart")
    state(applies)
    applies.add_argument("file", type=from_start, metavar="FILE")
    applies.add_argument(
        "--cut-running", action="store_true", help="what runs longer than allowed then ends earlier; default: it stays"
    )
    applies.set_defaults(run=apply)

    add_try(kinds, state, state_folder)

    overrides = kinds.add_parser("override", help="an exception for a user or a group, until a time, for a reason")
    state(overrides)
    overrides.add_argument("name", metavar="NAME", help="the user; with --group: the group")
    overrides.add_argument("--group", action="store_true", help="NAME is a group")
    overrides.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="such as gpus=4 or sessions.max_time=24h"
    )
    overrides.add_argument("--gpu-hours", type=float, default=0, metavar="N", help="so many more in every budget")
    overrides.add_argument("--until", default="", metavar="WHEN", help='such as "2026-12-01 18:00"')
    overrides.add_argument("--because", default="", metavar="WHY", help="the reason, which everybody concerned sees")
    overrides.add_argument("--new-user", action="store_true", help="NAME has not logged in yet, and is not known here")
    overrides.add_argument("--end", default="", metavar="ID", help="end this exception now instead")
    overrides.set_defaults(run=override)


def check(options: Namespace) -> int:
    """Whether the file is valid, and what in it is probably not intended: here, while the deployment runs."""
    path = Path(options.file)
    try:
        text = text_in(path)
    except LimitsError as error:
        print(error, file=sys.stderr)
        return 1
    judged = served(state_folder(options), text) or judge(text, None)
    tell(path, judged)
    if not judged.is_valid:
        return 1
    limits = parse_limits(text)
    parts = [f"{len(limits.groups)} groups", f"{len(limits.users)} users", f"{len(limits.pools)} pools"]
    more = f"; {len(judged.warnings)} warnings, see above" if judged.warnings else ""
    print(f"{path}: valid (version {version_of(text)}): {', '.join(parts)}{more}")
    if judged.note:
        print(f"{judged.note[:1].upper()}{judged.note[1:]}.")
    return 0


def tell(path: Path, judged: Judged) -> None:
    """Print what is wrong with the file, and what is probably not intended."""
    for word, texts in (("", judged.errors), ("warning: ", judged.warnings)):
        for text in texts:
            print(f"{word}{path}{text.removeprefix(NAME)}", file=sys.stderr)


def print_schema(_: Namespace) -> int:
    """The published schema."""
    print(json.dumps(with_differences(Limits.model_json_schema(mode="validation")), indent=2))
    return 0


def show(options: Namespace) -> int:
    """The text in force."""

    async def deed(service: ServiceClient) -> None:
        found = await service.call("GET", "limits/file")
        print(f"# version {found['version']}\n{found['text']}".rstrip())
        for warning in found["warnings"]:
            print(f"warning: {warning}", file=sys.stderr)
        if found["problem"]:
            print(f"\nThe file has changed and is not in force:\n{found['problem']}", file=sys.stderr)

    return with_service(options, "limits show", deed)


def explain(options: Namespace) -> int:
    """What one person may have."""

    async def deed(service: ServiceClient) -> None:
        found = await service.limits(options.user)
        print(json.dumps(found, indent=2) if options.json else explained(found))

    return with_service(options, "limits explain", deed)


def explained(found: Json) -> str:
    """The explanation of the API as text."""
    groups = ", ".join(found["groups"]) or "none of the file's groups"
    limits = [(row["what"], row["value"], row["from"]) for row in found["limits"]]
    parts = [
        f"{found['person']}: {groups}; counted with {found['account']}; limits version {found['version']}",
        columns([("LIMIT", "VALUE", "SAID BY"), *limits]),
    ]
    parts += [". ".join(found["idle"]) + "."]
    parts += [". ".join(found["host"]) + "."] if found["host"] else []
    if found["budgets"]:
        heads = ("BUDGET", "GPU-HOURS", "USED", "LEFT", "REFILLS", "THEN")
        parts.append(columns([heads, *(_budget(budget) for budget in found["budgets"])]))
    holds = f"Holds {found['holds_gpus']:g} GPUs"
    if found["group_quota"] is not None:
        holds += f"; the group holds {found['group_holds_gpus']:g}, and {found['group_quota']:g} are its own"
    parts.append(holds + ".")
    if found["fair_share"]:
        fair = found["fair_share"]
        parts.append(f"Fair share: {fair['ahead']} of {fair['people']} people had less of their share.")
    parts += [
        f"Waits for {item['share_text']} at position {item['position']}: {item['why']}." for item in found["waiting"]
    ]
    for pool in found["pools"]:
        notes = "; ".join(pool["notes"]) or "no rules of its own"
        rules = notes if pool["open"] else f"closed: {pool['why']}"
        parts.append(f"Pool {pool['name']} ({pool['gpus']:g} GPUs): {rules}.")
    for item in found["exceptions"]:
        parts.append(f"Exception until {item['ends']}, by {item['by']}, because: {item['why']}.")
    parts += [f"Announced: {text}." for text in found["announced"]]
    return "\n\n".join(parts)


def _budget(budget: Json) -> tuple[str, ...]:
    whose = f"{budget['whose']} {budget['name']}, {'+'.join(budget['kinds'])}, each {budget['every']}"
    amounts = ("unlimited" if budget[key] is None else f"{budget[key]:g}" for key in ("gpu_hours", "used", "left"))
    then = "nothing new, and what runs ends" if budget["beyond"] == "refuse" else "behind everyone else"
    return (whose, *amounts, budget["refills"], then)


def apply(options: Namespace) -> int:
    """Puts a file in force."""
    try:
        file = read_limits(Path(options.file))
    except LimitsError as error:
        print(f"{error}\nNothing was changed.", file=sys.stderr)
        return 1

    async def deed(service: ServiceClient) -> None:
        before = await service.call("GET", "limits/file")
        body = {"text": file.text, "base_version": before["version"], "cut_running": options.cut_running}
        after = await service.call("POST", "limits/apply", body)
        tell(Path(options.file), Judged((), tuple(after["warnings"]), after["note"]))
        if after["version"] == before["version"]:
            print(f"Version {after['version']} was in force already.")
        else:
            print(f"In force: version {after['version']} (before: {before['version']}).")
        if after["note"]:
            print(f"{after['note'][:1].upper()}{after['note'][1:]}.")

    return with_service(options, "limits apply", deed)


def override(options: Namespace) -> int:
    """Makes or ends an exception."""

    async def deed(service: ServiceClient) -> None:
        if options.end:
            ended = await service.call("POST", f"limits/exceptions/{options.end}/end", {})
            print(f"Ended: the exception for {ended['scope']} {ended['name']}.")
            return
        body = {
            "scope": "group" if options.group else "user",
            "name": options.name,
            "limits": nested(options.set),
            "extra_gpu_hours": options.gpu_hours,
            "until": options.until,
            "why": options.because,
            "allow_unknown": options.new_user,
        }
        made = await service.call("POST", "limits/exceptions", body)
        if made["note"]:
            print(f"warning: {made['note']}", file=sys.stderr)
        print(f"In force until {made['ends']} for {made['scope']} {made['name']}. End it earlier: --end {made['id']}")

    try:
        return with_service(options, "limits override", deed)
    except ValueError as error:
        print(f"timeshare limits override: {error}", file=sys.stderr)
        return 1


def nested(pairs: list[str]) -> Json:
    """``["sessions.max_time=24h", "gpus=4"]`` as the limits file has it. Raises ValueError."""
    found: Json = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"--set is {pair!r}: it must be KEY=VALUE, such as gpus=4")
        place = found
        *sections, last = key.split(".")
        for section in sections:
            inner = place.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ValueError(f"--set is {pair!r}: {section} was given a value before, and is a section here")
            place = inner
        place[last] = _value(value)
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return [item.strip() for item in text.split(",")] if "," in text else text
