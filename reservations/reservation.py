"""A reservation: the one kind of grant, and the states it goes through."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from .placement import Holding
from .schedule import Held, Waiting
from .shares import ShareRequest


class State(str, Enum):
    """In order; a reservation never goes back. ``starting`` may repeat with a higher generation."""

    QUEUED = "queued"
    GRANTED = "granted"
    STARTING = "starting"
    ACTIVE = "active"
    ENDING = "ending"
    ENDED = "ended"


ORDER = {state: position for position, state in enumerate(State)}


class Reason(str, Enum):
    """Why a reservation ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIME_LIMIT = "time_limit"
    IDLE = "idle"
    PREEMPTED = "preempted"
    LOST = "lost"
    REFUSED = "refused"


class Kind(str, Enum):
    SESSION = "session"
    BATCH = "batch"


@dataclass(frozen=True)
class Reservation:
    """A share, for a user, until an end time. Times are seconds since the epoch on the ledger's steady clock.

    ``seq`` orders the queue. ``generation`` counts starts: a process of a lower generation is not this one.
    ``ends_at`` is set at the grant. ``holdings`` is what it has of the devices; after the end, what it had.
    ``reason`` is set when the end begins.
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

    @property
    def holds(self) -> bool:
        """True while its devices are taken."""
        return self.state not in (State.QUEUED, State.ENDED)

    def waiting(self, stop_grace_s: float) -> Waiting:
        return Waiting(self.id, self.owner, self.request, self.time_limit_s + stop_grace_s, self.submitted_at)

    def held(self, stop_grace_s: float) -> Held:
        """What it holds, and until when at the latest: a stop that began, early or late, takes its grace from then."""
        assert self.ends_at is not None
        end = self.ends_at if self.ending_at is None else self.ending_at
        return Held(self.id, self.owner, self.holdings, end + stop_grace_s)

    def granted(self, holdings: tuple[Holding, ...], now: float) -> Reservation:
        return self._to(
            State.GRANTED, holdings=holdings, granted_at=now, ends_at=now + self.time_limit_s, detail="granted"
        )

    def starting(self, now: float) -> Reservation:
        return self._to(State.STARTING, generation=self.generation + 1, starting_at=now, detail="starting")

    def active(self, enforcement: str, now: float) -> Reservation:
        return self._to(State.ACTIVE, enforcement=enforcement, started_at=now, detail="running")

    def extended(self, seconds: int) -> Reservation:
        assert self.ends_at is not None
        return replace(self, ends_at=self.ends_at + seconds, time_limit_s=self.time_limit_s + seconds)

    def ending(self, reason: Reason, detail: str, now: float) -> Reservation:
        return self._to(State.ENDING, reason=reason, detail=detail, ending_at=now)

    def ended(self, reason: Reason, detail: str, now: float) -> Reservation:
        """The end. A reason given when the end began stands."""
        if self.state is State.ENDING and self.reason is not None:
            reason, detail = self.reason, self.detail
        return self._to(State.ENDED, reason=reason, detail=detail, ended_at=now)

    def _to(self, state: State, **changes: object) -> Reservation:
        repeated = state is self.state is State.STARTING
        if ORDER[state] <= ORDER[self.state] and not repeated:
            raise ValueError(f"reservation {self.id} cannot go from {self.state.value} to {state.value}")
        return replace(self, state=state, **changes)  # type: ignore[arg-type]
