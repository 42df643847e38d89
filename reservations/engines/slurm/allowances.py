"""What Slurm itself allows whom, from its associations and QOS, for people and as values of limits by name. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ...clock import duration_text
from ...elsewhere import OwnLimit
from .limit_names import LimitName, amounts, value_of
from .limits import Limits


@dataclass(frozen=True)
class Book:
    """``associations``: of all users and accounts that this account may see. ``seen_at``: when, seconds since the
    epoch."""

    associations: Sequence[Limits] = ()
    qos: Mapping[str, Limits] = field(default_factory=dict)
    seen_at: float = 0.0


@dataclass(frozen=True)
class Place:
    """Where jobs of a pool go; empty: Slurm's own default. ``partition_qos``: that of the partition itself."""

    account: str = ""
    qos: str = ""
    partition: str = ""
    partition_qos: str = ""


def concerning(book: Book, owner: str, place: Place) -> list[Limits]:
    """All that hold for jobs of ``owner`` there: her associations, their accounts as a whole, the QOS."""
    hers = [
        one
        for one in book.associations
        if one.user == owner and place.account in ("", one.account) and one.partition in ("", place.partition)
    ]
    accounts = {one.account for one in hers}
    whole = [one for one in book.associations if not one.user and one.account in accounts]
    names = [place.partition_qos, *([place.qos] if place.qos else [one.default_qos for one in hers])]
    return [*hers, *whole, *(book.qos[name] for name in dict.fromkeys(names) if name in book.qos)]


def value(name: LimitName, book: Book, owner: str, place: Place) -> str:
    """Of a limit that Slurm named; empty: not known."""
    return value_of(name, concerning(book, owner, place))


def rows(limits: Iterable[Limits]) -> list[OwnLimit]:
    """What there are limits on; nothing of those that have none."""
    return [OwnLimit(_of(one), what, value, name) for one in limits for what, value, name in _rows(one) if value]


def _of(limits: Limits) -> str:
    if not limits.account:
        return f"QOS {limits.name}"
    return f"{limits.user}, account {limits.account}" if limits.user else f"account {limits.account}"


def _rows(limits: Limits) -> Iterator[tuple[str, str, str]]:
    """What is limited, to what, and Slurm's name for it."""
    qos = not limits.account
    all_of_it = "all users together" if qos or not limits.user else "all jobs together"
    yield f"at once, {all_of_it}", amounts(limits.total), "GrpTRES"
    yield f"running jobs, {all_of_it}", _text(limits.total_jobs), "GrpJobs"
    yield f"jobs that run or wait, {all_of_it}", _text(limits.total_submit), "GrpSubmitJobs"
    yield f"time of jobs, {all_of_it}", _time(limits.total_wall_s), "GrpWall"
    yield "at once, each person", amounts(limits.of_user), "MaxTRESPerUser"
    yield "at once, each account", amounts(limits.of_account), "MaxTRESPerAccount"
    yield "in one job", amounts(limits.of_job), "MaxTRES"
    each = ", each person" if qos else ""
    yield f"running jobs{each}", _text(limits.max_jobs), "MaxJobsPerUser" if qos else "MaxJobs"
    yield f"jobs that run or wait{each}", _text(limits.max_submit), "MaxSubmitJobsPerUser" if qos else "MaxSubmitJobs"
    yield "running jobs, each account", _text(limits.max_jobs_of_account), "MaxJobsPerAccount"
    yield "jobs that run or wait, each account", _text(limits.max_submit_of_account), "MaxSubmitJobsPerAccount"
    yield "time of one job", _time(limits.max_wall_s), "MaxWall"


def _text(count: int | None) -> str:
    return "" if count is None else str(count)


def _time(seconds: int | None) -> str:
    return "" if seconds is None else duration_text(seconds)
