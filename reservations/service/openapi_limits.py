"""The part of the API's description that concerns limits."""

from __future__ import annotations

from ..kind import Kind
from ..ledger.reader import GROUPINGS
from . import bodies
from .openapi_parts import COUNT, FLAG, NUMBER, TEXT, TIME, Schema, body, line, operation, path, query, record, ref

AMOUNT: Schema = {"type": ["number", "null"], "description": "null: unlimited"}
PERIOD: Schema = {
    "since": TIME,
    "until": TIME,
    "removed_until": {**TIME, "description": "of what ended before, something is no longer kept; null: all is there"},
}
MANY_TEXTS: Schema = {"type": "array", "items": TEXT}
WARNED: Schema = {
    "warnings": {**MANY_TEXTS, "description": "what is valid but probably not intended, a line each"},
    "note": {"type": "string", "description": "what could not be looked at; else empty"},
}


def schemas() -> Schema:
    return {
        "MyLimits": my_limits_schema(),
        "LimitsFile": record(
            {
                "version": {"type": "string", "description": "of the limits in force"},
                "text": TEXT,
                "problem": {
                    "type": "string",
                    "description": "what is wrong with the file as it stands now; else empty",
                },
                **WARNED,
                "writable": FLAG,
            }
        ),
        "LimitsCheck": record({"valid": FLAG, "errors": MANY_TEXTS, **WARNED, "version": TEXT}),
        "LimitsText": record({"text": {"type": "string", "description": "the whole file"}}),
        "Apply": record(
            {
                "text": {"type": "string", "description": "the whole file"},
                "base_version": line(description="of the limits that this was made from"),
                "cut_running": {"type": "boolean", "description": "what runs longer than allowed now ends earlier"},
            },
            ("text", "base_version"),
        ),
        "Exception": exception_schema(),
        "Exceptions": record({"exceptions": {"type": "array", "items": ref("Exception")}}),
        "NewException": record(
            {
                "scope": {"enum": ["user", "group"]},
                "name": line(),
                "limits": {"type": "object", "description": "what is different, in the words of the limits file"},
                "extra_gpu_hours": {"type": "number", "minimum": 0, "maximum": 1e6},
                "until": {"type": "string", "description": "such as 2026-12-01 09:00, in the file's time zone"},
                "why": line(),
                "allow_unknown": {"type": "boolean", "description": "the user may be one who has not logged in yet"},
            },
            ("name", "until", "why"),
        ),
        "TryLimits": record(
            {"text": TEXT, "days": {"type": "number", "exclusiveMinimum": 0, "maximum": 366}}, required=("text",)
        ),
        "Tried": record({"table": {"type": "string", "description": "both limits side by side, for reading"}}),
        "EngineLimits": record({"engines": {"type": "array", "items": engine_limits_schema()}}),
        "Budgets": record({"budgets": {"type": "array", "items": budget_schema()}}),
        "Audit": record(
            {"audit": {"type": "array", "items": record({"at": TIME, "who": TEXT, "what": TEXT, "detail": TEXT})}}
        ),
        "EngineUsage": engine_usage_schema(),
        "Retention": retention_schema(),
        "Usage": record(
            {
                **PERIOD,
                "by": {"type": "array", "items": {"enum": list(GROUPINGS)}},
                "usage": {
                    "type": "array",
                    "items": record(
                        {
                            **dict.fromkeys(GROUPINGS, TEXT),
                            "intervals": COUNT,
                            "gpu_hours": NUMBER,
                            "weighted_gpu_hours": NUMBER,
                        },
                        ("intervals", "gpu_hours", "weighted_gpu_hours"),
                    ),
                },
            }
        ),
    }


def engine_usage_schema() -> Schema:
    job: Schema = {"type": "string", "description": "the engine's number of its last job; empty: none is known"}
    name: Schema = {"type": "string", "description": "what its jobs are called after: itself, or its array"}
    row = {
        **dict.fromkeys(("id", "owner", "engine"), TEXT),
        "name": name,
        "index": COUNT,
        "job": job,
        "handed_over_s": {**COUNT, "description": "how long ago it was last handed over"},
        **dict.fromkeys(("gpus", "held_s", "gpu_hours"), NUMBER),
    }
    return record({**PERIOD, "reservations": {"type": "array", "items": record(row)}})


def retention_schema() -> Schema:
    counts: Schema = {"type": "object", "additionalProperties": COUNT}
    size: Schema = {"type": ["integer", "null"], "description": "null: not counted yet"}
    return record(
        {
            "policy": {"type": "object", "description": "the limits' `retention`, in seconds; 0: for ever"},
            "kept": {"type": "array", "items": record({"of": TEXT, "rows": COUNT, "oldest": TIME})},
            "ledger_bytes": size,
            "free_bytes": {**size, "description": "of them, what holds nothing any more and is used again"},
            "sweeping": FLAG,
            "removed": {**counts, "description": "by the last sweep"},
            "last_sweep": TIME,
            "next_sweep_in_s": COUNT,
            "longest_piece_ms": {**NUMBER, "description": "that a grant may have waited for a sweep"},
        }
    )


def budget_schema() -> Schema:
    return record(
        {
            "whose": {"enum": ["user", "group"]},
            "name": TEXT,
            "every": {"enum": ["day", "week", "month"]},
            "beyond": {"enum": ["refuse", "later"]},
            "kinds": {"type": "array", "items": {"enum": [kind.value for kind in Kind]}},
            "gpu_hours": AMOUNT,
            "used": NUMBER,
            "left": AMOUNT,
            "refills_at": TIME,
            "refills": {"type": "string", "description": "the same for reading, in the time zone of the limits"},
            "empty_at": {**TIME, "description": "if everything goes on as now; null: not before it refills"},
        }
    )


