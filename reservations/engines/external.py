"""What an engine tells and does that places work itself. A few methods, text in and plain facts out; retries, state and
truth are above it, in ``follow`` and the service.

Every method raises EngineUnknown when the engine did not answer, or not in a way that can be read: then nothing is
known, and nothing follows. LaunchRefused is an answer: it said no, in words for people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from ..devices.model import Device
from ..elsewhere import Elsewhere
from ..kind import Kind
from ..placement import Holding
from ..reservation import Reason, Reservation
from ..shares import ShareRequest


class Life(str, Enum):
    """Of a job at its engine. ``ENDING``: its processes are being ended."""

    PENDING = "pending"
    RUNNING = "running"
    ENDING = "ending"
    ENDED = "ended"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class ExternalJob:
    """A job as its engine sees it. ``name`` is what we gave it, see ``job_name``; ``index``: which of an array it is, 0
    of one that is none. ``said``: why it waits or how it is, for people. ``expected_at``: when it is expected to start,
    ``started_at``, ``ended_at``: since and until when it runs or ran, seconds since the epoch; None: the engine does
    not say, or it never ran. ``places``: its nodes once it runs, and the numbers of its GPUs there as far as they are
    told; ``holdings``: what that comes to. ``restarts``: how often the engine began it anew. ``time_limit_s``: after
    which the engine ends it; None: unknown. ``reason``, ``detail``: of one that has ended."""

    job_id: str
    name: str
    owner: str
    life: Life
    index: int = 0
    said: str = ""
    expected_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    node: str = ""
    places: Mapping[str, Sequence[int]] = field(default_factory=dict)
    holdings: tuple[Holding, ...] = ()
    restarts: int = 0
    time_limit_s: int | None = None
    reason: Reason | None = None
    detail: str = ""


@dataclass(frozen=True)
class Order:
    """A job to hand over. ``seconds``: its time limit with what a stop may take. ``tasks``: one reservation, or those
    of an array, by their index in it. ``parallel``: of these at most so many run at once; 0: all."""

    name: str
    owner: str
    kind: Kind
    request: ShareRequest
    seconds: int
    tasks: Mapping[int, Reservation]
    parallel: int = 0

    @property
    def is_array(self) -> bool:
        return len(self.tasks) > 1 or 0 not in self.tasks


@dataclass(frozen=True)
class Looked:
    """``jobs`` by id, as they were when the engine was asked, ``age_s`` before this is told. ``partial``: some may be
    missing that the engine told in words which are not understood."""

    jobs: Mapping[str, ExternalJob]
    age_s: float = 0.0
    partial: bool = False


class ExternalEngine(Elsewhere, Protocol):
    """Where reservations run that somebody else places. ``settled_s``: after so long a hand-over that nobody answered
    has arrived, or never does."""

    settled_s: float

    def holdings(self, request: ShareRequest, places: Mapping[str, Sequence[int]]) -> tuple[Holding, ...]:
        """What a share holds in the ledger's terms. ``places``: as in ExternalJob."""

    def account_of(self, owner: str) -> str:
        """The account that has the jobs of ``owner``; empty: there is none."""

    async def devices(self) -> tuple[Device, ...]:
        """What there is, whether it is free or not."""

    async def learn(self) -> None:
        """Takes in what changes rarely: its own limits, where they are readable."""

    async def submit(self, order: Order) -> str:
        """Hands it over; the job's id. May be repeated only under another name. Raises LaunchRefused."""

    async def look(self, job_ids: Sequence[str], within_s: float) -> Looked:
        """From one question: all jobs of ours that have not ended, and those of ``job_ids`` of which it still knows how
        they ended. What is not among them was not there. An answer that somebody else got no longer than ``within_s``
        ago will do."""

    async def interrupt(self, job: ExternalJob) -> None:
        """Lets its processes know that the end has come, so that they can save."""

    async def cancel(self, job: ExternalJob) -> None:
        """Ends it."""

    async def extend(self, job: ExternalJob, seconds: int) -> None:
        """Moves its time limit to ``seconds`` after its start. Raises LaunchRefused."""


def job_prefix(tag: str) -> str:
    """What the names of all jobs of one deployment and engine begin with."""
    return f"timeshare-{tag}-"


def job_name(tag: str, name: str, attempt: int) -> str:
    """By which a job is found again. ``tag``: of this deployment, so that it leaves jobs of others alone. ``name``: of
    the reservation, or of the array."""
    return f"{job_prefix(tag)}{name}.{attempt}"


def named_after(job_name: str, tag: str) -> str:
    """What the job of that name is called after, of the deployment ``tag``: a reservation or an array."""
    return job_name.removeprefix(job_prefix(tag)).rpartition(".")[0]


def attempt_of(job_name: str) -> int:
    """Which attempt the job of that name is; 0 for a name that says none."""
    number = job_name.rpartition(".")[2]
    return int(number) if number.isdecimal() and len(number) < 10 else 0
