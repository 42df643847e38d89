"""Slurm's jobs in the words of every engine. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..external import ExternalJob, Life
from . import words
from .accounting import SlurmEnd
from .queue import SlurmJob

Why = Callable[[SlurmJob], str]
"""Why a job waits, in words."""


def external_jobs(job: SlurmJob, known: Sequence[str], why: Why) -> list[ExternalJob]:
    """One for each task that ``job`` stands for. Which those of an array are that wait may not be told: then nothing is
    known of any of ``known`` in it that is not told apart."""
    said = _said(job, why)
    if job.array_job_id is None:
        return [_external(job, str(job.job_id), 0, said)]
    array = job.array_job_id
    if job.array_task_id is not None:
        return [_external(job, f"{array}_{job.array_task_id}", job.array_task_id, said)]
    if job.array_tasks is not None:
        return [_external(job, f"{array}_{at}", at, said) for at in job.array_tasks]
    mine = [name for name in known if name.startswith(f"{array}_")]
    return [ExternalJob(name, job.name, job.user, Life.UNKNOWN, int(name.partition("_")[2])) for name in mine]


def _external(job: SlurmJob, job_id: str, index: int, said: str) -> ExternalJob:
    life = Life(job.life)
    # One that ended has nodes if it ever had any.
    there = life in (Life.RUNNING, Life.ENDING) or (life is Life.ENDED and bool(job.nodes))
    reason, detail = None, ""
    if life is Life.ENDED:
        reason, detail = words.ending(job.state.partition("+")[0], job.exit_code, job.signal)
    return ExternalJob(
        job_id=job_id,
        name=job.name,
        owner=job.user,
        life=life,
        index=index,
        said=said,
        expected_at=job.start_at if life is Life.PENDING else None,
        started_at=job.start_at if there else None,
        ended_at=job.end_at if there and life is Life.ENDED else None,
        node=job.nodes[0] if there and job.nodes else "",
        places={node: job.gpu_indices(node) or () for node in job.nodes} if there else {},
        restarts=job.restarts or 0,
        time_limit_s=job.time_limit_s,
        reason=reason,
        detail=detail,
    )


def _said(job: SlurmJob, why: Why) -> str:
    if job.life == "pending":
        return why(job)
    if {"SUSPENDED", "STOPPED"} & set(job.state.split("+")):
        return "Slurm has suspended it"
    return ""


def last_attempts(ends: Iterable[SlurmEnd]) -> dict[str, SlurmEnd]:
    """The last of each, by the id that commands take."""
    found: dict[str, SlurmEnd] = {}
    for end in ends:  # in the order of their submission
        task = None if end.array_job_id is None else end.array_task_id
        if end.array_job_id is None or task is not None:
            found[str(end.job_id) if task is None else f"{end.array_job_id}_{task}"] = end
    return found


def ended(job_id: str, end: SlurmEnd) -> ExternalJob:
    """What became of a job, by accounting."""
    index = end.array_task_id or 0
    if end.life != "ended":
        return ExternalJob(job_id, end.name, end.user, Life.UNKNOWN, index)
    reason, detail = words.ending(end.state, end.exit_code, end.signal, end.cancelled_by)
    return ExternalJob(
        job_id,
        end.name,
        end.user,
        Life.ENDED,
        index,
        started_at=end.started_at if end.nodes else None,
        ended_at=end.ended_at if end.nodes else None,
        node=end.nodes[0] if end.nodes else "",
        places=dict.fromkeys(end.nodes, ()),
        restarts=end.attempt,
        reason=reason,
        detail=detail,
    )
