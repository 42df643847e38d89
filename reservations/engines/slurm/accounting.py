"""What ``sacct`` says about jobs that ended, and every attempt of those that were started again. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from .errors import Unreadable
from .fields import hosts, moment, natural, table, text, tres, whole
from .odd import Odd, each
from .states import Life, life

# The last must be one that nobody can write text into: rows end there.
_FIELDS = (
    *("JobID", "JobIDRaw", "JobName", "User", "State", "ExitCode", "Reason", "Submit", "Start", "End", "NodeList"),
    "AllocTRES",
)
_JOB = re.compile(r"(\d+)(?:_(?:(\d+)|\[[^\]]*\])|\+\d+)?")
"""A job, a task of an array, the tasks of one that wait, or a part of a heterogeneous job."""
_EXIT = re.compile(r"(\d+):(\d+)")


@dataclass(frozen=True)
class SlurmEnd:
    """One attempt of a job or task. ``attempt``: from 0, in the order of submission; Slurm submits anew what it starts
    again. ``state``: without who cancelled it; that is ``cancelled_by``, a user's number. ``name`` says whether it is
    the job that is meant: after a crash Slurm may give a number again."""

    job_id: int
    name: str
    user: str
    state: str
    attempt: int = 0
    array_job_id: int | None = None
    array_task_id: int | None = None
    cancelled_by: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    submitted_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    nodes: tuple[str, ...] = ()
    tres: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""

    @property
    def life(self) -> Life:
        """An attempt that was requeued is over."""
        return "ended" if self.state == "REQUEUED" else life(self.state)


def accounting_argv(separator: str, jobs: Iterable[int], since: str = "") -> list[str]:
    """For ``parse_accounting``. By number: without any, jobs are those of everybody, and left out are those that
    were cancelled before they could start.
    ``separator``: see ``queue.queue_text_argv``. ``since``: as sacct reads it, such as ``now-2days``; empty: today."""
    if not re.fullmatch(r"[<>A-Za-z0-9]{8,}", separator):
        raise ValueError(f"separator is {separator!r}: must be at least 8 letters and digits")
    numbers = ",".join(str(job) for job in jobs)
    argv = ["sacct", "-X", "-D", "-P", f"--delimiter={separator}", f"--format={','.join(_FIELDS)}"]
    which = f"--jobs={numbers}" if numbers else "--allusers"
    return [*argv, which, *([f"--starttime={since}"] if since else [])]


def parse_accounting(out: str, separator: str = "|", odd: Odd | None = None) -> list[SlurmEnd]:
    """All attempts, those that run too. None of a job: the accounting has not heard of it, or what it says is in
    ``odd``, which says nothing."""
    return _numbered(each("sacct", table(out, "sacct", separator, _FIELDS, odd), _attempt, odd))


def _attempt(row: Mapping[str, str]) -> SlurmEnd:
    job, code = _JOB.fullmatch(row["JobID"]), _EXIT.fullmatch(row["ExitCode"])
    number = whole(row["JobIDRaw"].partition("_")[0])
    state, _, by = row["State"].partition(" by ")
    if not job or number is None or not state:
        raise Unreadable("sacct", repr(dict(row)), "a job without number or state")
    array = "_" in row["JobID"]
    if life(state) != "ended":
        code = None
    return SlurmEnd(
        job_id=number,
        name=row["JobName"],
        user=text(row["User"]),
        state=state.upper(),
        array_job_id=natural(job[1]) if array else None,
        array_task_id=None if job[2] is None else natural(job[2]),
        cancelled_by=whole(by),
        exit_code=natural(code[1]) if code else None,
        signal=natural(code[2]) or None if code else None,
        submitted_at=moment(row["Submit"]),
        started_at=moment(row["Start"]),
        ended_at=moment(row["End"]),
        nodes=hosts(row["NodeList"]),
        tres=tres(row["AllocTRES"]),
        reason=text(row["Reason"]),
    )


def _numbered(rows: list[SlurmEnd]) -> list[SlurmEnd]:
    seen: dict[tuple[object, ...], int] = {}
    found: list[SlurmEnd] = []
    for row in sorted(rows, key=lambda row: (row.submitted_at or 0.0, row.started_at or 0.0)):
        key = (row.array_job_id or row.job_id, row.array_task_id, row.name)
        found.append(replace(row, attempt=seen.get(key, 0)))
        seen[key] = found[-1].attempt + 1
    return found
