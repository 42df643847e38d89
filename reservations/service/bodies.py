"""What requests say, checked once and typed. Every refusal names the field, the value and the rule."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import tzinfo
from typing import Any

from .. import numeric
from ..calendar import parse_moment
from ..enforcement import MEANING
from ..errors import PublicError, invalid
from ..kind import Kind
from ..reservation import Reason, State
from ..shares import parse_share
from ..submission import SHORTEST_S, Submission
from ..text import MAX_DETAIL, check_line
from .auth import Caller

MAX_NAME = 255
MAX_WAIT_S = 60
MAX_LISTED = 500
ID_PATTERN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
CREATE_FIELDS = ("share", "time_limit_s", "kind", "server_name", "client_key", "queue", "owner")


def known_fields(body: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    unknown = sorted(set(body) - set(allowed))
    if unknown:
        raise invalid(unknown[0][:40], body[unknown[0]], f"no such field; known fields: {', '.join(allowed) or 'none'}")


def text(name: str, value: Any, *, empty: bool = False, longest: int = MAX_NAME) -> str:
    """Return one line of text that can be seen (see ``text``), of sensible length. Raises PublicError."""
    return check_line(name, value, empty=empty, longest=longest)


def boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise invalid(name, value, "must be true or false")
    return value


def check_id(reservation_id: str) -> str:
    if not ID_PATTERN.fullmatch(reservation_id):
        raise PublicError("not-found", f"there is no reservation {reservation_id[:60]!r} of yours", 404)
    return reservation_id


def whole(value: Any) -> Any:
    """JSON knows one kind of number: ``2.0`` is the whole number 2. What is no whole number stays as it is."""
    number = numeric.whole(value)
    return value if number is None else number


def optional_seconds(name: str, value: Any) -> int | None:
    """Return a whole number of seconds, or None where none is given. Raises PublicError.

    A time that is too short for anybody is refused here, also where the request turns out to repeat an earlier one.
    """
    seconds = numeric.whole(value)
    if value is not None and (seconds is None or seconds < SHORTEST_S):
        raise invalid(name, value, f"must be at least {SHORTEST_S} whole seconds, or left out for the default")
    return seconds


def parse_create(body: Mapping[str, Any], caller: Caller) -> Submission:
    known_fields(body, CREATE_FIELDS)
    share = body.get("share")
    if not isinstance(share, dict):
        raise invalid("share", share, 'must be an object such as {"gpus": 1}')
    key = body.get("client_key")
    return Submission(
        owner=acting_for(body.get("owner"), caller),
        request=parse_share(share),
        time_limit_s=optional_seconds("time_limit_s", body.get("time_limit_s")),
        kind=_kind(body.get("kind", "session")),
        server_name=text("server_name", body.get("server_name", ""), empty=True),
        client_key=None if key is None else text("client_key", key),
        queue=boolean("queue", body.get("queue", True)),
    )


def acting_for(owner: Any, caller: Caller) -> str:
    """Whose reservation it is: the caller's own, or for administrators anybody's."""
    if owner is None:
        if not caller.name:
            raise PublicError("invalid", "owner is missing: this token belongs to no user, so name one", 422)
        return caller.name
    name = text("owner", owner)
    if not caller.may_touch(name):
        raise PublicError("forbidden", f"owner is {name!r}: only administrators act for others", 403)
    return name


def _kind(value: Any) -> Kind:
    try:
        return Kind(value)
    except ValueError:
        raise invalid("kind", value, "must be session or batch") from None


def parse_seconds(body: Mapping[str, Any]) -> int:
    known_fields(body, ("seconds",))
    seconds = numeric.whole(body.get("seconds"))
    if seconds is None or seconds < 1:
        raise invalid("seconds", body.get("seconds"), "must be a whole number of seconds, at least 1")
    return seconds


def parse_active(body: Mapping[str, Any]) -> tuple[int, str]:
    """Generation and enforcement level of a report that the server answers."""
    known_fields(body, ("generation", "enforcement"))
    generation, level = whole(body.get("generation")), body.get("enforcement")
    if isinstance(generation, bool) or not isinstance(generation, int) or not 1 <= generation < 2**31:
        raise invalid("generation", generation, "must be the number that starting answered")
    if not isinstance(level, str) or level not in MEANING:
        raise invalid("enforcement", level, f"must be one of {', '.join(MEANING)}")
    return generation, level


def parse_end(body: Mapping[str, Any], caller: Caller) -> tuple[Reason, str]:
    """Why it ends. People cancel; other reasons are for timeshare's own processes."""
    known_fields(body, ("reason", "detail"))
    reasons = [r.value for r in Reason]
    reason = body.get("reason", Reason.CANCELLED.value)
    if not isinstance(reason, str) or reason not in reasons:
        raise invalid("reason", reason, f"must be one of {', '.join(reasons)}")
    if reason != Reason.CANCELLED.value and not caller.deployment:
        message = f"reason is {reason!r}: people end reservations as cancelled; other reasons are timeshare's own"
        raise PublicError("forbidden", message, 403)
    if "detail" not in body:
        who = "its owner" if not caller.admin else "an administrator"
        return Reason(reason), f"stopped by {who}"
    return Reason(reason), text("detail", body["detail"], longest=MAX_DETAIL)


