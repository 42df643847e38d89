"""``python -m timeshare.notebooks.runner FOLDER [--digest D] [--key-stdin]``: runs the job in FOLDER. The exit status
is 0 if the cell ran to its end, 1 if it raised, was stopped or crashed, 2 if it could not be run at all; status.json
tells the rest."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from ..capture.own import Untrusted
from ..capture.snapshot import VersionMismatch
from . import preparing
from .document import as_notebook
from .ending import REFUSED, Ending
from .folder import Folder
from .running import Runner, Settings
from .spool import FULL, read_lines

ROOM, ROOM_BYTES = ".room", 64 * 1024
"""A file that is removed before the end of the job is written down: so that there is room for that on a disk that the
job, or somebody else, has filled."""


def _settings(options: argparse.Namespace) -> Settings:
    """From the environment; the key, which is no part of that, from standard input if it is there."""
    key = sys.stdin.readline().strip() if options.key_stdin else ""
    grace = float(os.environ.pop("TIMESHARE_STOP_GRACE_S", "30"))
    kill_wait = float(os.environ.pop("TIMESHARE_KILL_WAIT_S", grace))
    return Settings(preparing.attempt(), key, grace, min(grace, kill_wait), options.digest)


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m timeshare.notebooks.runner")
    parser.add_argument("folder")
    parser.add_argument("--digest", default="", help="what job.json must be")
    parser.add_argument("--key-stdin", action="store_true", help="standard input has the key that signs the results")
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    """See the module."""
    options = _parse(words)
    settings = _settings(options)
    try:
        folder = Folder(Path(options.folder).absolute())
        job = folder.job(options.digest)
    except (Untrusted, ValueError) as error:
        print(f"the job cannot be run: {error}", file=sys.stderr)
        return 2
    began = time.time()
    _write(folder, ROOM, " " * ROOM_BYTES)
    try:
        preparing.check(job)
        ending = Runner(folder, job, settings).run()
    except VersionMismatch as error:
        ending = Ending(REFUSED, str(error))
    lines = list(read_lines(folder.at("spool.jsonl")))
    _write(folder, "job.ipynb", as_notebook(job.cell, lines))
    folder.at(ROOM).unlink(missing_ok=True)
    told = {"state": ending.state, "why": ending.why, "attempt": settings.attempt, "began": began, "ended": time.time()}
    if not _write(folder, "status.json", json.dumps({**told, "lines": len(lines)})):
        print(f"how the job ended cannot be written: it is {ending.state}: {ending.why}", file=sys.stderr)
    return ending.exit_status


def _write(folder: Folder, name: str, text: str) -> bool:
    """Whether the disk took it. A full one is said in the job's log, and is no reason to lose how the job ended."""
    try:
        folder.write(name, text)
    except OSError as error:
        if error.errno not in FULL:
            raise
        print(f"the disk of {folder.path} is full: {name} is not written", file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
