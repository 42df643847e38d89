"""From what somebody asks for to a reservation in the queue, or to the refusal that she gets. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .elsewhere import Elsewhere
from .errors import PublicError
from .external import External
from .host import HostSize
from .limits.checks import Asking, check_submission, check_time
from .limits.host_bounds import HostRules
from .live import Live
from .placement import Slot
from .policy import Policy
from .reservation import Reservation
from .standing import Standing
from .submission import Submission
from .usage import Running


@dataclass(frozen=True)
class Desk:
    """What is known when somebody asks. ``live``: everything that has not ended; ``seq``: the last place in the queue
    that was given out; ``slots``: empty while nobody has seen the devices. ``engines``: those that place work
    themselves. ``host``: the size of this machine; None: not known, and then it bounds nothing."""

    standing: Standing
    policy: Policy
    slots: Sequence[Slot]
    live: Live
    running: Running
    seq: int
    now: float
    engines: Mapping[str, Elsewhere] = field(default_factory=dict)
    local: bool = True
    host: HostSize | None = None


def accept(desk: Desk, wish: Submission) -> Reservation:
    """The new reservation, queued. Raises PublicError when it may not be."""
    standing, now = desk.standing, desk.now
    limits = standing.effective(wish.owner, now)
    seconds = check_time(limits, wish.kind, wish.time_limit_s)
    if wish.request.engine and wish.request.engine not in desk.engines:
        known = ", ".join(desk.engines) or "there is none but this machine: leave engine out"
        message = f"engine is '{wish.request.engine}': must be one of the engines of this site: {known}"
        raise PublicError("unknown-engine", message, 422, {"engine": wish.request.engine, "engines": [*desk.engines]})
    if not wish.request.engine and not desk.local:
        message = (
            f"engine is missing: nothing runs on the hub's own machine here; name one of {', '.join(desk.engines)}"
        )
        raise PublicError("no-engine", message, 422, {"engines": [*desk.engines]})
    if wish.request.engine:
        desk.engines[wish.request.engine].check(wish.request, seconds, wish.kind)
    host = None if wish.request.engine else desk.host
    HostRules(limits, wish.kind, host, standing.limits.host_memory_fraction).check(wish.request)
    if desk.slots:
        error = desk.policy.never_fits(desk.slots, wish.request)
        if error is not None:
            raise error
    check_submission(
        Asking(
            owner=wish.owner,
            kind=wish.kind,
            request=wish.request,
            seconds=seconds,
            limits=limits,
            policy=desk.policy,
            slots=desk.slots,
            live=desk.live,
            purses=standing.purses(wish.owner, desk.running, now),
            weight=standing.weight(wish.request.model),
            requests_waiting=standing.limits.requests_waiting,
            job=wish.job,
            spoken_for=lambda purse: standing.spoken_for(purse, desk.live, desk.slots, now),
        )
    )
    return Reservation(
        id=str(uuid.uuid4()),
        seq=desk.seq + 1,
        owner=wish.owner,
        server_name=wish.server_name,
        kind=wish.kind,
        request=wish.request,
        time_limit_s=seconds,
        submitted_at=now,
        client_key=wish.client_key,
        detail="asked for",
        account=limits.account,
        job=wish.job,
        external=External() if wish.request.engine else None,
    )
