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

SHORTEST_S = 60
"""No time limit is shorter."""


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


def check_kind(wish: Submission) -> None:
    """Raises PublicError unless ``wish`` is a session without a job, or batch with one: a reservation of kind batch
    that nothing runs in would be held for as long as jobs may last."""
    if wish.kind is Kind.BATCH and wish.job is None:
        message = "kind is 'batch': batch is reserved by submitting a job; use %%gpu_batch, or POST jobs"
        raise PublicError("batch-needs-a-job", message, 403, {"kind": wish.kind.value})
    if wish.kind is not Kind.BATCH and wish.job is not None:
        message = f"kind is {wish.kind.value!r}: a job is batch"
        raise PublicError("job-is-batch", message, 403, {"kind": wish.kind.value})


def check_same_wish(wish: Submission, known: Reservation) -> None:
    """Raises PublicError when the client key of ``wish`` belongs to something else: whoever repeats a request gets what
    came of it, and nobody gets a job where a session was asked for, or another server's reservation."""
    if (known.kind, known.server_name) != (wish.kind, wish.server_name):
        whose = f"the server {known.server_name!r}" if known.server_name else f"a {known.kind.value}"
        message = f"client_key was given before, for {whose} (reservation {known.id}): use a new one"
        raise PublicError("client-key-used", message, 409, {"id": known.id})


def check_startable(reservation: Reservation) -> None:
    """Raises PublicError when a server is to be started on what is no session."""
    if reservation.kind is not Kind.SESSION or reservation.job is not None:
        message = "no server starts on a batch reservation: the service runs its job; ask for a session instead"
        raise PublicError("not-a-session", message, 409, {"id": reservation.id, "kind": reservation.kind.value})


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
