"""How soon an engine is to be asked again about its jobs. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..reservation import Reservation, State

BUSY_S, STEADY_S = 2.0, 15.0
"""Between two questions: while something is about to change, and while nothing is."""
PATIENCE = 8.0
"""What has waited for so many times the pause is no more likely to begin in the next."""


def look_again_s(reservations: Iterable[Reservation], arrived: Collection[str], now: float) -> float:
    """``arrived``: ids of those whose job agents were heard."""
    return min((_pause_s(one, one.id in arrived, now) for one in reservations), default=STEADY_S)


def _pause_s(reservation: Reservation, arrived: bool, now: float) -> float:
    external = reservation.external
    if reservation.state is State.ACTIVE or external is None or not external.handed_over:
        return STEADY_S
    if reservation.state is not State.QUEUED or arrived or not external.job_id:
        return BUSY_S
    # The longer it has waited, the rarer: most who wait do so for hours. Job agents tell of the start themselves.
    waited = now - (external.tried_at or now)
    return min(STEADY_S, max(BUSY_S, waited / PATIENCE))
