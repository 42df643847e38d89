"""What can be done with jobs, in words for notebook and terminal: ``ls``, ``status``, ``logs``, ``cancel`` and so on.
Each takes its words and gives the text to show."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any

from ..capture.own import Untrusted
from ..capture.preflight import size_text
from ..capture.snapshot import VersionMismatch
from . import disk, pages
from .following import Following, Screen, status_text
from .job import Job, JobFailed, NoSuchJob
from .options import BadOption, HelpShown, Parser, whole
from .places import Places
from .preparation import CannotGo
from .service import Refused, Service, Unreachable

FOR_PEOPLE = (BadOption, CannotGo, Refused, Unreachable, NoSuchJob, Untrusted, VersionMismatch)
"""Their texts are shown as they are."""
LAST = "_job"
"""The job that was last submitted, attached to or brought, as a variable of the notebook."""


class Desk:
    """``main``: where variables come back to. ``screen``: makes one where outputs are shown."""

    def __init__(self, places: Places, main: dict[str, Any], screen: Callable[[], Screen], prog: str) -> None:
        self._places, self._main, self._screen, self._prog = places, main, screen, prog
        self._service: Service
        self._deeds: dict[str, Callable[[Any], str]] = {
            "ls": self._ls,
            "status": self._status,
            "attach": self._attach,
            "logs": self._logs,
            "result": self._result,
            "cancel": self._cancel,
            "rerun": self._rerun,
            "rm": self._rm,
        }

    def do(self, words: Sequence[str] | str) -> str:
        """The text to show. Raises FOR_PEOPLE and HelpShown."""
        given = self.parser().parse_args(shlex.split(words) if isinstance(words, str) else list(words))
        self._service = Service.of_session()  # not before: help needs none
        with disk.in_words(self._places.root):
            return self._deeds[given.deed](given)

    def parser(self) -> Parser:
        main = Parser(prog=self._prog, description="Jobs that cells were handed over to.", allow_abbrev=False)
        deeds = main.add_subparsers(dest="deed", required=True, metavar="COMMAND", parser_class=Parser)
        self._deed(deeds, "ls", "your jobs, how they are, and what they take on the disk", job=False)
        self._deed(deeds, "status", "how a job is")
        attach = self._deed(deeds, "attach", "its outputs here, from the beginning and while it runs")
        attach.add_argument("--wait", "-W", action="store_true", help="stay until it ends")
        logs = self._deed(deeds, "logs", "what it has put out so far, as text")
        logs.add_argument("--rank", metavar="R", default="0", help="of a cell launched as several processes; default 0")
        result = self._deed(deeds, "result", "bring its variables into this notebook")
        result.add_argument("--in-place", action="store_true", help="update the objects that are here already")
        result.add_argument("--wait", "-W", action="store_true", help="until it ends")
        self._deed(deeds, "cancel", "end it")
        rerun = self._deed(deeds, "rerun", "once more, with the same variables")
        rerun.add_argument("--failed", action="store_true", help="of a sweep only what did not complete")
        self._deed(deeds, "rm", "remove it and its files")
        return main

    @staticmethod
    def _deed(deeds: Any, name: str, text: str, *, job: bool = True) -> Parser:
        made: Parser = deeds.add_parser(name, help=text, description=text, allow_abbrev=False)
        if job:
            help_text = "default: the newest job; its beginning is enough; ID/007 is a point of a sweep"
            made.add_argument("id", nargs="?", default="", metavar="ID", help=help_text)
        return made

    def job(self, text: str) -> tuple[Job, int | None]:
        """The job that ``text`` names, and the point of a sweep. Raises NoSuchJob."""
        job = Job.find(text, self._places, self._service, self._main)
        point = text.partition("/")[2]
        if not job.is_sweep:
            return job, 0
        if not point:
            return job, None
        if not point.isdigit() or int(point) >= len(job):
            raise NoSuchJob(f"{job.id} has no point {point!r}: they are 0 to {len(job) - 1}")
        return job, int(point)

    def _ls(self, given: Any) -> str:
        jobs = []
        for name in self._places.ids():
            try:
                jobs.append(Job.find(name, self._places, self._service, self._main))
            except (Untrusted, ValueError):
                continue  # not whole, or not ours: nothing to list
        return pages.listing(jobs, self._places)

    def _status(self, given: Any) -> str:
        job, number = self.job(given.id)
        if number is not None:
            return status_text(job, job.statuses()[number], job.tasks[number].progress())
        lines = [status_text(job, job.status())]
        for task, status in zip(job.tasks, job.statuses(), strict=True):
            point = ", ".join(f"{name}={value!r}" for name, value in task.point.items())
            lines.append(f"  {task.number:03d}  {status.state:14} {point}  {status.why if status.why else ''}".rstrip())
        return "\n".join(lines)

    def _attach(self, given: Any) -> str:
        job, number = self.job(given.id)
        self._main[LAST] = job
        following = Following(job, self._screen(), number, self.at_end(job, number))
        if given.wait:
            following.run()
        else:
            following.start()
        return ""

    def _logs(self, given: Any) -> str:
        job, number = self.job(given.id)
        rank = 0 if given.rank == "0" else whole("--rank", given.rank, 0, job.tasks[0].ranks() - 1)
        if number is not None:
            return job.tasks[number].text(rank) or "It has put out nothing yet."
        return "\n".join(f"--- {task.id}\n{task.text(rank)}" for task in job.tasks)

    def _result(self, given: Any) -> str:
        job, number = self.job(given.id)
        if given.wait:
            job.wait()
        status = job.status() if number is None else job.statuses()[number]
        if not status.ended:
            return f"{status_text(job, status)}; its variables can be brought when it has ended (--wait waits)"
        self._main[LAST] = job
        if number is None:
            return f"{status_text(job, status)}; {pages.next_steps(job, None, self._prog)}"
        notes = job.bring(in_place=given.in_place, number=number)
        return "\n".join([status_text(job, status), *notes])

    def _cancel(self, given: Any) -> str:
        job, _ = self.job(given.id)
        if job.done():
            return f"{status_text(job, job.status())}: there is nothing to cancel"
        job.cancel()
        return f"{job.id} is being ended; what it has put out stays"

    def _rerun(self, given: Any) -> str:
        job, _ = self.job(given.id)
        if not job.done() and job.reservation_ids():
            raise Refused(f"{job.id} is still {job.state}: wait for it, or cancel it first")
        again = job.rerun(failed_only=given.failed)
        return f"{again.id} is submitted" if again.id != job.id else f"{job.id}: submitted again what did not complete"

    def _rm(self, given: Any) -> str:
        if not given.id:
            raise BadOption("rm needs the job's ID: %gpu_batch ls lists them")
        job, _ = self.job(given.id)
        if not job.done() and job.reservation_ids():
            raise Refused(f"{job.id} is {job.state}: cancel it first, or wait")
        before = self._places.total()
        self._places.remove(job.id)
        self._places.sweep(float("inf"))
        return f"{job.id} is removed; {size_text(max(0, before - self._places.total()))} came free"

    def at_end(self, job: Job, number: int | None) -> Callable[[], str]:
        """What to say when it has ended: how to go on."""
        return lambda: pages.next_steps(job, number, self._prog)


__all__ = ["FOR_PEOPLE", "Desk", "HelpShown", "JobFailed"]
