"""What a person must hear before something is taken away. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from .clock import duration_text
from .limits.schema import Limits
from .reservation import Reservation, State
from .watching import Warned


@dataclass(frozen=True)
class Notice:
    """``level`` is ``info``, ``warning`` or ``danger``; ``at`` is when it first applied (seconds)."""

    level: str
    text: str
    at: float


def time_notice(
    reservation: Reservation, limits: Limits, now: float, budget_ends_at: float | None = None
) -> Notice | None:
    """The notice about the end of ``reservation`` that applies now, the most urgent one; None when there is none.

    ``budget_ends_at``: when a budget of its owner will be empty, and end it.
    """
    if reservation.state is State.ENDING:
        at = reservation.ending_at or now
        return Notice("danger", f"This session is being stopped: {reservation.detail}.", at)
    if reservation.state not in (State.STARTING, State.ACTIVE, State.PARKED) or reservation.ends_at is None:
        return None
    ends_at, do = reservation.ends_at, "Extend it, or save your work"
    if budget_ends_at is not None and budget_ends_at < ends_at:
        ends_at, do = budget_ends_at, "Your GPU-hours are used up then (see My limits). Save your work"
    left = ends_at - now
    due = [lead for lead in limits.notices if left <= lead]
    if not due:
        return None
    lead = min(due)
    grace = duration_text(limits.stop.save_grace)
    text = (
        f"This session ends in {duration_text(left)}. {do}: at the end running cells are "
        f"interrupted, and {grace} later everything in it is stopped."
    )
    return Notice("danger" if lead == min(limits.notices) else "warning", text, ends_at - lead)


def idle_notice(warned: Warned, now: float) -> Notice:
    """The warning of an idle session as it is told at ``now``."""
    left = max(0.0, warned.act_at - now)
    return Notice(
        "danger" if left <= 120 else "warning",
        f"{warned.text} In {duration_text(left)} {warned.consequence}",
        warned.at,
    )
