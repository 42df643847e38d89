"""A job from its first output to its last: a cell in a kernel of the runner, and where it runs as several processes,
all of them."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from . import ending, preparing, step, torchrun
from .crew import GO, INTERRUPT, Crew
from .ending import COMPLETED, ENDED, FAILED, REFUSED, STOPPED, Ending, Report
from .folder import Folder, Job, folder_of
from .kernel import Kernel, KernelDied, Outcome
from .oom_kills import oom_kills
from .signing import signed
from .spool import read_lines
from .trials import PRUNED

_AS_INTENDED = {"JobStopped": "stopped", "TrialPruned": PRUNED}
"""Exceptions whose traceback tells nobody anything, and the word for them."""
SAVE_SHARE = 0.6
"""Of the time that a stop leaves, how much a resumable loop gets to come to the end of its step."""
FORCE_SHARE = 0.15
"""Of the same time, how much ranks get to end after an interrupt; then again as much until they are killed."""
SETTLE_S = 3.0
"""A rank that fails takes the others along within this time, or they are interrupted."""
POLL_S = 0.1


@dataclass(frozen=True)
class Settings:
    """What the service says about this start. ``key`` signs the results; ``grace_s``: how long a stop may take, and
    ``term_grace_s`` after a SIGTERM; ``digest``: what job.json must be."""

    attempt: int
    key: str
    grace_s: float
    term_grace_s: float
    digest: str = ""


def _of_trial(trial: dict[str, Any], first: Report) -> Ending | None:
    """The end of a trial that was pruned, or whose value is none."""
    if trial.get("state") == PRUNED:
        return Ending(COMPLETED, PRUNED)
    if trial.get("state") == "failed" and first.state == COMPLETED:
        return Ending(FAILED, "the cell's last line is no number: it is the trial's value")
    return None


class NotKept(Exception):
    """The cell is over, and what it left is lost; the text says why."""


class Runner:
    """Of one job, once."""

    def __init__(self, folder: Folder, job: Job, settings: Settings) -> None:
        self._folder, self._job, self._settings = folder, job, settings
        self._grace_s = settings.grace_s
        self._spool = preparing.spool(folder.at("spool.jsonl"), settings.attempt)
        self._kernel: Kernel | None = None
        self._crew = Crew()
        self._port: torchrun.HeldPort | None = None
        self._stop_at: float | None = None
        self._wrong_at: float | None = None
        self._interrupted_at: float | None = None
        self._in_cell = self._over = self._died = False
        self._oom_kills = oom_kills()

    def run(self) -> Ending:
        signal.signal(signal.SIGINT, self._asked_to_stop)
        signal.signal(signal.SIGTERM, self._asked_to_stop)
        self._folder.at("stop").unlink(missing_ok=True)
        try:
            variables = {**preparing.environment(self._job, self._folder), **self._launched()}
            self._kernel = Kernel(variables)
            return self._run(self._kernel)
        except step.NoStep as error:
            return Ending(REFUSED, str(error))
        except NotKept as error:
            return Ending(FAILED, str(error))
        except KernelDied as died:
            return ending.of_death(died, self._oom_kills)
        finally:
            self._crew.close()
            if self._kernel is not None:
                self._kernel.close()
            self._spool.close()

    def _launched(self) -> dict[str, str]:
        """Starts the other ranks, which wait for a word; what rank 0 is to see of it all."""
        if not self._job.launch:
            return {}
        layout, self._port = self._job.layout, torchrun.HeldPort()
        address = step.address() if layout.nodes > 1 else "127.0.0.1"
        meeting = torchrun.Meeting(address, self._port.number, f"{self._job.id}.{self._settings.attempt}")
        self._crew = Crew.start(layout, meeting, [str(self._folder.path), "--digest", self._settings.digest])
        return torchrun.environment(layout, 0, meeting)

    def _run(self, kernel: Kernel) -> Ending:
        path = str(self._folder.path)
        begun = kernel.run(
            f"{preparing.INSIDE}\n__timeshare_before = __timeshare_inside.begin({path!r}, globals())",
            self._told_if_wrong,
            self._tick,
        )
        if not begun.ok:
            return Ending(FAILED, f"its variables could not be loaded: {begun.name}: {begun.value}")
        self._until(lambda: self._crew.ready or self._interrupted_at is not None)
        if self._crew.wrong:
            return ending.because_of(self._crew.wrong[0])
        first = self._cell(kernel)
        self._settle(first)
        cause = ending.culprit(first, self._crew.wrong)
        with_error = first.state != COMPLETED and cause in (None, first)
        trial = {} if self._died else self._saved(kernel, with_error=with_error)
        self._until(lambda: self._crew.over)
        return self._together(first) or _of_trial(trial, first) or Ending(first.state, first.why)

    def _together(self, first: Report) -> Ending | None:
        """The end of all for what happened to another rank; None: it is that of rank 0."""
        unfinished = [report for report in self._crew.reports.values() if report.state != COMPLETED]
        if self._stop_at is not None and first.state == COMPLETED and unfinished:
            return Ending(STOPPED, f"{unfinished[0].who} had not come to its end")
        cause = ending.culprit(first, self._crew.wrong)
        if cause is None or cause is first or (self._stop_at is not None and not first.wrong):
            return None
        self._show(cause)
        return ending.because_of(cause)

    # --- the cell

    def _cell(self, kernel: Kernel) -> Report:
        """How it ended here, in rank 0."""
        try:
            outcome = self._outcome(kernel)
            found = ending.of_outcome(outcome, asked_to_stop=self._stop_at is not None)
        except KernelDied as died:
            self._died = True
            found = ending.of_death(died, self._oom_kills)
        finally:
            self._in_cell, self._over = False, True
            self._spool.flush()
        if self._interrupted_at is not None and self._crew.ranks and found.state != COMPLETED:
            # By a word of ours, though it may have seen the ends of the others sooner.
            found = Ending(ENDED if self._stop_at is None else STOPPED, found.why)
        return Report(0, found.state, found.why, at=time.time())

    def _outcome(self, kernel: Kernel) -> Outcome:
        if self._interrupted_at is not None:
            return Outcome(False, "KeyboardInterrupt")
        if self._port is not None:
            self._port.let_go()
        self._crew.say(GO)
        self._in_cell = True
        return kernel.run(self._job.cell, self._published, self._tick)

    def _saved(self, kernel: Kernel, *, with_error: bool) -> dict[str, Any]:
        """Keeps what the cell left; of a trial, its summary. Raises NotKept."""
        path = str(self._folder.path)
        saved = kernel.quietly(f"__timeshare_inside.finish({path!r}, globals(), __timeshare_before, {with_error})")
        if not saved.ok:
            raise NotKept(f"its results could not be kept: {saved.name}: {saved.value}")
        body: dict[str, Any] = json.loads(self._folder.read("unsigned.json"))
        self._folder.write("results.json", signed(self._job.id, body, self._settings.key))
        self._folder.at("unsigned.json").unlink()
        trial: dict[str, Any] = body.get("trial", {})
        return trial

    def _settle(self, first: Report) -> None:
        """The others of a cell that did not complete here have a moment to say why, then they are interrupted."""
        if first.state == COMPLETED or not self._crew.ranks:
            return
        until = time.monotonic() + (SETTLE_S if first.wrong else 0.0)
        self._until(lambda: self._crew.over or time.monotonic() >= until)
        if self._interrupted_at is None:
            self._interrupt(time.monotonic())

    def _published(self, kind: str, content: dict[str, Any]) -> None:
        if kind == "error" and content["ename"] in _AS_INTENDED:
            text = f"timeshare: {_AS_INTENDED[content['ename']]} {content['evalue']}".rstrip()
            kind, content = "stream", {"name": "stderr", "text": f"{text}\n"}
        if kind == "error" and self._interrupted_at is not None and self._stop_at is None:
            text = "timeshare: interrupted here, for another rank failed\n"
            kind, content = "stream", {"name": "stderr", "text": text}
        self._spool.add(kind, content)

    def _told_if_wrong(self, kind: str, content: dict[str, Any]) -> None:
        if kind == "error":
            self._spool.add(kind, content)

    def _show(self, cause: Report) -> None:
        """Why the job failed, among what it put out: it happened in another rank."""
        more = f"%gpu_batch logs --rank {cause.rank} shows what it put out"
        text = f"timeshare: {cause.who} {cause.state}: {cause.why}; {more}\n"
        self._spool.add("stream", {"name": "stderr", "text": text})
        lines = read_lines(folder_of(self._folder.at(""), cause.rank) / "spool.jsonl")
        errors = [line["content"] for line in lines if line["kind"] == "error"]
        if errors and cause.state == FAILED:
            self._spool.add("error", errors[-1])

    # --- stops

    def _until(self, done: Callable[[], bool]) -> None:
        while not done():
            self._tick()
            time.sleep(POLL_S)

    def _tick(self) -> None:
        self._spool.tick()
        self._crew.look()
        now = time.monotonic()
        if self._wrong_at is None and self._crew.wrong:
            self._wrong_at = now
        if self._interrupted_at is not None:
            self._insist(now - self._interrupted_at)
        elif self._due(now):
            self._interrupt(now)

    def _due(self, now: float) -> bool:
        asked = self._stop_at is not None and now >= self._stop_at
        return asked or (self._wrong_at is not None and now >= self._wrong_at + SETTLE_S)

    def _interrupt(self, now: float) -> None:
        """All that has not come to its end, as Ctrl-C would."""
        self._interrupted_at = now
        self._crew.say(INTERRUPT)
        if self._kernel is not None and not self._over:
            self._kernel.interrupt()

    def _insist(self, since: float) -> None:
        """Ranks that wait for each other in a library hear no interrupt: that the others are gone, they do."""
        force = FORCE_SHARE * self._grace_s
        if self._crew.ranks and since >= force:
            self._crew.end()
            if self._in_cell and since >= 2 * force and self._kernel is not None:
                self._kernel.kill()
            if since >= 3 * force:
                self._crew.kill()

    def _asked_to_stop(self, number: int, frame: FrameType | None) -> None:
        """A resumable loop is let to the end of its step, if the grace allows; anything else sees Ctrl-C now, and what
        it has so far is kept. A second signal waits no longer."""
        if number == signal.SIGTERM:
            self._grace_s = self._settings.term_grace_s
        first = self._stop_at is None
        resumable = self._folder.at("resumable").exists()
        self._stop_at = time.monotonic() + (SAVE_SHARE * self._grace_s if first and resumable else 0.0)
        self._folder.at("stop").touch(mode=0o600)
