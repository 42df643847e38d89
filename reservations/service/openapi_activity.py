"""The part of the API's description that is about activity."""

from __future__ import annotations

from .activity_bodies import ACTIONS, LONGEST_S, MAX_WHY
from .openapi_parts import COUNT, NUMBER, TEXT, TIME, Schema, body, line, operation, path, record, ref

_SECONDS: Schema = {"type": "number", "minimum": 0, "maximum": LONGEST_S}
_MAYBE: Schema = {"type": ["number", "null"], "minimum": 0, "description": "null: unknown"}
_MAYBE_FLAG: Schema = {"type": ["boolean", "null"], "description": "null: unknown"}
_PARK: Schema = {
    "type": "boolean",
    "description": "what it holds there is kept in the node's memory (experimental); default false",
}
_THEN: Schema = {"enum": ["give_back", "park", "stop"]}


def started_schema(reservation: Schema) -> Schema:
    """``reservation``, with the key that its session reports with."""
    key = {"type": "string", "description": "with it the session reports what it does, and nothing else"}
    names = [*reservation["required"], "activity_key"]
    return {**reservation, "properties": {**reservation["properties"], "activity_key": key}, "required": names}


def schemas() -> Schema:
    key = {**line(description="of the protection"), "maxLength": 64}
    known = {**_SECONDS, "type": ["number", "null"]}
    signals = {
        "heard_ago_s": _MAYBE,
        "kernel_busy_s": _MAYBE,
        "gpu": {**_MAYBE, "description": "percent of what it holds"},
        "cpu": {**_MAYBE, "description": "percent of one core"},
        "terminal": _MAYBE_FLAG,
        "input_ago_s": _MAYBE,
        "memory_mib": _MAYBE,
    }
    point = record({"ago_s": {"type": "integer"}, "gpu": _MAYBE, "cpu": _MAYBE, "memory_mib": _MAYBE})
    warning = record({"text": TEXT, "ago_s": {"type": "integer"}, "in_s": COUNT, "action": _THEN})
    decision = record({"at": TIME, "what": TEXT, "why": TEXT, "signals": {"type": "object"}})
    watched = record({"at": NUMBER, "since": _MAYBE, "why": TEXT, "input_at": _MAYBE})
    rules = {"after": NUMBER, "grace": NUMBER, "warn": {"type": "array", "items": NUMBER}, "then": _THEN}
    one = {
        "id": {"type": "string", "format": "uuid"},
        "owner": TEXT,
        "started_at": _MAYBE,
        "handling": TEXT,
        "watched": {"oneOf": [watched, {"type": "null"}]},
        "kept_until": NUMBER,
        "refused_at": {**NUMBER, "description": "when it could not be parked last; 0: never"},
        "warned_at": _MAYBE,
        "rules": record(rules),
        "memory_mib": _MAYBE,
    }
    return {
        "ActivityReport": record(
            {
                "generation": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
                "kernel_busy_s": {**known, "description": "how long a kernel has been running cells; null: unknown"},
                "terminal": {**_MAYBE_FLAG, "description": "a program works beside the kernels; null: unknown"},
                "input_ago_s": {**known, "description": "since a person typed, clicked or ran; null: unknown"},
            }
        ),
        "ActivityReported": record({"next_s": {**NUMBER, "description": "when to report again"}}),
        "Activity": record(
            {
                "signals": record(signals),
                "working": {"type": "string", "description": "what it works on; empty: nothing, or nothing is known"},
                "idle_s": {**_MAYBE, "description": "null: it is not idle, or nobody can say"},
                "why": {"type": "string", "description": "why it is not idle, or not for longer"},
                "rules": record(
                    {
                        "after_s": {**NUMBER, "description": "0: never"},
                        "warn_s": {"type": "array", "items": NUMBER},
                        "action": _THEN,
                        "keep_s": NUMBER,
                    }
                ),
                "warning": {"oneOf": [warning, {"type": "null"}]},
                "kept_s": {**COUNT, "description": "still protected for"},
                "kept_why": TEXT,
                "keep_left_s": {**COUNT, "description": "how much longer it may be protected"},
                "cannot_park": {"type": "string", "description": "why its GPU state cannot be kept; empty: it may be"},
                "history": {"type": "array", "items": point, "description": "of the last hour, the oldest first"},
                "decisions": {"type": "array", "items": decision, "description": "the newest first"},
            }
        ),
        "Keep": {
            "oneOf": [
                record(
                    {
                        "key": key,
                        "seconds": {**_SECONDS, "minimum": 1, "description": "from now on"},
                        "why": {**line(description="what is protected"), "maxLength": MAX_WHY},
                    }
                ),
                record({"key": key, "seconds": {"const": 0, "description": "the protection ends"}}),
            ]
        },
        "AllActivity": record(
            {"now": NUMBER, "passed_ago_s": _MAYBE, "sessions": {"type": "array", "items": record(one)}}
        ),
        "Judgement": record(
            {
                "action": {"enum": list(ACTIONS)},
                "why": {**line(), "maxLength": 500},
                "quiet_since": {"type": "number", "description": "of watched.since: it still holds only with that"},
                "act_in_s": {**_SECONDS, "description": "of a warning: when it is done"},
            },
            ("action", "why", "quiet_since"),
        ),
        "Judged": record({"done": {"enum": list(ACTIONS)}}),
    }


def paths() -> Schema:
    one = [path("id", {"type": "string", "format": "uuid"})]
    of_session = "/reservations/{id}"
    return {
        f"{of_session}/activity": {
            "get": operation("What a session does, and what follows", "Activity", 404, parameters=one),
            "post": operation(
                "The report of a session, with its activity key",
                "ActivityReported",
                *(404, 413, 422),
                parameters=one,
                requestBody=body(ref("ActivityReport")),
            ),
        },
        f"{of_session}/keep": {
            "post": operation(
                "Protect a session from the idle rules",
                "Activity",
                *(404, 409, 413, 422),
                parameters=one,
                requestBody=body(ref("Keep")),
            )
        },
        **{
            f"{of_session}/{name}": {
                "post": operation(
                    summary,
                    "Reservation",
                    *(404, 409, 413, 422),
                    parameters=one,
                    requestBody=body({"type": "object", "additionalProperties": False, **fields}, required=False),
                )
            }
            for name, summary, fields in (
                ("give_back", "Give its GPU back; the session runs on", {"properties": {"park": _PARK}}),
                ("ask_again", "Ask for its GPU again", {}),
            )
        },
        "/activity": {"get": operation("What every session does; for the idle culler", "AllActivity")},
        "/activity/{id}": {
            "post": operation(
                "Carry out what the idle culler decided, if it still holds",
                "Judged",
                *(404, 409, 413, 422),
                parameters=one,
                requestBody=body(ref("Judgement")),
            )
        },
    }
