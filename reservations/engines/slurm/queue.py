"""What ``squeue`` says about jobs. Pure."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import Unreadable
from .fields import (
    MOST_MINUTES,
    NOTHING,
    Gres,
    document,
    duration,
    entry_of,
    gres,
    hosts,
    indices,
    instant,
    moment,
    natural,
    number,
    text,
    tres,
    whole,
    words,
)
from .odd import Odd
from .states import Life, life

_PART = re.compile(r"(.*?)(?:%\d+)?")
# Columns and their widths in bytes. What fills one may have been cut off.
_COLUMNS = {
    "JobID": 20,
    "ArrayJobID": 20,
    "ArrayTaskID": 64,
    "Name": 256,
    "Comment": 256,
    "UserName": 64,
    "State": 64,
    "Reason": 256,
    "Partition": 256,
    "RestartCnt": 12,
    "SubmitTime": 24,
    "StartTime": 24,
    "EndTime": 24,
    "TimeLimit": 24,
    "NodeList": 2048,
    "tres-alloc": 512,
}
NAMELESS = "squeue, of jobs without number or name,"
"""What is counted of those that may be any job."""
_FIRST = re.compile(r"(?:.*\n)?\d+ *", re.DOTALL)
_FOLLOWING = re.compile(r".*\n\d+ *", re.DOTALL)
"""The first column of a row, and of one after another."""
_FREE = ("Name", "Comment", "Reason")
"""What is for people; if it is cut off, nothing is wrong."""


@dataclass(frozen=True)
class SlurmJob:
    """A job, or a task of an array, or all tasks of an array that wait (``array_tasks``; None: which, is not told).

    Times in seconds since the epoch; ``start_at`` of one that waits is Slurm's estimate, ``end_at`` the latest end.
    ``gres``: by node, with indices of GPUs where they are told; ``tres``: of all nodes. ``exit_code`` and ``signal``:
    of one that has ended. ``restarts``: None where it is not told.
    """

    job_id: int
    name: str
    user: str
    state: str
    reason: str = ""
    array_job_id: int | None = None
    array_task_id: int | None = None
    array_tasks: tuple[int, ...] | None = ()
    comment: str = ""
    partition: str = ""
    nodes: tuple[str, ...] = ()
    submit_at: float | None = None
    start_at: float | None = None
    end_at: float | None = None
    time_limit_s: int | None = None
    restarts: int | None = None
    tres: Mapping[str, int] = field(default_factory=dict)
    gres: Mapping[str, tuple[Gres, ...]] = field(default_factory=dict)
    exit_code: int | None = None
    signal: int | None = None

    @property
    def life(self) -> Life:
        return life(self.state)

    def gpu_indices(self, node: str) -> tuple[int, ...] | None:
        """Which of the node's GPUs it holds, wholly or in part; None: not told."""
        told = [one.indices for one in self.gres.get(node, ()) if one.name in ("gpu", "shard", "mps")]
        if not told or None in told:
            return None
        return tuple(sorted({index for one in told for index in one or ()}))


def queue_argv(*, user: str = "") -> list[str]:
    """For ``parse_queue``: all jobs that the caller may see, those that ended a moment ago and those in hidden
    partitions too."""
    return ["squeue", "--json", "--all", *([f"--user={user}"] if user else [])]


def parse_queue(out: str, odd: Odd | None = None) -> list[SlurmJob]:
    """From ``squeue --json`` of Slurm 22.05 to 25. What is not understood of a job makes its state unknown; one that
    cannot be told from others is in ``odd``."""
    jobs = (_job_or_unknown(entry, odd) for entry in document(out, "squeue", "jobs"))
    return [job for job in jobs if job is not None]


UNREAD = "UNREAD"
"""The state, which Slurm does not have, of a job that it tells in words that are not understood."""


def _job_or_unknown(entry: object, odd: Odd | None) -> SlurmJob | None:
    try:
        return _job(entry_of(entry, "squeue"))
    except Unreadable as error:
        return _unknown(entry, error, odd)


