"""A reservation: the one kind of grant, and the states it goes through."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from .external import External
from .job import JobSpec
from .kind import Kind
from .placement import Holding
from .queue import Held, Waiting
from .shares import ShareRequest
from .usage import Charge


class State(str, Enum):
    """In order; a reservation never goes back, but for batch that is requeued when it was preempted, and for
    ``parked``, from which a session becomes active again. ``starting`` may repeat with a higher generation.
    ``parked``: it runs on and holds nothing, its devices were given back."""

    QUEUED = "queued"
    GRANTED = "granted"
    STARTING = "starting"
    ACTIVE = "active"
    PARKED = "parked"
    ENDING = "ending"
    ENDED = "ended"


ORDER = {state: position for position, state in enumerate(State)}


RETURNING = "returning"
"""Its devices are being given back: once nothing of it uses them, it is parked."""
PARKING = "parking"
"""The same, and what its processes hold there is being kept in the node's memory."""
RESUMING = "resuming"
"""It holds devices again; its node does not know of them yet."""


class Reason(str, Enum):
    """Why a reservation ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIME_LIMIT = "time_limit"
    IDLE = "idle"
    PREEMPTED = "preempted"
    BUDGET = "budget"
    LOST = "lost"
    REFUSED = "refused"


@dataclass(frozen=True)
class Terms:
    """What is recorded of a grant for good: what it counts (``gpus``; ``rate`` with the weight of ``model``), the
    version of the limits that were in force, and what bounds its processes on this machine: ``cpus`` (cores) and
    ``host_memory_mib`` (main memory); None: nothing does."""

    gpus: float = 0.0
    rate: float = 0.0
    model: str = ""
    limits_version: str = ""
    cpus: float | None = None
    host_memory_mib: int | None = None

    def bounded_as(self, other: Terms) -> Terms:
        """These with the bounds of ``other``: processes that run on stay in the control group they began in."""
        return replace(self, cpus=other.cpus, host_memory_mib=other.host_memory_mib)


@dataclass(frozen=True)
class Reservation:
    """A share, for a user, until an end time. Times are seconds since the epoch on the ledger's steady clock.

    ``seq`` orders the queue. ``generation`` counts starts: a process of a lower generation is not this one.
    ``ends_at`` is set at the grant. ``holdings`` is what it has of the devices; after the end, what it had.
    ``reason`` is set when the end begins. ``account``: the group that it is counted with. ``extensions``: how often its
    owner moved the end. ``requeues``: how often it was preempted and went back into the queue.
    ``job``: what a batch reservation runs; None for one that somebody else starts. ``handling``: what its node must do
    yet (``RETURNING``, ``PARKING``, ``RESUMING``); empty: nothing. ``asked_again_at``: since when it waits for devices
    while it is parked. ``kept_mib``: GPU memory of its processes that is kept in the node's memory.
    ``external``: its job, where the engine that it names places work itself; None on this machine.
    """

    id: str
    seq: int
    owner: str
    server_name: str
    kind: Kind
    request: ShareRequest
    time_limit_s: int
    submitted_at: float
    client_key: str | None = None
    state: State = State.QUEUED
    reason: Reason | None = None
    detail: str = ""
    generation: int = 0
    enforcement: str = ""
    granted_at: float | None = None
    starting_at: float | None = None
    started_at: float | None = None
    ends_at: float | None = None
    ending_at: float | None = None
    ended_at: float | None = None
    holdings: tuple[Holding, ...] = ()
    account: str = ""
    terms: Terms = Terms()
    extensions: int = 0
    requeues: int = 0
    job: JobSpec | None = None
    handling: str = ""
    asked_again_at: float | None = None
    kept_mib: int = 0
    external: External | None = None

    @property
    def rate(self) -> float:
        """Weighted GPUs that it is charged for while it holds them."""
        return self.terms.rate

    @property
    def holds(self) -> bool:
        """True while its devices are taken."""
        # This way round: a decision asks it of all who wait, and they were granted nothing.
        return self.granted_at is not None and self.state not in (State.QUEUED, State.PARKED, State.ENDED)

    @property
    def waits(self) -> bool:
        """True while it is in the queue: to begin, or to hold devices again."""
        return self.state is State.QUEUED or (self.state is State.PARKED and self.asked_again_at is not None)

    def waiting(self, stop_grace_s: float) -> Waiting:
        seconds, since, request = float(self.time_limit_s), self.submitted_at, self.request
        if self.asked_again_at is not None and self.ends_at is not None:
            seconds, since = max(0.0, self.ends_at - self.asked_again_at), self.asked_again_at
        if self.kept_mib and self.terms.model:
            request = replace(request, model=self.terms.model)  # what was kept comes back on the same chip only
        return Waiting(self.id, self.owner, request, seconds + stop_grace_s, since, self.kind)

    def held(self, stop_grace_s: float) -> Held:
        """What it holds, and until when at the latest: a stop that began, early or late, takes its grace from then."""
        assert self.ends_at is not None
        end = self.ends_at if self.ending_at is None else self.ending_at
        stopping = self.state is State.ENDING
        since = self.granted_at or 0.0
        return Held(
            self.id,
            self.owner,
            self.holdings,
            end + stop_grace_s,
            self.kind,
            self.terms.gpus,
            since,
            stopping,
            self.requeues,
        )

    def charge(self, ended: float) -> Charge:
        """What it is charged if it ends at ``ended``."""
        assert self.granted_at is not None
        terms, reason = self.terms, self.reason.value if self.reason else ""
        who = (self.id, self.owner, self.account, self.kind)
        return Charge(*who, terms.model, terms.gpus, terms.rate, self.granted_at, max(ended, self.granted_at), reason)

    def granted(self, holdings: tuple[Holding, ...], now: float, terms: Terms = Terms()) -> Reservation:
        return self._to(
            State.GRANTED,
            holdings=holdings,
            granted_at=now,
            ends_at=now + self.time_limit_s,
            detail="granted",
            terms=terms,
        )

    def starting(self, now: float) -> Reservation:
        return self._to(State.STARTING, generation=self.generation + 1, starting_at=now, detail="starting")

    def active(self, enforcement: str, now: float) -> Reservation:
        return self._to(State.ACTIVE, enforcement=enforcement, started_at=now, detail="running")

    def parked(self, detail: str, kept_mib: int = 0) -> Reservation:
        """Nothing of it uses its devices any more: they are given back."""
        terms = replace(self.terms, gpus=0.0, rate=0.0, model=self.terms.model if kept_mib else "")
        return self._to(State.PARKED, holdings=(), terms=terms, handling="", detail=detail, kept_mib=kept_mib)

    def resumed(self, holdings: tuple[Holding, ...], now: float, terms: Terms) -> Reservation:
        """It holds devices again."""
        return self._to(
            State.ACTIVE,
            holdings=holdings,
            terms=terms.bounded_as(self.terms),
            granted_at=now,
            handling=RESUMING,
            asked_again_at=None,
            detail="it has a GPU again",
        )

    def extended(self, seconds: int) -> Reservation:
        assert self.ends_at is not None
        return replace(
            self,
            ends_at=self.ends_at + seconds,
            time_limit_s=self.time_limit_s + seconds,
            extensions=self.extensions + 1,
        )

    def ending(self, reason: Reason, detail: str, now: float) -> Reservation:
        return self._to(State.ENDING, reason=reason, detail=detail, ending_at=now, handling="", asked_again_at=None)

    def ended(self, reason: Reason, detail: str, now: float) -> Reservation:
        """The end. A reason given when the end began stands."""
        if self.state is State.ENDING and self.reason is not None:
            reason, detail = self.reason, self.detail
        return self._to(State.ENDED, reason=reason, detail=detail, ended_at=now, kept_mib=0)

    @property
    def goes_back(self) -> bool:
        """True when, once everything of it is gone, it waits again instead of being over."""
        return self.state is State.ENDING and self.kind is Kind.BATCH and self.reason is Reason.PREEMPTED

    def requeued(self) -> Reservation:
        """Back in the queue at its old place in time, as it was asked for."""
        if not self.goes_back:
            raise ValueError(f"reservation {self.id} cannot go back into the queue")
        nothing = dict.fromkeys(("reason", "granted_at", "starting_at", "started_at", "ends_at", "ending_at"))
        return replace(
            self,
            state=State.QUEUED,
            holdings=(),
            terms=Terms(),
            requeues=self.requeues + 1,
            **nothing,  # type: ignore[arg-type]
        )

    def _to(self, state: State, **changes: object) -> Reservation:
        repeated = state is self.state is State.STARTING or (self.state, state) == (State.PARKED, State.ACTIVE)
        if ORDER[state] <= ORDER[self.state] and not repeated:
            raise ValueError(f"reservation {self.id} cannot go from {self.state.value} to {state.value}")
        return replace(self, state=state, **changes)  # type: ignore[arg-type]
