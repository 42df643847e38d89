"""What time alone does to a reservation. Pure."""

from __future__ import annotations

from dataclasses import replace

from .clock import duration_text
from .limits.schema import Limits
from .reservation import Reason, Reservation, State


def due(reservation: Reservation, limits: Limits, now: float) -> Reservation | None:
    """What ``reservation`` has become at ``now``; None while nothing is due."""
    state = reservation.state
    if state is State.GRANTED and now >= (reservation.granted_at or now) + limits.start_within:
        detail = f"granted, but not started within {duration_text(limits.start_within)}"
        return _given_up(reservation, detail, now)
    if state is State.GRANTED and now >= (reservation.ends_at or now + 1):
        detail = f"granted, but not started within its time limit of {duration_text(reservation.time_limit_s)}"
        return _given_up(reservation, detail, now)
    if state is State.STARTING and now >= (reservation.starting_at or now) + limits.start_timeout:
        detail = f"the server did not start within {duration_text(limits.start_timeout)}"
        return reservation.ending(Reason.FAILED, detail, now)
    if state in (State.STARTING, State.ACTIVE, State.PARKED) and now >= (reservation.ends_at or now + 1):
        detail = f"its time limit of {duration_text(reservation.time_limit_s)} was reached"
        return reservation.ending(Reason.TIME_LIMIT, detail, now)
    return None


def _given_up(reservation: Reservation, detail: str, now: float) -> Reservation:
    """One that no process of ours runs for yet; where an engine placed it, its job there must be ended first."""
    give_up = reservation.ended if reservation.external is None else reservation.ending
    return give_up(Reason.LOST, detail, now)


def shortened(reservation: Reservation, longest_s: float, soonest: float) -> Reservation | None:
    """``reservation`` with its end moved to ``longest_s`` seconds after its grant, but not before ``soonest``; None if
    it ends by then anyway."""
    if reservation.ends_at is None or reservation.granted_at is None or reservation.state is State.ENDING:
        return None
    end = max(soonest, reservation.granted_at + longest_s)
    if end >= reservation.ends_at:
        return None
    detail = "its end was moved: an administrator shortened the time limits"
    return replace(reservation, ends_at=end, time_limit_s=round(end - reservation.granted_at), detail=detail)
