"""What is asked for, and the refusals that people get. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .clock import rfc3339
from .errors import PublicError
from .job import JobSpec
from .kind import Kind
from .queue import Forecast
from .reservation import Reservation, State
from .shares import ShareRequest


@dataclass(frozen=True)
class Submission:
    """What somebody asks for, already typed. ``queue`` False: now or not at all."""

    owner: str
    request: ShareRequest
    time_limit_s: int | None = None
    kind: Kind = Kind.SESSION
    server_name: str = ""
    client_key: str | None = None
    queue: bool = True
    job: JobSpec | None = None


Answer = tuple[Reservation, bool] | PublicError
"""What a submission comes to: the reservation and whether it is new, or the refusal."""


def one_per_owner(wishes: Iterable[Submission]) -> Iterable[list[Submission]]:
    """``wishes`` in their order, cut wherever an owner comes again."""
    group: list[Submission] = []
    for wish in wishes:
        if any(other.owner == wish.owner for other in group):
            yield group
            group = []
        group.append(wish)
    if group:
        yield group


def check_server_free(wish: Submission, live: Iterable[Reservation]) -> None:
    """Raises PublicError when the server that ``wish`` names has a reservation already."""
    if wish.kind is not Kind.SESSION:
        return
    for other in live:
        if (other.owner, other.server_name, other.kind) == (wish.owner, wish.server_name, Kind.SESSION):
            name = f"the server '{wish.server_name}'" if wish.server_name else "your default server"
            message = f"{name} already has a reservation ({other.state.value}): stop it, or leave the queue, first"
            raise PublicError("already-reserved", message, 409, {"id": other.id, "state": other.state.value})


def no_capacity(reservation: Reservation, told: Forecast) -> PublicError:
    """The refusal of what would have to wait; ``told``: what it could expect in the queue."""
    start = told.latest_start
    when = f"it could start at the latest at {rfc3339(start)}" if start else "nobody can say when it could start"
    why = f" ({told.why})" if told.why else ""
    message = (
        f"{reservation.request.describe()} is not free now{why}; {when}. "
        "Ask with queue set to true to wait in line and be started when it is your turn"
    )
    details = {"share": reservation.request.as_options(), "latest_start": rfc3339(start)}
    return PublicError("no-capacity", message, 409, details)


def unknown_id(reservation_id: str) -> PublicError:
    return PublicError("not-found", f"there is no reservation {reservation_id!r} of yours", 404, {"id": reservation_id})


def wrong_state(reservation: Reservation, what: str) -> PublicError:
    message = f"the reservation is {reservation.state.value} and cannot {what}"
    if reservation.state is State.ENDED and reservation.reason is not None:
        message += f"; it ended: {reservation.detail or reservation.reason.value}"
    return PublicError("wrong-state", message, 409, {"id": reservation.id, "state": reservation.state.value})