def parse_cordon(body: Mapping[str, Any]) -> str:
    known_fields(body, ("why",))
    return text("why", body.get("why"))


@dataclass(frozen=True)
class ListQuery:
    """``owner`` None: everybody's. ``states`` empty: any. ``kind`` None: both."""

    owner: str | None
    states: tuple[State, ...]
    limit: int
    kind: Kind | None = None


def parse_list(query: Mapping[str, str], caller: Caller) -> ListQuery:
    known_fields(query, ("owner", "state", "limit", "kind"))
    owner = query.get("owner")
    if owner is not None and not caller.may_see(text("owner", owner)):
        raise PublicError("forbidden", f"owner is {owner!r}: only administrators and operators see others", 403)
    if owner is None and not caller.sees_all:
        owner = caller.name
    kind = _kind(query["kind"]) if "kind" in query else None
    words = [word for word in query.get("state", "").split(",") if word]
    return ListQuery(
        owner, tuple(parse_state("state", word) for word in words), parse_limit(query.get("limit", "100")), kind
    )


def parse_limit(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", value) or not 1 <= int(value) <= MAX_LISTED:
        raise invalid("limit", value, f"must be a whole number from 1 to {MAX_LISTED}")
    return int(value)


def parse_state(name: str, value: str) -> State:
    try:
        return State(value)
    except ValueError:
        raise invalid(name, value, f"must be one of {', '.join(s.value for s in State)}") from None


def parse_wait(query: Mapping[str, str]) -> tuple[State | None, float]:
    """State that the caller has seen, and how long to wait for another one (seconds, 0: not at all)."""
    known_fields(query, ("unlike", "wait_s"))
    unlike, value = query.get("unlike"), query.get("wait_s", "0")
    seconds = float(value) if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,40})?(e[-+]?[0-9]{1,3})?", value) else -1.0
    if not 0 <= seconds <= MAX_WAIT_S:
        raise invalid("wait_s", value, f"must be a number of seconds from 0 to {MAX_WAIT_S}")
    return (None if unlike is None else parse_state("unlike", unlike)), seconds


def moment(name: str, value: Any, zone: tzinfo) -> float:
    """Seconds since the epoch of a date and time by the clock of ``zone``. Raises PublicError."""
    if not isinstance(value, str):
        raise meaningless(name, value, "must be a date and time such as 2026-12-01 09:00")
    try:
        return parse_moment(value, zone)
    except ValueError as error:
        raise meaningless(name, value, str(error)) from None


def meaningless(name: str, value: object, rule: str) -> PublicError:
    """Of the right type, and still nothing that could ever hold."""
    return replace(invalid(name, value, rule), status=422)
