"""``python -m timeshare.notebooks.runner.rank FOLDER --digest D [--rank R]``: one more process of a job's cell, beside
the runner's own; see ``crew``. It loads the same variables into a kernel of its own and runs the same cell there. What
that puts out is kept in ``ranks/R`` of the job's folder; nothing of it comes back.

Its exit status is 0 when it has said how it ended, however that was: anything else makes Slurm end all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..capture.own import Untrusted
from ..capture.snapshot import VersionMismatch
from . import ending, preparing, step, torchrun
from .crew import GO, INTERRUPT
from .ending import FAILED, READY, REFUSED, STOPPED, Ending, Report
from .folder import Folder, Job, folder_of
from .kernel import Kernel, KernelDied
from .oom_kills import oom_kills

END_S = 5.0
POLL_S = 0.05


class Over(Exception):
    """The runner is gone, or wants no more."""


@dataclass
class Orders:
    """What the runner says, as it comes."""

    go: threading.Event = field(default_factory=threading.Event)
    interrupt: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)

    def listen(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        words = {GO.encode(): self.go, INTERRUPT.encode(): self.interrupt}
        text = b""
        while part := os.read(0, 4096):  # no buffered reader: this thread sits in it while Python ends
            *lines, text = (text + part).split(b"\n")
            for line in lines:
                if line in words:
                    words[line].set()
        self.over.set()
        time.sleep(END_S)
        os._exit(1)  # it hangs somewhere; its kernel ends with it


class Voice:
    """Standard output, kept for the runner alone: whatever else writes there is heard on standard error."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def say(self, report: Report) -> None:
        self._file.write(f"{json.dumps(asdict(report))}\n")
        self._file.flush()


class Rank:
    """``folder``: of the job."""

    def __init__(self, folder: Folder, job: Job, rank: int, orders: Orders) -> None:
        self._folder, self._job, self._rank, self._orders = folder, job, rank, orders
        path = folder_of(folder.at(""), rank)
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._spool = preparing.spool(path / "spool.jsonl", preparing.attempt())
        self._kernel: Kernel | None = None
        self._interrupted = False

    def run(self, voice: Voice, node: str) -> None:
        """Says that it is ready, and how it ended."""
        killed_before = oom_kills()
        try:
            variables = preparing.environment(self._job, self._folder)
            meeting = torchrun.Meeting.told(os.environ)
            variables |= torchrun.environment(self._job.layout, self._rank, meeting)
            try:
                self._kernel = Kernel(variables)
                voice.say(Report(self._rank, READY, "", node, time.time()))
                found = self._run(self._kernel)
            except KernelDied as died:
                found = ending.of_death(died, killed_before)
            at = time.time()
            self._spool.close()
            # Before its kernel goes: that cuts the others off, and they would be heard first.
            voice.say(Report(self._rank, found.state, found.why[:2000], node, at))
        finally:
            if self._kernel is not None:
                self._kernel.close()

    def _run(self, kernel: Kernel) -> Ending:
        while not self._orders.go.is_set():
            if self._orders.interrupt.is_set():
                return Ending(STOPPED)
            self._tick()
            time.sleep(POLL_S)
        path = str(self._folder.path)
        begin = f"{preparing.INSIDE}\n__timeshare_inside.begin({path!r}, globals(), {self._rank})"
        begun = kernel.run(begin, self._told_if_wrong, self._tick)
        if not begun.ok:
            return Ending(FAILED, f"its variables could not be loaded: {begun.name}: {begun.value}")
        outcome = kernel.run(self._job.cell, self._spool.add, self._tick)
        return ending.of_outcome(outcome, asked_to_stop=self._interrupted)

    def _tick(self) -> None:
        self._spool.tick()
        if self._orders.over.is_set():
            raise Over
        if self._orders.interrupt.is_set() and not self._interrupted:
            self._interrupted = True
            if self._orders.go.is_set() and self._kernel is not None:
                self._kernel.interrupt()

    def _told_if_wrong(self, kind: str, content: dict[str, Any]) -> None:
        if kind == "error":
            self._spool.add(kind, content)


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m timeshare.notebooks.runner.rank")
    parser.add_argument("folder")
    parser.add_argument("--digest", default="", help="what job.json must be")
    parser.add_argument("--rank", type=int, help="which it is, from 1; default: as the task of its Slurm step")
    parser.add_argument("--processes", type=int, default=1, help="of that step, tasks on each node")
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    """See the module."""
    options, voice, orders = _parse(words), Voice(), Orders()
    for number in (signal.SIGINT, signal.SIGTERM):
        # The runner gets these, and says what follows. Not ignored: a kernel would inherit that.
        signal.signal(number, lambda number, frame: None)
    orders.listen()
    rank, node = options.rank, ""
    if rank is None:
        rank, node = torchrun.Layout(processes=options.processes).rank(*step.place()), step.node_name()
    if rank == 0:
        return 0  # the runner is there already
    try:
        folder = Folder(Path(options.folder))
        job = folder.job(options.digest)
        preparing.check(job)
        Rank(folder, job, rank, orders).run(voice, node)
    except (Untrusted, ValueError, VersionMismatch) as error:
        voice.say(Report(rank, REFUSED, str(error), node, time.time()))
    except Over:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