def _unknown(entry: object, error: Unreadable, odd: Odd | None) -> SlurmJob | None:
    """A job in an unknown state. None: not even whose it is can be said."""
    told = entry if isinstance(entry, dict) else {}
    try:
        job_id, array = number(told.get("job_id")), number(told.get("array_job_id"))
        name, user = told.get("name"), text(told.get("user_name"))
        if not job_id or not isinstance(name, str):
            raise error
    except Unreadable:
        if odd is not None:
            odd.add(NAMELESS, error)
        return None
    if odd is not None:
        odd.add("squeue", error)
    # Which task of an array it is may be what is not understood: then it may be any.
    return SlurmJob(job_id, name, user, UNREAD, array_job_id=array or None, array_tasks=None if array else ())


def _job(entry: dict[str, Any]) -> SlurmJob:
    job_id, array, task = (number(entry.get(name)) for name in ("job_id", "array_job_id", "array_task_id"))
    states = words(entry.get("job_state"))
    if not job_id or not states or not isinstance(entry.get("name"), str):
        raise Unreadable("squeue", repr(entry), "a job without number, state or name")
    nodes = hosts(text(entry.get("nodes")))
    minutes = number(entry.get("time_limit"))
    if minutes is not None and minutes > MOST_MINUTES:
        raise Unreadable("squeue", str(minutes), "time_limit")
    code, signal = _exit(entry.get("exit_code"))
    state = "+".join(states)
    ended = life(state) == "ended"
    waiting = text(entry.get("array_task_string"))
    return SlurmJob(
        job_id=job_id,
        name=entry["name"],
        user=text(entry.get("user_name")),
        state=state,
        reason=text(entry.get("state_description")) or text(entry.get("state_reason")),
        array_job_id=array or None,
        array_task_id=task if array else None,
        array_tasks=_tasks(waiting) if array and task is None else (),
        comment=text(entry.get("comment")),
        partition=text(entry.get("partition")),
        nodes=nodes,
        submit_at=instant(entry.get("submit_time")),
        start_at=instant(entry.get("start_time")),
        end_at=instant(entry.get("end_time")),
        time_limit_s=None if minutes is None else minutes * 60,
        restarts=number(entry.get("restart_cnt")),
        tres=tres(text(entry.get("tres_alloc_str")) or text(entry.get("tres_req_str"))),
        gres=_gres(entry.get("gres_detail"), nodes),
        exit_code=code if ended else None,
        signal=signal if ended else None,
    )


def _tasks(waiting: str) -> tuple[int, ...] | None:
    """Of ``2-3,5%2``. Slurm cuts off what is long."""
    found = _PART.fullmatch(waiting)
    try:
        return indices(found[1]) if found else None
    except Unreadable:
        return None


def _gres(detail: object, nodes: tuple[str, ...]) -> dict[str, tuple[Gres, ...]]:
    if detail is None:
        return {}
    if not isinstance(detail, list) or not all(isinstance(one, str) for one in detail):
        raise Unreadable("squeue", repr(detail), "gres_detail")
    # One for each node. Were it fewer, nobody could say whose they are.
    return {node: gres(one) for node, one in zip(nodes, detail, strict=True)} if len(detail) == len(nodes) else {}


def _exit(value: object) -> tuple[int | None, int | None]:
    """Exit code and signal: a status as of wait(2) in old releases, both by name in new ones."""
    if isinstance(value, dict) and ("return_code" in value or "signal" in value):
        signal = value.get("signal")
        told = (signal.get("id", signal.get("signal_id")) if isinstance(signal, dict) else None) or None
        return number(value.get("return_code")), number(told) or None
    status = number(value)
    return (None, None) if status is None else ((status >> 8) & 0xFF, status & 0x7F or None)


def queue_text_argv(separator: str, *, user: str = "") -> list[str]:
    """For ``parse_queue_text``, where Slurm was built without JSON. ``separator``: new and random each time, such as
    ``<5b0c…>``: jobs of other people may be called anything, and one that could foretell it could pretend to be more
    than one job."""
    if not re.fullmatch(r"[<>A-Za-z0-9]{8,}", separator):
        raise ValueError(f"separator is {separator!r}: must be at least 8 letters and digits")
    columns = ",".join(f"{name}:{width}{separator}" for name, width in _COLUMNS.items())
    options = ["-h", "-a", "-r", "-t", "all", *([f"--user={user}"] if user else [])]
    return ["squeue", *options, "-O", columns]


