"""Service, runner and kernel of jobs are killed with SIGKILL at random moments, over and over.

What must hold: no output that somebody could have read is ever gone or out of order, no job runs twice at once, none is
stuck, and one whose own processes were not touched completes.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from batches import Notebook, running_notebook
from conftest import FULL_STRESS
from nodes import all_marked, eventually

from timeshare.notebooks.batch.job import Job
from timeshare.notebooks.runner.spool import SpoolReader, read_lines

pytestmark = [pytest.mark.stress, pytest.mark.timeout(3600)]

KILLS = int(os.environ.get("KILLS", "50" if FULL_STRESS else "10"))
SEED = int(os.environ.get("SEED", "20261124"))
AT_ONCE, LINES = 4, 40
VICTIMS = ("service", "runner", "kernel")


class Watched:
    """A job, and every line of it that somebody has read so far."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.touched = False
        self.path = job.tasks[0].path / "spool.jsonl"
        self.reader = SpoolReader(self.path)
        self.read: list[dict[str, object]] = []

    def look(self) -> None:
        self.read += self.reader.new()

    def wrong(self) -> list[str]:
        """When it has ended."""
        self.look()
        kept, text, state = list(read_lines(self.path)), self.job.tasks[0].text(), self.job.state
        numbers = [int(n) for n in re.findall(r"^line (\d+)$", text, re.MULTILINE)]
        found = []
        if self.read != kept:
            found.append("what was read is not what is kept")
        if [line["seq"] for line in kept] != list(range(1, len(kept) + 1)):
            found.append("its lines are not numbered one by one")
        if numbers != list(range(len(numbers))):
            found.append(f"its output has gaps: {numbers}")
        if state == "completed" and len(numbers) != LINES:
            found.append(f"completed with {len(numbers)} of {LINES} lines")
        if state != "completed" and not (self.touched and state == "crashed"):
            found.append(f"it is {state} ({self.job.status().why}), touched: {self.touched}")
        if "BlockingIOError" in text:
            found.append("it ran twice at once")
        return [f"{self.job.id}: {text}" for text in found]


def processes(job: Job) -> dict[str, int]:
    """Runner and kernel, as far as they have begun."""
    found = {}
    for name in job.reservation_ids().values():
        for pid in all_marked().get(name, ()):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if b"timeshare.notebooks.runner" in words:
                    found["runner"] = pid
                elif b"timeshare.notebooks.runner.launch" in words:
                    found["kernel"] = pid
    return found


def submit(notebook: Notebook, folder: Path, number: int) -> Watched:
    cell = f"""
import fcntl, time
_alone = open({str(folder / f"lock-{number}")!r}, "w")
fcntl.flock(_alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
for n in range({LINES}):
    print("line", n, flush=True)
    time.sleep(.1)
"""
    return Watched(notebook.hand(cell))


def test_no_kill_loses_output_runs_a_job_twice_or_leaves_one_stuck(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(SEED)
    watched: list[Watched] = []
    kills: Counter[str] = Counter()
    with running_notebook(tmp_path, "a100-40gb:4") as notebook:
        while sum(kills.values()) < KILLS:
            running = [one for one in watched if not one.job.done()]
            while len(running) < AT_ONCE:
                running.append(submit(notebook, tmp_path, len(watched)))
                watched.append(running[-1])
            time.sleep(rng.random())
            for one in running:
                one.look()
            victim = rng.choice(VICTIMS)
            if victim == "service":
                notebook.server.kill()
                time.sleep(rng.random() * 0.5)
                notebook.server.start()
            else:
                one = rng.choice(running)
                pid = processes(one.job).get(victim)
                if pid is None:
                    continue  # it has not begun, or is over
                one.touched = True
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            kills[victim] += 1
        for one in watched:
            assert one.job.wait(60), f"{one.job.id} is stuck: {one.job.status()}"
        wrong = [text for one in watched for text in one.wrong()]
        names = {name for one in watched for name in one.job.reservation_ids().values()}
        eventually(lambda: not names & set(all_marked()), 30)
        ended = Counter(one.job.state for one in watched)
        lines = sum(len(one.read) for one in watched)
    with capsys.disabled():
        print(f"\n{dict(kills)} killed over {len(watched)} jobs ({dict(ended)}), {lines} lines: {len(wrong)} wrong")
    assert wrong == []
    assert ended["completed"], "every job was killed: nothing was shown"
