"""What follows for a reservation from what its engine says of its job, where the engine places work itself. Pure, and
doing it twice changes nothing.

Without an answer of the engine this is not called: unknown never ends a job, and never frees what it holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..external import External
from ..kind import Kind
from ..limits.schema import Stop
from ..placement import Holding
from ..reservation import Reason, Reservation, State
from .external import ExternalJob, Life

LOST_S = 120.0
"""A job that its engine does not know any more for so long, in answers that it did give, is over; if its job agent is
heard meanwhile, so long after that."""
UNHEARD_S = 15.0
"""Beyond its graces, the time that a session has to end by itself before its job is ended."""


@dataclass(frozen=True)
class Arrival:
    """A session's allocation has begun: its job agent was heard, the last time at ``heard_at``. ``holdings``: what it
    was given."""

    job_id: str
    holdings: tuple[Holding, ...]
    node: str
    heard_at: float


@dataclass(frozen=True)
class Seen:
    """What is known of one reservation. ``settled_s``: what was tried so long ago and is not there never arrived.
    ``job``: None when its engine does not know it, and has not since
    ``absent_since``. ``asked_at``: when the engine was asked. ``arrival``: of a session."""

    job: ExternalJob | None
    asked_at: float
    absent_since: float | None = None
    arrival: Arrival | None = None
    settled_s: float = 90.0


@dataclass(frozen=True)
class SubmitAgain:
    """Nothing of the last attempt arrived, or its engine has lost it before it began."""


@dataclass(frozen=True)
class Adopt:
    """The engine has it, under this id."""

    job_id: str


@dataclass(frozen=True)
class Note:
    """What the engine says of it."""

    said: str
    expected_at: float | None = None
    node: str = ""


@dataclass(frozen=True)
class Begin:
    """It holds what it asked for. ``since``: of one that was not seen before it ended; None: now."""

    holdings: tuple[Holding, ...]
    node: str
    since: float | None = None


@dataclass(frozen=True)
class Runs:
    """Its program runs, as this start. ``since``: as of ``Begin``."""

    generation: int
    since: float | None = None


@dataclass(frozen=True)
class WaitsAgain:
    """The engine took back what it held, and starts it again."""

    why: str


@dataclass(frozen=True)
class Interrupt:
    """Its processes are to save now."""


@dataclass(frozen=True)
class Cancel:
    """It is to be ended at the engine."""


@dataclass(frozen=True)
class Extend:
    """Its time limit at the engine is to be ``seconds``."""

    seconds: int


@dataclass(frozen=True)
class Gone:
    """Nothing of it is left. ``at``: since when, where its engine says so; None: now."""

    reason: Reason
    detail: str
    at: float | None = None


Act = SubmitAgain | Adopt | Note | Begin | Runs | WaitsAgain | Interrupt | Cancel | Extend | Gone


def follow(reservation: Reservation, seen: Seen, rules: Stop) -> list[Act]:
    """What is to be done about ``reservation``, in order."""
    external = reservation.external
    if external is None or not external.handed_over or reservation.state is State.ENDED:
        return []
    if seen.job is None:
        return _absent(reservation, external, seen)
    job = seen.job
    adopted: list[Act] = [] if external.job_id else [Adopt(job.job_id)]
    if job.life is Life.UNKNOWN:
        return adopted
    if job.life is Life.ENDED:
        return [*adopted, *_ran(reservation, job), _over(reservation, job)]
    if reservation.state is State.ENDING:
        return [*adopted, *_stop(reservation, external, job, seen, rules)]
    if job.life is Life.PENDING:
        return [*adopted, *_pending(reservation, job)]
    return [*adopted, *_running(reservation, job, seen)]


def _over(reservation: Reservation, job: ExternalJob) -> Gone:
    if reservation.kind is Kind.SESSION and reservation.state is State.QUEUED and job.reason is Reason.COMPLETED:
        return Gone(Reason.FAILED, "its job ended before the session could begin; the log of its job says why")
    if job.reason is None:
        return Gone(Reason.LOST, "it has ended, and nobody saw how", job.ended_at)
    return Gone(job.reason, job.detail, job.ended_at)


def _ran(reservation: Reservation, job: ExternalJob) -> list[Act]:
    """What a job did that began and ended between two looks: it held what it asked for."""
    unseen = reservation.state in (State.QUEUED, State.GRANTED, State.STARTING)
    if reservation.kind is Kind.SESSION or not unseen or job.started_at is None:
        return []
    return _job_runs(reservation, job, job.started_at)


def told(reservation: Reservation, arrival: Arrival | None) -> list[Act]:
    """What follows from the word of a session's job agent alone, before its engine is asked again."""
    external = reservation.external
    if external is None or arrival is None or arrival.job_id != external.job_id:
        return []
    return _arrived(reservation, arrival)


