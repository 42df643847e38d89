"""``python -m timeshare.notebooks.runner FOLDER [--digest D] [--key-stdin]``: runs the job in FOLDER. The exit status
is 0 if the cell ran to its end, 1 if it raised, was stopped or crashed, 2 if it could not be run at all; status.json
tells the rest."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ..capture.modules import differences
from ..capture.snapshot import VersionMismatch, check_versions
from ..capture.store import Untrusted
from .document import as_notebook
from .folder import Folder, Job
from .kernel import Kernel, KernelDied, Outcome
from .signing import signed
from .spool import Spool, read_lines
from .trials import PRUNED

OUT_OF_MEMORY = "out of memory"
_MEMORY_ERRORS = ("MemoryError", "OutOfMemoryError", "_ArrayMemoryError")
_INSIDE = "import timeshare.notebooks.runner.inside as __timeshare_inside"
_AS_INTENDED = {"JobStopped": "stopped", "TrialPruned": PRUNED}
"""Exceptions whose traceback tells nobody anything, and the word for them."""
SAVE_SHARE = 0.6
"""Of the time that a stop leaves, how much a resumable loop gets to come to the end of its step."""


@dataclass
class Ending:
    """``state``: ``completed``, ``failed`` (it raised), ``stopped`` (interrupted from outside), ``out of memory``,
    ``crashed`` (the kernel died) or ``refused`` (it was not begun)."""

    state: str
    why: str = ""

    @property
    def exit_status(self) -> int:
        return {"completed": 0, "refused": 2}.get(self.state, 1)


@dataclass(frozen=True)
class Settings:
    """What the service says about this start. ``key`` signs the results; ``grace_s``: how long a stop may take."""

    attempt: int
    key: str
    grace_s: float

    @staticmethod
    def taken(*, key_stdin: bool) -> Settings:
        """From the environment; the key, which is no part of that, from standard input if it is there."""
        key = sys.stdin.readline().strip() if key_stdin else ""
        grace = os.environ.pop("TIMESHARE_STOP_GRACE_S", "30")
        return Settings(int(os.environ.get("TIMESHARE_GENERATION", "1")), key, float(grace))


class Runner:
    """Of one job, once."""

    def __init__(self, folder: Folder, job: Job, settings: Settings) -> None:
        self._folder, self._job, self._settings = folder, job, settings
        self._spool = Spool(folder.path / "spool.jsonl")
        self._kernel: Kernel | None = None
        self._stop_at: float | None = None
        self._interrupted = False

    def run(self) -> Ending:
        signal.signal(signal.SIGINT, self._asked_to_stop)
        signal.signal(signal.SIGTERM, self._asked_to_stop)
        (self._folder.path / "stop").unlink(missing_ok=True)
        if self._settings.attempt > 1:
            text = f"timeshare: started again, attempt {self._settings.attempt}\n"
            self._spool.add("stream", {"name": "stderr", "text": text})
        killed_before = oom_kills()
        try:
            self._kernel = Kernel(self._job.cwd, _environment(self._job, self._folder))
            return self._run(self._kernel)
        except KernelDied as died:
            if died.killed and oom_kills() > killed_before:
                return Ending(OUT_OF_MEMORY, "its kernel was killed because the machine's memory was used up")
            return Ending("crashed", str(died))
        finally:
            if self._kernel is not None:
                self._kernel.close()
            self._spool.close()

    def _run(self, kernel: Kernel) -> Ending:
        path = str(self._folder.path)
        begun = kernel.run(
            f"{_INSIDE}\n__timeshare_before = __timeshare_inside.begin({path!r}, globals())",
            self._told_if_wrong,
            self._tick,
        )
        if not begun.ok:
            return Ending("failed", f"its variables could not be loaded: {begun.name}: {begun.value}")
        outcome = Outcome(False, "KeyboardInterrupt") if self._interrupted else self._cell(kernel)
        failed = not outcome.ok
        saved = kernel.quietly(f"__timeshare_inside.finish({path!r}, globals(), __timeshare_before, {failed})")
        if not saved.ok:
            return Ending("failed", f"its results could not be kept: {saved.name}: {saved.value}")
        trial = self._sign().get("trial", {})
        if trial.get("state") == PRUNED:
            return Ending("completed", PRUNED)
        if outcome.ok and trial.get("state") == "failed":
            return Ending("failed", "the cell's last line is no number: it is the trial's value")
        if outcome.ok:
            return Ending("completed")
        if outcome.name in _MEMORY_ERRORS:
            return Ending(OUT_OF_MEMORY, f"{outcome.name}: {outcome.value}")
        stopped = self._stop_at is not None and outcome.name in ("KeyboardInterrupt", "JobStopped")
        return Ending("stopped" if stopped else "failed", f"{outcome.name}: {outcome.value}".rstrip(": "))

    def _cell(self, kernel: Kernel) -> Outcome:
        outcome = kernel.run(self._job.cell, self._published, self._tick)
        self._spool.flush()
        return outcome

    def _published(self, kind: str, content: dict[str, Any]) -> None:
        if kind == "error" and content["ename"] in _AS_INTENDED:
            text = f"timeshare: {_AS_INTENDED[content['ename']]} {content['evalue']}".rstrip()
            kind, content = "stream", {"name": "stderr", "text": f"{text}\n"}
        self._spool.add(kind, content)

    def _sign(self) -> dict[str, Any]:
        """What the cell left."""
        body: dict[str, Any] = json.loads(self._folder.read("unsigned.json"))
        self._folder.write("results.json", signed(self._job.id, body, self._settings.key))
        (self._folder.path / "unsigned.json").unlink()
        return body

    def _tick(self) -> None:
        self._spool.tick()
        if self._stop_at is not None and not self._interrupted and time.monotonic() >= self._stop_at:
            self._interrupted = True
            assert self._kernel is not None
            self._kernel.interrupt()

    def _told_if_wrong(self, kind: str, content: dict[str, Any]) -> None:
        if kind == "error":
            self._spool.add(kind, content)

    def _asked_to_stop(self, number: int, frame: FrameType | None) -> None:
        """A resumable loop is let to the end of its step, if the grace allows; anything else sees Ctrl-C now, and what
        it has so far is kept. A second signal waits no longer."""
        first = self._stop_at is None
        resumable = (self._folder.path / "resumable").exists()
        self._stop_at = time.monotonic() + (SAVE_SHARE * self._settings.grace_s if first and resumable else 0.0)
        (self._folder.path / "stop").touch(mode=0o600)


def oom_kills() -> int:
    """How many processes Linux has killed since it started because memory was used up; 0 where it does not say."""
    try:
        text = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)


def _environment(job: Job, folder: Folder) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if name not in job.environment or "TIMESHARE" in name}
    given = {name: value for name, value in job.environment.items() if not name.startswith("TIMESHARE_")}
    return {
        **given,
        **ours,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "TIMESHARE_JOB_ID": job.id,
        "TIMESHARE_JOB_FOLDER": str(folder.path),
        "TIMESHARE_RUNNER_PID": str(os.getpid()),
    }


def _parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m timeshare.notebooks.runner")
    parser.add_argument("folder")
    parser.add_argument("--digest", default="", help="what job.json must be")
    parser.add_argument("--key-stdin", action="store_true", help="standard input has the key that signs the results")
    return parser.parse_args(words)


def main(words: list[str]) -> int:
    """See the module."""
    options = _parse(words)
    settings = Settings.taken(key_stdin=options.key_stdin)
    try:
        folder = Folder(Path(options.folder).absolute())
        job = folder.job(options.digest)
    except (Untrusted, ValueError) as error:
        print(f"the job cannot be run: {error}", file=sys.stderr)
        return 2
    began = time.time()
    try:
        check_versions(job.snapshot)
        missing, other = differences(job.packages)
        if missing:
            raise VersionMismatch(f"this Python has no {', '.join(missing)}: use the notebook's environment")
        for text in other:
            print(f"timeshare: {text}", file=sys.stderr)
        ending = Runner(folder, job, settings).run()
    except VersionMismatch as error:
        ending = Ending("refused", str(error))
    lines = list(read_lines(folder.path / "spool.jsonl"))
    folder.write("job.ipynb", as_notebook(job.cell, lines))
    told = {"state": ending.state, "why": ending.why, "attempt": settings.attempt, "began": began, "ended": time.time()}
    folder.write("status.json", json.dumps({**told, "lines": len(lines)}))
    return ending.exit_status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
