"""What job agents told, as the loop around the engine asks for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from ...jobagent.talk import Exit, Stop
from ...placement import Holding
from ...pool import Pool
from ...reservation import Reason, Reservation
from ...shares import ShareRequest
from ..follow import Arrival
from .meeting import Meeting

Holdings = Callable[[ShareRequest, Mapping[str, Sequence[int]]], tuple[Holding, ...]]
"""What a share holds in the ledger's terms: its nodes, and the numbers of its GPUs there as far as they are told."""
_NUMBERED = re.compile(r".*/gpu([0-9]+)")


class MeetingAgents:
    """Called by the event loop alone, as the meeting is. ``gentle``: whether a session is interrupted first."""

    def __init__(self, meeting: Meeting, pool: Pool, holdings: Holdings, gentle: Callable[[Reservation], bool]) -> None:
        self._meeting, self._pool, self._holdings, self._gentle = meeting, pool, holdings, gentle
        self._heard: dict[tuple[str, str], int] = {}
        self._mine: set[str] = set()

    def expect(self, reservation: Reservation) -> None:
        """Only the job that the ledger means is let in."""
        external = reservation.external
        self._mine.add(reservation.id)
        if external is not None and external.handed_over:
            job, node = external.job_id or None, external.node or None
            self._meeting.expect(reservation.id, external.attempt, job, node)

    def arrival(self, reservation: Reservation) -> Arrival | None:
        """Of the attempt that is under way; None while it was not heard, or once it is over."""
        here, external = self._meeting.arrival(reservation.id), reservation.external
        if here is None or external is None or here.over or here.attempt != external.attempt:
            return None
        said = here.said
        numbers = [int(match[1]) for device in said.devices if (match := _NUMBERED.fullmatch(device))]
        return Arrival(said.job_id, self._holdings(reservation.request, {said.node: numbers}), said.node, here.heard_at)

    def stop(self, reservation: Reservation) -> None:
        """Tells its agent that the end has come."""
        rules, external = self._pool.stop_of(reservation), reservation.external
        if external is not None:
            gentle = self._gentle(reservation)
            stop = Stop(gentle, float(rules.save_grace) if gentle else 0.0, float(rules.term_grace))
            self._meeting.stop(reservation.id, external.attempt, stop)

    def end(self, reservation: Reservation) -> tuple[Reason, str] | None:
        """How the server of its last start ended; None where nobody saw."""
        found = self._meeting.exits(reservation.id).get(reservation.generation)
        return None if found is None else reason_of(found)

    def news(self) -> list[tuple[str, str]]:
        """What agents have noticed since the last call: the reservation, and the words for its owner."""
        found = []
        for here in self._meeting.arrivals():
            if here.reservation_id not in self._mine:
                continue  # of another engine
            key = (here.reservation_id, here.job_id)
            new = [event for event in here.said.events if event.seq > self._heard.get(key, 0)]
            found += [(here.reservation_id, event.message) for event in new]
            if new:
                self._heard[key] = max(event.seq for event in new)
        return found

    def forget(self, keep: Iterable[str]) -> None:
        """Drops what is known of those of this engine that are not among ``keep``."""
        over = self._mine - set(keep)
        for reservation_id in over:
            self._meeting.forget(reservation_id)
        self._mine -= over
        self._heard = {key: seq for key, seq in self._heard.items() if key[0] in self._mine}


def reason_of(end: Exit) -> tuple[Reason, str]:
    """As that of a server on this machine."""
    if end.message:
        return Reason.FAILED, end.message
    if end.code == 0:
        return Reason.COMPLETED, "the server was shut down from within"
    if end.code is None:
        return Reason.LOST, "nobody saw how the server ended"
    return Reason.FAILED, f"the server exited with code {end.code}; the log of its job says why"
