"""The ranks of a job beside rank 0, which is the runner's own kernel: started as processes of this node, or as a step
of the Slurm job on all of its nodes. Each is told what to do by a word on its standard input, whose end is its own, and
says how it is by a line of JSON on its standard output: neither needs a file that another node may see late."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import IO

from . import step
from .ending import ENDED, LOST, READY, Report
from .torchrun import Layout, Meeting

RANK = "timeshare.notebooks.runner.rank"
GO, INTERRUPT = "go", "interrupt"
END_S = 10.0
"""How long processes may take to end when their standard input has."""


@dataclass
class Channel:
    """A process that is, or starts, ``ranks``. ``errors``: the last that srun said of them."""

    process: subprocess.Popen[str]
    ranks: frozenset[int]
    errors: list[str] = field(default_factory=list)

    def how(self) -> str:
        """In which way it ended, for people."""
        code = self.process.wait()
        if self.errors:
            return f"; srun says: {'; '.join(self.errors[-3:])}"
        if code < 0:
            return f": its process was ended by {signal.Signals(-code).name}"
        return f": its process ended with exit status {code}"


class Crew:
    """Those ranks; of a cell that is one process, none. ``reports``: what each said last."""

    def __init__(self, channels: Sequence[Channel] = ()) -> None:
        self._channels = channels
        self._said: queue.SimpleQueue[tuple[Channel, str | None]] = queue.SimpleQueue()
        self.ranks = frozenset[int]().union(*(channel.ranks for channel in channels))
        self._ended = False
        self.reports: dict[int, Report] = {}
        for channel in channels:
            self._read(channel)

    @staticmethod
    def start(layout: Layout, meeting: Meeting, arguments: Sequence[str]) -> Crew:
        """``arguments``: folder and digest of the job, for each rank. Raises NoStep."""
        command = [sys.executable, "-m", RANK, *arguments]
        variables = {**os.environ, **meeting.environment()}
        if layout.nodes == 1:
            ranks = range(1, layout.size)
            return Crew([_channel([*command, "--rank", str(rank)], variables, frozenset({rank})) for rank in ranks])
        step.check(layout)
        words = step.words(layout, [*command, "--processes", str(layout.processes)])
        return Crew([_channel(words, step.environment(variables), frozenset(range(1, layout.size)), heard=True)])

    # --- how they are

    def look(self) -> None:
        """Takes in what they have said since."""
        with contextlib.suppress(queue.Empty):
            while True:
                channel, line = self._said.get_nowait()
                if line is None:
                    self._over(channel)
                else:
                    self._take(line)

    @property
    def ready(self) -> bool:
        """Whether every one can begin, or never will."""
        return self.ranks <= set(self.reports)

    @property
    def over(self) -> bool:
        return self.ready and all(report.state != READY for report in self.reports.values())

    @property
    def wrong(self) -> list[Report]:
        return [report for report in self.reports.values() if report.wrong]

    # --- what they are told

    def say(self, word: str) -> None:
        for channel in self._channels:
            with contextlib.suppress(OSError, ValueError):  # it is over
                stdin = _there(channel.process.stdin)
                stdin.write(f"{word}\n")
                stdin.flush()

    def end(self) -> None:
        """They end at once, as when their runner dies."""
        self._ended = True
        for channel in self._channels:
            with contextlib.suppress(OSError):
                _there(channel.process.stdin).close()

    def kill(self) -> None:
        """They take too long."""
        for channel in self._channels:
            channel.process.kill()

    def close(self) -> None:
        """Ends them, by force if need be, and waits until they are gone."""
        self.end()
        until = time.monotonic() + END_S
        for channel in self._channels:
            for stop in (channel.process.terminate, channel.process.kill):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    channel.process.wait(max(0.1, until - time.monotonic()))
                    break
                stop()
                until = time.monotonic() + END_S

    # --- listening

    def _read(self, channel: Channel) -> None:
        def lines() -> None:
            for line in _there(channel.process.stdout):
                self._said.put((channel, line))
            self._said.put((channel, None))

        threading.Thread(target=lines, daemon=True).start()
        if channel.process.stderr is not None:
            threading.Thread(target=_keep_errors, args=(channel, channel.process.stderr), daemon=True).start()

    def _take(self, line: str) -> None:
        try:
            report = Report.told(json.loads(line))
        except (ValueError, KeyError, TypeError):
            sys.stderr.write(line)  # of srun, or a library
            return
        known = self.reports.get(report.rank)
        if report.rank in self.ranks and (known is None or known.state == READY):
            self.reports[report.rank] = report

    def _over(self, channel: Channel) -> None:
        how = channel.how()
        for rank in channel.ranks:
            known = self.reports.get(rank, Report(rank, READY))
            if known.state == READY:
                gone = (ENDED, "it was ended") if self._ended else (LOST, f"it is gone without a word{how}")
                self.reports[rank] = replace(known, state=gone[0], why=gone[1], at=time.time())


def _channel(words: Sequence[str], variables: dict[str, str], ranks: frozenset[int], *, heard: bool = False) -> Channel:
    """``heard``: what it says of errors is of interest."""
    process = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if heard else None,
        env=variables,
        text=True,
        start_new_session=True,  # signals of a terminal are for the runner
    )
    return Channel(process, ranks)


def _keep_errors(channel: Channel, stream: IO[str]) -> None:
    for line in stream:
        sys.stderr.write(line)
        if line.startswith("srun: error: "):
            channel.errors.append(line.removeprefix("srun: error: ").strip())


def _there(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