def parse_queue_text(out: str, separator: str, odd: Odd | None = None) -> list[SlurmJob]:
    """Which GPUs a job has is not told this way. Rows are found by their columns: a name may have line breaks."""
    cells = out.split(separator)
    jobs: list[SlurmJob] = []
    place, width = 0, len(_COLUMNS)
    rest = cells.pop().strip() and not len(cells) % width  # else it belongs to a row that was cut off
    errors = [Unreadable("squeue", out, "a row is not whole")] if rest else []
    while place < len(cells):
        try:
            if place + width > len(cells):
                raise Unreadable("squeue", repr(cells[place:]), "a row is not whole")
            jobs.append(_row(dict(zip(_COLUMNS, cells[place : place + width], strict=True))))
            place += width
        except Unreadable as error:
            unread = _unread_row(cells, place)
            if unread is None:
                errors.append(error)
                place = _next_row(cells, place + 1)
                continue
            jobs.append(unread)
            place += width
            if odd is not None:
                odd.add("squeue", error)
    if errors and not jobs:
        raise errors[0]
    if odd is not None:
        for wrong in errors:
            odd.add(NAMELESS, wrong)
    return jobs


def _unread_row(cells: list[str], place: int) -> SlurmJob | None:
    """The job of a row that is whole, and of which something is not understood. None: it may be no row."""
    row, after = dict(zip(_COLUMNS, cells[place:], strict=False)), place + len(_COLUMNS)
    if len(row) < len(_COLUMNS) or not (after == len(cells) or _FOLLOWING.fullmatch(cells[after])):
        return None
    first, array, task = (row[name].strip() for name in ("JobID", "ArrayJobID", "ArrayTaskID"))
    if not _FIRST.fullmatch(first) or not row["Name"].strip():
        return None
    name, user = row["Name"].rstrip(" "), row["UserName"].rstrip(" ")
    try:
        in_array = natural(array) if array.isdigit() and task not in NOTHING else None
        at = natural(task) if in_array and task.isdigit() else None
        job_id = natural(first.rpartition("\n")[2])
    except Unreadable:
        return None
    return SlurmJob(job_id, name, user, UNREAD, "", in_array, at, None if in_array and at is None else ())


def _next_row(cells: list[str], place: int) -> int:
    """Where a row begins that is understood, from ``place`` on."""
    for at in range(place, len(cells) - len(_COLUMNS) + 1):
        if _FOLLOWING.fullmatch(cells[at]):
            with contextlib.suppress(Unreadable):
                _row(dict(zip(_COLUMNS, cells[at : at + len(_COLUMNS)], strict=True)))
                return at
    return len(cells)


def _row(padded: dict[str, str]) -> SlurmJob:
    row = {name: cell.rstrip(" ") for name, cell in padded.items()}
    row["JobID"] = row["JobID"].rpartition("\n")[2]  # before it: a line that is no row
    cut = [name for name, width in _COLUMNS.items() if name not in _FREE and len(row[name].encode()) >= width]
    job_id, task = whole(row["JobID"]), whole(row["ArrayTaskID"])
    if cut or not job_id or not row["State"]:
        raise Unreadable("squeue", repr(row), "cut off" if cut else "a job without number or state")
    return SlurmJob(
        job_id=job_id,
        name=row["Name"],
        user=text(row["UserName"]),
        state=row["State"].upper(),
        reason=text(row["Reason"]),
        array_job_id=None if task is None else whole(row["ArrayJobID"]),
        array_task_id=task,
        comment=text(row["Comment"]),
        partition=text(row["Partition"]),
        nodes=hosts(row["NodeList"]),
        submit_at=moment(row["SubmitTime"]),
        start_at=moment(row["StartTime"]),
        end_at=moment(row["EndTime"]),
        time_limit_s=duration(row["TimeLimit"]),
        restarts=whole(row["RestartCnt"]),
        tres=tres(row["tres-alloc"]),
    )