def my_limits_schema() -> Schema:
    limit = record({"key": TEXT, "what": TEXT, "value": TEXT, "from": {"type": "string", "description": "who says so"}})
    fair = record({"method": TEXT, "factor": NUMBER, "ahead": COUNT, "people": COUNT, "average_gpus": NUMBER})
    place = {"type": ["integer", "null"]}
    waiting = record({"id": TEXT, "share_text": TEXT, "position": place, "latest_start": TIME, "why": TEXT})
    pool = record({"name": TEXT, "gpus": NUMBER, "open": FLAG, "notes": MANY_TEXTS, "why": TEXT})
    return record(
        {
            "person": TEXT,
            "groups": MANY_TEXTS,
            "account": {"type": "string", "description": "the group that she is counted with"},
            "version": TEXT,
            "limits": {"type": "array", "items": limit},
            "host": {**MANY_TEXTS, "description": "cores and main memory of this machine, and what holds them"},
            "idle": {**MANY_TEXTS, "description": "what happens to idle sessions, as it is in force"},
            "budgets": {"type": "array", "items": budget_schema()},
            "holds_gpus": NUMBER,
            "group_holds_gpus": NUMBER,
            "group_quota": {"type": ["number", "null"], "description": "null: no quotas here"},
            "fair_share": {"anyOf": [fair, {"type": "null"}]},
            "waiting": {"type": "array", "items": waiting},
            "pools": {"type": "array", "items": pool},
            "engines": {"type": "array", "items": engine_limits_schema()},
            "exceptions": {"type": "array", "items": ref("Exception")},
            "announced": MANY_TEXTS,
        }
    )


def engine_limits_schema() -> Schema:
    """What an engine allows by rules of its own."""
    name: Schema = {"type": "string", "description": "the engine's own word for it, such as MaxTRESPerUser"}
    limit = record({"of": TEXT, "what": TEXT, "value": TEXT, "name": name})
    return record({"engine": TEXT, "title": TEXT, "as_of": TIME, "limits": {"type": "array", "items": limit}})


EXCEPTION = (
    *("id", "scope", "name", "limits", "extra_gpu_hours", "until", "ends", "why", "by", "made_at", "in_force"),
)
"""What is told of every exception."""


def exception_schema() -> Schema:
    return record(
        {
            "id": TEXT,
            "scope": {"enum": ["user", "group"]},
            "name": TEXT,
            "limits": {"type": "object"},
            "extra_gpu_hours": NUMBER,
            "until": TIME,
            "ends": {"type": "string", "description": "the same for reading, in the time zone of the limits"},
            "why": TEXT,
            "by": TEXT,
            "made_at": TIME,
            "in_force": FLAG,
            "note": {"type": "string", "description": "of a new one: what should be known of its user; else empty"},
        },
        EXCEPTION,
    )


def paths() -> Schema:
    owner = query("owner", line(), "for administrators and operators: whose")
    moment = {"type": "string", "maxLength": 64}
    words = {"type": "string", "pattern": f"^({'|'.join(GROUPINGS)})(,({'|'.join(GROUPINGS)}))*$"}
    span = [query("since", moment, "default: 30 days ago, 00:00"), query("until", moment, "default: now")]
    one = [path("id", {"type": "string", "format": "uuid"})]
    empty = body(record({}), False)
    return {
        "/limits": {
            "get": operation("What may I have, what have I used, why do I wait", "MyLimits", 422, parameters=[owner])
        },
        "/limits/file": {"get": operation("The limits in force", "LimitsFile")},
        "/limits/check": {
            "post": operation("Would this be valid", "LimitsCheck", 413, requestBody=body(ref("LimitsText")))
        },
        "/limits/try": {
            "post": operation(
                "What would this have changed in what really came",
                "Tried",
                409,
                413,
                422,
                requestBody=body(ref("TryLimits")),
            )
        },
        "/limits/budgets": {"get": operation("Budgets of groups, and of people who took from them", "Budgets")},
        "/limits/engines": {"get": operation("What engines allow whom by rules of their own", "EngineLimits")},
        "/limits/apply": {
            "post": operation("Replace the limits", "LimitsFile", 409, 413, 422, requestBody=body(ref("Apply")))
        },
        "/limits/exceptions": {
            "get": operation("Exceptions, newest first", "Exceptions"),
            "post": operation(
                "Make an exception", "Exception", 413, 422, creates=True, requestBody=body(ref("NewException"))
            ),
        },
        "/limits/exceptions/{id}/end": {
            "post": operation("End an exception now", "Exception", 404, 413, parameters=one, requestBody=empty)
        },
        "/limits/audit": {
            "get": operation(
                "What was changed by whom",
                "Audit",
                parameters=[
                    query("limit", {"type": "integer", "minimum": 1, "maximum": bodies.MAX_LISTED}, "default 100")
                ],
            )
        },
        "/usage/engines": {
            "get": operation(
                "What was charged for each reservation at an engine that places work itself",
                "EngineUsage",
                422,
                parameters=span,
            )
        },
        "/retention": {"get": operation("How long what is over is kept, and how much there is", "Retention")},
        "/usage": {
            "get": operation(
                "GPU-hours held", "Usage", 422, parameters=[*span, query("by", words, "groupings, by commas"), owner]
            )
        },
    }
