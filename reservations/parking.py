"""Devices that a session gives back while it runs on, and asks for again."""

from __future__ import annotations

from dataclasses import replace

from .errors import PublicError
from .pool import Pool
from .reservation import PARKING, RESUMING, RETURNING, Reservation, State
from .submission import wrong_state


class Parking:
    """Changes of one session at a time, written before anybody acts on them; what the node must do for it stands in its
    ``handling`` until it is done."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def give_back(self, reservation_id: str, why: str, *, park: bool = False) -> Reservation:
        """Begins to give the devices back; done once nothing of it uses them any more. ``park``: what its processes
        hold there is kept in the node's memory. Idempotent. Raises PublicError."""
        reservation = self._session(reservation_id)
        if reservation.state is State.PARKED:
            if reservation.asked_again_at is None:
                return reservation
            return self._pool.change(reservation, replace(reservation, asked_again_at=None, detail=why))
        if reservation.handling in (RETURNING, PARKING):
            return reservation
        if reservation.state is not State.ACTIVE:
            raise wrong_state(reservation, "give its GPU back")
        if not reservation.holdings:
            raise PublicError("no-gpu", "this session holds no GPU that it could give back", 409)
        fixed = self._pool.cannot_give_back(reservation)
        if fixed:
            raise PublicError("not-supported", f"{fixed}: stop the session instead", 409)
        cannot = self._pool.cannot_park(reservation) if park else ""
        if cannot:
            message = f"what it holds on its GPU cannot be kept: {cannot}; give the GPU back without that"
            raise PublicError("not-supported", message, 409)
        return self._pool.change(reservation, replace(reservation, handling=PARKING if park else RETURNING, detail=why))

    def ask_again(self, reservation_id: str) -> Reservation:
        """Asks for the same share again: at once if it is free, else in the queue. Raises PublicError."""
        reservation = self._session(reservation_id)
        if reservation.handling in (RETURNING, PARKING):
            raise PublicError("returning", "its GPU is just being given back: ask again in a few seconds", 409)
        if reservation.state is State.ACTIVE or reservation.asked_again_at is not None:
            return reservation
        if reservation.state is not State.PARKED:
            raise wrong_state(reservation, "ask for its GPU again")
        asked = replace(reservation, asked_again_at=self._pool.clock(), detail="it asks for its GPU again")
        self._pool.change(reservation, asked)
        return self._pool.get(reservation_id)

    def returned(self, reservation_id: str, generation: int, kept_mib: int = 0) -> None:
        """Its node saw that nothing of it uses the devices any more, and keeps ``kept_mib`` of what it held there."""
        reservation = self._pool.get(reservation_id)
        if reservation.handling in (RETURNING, PARKING) and reservation.generation == generation:
            self._pool.change(reservation, reservation.parked(reservation.detail, kept_mib))

    def keeping(self) -> frozenset[str]:
        """Of which something is kept now; to be asked before the node is: ``kept`` wants it."""
        return frozenset(reservation.id for reservation in self._pool.live() if reservation.kept_mib)

    def kept(self, keeping: frozenset[str], reservation_id: str, generation: int, kept_mib: int) -> None:
        """Its node keeps so much of it now: less, when a kernel of it has ended. What has come to be kept since the
        node was asked (it is not in ``keeping``) is not in the answer."""
        reservation = self._pool.get(reservation_id)
        same = reservation.generation == generation and not reservation.handling
        known = reservation.kept_mib if reservation_id in keeping else 0
        if same and known and known != kept_mib and reservation.reason is None:
            self._pool.change(reservation, replace(reservation, kept_mib=kept_mib))

    def resumed(self, reservation_id: str, generation: int, kept_mib: int = 0) -> None:
        """Its node lets it use its new devices. ``kept_mib``: what could not be brought back, and is kept on."""
        reservation = self._pool.get(reservation_id)
        if reservation.handling == RESUMING and reservation.generation == generation:
            detail = "it has a GPU again"
            self._pool.change(reservation, replace(reservation, handling="", kept_mib=kept_mib, detail=detail))

    def delayed(self, reservation_id: str, why: str) -> None:
        """Its node cannot bring back yet what was kept of it; it is asked again."""
        reservation = self._pool.get(reservation_id)
        detail = f"it waits on its GPU: {why}"
        if reservation.handling == RESUMING and reservation.detail != detail:
            self._pool.change(reservation, replace(reservation, detail=detail))

    def failed(self, reservation_id: str, why: str) -> None:
        """Its node cannot do it: what was to be given back stays, what was to be used is given back."""
        reservation = self._pool.get(reservation_id)
        if reservation.handling in (RETURNING, PARKING):
            parking = reservation.handling == PARKING
            what = "it was not parked, and keeps its GPU" if parking else "its GPU was not taken"
            self._pool.change(reservation, replace(reservation, handling="", detail=f"{what}: {why}"))
        elif reservation.handling == RESUMING:
            self._pool.change(reservation, reservation.parked(f"it got no GPU again: {why}", reservation.kept_mib))

    def _session(self, reservation_id: str) -> Reservation:
        reservation = self._pool.get(reservation_id)
        if reservation.job is not None:
            raise PublicError("not-a-session", "this is a job: cancel it instead", 409)
        return reservation
