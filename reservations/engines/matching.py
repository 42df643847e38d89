"""Which job of an engine is which reservation's. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from ..reservation import Reservation
from .external import ExternalJob, Life, attempt_of, job_name, job_prefix, named_after

UNLIMITED = float("inf")


def name_of(reservation: Reservation) -> str:
    """What its job is called after: itself, or the array that it is in."""
    return reservation.id if reservation.job is None else reservation.job.array


def index_of(reservation: Reservation) -> int:
    return 0 if reservation.job is None else reservation.job.index


def grouped(ready: Iterable[Reservation]) -> list[list[Reservation]]:
    """Those of one array together."""
    groups: dict[str, list[Reservation]] = {}
    for reservation in ready:
        groups.setdefault(name_of(reservation), []).append(reservation)
    return list(groups.values())


def by_reservation(
    mine: Sequence[Reservation], known: Mapping[str, ExternalJob], tag: str, account_of: Callable[[str], str] = str
) -> dict[str, ExternalJob]:
    """The job of each, by its id; where that is not known yet, by the name of its last attempt. An id alone says
    little: an engine that lost a job may give its number to another one. So does a name, which everybody can give and
    read: the job must be of the account that ``account_of`` says of a reservation's owner, if the engine tells whose
    it is."""
    named = {(job.name, job.index, job.owner): job for job in known.values()}
    found = {}
    for reservation in mine:
        external = reservation.external
        assert external is not None
        name = job_name(tag, name_of(reservation), external.attempt)
        index, account = index_of(reservation), account_of(reservation.owner)
        if external.job_id:
            job = known.get(external.job_id)
        else:
            job = named.get((name, index, account)) or named.get((name, index, ""))
        if job is not None and job.name == name and job.owner in ("", account):
            found[reservation.id] = job
    return found


def orphans(mine: Sequence[Reservation], known: Mapping[str, ExternalJob], tag: str) -> list[ExternalJob]:
    """Jobs of this deployment that live and are nobody's: of a reservation that has ended, or of an older attempt. Of
    an array one task may be at a later attempt than the others. One of a later attempt than is known is none of them:
    an attempt is written before it is made, so the ledger is an older one."""
    attempts: dict[str, int] = {}
    for reservation in mine:
        if reservation.external is not None:
            name = name_of(reservation)
            attempts[name] = max(attempts.get(name, 0), reservation.external.attempt)
    wanted = {
        (job_name(tag, name_of(reservation), reservation.external.attempt), index_of(reservation))
        for reservation in mine
        if reservation.external is not None
    }
    live, prefix = (Life.PENDING, Life.RUNNING), job_prefix(tag)
    ours = [job for job in known.values() if job.name.startswith(prefix) and job.life in live]
    leftover = [job for job in ours if (job.name, job.index) not in wanted]
    return [job for job in leftover if attempt_of(job.name) <= attempts.get(named_after(job.name, tag), UNLIMITED)]
