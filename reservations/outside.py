"""Reservations that an engine places itself: what happens to them there, written down before and after. As ``parking``,
one change of one reservation at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .external import External
from .placement import Holding
from .pool import Pool
from .reservation import Reason, Reservation, State


class Outside:
    """Every change is of the reservation as it is now: what has changed meanwhile wins."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def handing_over(self, reservation_ids: Sequence[str], *, lost: bool = False) -> list[Reservation]:
        """Writes down that these are about to be handed to their engine; those that still are to be. ``lost``: once
        more, for it does not know them any more."""
        found = []
        for reservation_id in reservation_ids:
            reservation = self._pool.get(reservation_id)
            external = reservation.external
            if reservation.state is State.QUEUED and external is not None and (lost or not external.job_id):
                tried = External(
                    attempt=external.attempt + 1,
                    tried_at=self._pool.clock(),
                    said="it is being handed over",
                    base=reservation.generation + 1,
                )
                found.append(self._pool.change(reservation, replace(reservation, external=tried)))
        return found

    def handed_over(self, reservation_id: str, attempt: int, job_id: str) -> None:
        """Its engine took it, and calls it ``job_id``."""
        reservation, external = self._of(reservation_id)
        if external is not None and external.attempt == attempt and not external.job_id:
            self._write(reservation, replace(external, job_id=job_id))

    def refused(self, reservation_id: str, attempt: int, why: str) -> None:
        """Its engine will not have it."""
        reservation, external = self._of(reservation_id)
        if reservation.state is State.QUEUED and external is not None and external.attempt == attempt:
            self._pool.change(reservation, reservation.ended(Reason.REFUSED, why, self._pool.clock()))

    def noted(self, reservation_id: str, said: str, expected_at: float | None, node: str) -> None:
        """What its engine says of it now. ``node``: where it is being prepared or runs, empty while it waits: one that
        waits again may begin elsewhere."""
        reservation, external = self._of(reservation_id)
        if external is not None:
            changed = replace(external, said=said, expected_at=expected_at, node=node)
            if changed != external:
                self._write(reservation, changed)

    def begun(
        self, reservation_id: str, attempt: int, holdings: Sequence[Holding], node: str, since: float | None = None
    ) -> None:
        """It runs there, and holds ``holdings``. ``since``: by the engine's clock; None: now."""
        reservation, external = self._of(reservation_id)
        if reservation.state is not State.QUEUED or external is None or external.attempt != attempt:
            return
        here = replace(reservation, external=replace(external, said="", expected_at=None, node=node))
        self._pool.change(reservation, self._pool.world().begun(here, holdings, self._told(reservation, since)))

    def runs(self, reservation_id: str, generation: int, enforcement: str, since: float | None = None) -> None:
        """Its program runs, as start ``generation``: of a job, which nobody else starts. ``since``: as of ``begun``."""
        reservation = self._pool.get(reservation_id)
        at = self._told(reservation, since)
        if reservation.state is State.GRANTED and reservation.generation < generation:
            starting = replace(reservation, generation=generation - 1).starting(at)
            reservation = self._pool.change(reservation, starting)
        if reservation.state is State.STARTING and reservation.generation == generation:
            self._pool.change(reservation, reservation.active(enforcement, at))

    def waits_again(self, reservation_id: str, why: str) -> None:
        """Its engine took back what it held, and will start it again."""
        reservation = self._pool.get(reservation_id)
        if not reservation.holds or reservation.state is State.ENDING:
            return
        stopped = reservation.ending(Reason.PREEMPTED, why, self._pool.clock())
        stopped = self._pool.change(reservation, stopped)
        self._pool.change(stopped, replace(stopped.requeued(), detail=why))

    def asked_to_stop(self, reservation_id: str) -> None:
        """Its processes are about to be told that the end has come."""
        reservation, external = self._of(reservation_id)
        if external is not None:
            self._write(reservation, replace(external, asked_to_stop=True))

    def gone(self, reservation_id: str, attempt: int, reason: Reason, detail: str, at: float | None = None) -> None:
        """Nothing of it is left there. What was preempted there and is not started again is over, too. ``at``: since
        when, by the engine's clock; None: now."""
        reservation, external = self._of(reservation_id)
        if reservation.state is State.ENDED or external is None or external.attempt != attempt:
            return
        if reservation.goes_back:
            waiting = replace(reservation.requeued(), external=External(attempt=external.attempt))
            self._pool.change(reservation, waiting)
            return
        self._pool.change(reservation, reservation.ended(reason, detail, self._told(reservation, at)))

    def _told(self, reservation: Reservation, at: float | None) -> float:
        """A moment by the engine's clock on ours: after all that was written down of it, and not to come."""
        known = (reservation.submitted_at, reservation.granted_at, reservation.started_at, reservation.ending_at)
        now = self._pool.clock()
        return now if at is None else min(max(at, *(moment or 0.0 for moment in known)), now)

    def _of(self, reservation_id: str) -> tuple[Reservation, External | None]:
        reservation = self._pool.get(reservation_id)
        return reservation, reservation.external

    def _write(self, reservation: Reservation, external: External) -> None:
        if reservation.state is not State.ENDED:
            self._pool.change(reservation, replace(reservation, external=external))
