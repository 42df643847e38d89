"""``timeshare batch …``: the same in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from .commands import FOR_PEOPLE, Desk
from .following import Following, TerminalScreen
from .handing import check, read_cell, run_file
from .options import BadOption, HelpShown, parse
from .places import Places
from .service import Service
from .states import COMPLETED

SUBMIT_HELP = """
also: timeshare batch submit FILE [OPTIONS]: hand over a file as a cell; submit FILE --help lists the options
"""


def main(words: Sequence[str]) -> int:
    """The exit status: 0, 1 for a job that did not complete, 2 for what cannot be done."""
    try:
        if words[:1] == ["submit"]:
            return _submit(words[1:])
        space: dict[str, object] = {"__name__": "__main__"}
        desk = Desk(Places.own(), space, TerminalScreen, "timeshare batch")
        wanted = list(words) or ["--help"]
        if wanted[0] == "attach":
            wanted.append("--wait")
        text = desk.do(wanted)
        if text:
            print(text)
        if wanted[0] == "result":
            _print_values(space)
        return 0
    except HelpShown as shown:
        print(str(shown) + ("" if words[:1] == ["submit"] or len(words) > 1 else SUBMIT_HELP))
        return 0
    except FOR_PEOPLE as error:
        print(f"timeshare batch: {str(error).removeprefix('timeshare batch: ')}", file=sys.stderr)
        return 2


def _submit(words: Sequence[str]) -> int:
    if not words or words[0].startswith("-"):
        if words[:1] in (["--help"], ["-h"]):
            parse(["--help"], "timeshare batch submit FILE")
        raise BadOption("submit needs a file: timeshare batch submit train.py --gpus 1 --time 8h")
    options = parse(words[1:], "timeshare batch submit FILE")
    places, service, path = Places.own(), Service.of_session(), Path(words[0])
    if options.dry_run:
        cell = read_cell(path)
        print(check(cell, options, {"__name__": "__main__"}, places, service))
        return 0
    handed = run_file(path, options, places, service)
    for warning in handed.warnings:
        print(f"Note: {warning}.", file=sys.stderr)
    print(f"{handed.job.id}: {handed.text}.")
    if not options.wait:
        return 0
    Following(handed.job, TerminalScreen(), None if handed.job.is_sweep else 0).run()
    return 0 if all(status.state == COMPLETED for status in handed.job.statuses()) else 1


def _print_values(space: dict[str, object]) -> None:
    for name, value in space.items():
        if not name.startswith("_"):
            print(f"{name} = {str(repr(value))[:2000]}")
