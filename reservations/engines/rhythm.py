"""When to ask an engine again that places work itself. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from ..kind import Kind
from ..reservation import Reservation, State

LEAST_S, LONGEST_S = 2.0, 15.0
"""Between two questions about all jobs."""
PART = 0.1


def pause_s(live: Iterable[Reservation], now: float) -> float:
    """Until the next question: a part of the time for which nothing has changed. What was handed over a moment ago may
    begin at once, and a job that just began may be short; what has waited for an hour is not in such a hurry.

    Sessions that run do not count: their job agents tell of them.
    """
    ages = [now - _changed_at(one) for one in live if one.external is not None and one.external.handed_over]
    return min(LONGEST_S, max(LEAST_S, PART * min(ages, default=float("inf"))))


def _changed_at(reservation: Reservation) -> float:
    if reservation.kind is Kind.SESSION and reservation.state is State.ACTIVE:
        return float("-inf")
    external = reservation.external
    assert external is not None
    moments = (external.tried_at, reservation.granted_at, reservation.started_at, reservation.ending_at)
    return max((moment for moment in moments if moment is not None), default=reservation.submitted_at)
