"""The handle of a job: whoever has its id, in any notebook or terminal, at any time, has the same."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import randomness
from ..capture.own import Untrusted
from ..runner.document import outputs
from ..runner.folder import Folder, folder_of
from ..runner.spool import read_lines
from .places import REQUEST, Places
from .results import Results, bring, read_results
from .service import Json, Refused, Service, Unreachable
from .states import COMPLETED, UNKNOWN, Status, status_of, summary
from .submission import SUBMITTED, Request, send

FIRST_POLL_S, POLL_S = 0.1, 1.0
"""How often a job is looked at that somebody waits for: ever more seldom."""
LONG_POLL_S = 20


class NoSuchJob(Exception):
    """The text names the id, and where to find others."""


class JobFailed(Exception):
    """A job did not complete; the text says which, its word, and its last words. Its cause is the cell's own
    exception, if that could travel."""

    def _render_traceback_(self) -> list[str]:
        """IPython shows this instead of where in timeshare it was raised."""
        return [f"JobFailed: {self}"]


@dataclass(frozen=True)
class Task:
    """One run of the cell: the job itself, or a point of a sweep. ``id``: as its results are signed."""

    id: str
    number: int
    path: Path
    point: dict[str, Any] = field(default_factory=dict)

    def told(self) -> dict[str, Any] | None:
        """What the runner said at its end."""
        return Folder(self.path).status()

    def ranks(self) -> int:
        """As how many processes the cell runs."""
        return Folder(self.path).job().layout.size

    def lines(self, rank: int = 0) -> Iterator[dict[str, Any]]:
        return read_lines(folder_of(self.path, rank) / "spool.jsonl")

    def text(self, rank: int = 0) -> str:
        """What the cell printed, in one of its ranks, as a terminal shows it, and its traceback."""
        parts = [_plain(output) for output in outputs(self.lines(rank))]
        return "".join(part for part in parts if part)

    def progress(self) -> str:
        """The newest of its progress bars."""
        bars = [line["content"] for line in self.lines() if line["kind"] == "progress"]
        return f"{bars[-1]['what']} {bars[-1]['percent']} %".strip() if bars else ""


class Job:
    """Like a future: ``done``, ``result``, ``cancel``, and it can be awaited."""

    def __init__(self, request: Request, places: Places, service: Service, main: dict[str, Any] | None = None) -> None:
        self.request, self.id = request, request.id
        self._places, self._service = places, service
        self._main = vars(sys.modules["__main__"]) if main is None else main
        self._ended: dict[int, Status] = {}

    @staticmethod
    def find(job_id: str, places: Places, service: Service, main: dict[str, Any] | None = None) -> Job:
        """By its id, the beginning of it, or empty for the newest. Raises NoSuchJob and Untrusted."""
        wanted = job_id.partition("/")[0]
        ids = [name for name in places.ids() if name.startswith(wanted)]
        if not ids:
            what = f"no job {job_id!r}" if job_id else "no job yet"
            raise NoSuchJob(f"there is {what} in {places.jobs}; %gpu_batch ls lists them")
        if job_id and len(ids) > 1 and wanted not in ids:
            raise NoSuchJob(f"{job_id!r} is the beginning of {', '.join(ids[:5])}: give more of it")
        name = wanted if wanted in ids else ids[0]
        folder = Folder(places.jobs / name)
        return Job(Request.from_json(folder.read(REQUEST)), places, service, main)

    # --- what it is

    @property
    def is_sweep(self) -> bool:
        return bool(self.request.points or self.request.trials)

    @property
    def folder(self) -> Path:
        return self._places.jobs / self.id

    @property
    def tasks(self) -> list[Task]:
        points = self.request.points or ({},) * len(self.request.tasks)
        return [
            Task(f"{self.id}/{sub}" if sub else self.id, number, self.folder / sub, points[number])
            for number, (sub, _) in enumerate(self.request.tasks)
        ]

    def __len__(self) -> int:
        return len(self.request.tasks)

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.request.name!r}: {self.state}>"

    @property
    def state(self) -> str:
        """One word; of a sweep, how many are what."""
        states = [status.state for status in self.statuses()]
        return summary(states) if self.is_sweep else states[0]

    # --- how it is

    def reservation_ids(self) -> dict[int, str]:
        """By the number of the task. If this machine crashed between asking the service and noting its answer, the
        service is asked which are the job's."""
        text = Folder(self.folder).read_if_there(SUBMITTED)
        if text is not None:
            return {int(number): str(name) for number, name in json.loads(text).items()}
        found = {}
        numbers = {str(task.path): task.number for task in self.tasks}
        for reservation in reversed(self._service.jobs()):
            number = numbers.get((reservation["job"] or {}).get("folder", ""))
            if number is not None:
                found[number] = str(reservation["id"])
        return found

    def statuses(self) -> list[Status]:
        """Of every task. What cannot be known is ``unknown``."""
        open_tasks = [task for task in self.tasks if task.number not in self._ended]
        reservations = self._reservations(open_tasks) if open_tasks else {}
        fresh = {}
        for task in open_tasks:
            fresh[task.number] = status_of(reservations.get(task.number), task.told())
            if fresh[task.number].ended:
                self._ended[task.number] = fresh[task.number]
        return [self._ended.get(task.number) or fresh[task.number] for task in self.tasks]

    def status(self) -> Status:
        """Of the job; of a sweep the summary."""
        statuses = self.statuses()
        if not self.is_sweep:
            return statuses[0]
        why = "; ".join(dict.fromkeys(status.why for status in statuses if status.why and not status.ended))
        return Status(summary(s.state for s in statuses), why[:300], all(s.ended for s in statuses))

    def _reservations(self, tasks: list[Task]) -> dict[int, Json]:
        try:
            ids = self.reservation_ids()
            if len(tasks) == 1:
                name = ids.get(tasks[0].number)
                return {} if name is None else {tasks[0].number: self._service.get(name)}
            by_id = {reservation["id"]: reservation for reservation in self._service.jobs()}
            return {
                task.number: by_id[ids[task.number]]
                if ids[task.number] in by_id
                else self._service.get(ids[task.number])
                for task in tasks
                if task.number in ids
            }
        except (Unreachable, Refused):
            return {}

    def done(self) -> bool:
        return self.status().ended

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it has ended, within ``timeout`` seconds (None: as long as it takes)."""
        until = float("inf") if timeout is None else time.monotonic() + timeout
        pause = FIRST_POLL_S
        while not self.done():
            if time.monotonic() >= until:
                return False
            time.sleep(min(pause, max(0.0, until - time.monotonic())))
            pause = min(POLL_S, 1.2 * pause)
        return True

    # --- what came of it

    def results(self, number: int = 0) -> Results | None:
        """Of one task; None when it left none. Raises Untrusted, VersionMismatch, Refused and Unreachable."""
        task = self.tasks[number]
        ids = self.reservation_ids()
        if number not in ids:
            raise Refused(f"{task.id} was never submitted: %gpu_batch rerun {self.id} submits it")
        key = self._service.key(ids[number])
        return read_results(task.path, task.id, key, self._places.store, self._main)

    def result(self, timeout: float | None = None) -> Any:
        """Waits, and gives what came back: the values by name; of a call, what it returned; of a sweep, a list of
        these with an exception for each point that failed. Raises JobFailed, and TimeoutError after ``timeout``
        seconds."""
        if not self.wait(timeout):
            raise TimeoutError(f"{self.id} has not ended after {timeout:g} s: it is {self.state}")
        if self.is_sweep:
            return [self._outcome(task, status) for task, status in zip(self.tasks, self.statuses(), strict=True)]
        outcome = self._outcome(self.tasks[0], self.statuses()[0])
        if isinstance(outcome, JobFailed):
            raise outcome from outcome.__cause__
        return outcome

    def _outcome(self, task: Task, status: Status) -> Any:
        results = self.results(task.number)
        if status.state == COMPLETED and results is not None:
            return results.values.get("returned") if self.request.function else results.values
        failed = JobFailed(self._why_failed(task, status))
        failed.__cause__ = None if results is None else results.error
        return failed

    def _why_failed(self, task: Task, status: Status) -> str:
        point = f" ({', '.join(f'{k}={v!r}' for k, v in task.point.items())})" if task.point else ""
        return f"{task.id}{point} {status.state}: {status.why or 'no reason was given'}"

    def bring(self, *, in_place: bool = False, number: int = 0) -> list[str]:
        """Sets its variables in the notebook; what people should know, in words. Also of a job that failed: it has
        what was there by then. Raises what ``results`` raises."""
        results = self.results(number)
        if results is None:
            return ["it left no variables"]
        notes = bring(results.values, self._main, in_place=in_place)
        randomness.go_on(self.id, self.request.streams, results.streams)
        left = [
            f"{name} ({told['kind']}) could not come back: {told['why']}; it was {told['repr']}"
            for name, told in results.left.items()
        ]
        return [f"back: {', '.join(results.values) or 'nothing, for nothing changed'}", *notes, *left]

    def frame(self) -> Any:
        """Of a sweep, a pandas.DataFrame: what each point set, its state, and what came back that fits a cell."""
        try:
            import pandas
        except ImportError:
            raise Refused("frame() needs pandas: install it, or use result(), which is a list") from None
        from .sweeps import rows

        return pandas.DataFrame(rows(self))

    def study(self) -> Any:
        """Of trials, the optuna.Study that they share, as far as it is. Raises Refused for other jobs."""
        if not self.request.trials:
            raise Refused(f"{self.id} has no study: %%gpu_batch --trials N makes one")
        from ..runner.trials import study

        return study(Folder(self.folder).path, self.request.direction)

    # --- what to do with it

    def cancel(self) -> None:
        """Ends what has not ended. Raises Refused and Unreachable."""
        ids = self.reservation_ids()
        for task, status in zip(self.tasks, self.statuses(), strict=True):
            if not status.ended and task.number in ids:
                self._service.end(ids[task.number])

    def rerun(self, *, failed_only: bool = False) -> Job:
        """The same cell with the same variables, as a new job; of a sweep with ``failed_only`` only what did not
        complete, in the same job. A resumable loop goes on where it was. Raises Refused and Unreachable."""
        from .sweeps import again, copy_of

        if failed_only and self.is_sweep:
            again(self, self._places, self._service)
            self._ended = {n: status for n, status in self._ended.items() if status.state == COMPLETED}
            return self
        if not self.reservation_ids():
            send(self.request, self._places, self._service)
            return self
        request = copy_of(self, self._places)
        send(request, self._places, self._service)
        return Job(request, self._places, self._service, self._main)

    def __await__(self) -> Generator[Any, None, Any]:
        async def ended() -> Any:
            while not await asyncio.to_thread(self.done):
                await asyncio.sleep(POLL_S)
            return await asyncio.to_thread(self.result, 0)

        return ended().__await__()


def _plain(output: dict[str, Any]) -> str:
    if output["output_type"] == "stream":
        return str(output["text"])
    if output["output_type"] == "error":
        return "\n".join(output["traceback"]) + "\n"
    text = output["data"].get("text/plain", "")
    return f"{''.join(text)}\n"


__all__ = ["UNKNOWN", "Job", "JobFailed", "NoSuchJob", "Task", "Untrusted", "replace"]
