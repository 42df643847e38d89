"""Where job agents and the hub meet: who has arrived, what is wanted of them, what became of it.

In memory and without input or output. A service that was restarted begins with an empty one, and the agents, who ask
every few seconds, fill it again. Used by one thread (the service's event loop).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ...errors import PublicError
from ...jobagent.talk import ENDED, Exit, Leave, Order, Report, Stop, Wait, Wanted

STARTING, RUNNING, EXITED = "starting", "running", "exited"
"""Of one start: ordered, and nothing listens yet; its server takes connections; it is over."""


@dataclass(frozen=True)
class Arrival:
    """A job that has begun, by its agent's last report. ``heard_at``: when that came; an agent that is well asks again
    within 30 seconds, but silence alone never means that the job is gone."""

    reservation_id: str
    said: Report
    heard_at: float

    @property
    def attempt(self) -> int:
        return self.said.attempt

    @property
    def job_id(self) -> str:
        return self.said.job_id

    @property
    def generation(self) -> int:
        """The start that runs; 0: none."""
        return self.said.generation

    @property
    def over(self) -> bool:
        """The agent has said its last word."""
        return self.said.state == ENDED


@dataclass(frozen=True)
class Progress:
    """Of one start. ``exit`` once it is over."""

    state: str
    exit: Exit | None = None


@dataclass(frozen=True)
class _Expected:
    """The job as the ledger and the batch system have it; None: they do not know yet."""

    attempt: int
    job_id: str | None
    node: str | None

    def is_of(self, report: Report) -> bool:
        same_job, same_node = self.job_id in (None, report.job_id), self.node in (None, report.node)
        return report.attempt == self.attempt and same_job and same_node

    def __str__(self) -> str:
        job = f", job {self.job_id}" if self.job_id else ""
        return f"attempt {self.attempt}{job}" + (f", on {self.node}" if self.node else "")


@dataclass
class _Place:
    """What is known of one reservation."""

    arrival: Arrival | None = None
    expected: _Expected | None = None
    order: Order | None = None
    stop: tuple[int, Stop] | None = None
    exits: dict[int, Exit] = field(default_factory=dict)

    def refusal(self, report: Report) -> str:
        """Why the agent of this report is not wanted; empty when it is."""
        if self.expected is not None and not self.expected.is_of(report):
            return f"{self.expected} is wanted"
        here = self.arrival
        if here is None or here.over:
            return ""
        if (here.attempt, here.job_id) == (report.attempt, report.job_id):
            return "this job was started anew since" if report.restarts < here.said.restarts else ""
        if report.generation > here.generation:
            return ""  # the one with the server: who waits beside it is of no use
        return f"job {here.job_id} of this reservation came first"

    def lose(self, why: str) -> None:
        """Nothing that was ordered so far can run any more."""
        lost = {self.order.generation} if self.order is not None else set()
        lost |= {self.arrival.generation} if self.arrival is not None and self.arrival.generation else set()
        for generation in lost - set(self.exits):
            self.exits[generation] = Exit(generation, None, why)
        self.order = None


class Meeting:
    """``changed`` is called with a reservation's id when anything but a reading became different. ``addresses``: of
    nodes by name, as the batch system has them; they win over what agents say."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}
        self.changed: Callable[[str], None] = lambda reservation_id: None
        self.addresses: dict[str, str] = {}

    # --- job agents

    def hear(self, reservation_id: str, report: Report, now: float) -> Wanted:
        """Takes in what an agent says; what is wanted of it."""
        place = self._places.setdefault(reservation_id, _Place())
        if place.refusal(report):
            return self.wanted(reservation_id, report)
        before = place.arrival
        if before is not None and _start_of(before.said) != _start_of(report):
            place.lose("its job was started anew, or another job took its place")
        place.arrival = Arrival(reservation_id, report, now)
        place.exits |= {told.generation: told for told in report.exits}
        if report.state == ENDED:
            place.lose("its job ended before it began")
        if before is None or replace(before.said, reading=None) != replace(report, reading=None):
            self.changed(reservation_id)
        return self.wanted(reservation_id, report)

    def wanted(self, reservation_id: str, report: Report) -> Wanted:
        """What is wanted now of the agent that said this; asked again while its question is held back."""
        place = self._places.get(reservation_id, _Place())
        refusal = place.refusal(report)
        if refusal:
            return Leave(refusal)
        if place.stop is not None and report.attempt <= place.stop[0]:
            return place.stop[1]
        order = place.order
        if order is not None and order.generation > report.generation and order.generation not in place.exits:
            return order
        return Wait()

    # --- the hub's spawner

    def order(self, reservation_id: str, order: Order) -> None:
        """Has the agent run it. The same generation again changes nothing.

        Raises PublicError 409: no agent is there (``no-agent``), it is to stop (``stopping``), or a newer start is
        known (``older-generation``).
        """
        place = self._places.get(reservation_id, _Place())
        here = place.arrival
        newest = max((place.order.generation if place.order else 0, here.generation if here else 0, *place.exits))
        if order.generation < newest:
            message = f"generation is {order.generation}: generation {newest} was started already"
            raise PublicError("older-generation", message, 409)
        if order.generation == newest:
            return
        if here is None or here.over:
            raise PublicError("no-agent", "no job of this reservation has begun, or it did not report yet", 409)
        if place.stop is not None and here.attempt <= place.stop[0]:
            raise PublicError("stopping", "the job of this reservation is being ended", 409)
        place.order = order
        self.changed(reservation_id)

    def progress(self, reservation_id: str, generation: int) -> Progress:
        """What became of one start."""
        place = self._places.get(reservation_id, _Place())
        if generation in place.exits:
            return Progress(EXITED, place.exits[generation])
        here = place.arrival
        runs = here is not None and here.generation == generation and here.said.port > 0
        return Progress(RUNNING if runs else STARTING)

    def address(self, arrival: Arrival) -> str:
        """Where its server is reached."""
        return self.addresses.get(arrival.said.node) or arrival.said.address

    # --- the engine

    def expect(self, reservation_id: str, attempt: int, job_id: str | None = None, node: str | None = None) -> None:
        """The ledger has this attempt of it, and this job on this node if they are known: every other is told to leave.
        To be told for every live reservation before agents are heard, so that none is chosen that is not meant."""
        place = self._places.setdefault(reservation_id, _Place())
        expected = _Expected(attempt, job_id, node)
        if place.expected == expected:
            return
        place.expected = expected
        if place.arrival is not None and not expected.is_of(place.arrival.said):
            place.lose("another job took its place")
            place.arrival = None
        self.changed(reservation_id)

    def stop(self, reservation_id: str, attempt: int, stop: Stop) -> None:
        """Its jobs up to ``attempt`` are to end, those that are not there yet too. Again and stricter: sooner."""
        place = self._places.setdefault(reservation_id, _Place())
        if place.stop != (attempt, stop):
            place.stop = (attempt, stop)
            self.changed(reservation_id)

    def arrival(self, reservation_id: str) -> Arrival | None:
        place = self._places.get(reservation_id)
        return None if place is None else place.arrival

    def arrivals(self) -> list[Arrival]:
        return [place.arrival for place in self._places.values() if place.arrival is not None]

    def exits(self, reservation_id: str) -> dict[int, Exit]:
        """Of its starts that are over, by generation."""
        place = self._places.get(reservation_id)
        return {} if place is None else dict(place.exits)

    def forget(self, reservation_id: str) -> None:
        """It has ended."""
        if self._places.pop(reservation_id, None) is not None:
            self.changed(reservation_id)


def _start_of(report: Report) -> tuple[int, str, int]:
    return report.attempt, report.job_id, report.restarts
