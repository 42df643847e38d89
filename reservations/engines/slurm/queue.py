"""What ``squeue --json`` says of jobs. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..external import Life
from .errors import Unreadable
from .values import hosts, indices, number, state

_LIFE = {
    Life.PENDING: "PENDING REQUEUED REQUEUE_HOLD REQUEUE_FED SPECIAL_EXIT RESV_DEL_HOLD CONFIGURING",
    Life.RUNNING: "RUNNING SUSPENDED STOPPED RESIZING SIGNALING STAGE_OUT",
    Life.ENDING: "COMPLETING",
    Life.ENDED: "COMPLETED FAILED CANCELLED TIMEOUT NODE_FAIL PREEMPTED BOOT_FAIL DEADLINE OUT_OF_MEMORY REVOKED",
}
_OF_WORD = {word: life for life, words in _LIFE.items() for word in words.split()}


def life(word: str) -> Life:
    """Of a job in that state; a word that nobody knows here is unknown."""
    return _OF_WORD.get(word, Life.UNKNOWN)


@dataclass(frozen=True)
class SlurmJob:
    """``id``: as commands take it, ``40_3`` for a task of an array. Times are seconds since the epoch, None: not known.
    ``gpus``: indices by node, as far as they are told. ``allocated``: what it holds in Slurm's words."""

    id: str
    name: str
    user: str
    state: str
    reason: str
    nodes: tuple[str, ...] = ()
    index: int = 0
    start_at: float | None = None
    end_at: float | None = None
    restarts: int = 0
    time_limit_s: int | None = None
    gpus: Mapping[str, tuple[int, ...]] | None = None
    allocated: str = ""
    partition: str = ""

    @property
    def life(self) -> Life:
        return life(self.state)


def read_queue(text: str) -> list[SlurmJob]:
    """All jobs of an answer, waiting tasks of an array one by one. Raises Unreadable: also for an answer in which the
    controller did not take part, for such a list is empty and means nothing."""
    try:
        told = json.loads(text)
        if told["errors"]:
            raise Unreadable("squeue", str(told["errors"]), "it reports errors")
        return [job for row in told["jobs"] for job in _jobs(row)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreadable("squeue", text, repr(error)) from None


def _jobs(row: Mapping[str, Any]) -> list[SlurmJob]:
    array, index = number(row["array_job_id"]), number(row["array_task_id"])
    waiting = str(row.get("array_task_string") or "").partition("%")[0]
    if array and index is None and waiting:
        return [_job(row, f"{array}_{at}", int(at)) for at in hosts(f"[{waiting}]")]
    if array and index is not None:
        return [_job(row, f"{array}_{index}", index)]
    return [_job(row, str(number(row["job_id"])), 0)]


def _job(row: Mapping[str, Any], job_id: str, index: int) -> SlurmJob:
    minutes = number(row["time_limit"])
    nodes = hosts(str(row["nodes"] or ""))
    told = [str(gres) for gres in row.get("gres_detail") or ()]
    return SlurmJob(
        id=job_id,
        name=str(row["name"]),
        user=str(row["user_name"]),
        state=state(row["job_state"]),
        reason=str(row["state_reason"] or "None"),
        nodes=nodes,
        index=index,
        start_at=_moment(row["start_time"]),
        end_at=_moment(row["end_time"]),
        restarts=number(row["restart_cnt"]) or 0,
        time_limit_s=None if minutes is None else minutes * 60,
        gpus={node: indices(gres) for node, gres in zip(nodes, told, strict=False)} or None,
        allocated=str(row.get("tres_alloc_str") or ""),
        partition=str(row["partition"]),
    )


def _moment(value: Any) -> float | None:
    seconds = number(value)
    return float(seconds) if seconds else None
