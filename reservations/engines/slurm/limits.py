"""What Slurm allows whom, and when it thinks that a job will start. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import Unreadable
from .fields import duration, hosts, moment, table, text, tres, whole
from .odd import Odd, each

_ASSOCIATION = (
    *("Cluster", "Account", "User", "Partition", "GrpTRES", "GrpJobs", "GrpSubmit", "GrpWall"),
    *("MaxTRES", "MaxJobs", "MaxSubmit", "MaxWall", "QOS", "Def QOS"),
)
_QOS = (
    *("Name", "Priority", "Flags", "GrpTRES", "GrpJobs", "GrpSubmit", "GrpWall", "MaxTRES", "MaxWall", "MaxTRESPU"),
    *("MaxJobsPU", "MaxSubmitPU", "MaxTRESPA", "MaxJobsPA", "MaxSubmitPA"),
)
_START = re.compile(
    r"Job \d+ to start at (\S+)(?: [a-z]+)*? using \d+ processors on nodes (\S+)(?: in partition (\S+))?"
)


@dataclass(frozen=True)
class Limits:
    """Of an association (a user's, or of an account as a whole) or of a QOS. None, or nothing for a resource: no limit.

    ``total``: of all its running jobs together, ``of_job``: of one job, ``of_user`` and ``of_account``: of those in
    this QOS; resources as in ``fields.tres``, such as ``gres/gpu``. ``max_jobs``: running at once, ``max_submit``: with
    those that wait; of the association, or of each user of the QOS.
    """

    name: str
    account: str = ""
    user: str = ""
    partition: str = ""
    total: Mapping[str, int] = field(default_factory=dict)
    of_job: Mapping[str, int] = field(default_factory=dict)
    of_user: Mapping[str, int] = field(default_factory=dict)
    of_account: Mapping[str, int] = field(default_factory=dict)
    total_jobs: int | None = None
    total_submit: int | None = None
    total_wall_s: int | None = None
    max_jobs: int | None = None
    max_submit: int | None = None
    max_jobs_of_account: int | None = None
    max_submit_of_account: int | None = None
    max_wall_s: int | None = None
    qos: tuple[str, ...] = ()
    default_qos: str = ""
    flags: frozenset[str] = frozenset()
    priority: int | None = None


def associations_argv(user: str = "") -> list[str]:
    """For ``parse_associations``: those of a user, or all."""
    names = ",".join(name.replace(" ", "") for name in _ASSOCIATION).replace("DefQOS", "DefaultQOS")
    return ["sacctmgr", "-P", "show", "assoc", *([f"user={user}"] if user else []), f"format={names}"]


def qos_argv() -> list[str]:
    """For ``parse_qos``."""
    return ["sacctmgr", "-P", "show", "qos", f"format={','.join(_QOS)}"]


def parse_associations(out: str, odd: Odd | None = None) -> list[Limits]:
    """None of a user: they may not submit, where the cluster asks for associations; or theirs is in ``odd``."""
    return each("sacctmgr", table(out, "sacctmgr", "|", _ASSOCIATION, odd), _association, odd)


def _association(row: Mapping[str, str]) -> Limits:
    return Limits(
        name=row["User"] or row["Account"],
        account=row["Account"],
        user=row["User"],
        partition=row["Partition"],
        total=tres(row["GrpTRES"]),
        of_job=tres(row["MaxTRES"]),
        total_jobs=whole(row["GrpJobs"]),
        total_submit=whole(row["GrpSubmit"]),
        total_wall_s=duration(row["GrpWall"]),
        max_jobs=whole(row["MaxJobs"]),
        max_submit=whole(row["MaxSubmit"]),
        max_wall_s=duration(row["MaxWall"]),
        qos=tuple(name for name in row["QOS"].split(",") if name),
        default_qos=text(row["Def QOS"]),
    )


def parse_qos(out: str, odd: Odd | None = None) -> list[Limits]:
    """A cluster with accounting has at least one."""
    found = each("sacctmgr", table(out, "sacctmgr", "|", _QOS, odd), _qos, odd)
    if not found:
        raise Unreadable("sacctmgr", out, "no QOS")
    return found


def _qos(row: Mapping[str, str]) -> Limits:
    return Limits(
        name=row["Name"],
        total=tres(row["GrpTRES"]),
        of_job=tres(row["MaxTRES"]),
        of_user=tres(row["MaxTRESPU"]),
        of_account=tres(row["MaxTRESPA"]),
        total_jobs=whole(row["GrpJobs"]),
        total_submit=whole(row["GrpSubmit"]),
        total_wall_s=duration(row["GrpWall"]),
        max_jobs=whole(row["MaxJobsPU"]),
        max_submit=whole(row["MaxSubmitPU"]),
        max_jobs_of_account=whole(row["MaxJobsPA"]),
        max_submit_of_account=whole(row["MaxSubmitPA"]),
        max_wall_s=duration(row["MaxWall"]),
        flags=frozenset(flag for flag in row["Flags"].split(",") if flag),
        priority=whole(row["Priority"]),
    )


@dataclass(frozen=True)
class Estimate:
    """When a submission would start, in seconds since the epoch, and where."""

    start_at: float
    nodes: tuple[str, ...]
    partition: str = ""


def parse_estimate(err: str) -> Estimate:
    """From what ``sbatch --test-only`` put out as errors, though it succeeded. Jobs that wait already have an estimate
    in ``SlurmJob.start_at``."""
    found = _START.search(err)
    start_at = moment(found[1]) if found else None
    if not found or start_at is None:
        raise Unreadable("sbatch --test-only", err)
    return Estimate(start_at, hosts(found[2]), found[3] or "")