def _absent(reservation: Reservation, external: External, seen: Seen) -> list[Act]:
    if not external.job_id:
        tried = external.tried_at
        if tried is not None and seen.asked_at < tried + seen.settled_s:
            return []  # it may be on its way
        if reservation.state is State.ENDING:
            return [Gone(reservation.reason or Reason.CANCELLED, reservation.detail)]
        return [SubmitAgain()] if reservation.state is State.QUEUED else []
    if seen.arrival is not None and seen.arrival.job_id == external.job_id:
        begun = _arrived(reservation, seen.arrival)  # its own word is newer than the engine's list
        if begun or seen.asked_at < seen.arrival.heard_at + LOST_S:
            return begun
    if seen.absent_since is None or seen.asked_at < seen.absent_since + LOST_S:
        return []
    if reservation.state is State.QUEUED:
        return [SubmitAgain()]
    return [Gone(Reason.LOST, "its engine does not know this job any more")]


def _pending(reservation: Reservation, job: ExternalJob) -> list[Act]:
    if reservation.state is State.QUEUED:
        return [Note(job.said, job.expected_at)]
    why = "its engine took back what it held"
    if not job.restarts:
        why += ", or lost sight of its start in a crash, and ends what runs of it"
    if job.said:
        why += f": {job.said}"
    if reservation.kind is Kind.BATCH:
        return [WaitsAgain(why)]
    # What comes now is another session. First the reason: accounting would say that its owner cancelled it.
    return [Gone(Reason.LOST, why), Cancel()]


def _running(reservation: Reservation, job: ExternalJob, seen: Seen) -> list[Act]:
    acts: list[Act] = []
    if reservation.kind is Kind.SESSION:
        acts += _arrived(reservation, seen.arrival) if seen.arrival is not None else []
        if not acts and reservation.state is State.QUEUED:
            acts.append(Note(job.said or "its node is preparing the start", None, job.node))
    else:
        acts += _job_runs(reservation, job)
    if reservation.state is State.ACTIVE and reservation.external is not None and reservation.external.said != job.said:
        acts.append(Note(job.said, None, job.node))
    longer = job.time_limit_s is not None and reservation.time_limit_s > job.time_limit_s
    return [*acts, Extend(reservation.time_limit_s)] if longer and reservation.extensions else acts


def _job_runs(reservation: Reservation, job: ExternalJob, since: float | None = None) -> list[Act]:
    assert reservation.external is not None
    start = reservation.external.base + job.restarts
    if reservation.state is State.ACTIVE and reservation.generation >= start:
        return []
    # Nobody may have seen how it was taken back and started again in between.
    before: list[Act] = [WaitsAgain("its engine started it again")] if reservation.state is State.ACTIVE else []
    begin: list[Act] = [Begin(job.holdings, job.node, since)] if before or reservation.state is State.QUEUED else []
    return [*before, *begin, Runs(start, since)]


def _arrived(reservation: Reservation, arrival: Arrival) -> list[Act]:
    return [Begin(arrival.holdings, arrival.node)] if reservation.state is State.QUEUED else []


def _stop(reservation: Reservation, external: External, job: ExternalJob, seen: Seen, rules: Stop) -> list[Act]:
    if job.life is Life.ENDING:
        return []
    if job.life is Life.PENDING or reservation.ending_at is None:
        return [Cancel()]
    waited = seen.asked_at - reservation.ending_at
    if reservation.kind is Kind.SESSION:
        # Its job agent was told, and ends by itself; one that is not heard is ended.
        patience = rules.save_grace + rules.term_grace + UNHEARD_S if seen.arrival is not None else 0.0
        return [Cancel()] if waited >= patience else []
    if waited >= rules.save_grace:
        return [Cancel()]
    return [] if external.asked_to_stop else [Interrupt()]
