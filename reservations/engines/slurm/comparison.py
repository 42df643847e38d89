"""What the ledger charged against what Slurm's accounting says was held, job by job. Pure, and changes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...usage import HOUR
from ..external import job_prefix
from .accounting import SlurmEnd

Key = tuple[str, int]
"""Of a reservation at Slurm: what its job is called after, and which of an array it is."""
SLACK_S = 120.0
"""A job is seen to begin and to end a little later than it does."""


@dataclass(frozen=True)
class Period:
    """Seconds since the epoch."""

    since: float
    until: float

    def of(self, began: float | None, ended: float | None) -> float:
        """Seconds of an interval that lie in it; ``ended`` None: it has not."""
        if began is None:
            return 0.0
        return max(0.0, min(self.until, self.until if ended is None else ended) - max(self.since, began))


@dataclass(frozen=True)
class Charged:
    """A reservation in the ledger: ``seconds`` in which it held ``gpus``, together ``gpu_hours``. ``job``: the number
    of its last job; empty: none was told. ``is_new``: handed over so lately that accounting need not know it."""

    id: str
    key: Key
    owner: str
    job: str = ""
    gpus: float = 0.0
    seconds: float = 0.0
    gpu_hours: float = 0.0
    is_new: bool = False


@dataclass(frozen=True)
class Ran:
    """All attempts of one job or task at Slurm. ``gpus``: the most that one held; ``part``: in units of that (0: whole
    GPUs)."""

    key: Key
    owner: str
    job: str
    gpus: float = 0.0
    part: float = 0.0
    seconds: float = 0.0
    gpu_hours: float = 0.0


@dataclass(frozen=True)
class Difference:
    """``kind``: ``not-in-ledger``, ``not-in-slurm``, ``duration`` or ``gpu-count``. GPU-hours on both sides."""

    kind: str
    owner: str
    reservation: str
    job: str
    ledger: float
    slurm: float
    detail: str


@dataclass(frozen=True)
class Total:
    owner: str
    ledger: float
    slurm: float


@dataclass(frozen=True)
class Report:
    differences: Sequence[Difference]
    totals: Sequence[Total]


def ran_of(ends: Iterable[SlurmEnd], tag: str, period: Period, shards: Mapping[str, int]) -> dict[Key, Ran]:
    """Ours among the jobs of accounting. ``shards``: by node, into how many each of its GPUs is divided."""
    found: dict[Key, Ran] = {}
    prefix = job_prefix(tag)
    for end in ends:
        if not end.name.startswith(prefix) or (end.array_job_id is not None and end.array_task_id is None):
            continue
        seconds = period.of(end.started_at, end.ended_at)
        key = (end.name.removeprefix(prefix).rpartition(".")[0], end.array_task_id or 0)
        each = max((shards.get(node, 0) for node in end.nodes), default=0)
        part = 1 / each if each and end.tres.get("gres/shard") else 0.0
        gpus = end.tres.get("gres/gpu", 0) + end.tres.get("gres/shard", 0) * part
        before = found.get(key, Ran(key, end.user, ""))
        job = str(end.job_id) if end.array_job_id is None else f"{end.array_job_id}_{end.array_task_id}"
        found[key] = Ran(
            key,
            end.user,
            job,
            max(before.gpus, gpus),
            max(before.part, part),
            before.seconds + seconds,
            before.gpu_hours + gpus * seconds / HOUR,
        )
    return found


def compare(charged: Iterable[Charged], ran: Mapping[Key, Ran], tolerance: float) -> Report:
    """``tolerance``: of the larger of both durations; less than that, or than two minutes, is none."""
    charged, ran = list(charged), dict(ran)
    known = {one.key for one in charged}
    found = [_strange(one) for key, one in ran.items() if key not in known and one.seconds]
    for one in charged:
        there = ran.get(one.key)
        if there is not None:
            found += _differing(one, there, tolerance)
        elif one.job and not one.is_new:
            detail = f"Slurm's accounting knows no job {one.job} of it"
            found.append(Difference("not-in-slurm", one.owner, one.id, one.job, one.gpu_hours, 0.0, detail))
    found.sort(key=lambda one: (-abs(one.ledger - one.slurm), one.owner, one.reservation, one.job))
    return Report(found, _totals(charged, ran.values()))


def _strange(one: Ran) -> Difference:
    detail = f"the ledger knows no reservation of {one.key[0]}" + (f", task {one.key[1]}" if one.key[1] else "")
    return Difference("not-in-ledger", one.owner, "", one.job, 0.0, one.gpu_hours, detail)


def _differing(one: Charged, there: Ran, tolerance: float) -> list[Difference]:
    if not one.gpus and not there.gpus:
        return []  # what holds no GPU is not charged
    found = []
    apart = abs(one.seconds - there.seconds)
    if apart > max(SLACK_S, tolerance * max(one.seconds, there.seconds)):
        detail = f"held for {_minutes(one.seconds)} by the ledger, {_minutes(there.seconds)} by Slurm"
        found.append(("duration", detail))
    if one.gpus and there.gpus and abs(_rounded(one.gpus, there.part) - there.gpus) > 0.01:
        found.append(("gpu-count", f"{one.gpus:g} GPUs by the ledger, {there.gpus:g} by Slurm"))
    return [
        Difference(kind, one.owner, one.id, there.job, one.gpu_hours, there.gpu_hours, text) for kind, text in found
    ]


def _rounded(gpus: float, part: float) -> float:
    """Slurm gives parts in whole units, at least as much as was asked for."""
    return math.ceil(round(gpus / part, 3)) * part if part else gpus


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"


def _totals(charged: Iterable[Charged], ran: Iterable[Ran]) -> list[Total]:
    sums: dict[str, list[float]] = {}
    for one in charged:
        sums.setdefault(one.owner, [0.0, 0.0])[0] += one.gpu_hours
    for there in ran:
        sums.setdefault(there.owner, [0.0, 0.0])[1] += there.gpu_hours
    return [Total(owner, *hours) for owner, hours in sorted(sums.items())]
