"""The API's description (OpenAPI 3.1), by hand next to ``bodies`` and ``views``; tests hold the three together."""

from __future__ import annotations

from typing import Any

from ..devices.model import MIB_PER_GIB
from ..enforcement import MEANING
from ..kind import Kind
from ..mig import PROFILE_PATTERN
from ..numeric import LARGEST
from ..reservation import Reason, State
from ..shares import ENGINE_PATTERN, MAX_COUNT, MAX_MEMORY_GIB, MAX_NODES, MODEL_PATTERN
from ..submission import SHORTEST_S
from ..text import MAX_DETAIL
from . import json_bodies, openapi_activity, openapi_host, openapi_jobagent, openapi_jobs, openapi_limits
from .openapi_parts import (
    COUNT,
    FLAG,
    NUMBER,
    SECONDS,
    TEXT,
    TIME,
    Schema,
    body,
    line,
    operation,
    path,
    query,
    record,
    ref,
)


def share_schema() -> Schema:
    properties: Schema = {
        "gpus": {"type": "integer", "minimum": 1, "maximum": MAX_COUNT, "description": "whole devices on each node"},
        "memory_gib": {
            "type": "number",
            "minimum": 1 / MIB_PER_GIB,
            "maximum": MAX_MEMORY_GIB,
            "description": "device memory of one device, GiB",
        },
        "compute_percent": {
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": 100,
            "description": "compute weight beside memory_gib; left out: in proportion to the memory",
        },
        "mig_profile": {"type": "string", "pattern": f"^{PROFILE_PATTERN.pattern}$", "description": "such as 1g.10gb"},
        "model": {
            "type": "string",
            "pattern": f"^({MODEL_PATTERN.pattern})?$",
            "description": "left out or empty: any model",
        },
        "cpu_only": {"const": True, "description": "a session without a GPU"},
        "engine": {
            "type": "string",
            "pattern": f"^({ENGINE_PATTERN.pattern})?$",
            "description": "the engine that is to run it, such as slurm; left out or empty: this machine",
        },
        "nodes": {
            "type": "integer",
            "minimum": 1,
            "maximum": MAX_NODES,
            "description": "of an engine: how many nodes, each with the same share; left out: 1",
        },
        **openapi_host.SHARE,
    }
    beside = tuple(openapi_host.SHARE)
    shapes = [
        record({k: properties[k] for k in (*names, *beside)}, (names[0],))
        for names in (
            ("gpus", "model", "engine"),
            ("memory_gib", "compute_percent", "model", "engine"),
            ("mig_profile", "model", "engine"),
            ("cpu_only", "engine"),
        )
    ]
    several = {**properties, "engine": {**properties["engine"], "pattern": f"^{ENGINE_PATTERN.pattern}$"}}
    shapes += [
        record({k: several[k] for k in (*names, *beside)}, (names[0], "engine", "nodes"))
        for names in (("gpus", "model", "engine", "nodes"), ("cpu_only", "engine", "nodes"))
    ]
    return {"description": "Exactly one kind of share.", "oneOf": shapes}


def holding_schema() -> Schema:
    return record(
        {
            "device_uuid": TEXT,
            "instance_uuid": {"type": "string", "description": "a MIG instance; empty otherwise"},
            "model": TEXT,
            "memory_mib": COUNT,
            "compute": {"type": "integer", "description": "thousandths of the device"},
            "whole": FLAG,
        }
    )


def reservation_schema() -> Schema:
    times = ("submitted_at", "granted_at", "started_at", "ends_at", "ending_at", "ended_at")
    notice = record({"level": {"enum": ["info", "warning", "danger"]}, "text": TEXT, "at": TIME})
    return record(
        {
            "id": {"type": "string", "format": "uuid"},
            "owner": TEXT,
            "server_name": TEXT,
            "kind": {"enum": [kind.value for kind in Kind]},
            "state": {"enum": [state.value for state in State]},
            "reason": {"enum": [None, *(reason.value for reason in Reason)], "description": "why it ended"},
            "detail": {"type": "string", "description": "the same in words"},
            "share": ref("Share"),
            "share_text": TEXT,
            "placement": {"type": "array", "items": holding_schema()},
            "generation": {"type": "integer", "minimum": 0, "description": "how often it was started"},
            "enforcement": {"enum": ["", *MEANING], "description": "what holds the share to its size"},
            **openapi_host.RESERVATION,
            "simulated": FLAG,
            "time_limit_s": COUNT,
            **dict.fromkeys(times, TIME),
            "remaining_s": SECONDS,
            "account": {"type": "string", "description": "the group that it is counted with"},
            "gpus": {**NUMBER, "description": "what it counts in GPUs; a part counts as a part"},
            "limits_version": {"type": "string", "description": "of the limits in force when it was granted"},
            "requeues": {**COUNT, "description": "how often it was preempted and went back into the queue"},
            "engine": {**TEXT, "description": "where it runs: local, or the name of an engine that places work itself"},
            "engine_title": {**TEXT, "description": "the same for people; empty for this machine"},
            "external_job": {**TEXT, "description": "what its engine calls it; empty while that is not known"},
            "external_node": {**TEXT, "description": "where its engine runs it"},
            "external_said": {**TEXT, "description": "what its engine last said of it"},
            "handling": {
                "enum": ["returning", "parking", "resuming", None],
                "description": "its GPU is just being given back, or being given to it",
            },
            "kept_mib": {**COUNT, "description": "GPU memory of it that is kept in the node's memory, MiB"},
            "asked_again": {"type": "boolean", "description": "it is parked, and waits for its GPU again"},
            "idle_warning": {"type": "boolean", "description": "one of its notices is about idleness"},
            "job": openapi_jobs.job_schema(),
            "why_waiting": {"type": "string", "description": "the rule and the numbers, while it waits"},
            "firm": {"type": "boolean", "description": "latest_start can only come earlier"},
            "position": {"type": ["integer", "null"], "minimum": 1, "description": "place in the queue, 1 is next"},
            "latest_start": TIME,
            "latest_start_in_s": SECONDS,
            "extension": record({"allowed": FLAG, "longest_s": COUNT, "why": TEXT}),
            "notices": {"type": "array", "items": notice},
        }
    )


def offers_schema() -> Schema:
    offer = record(
        {
            "id": TEXT,
            "share": ref("Share"),
            "text": TEXT,
            "free_now": {**COUNT, "description": "how many could start now"},
            "latest_start": TIME,
            "latest_start_in_s": SECONDS,
            "possible": FLAG,
            "why": {"type": "string", "description": "why it is not possible, or not now"},
            "firm": {"type": "boolean", "description": "latest_start can only come earlier"},
            "enforcement": {"enum": list(MEANING)},
            "default_time_s": COUNT,
            "max_time_s": COUNT,
            "when": {"type": "string", "description": "when it would start, or why it cannot, in words"},
            "engine": {**TEXT, "description": "the engine whose offer it is; empty: this machine"},
            "engine_title": TEXT,
            "free_for_s": {**SECONDS, "description": "when it starts now: the longest before maintenance or an event"},
        }
    )
    limits = record({"default_time_s": COUNT, "max_time_s": COUNT, **openapi_host.LIMITS})
    return record(
        {
            "offers": {"type": "array", "items": offer},
            "waiting": COUNT,
            "simulated": FLAG,
            "note": TEXT,
            "fresh": FLAG,
            "limits": limits,
            "announced": {"type": "array", "items": TEXT, "description": "maintenance and events of the next weeks"},
        }
    )


def devices_schema() -> Schema:
    cordoned = {"type": ["string", "null"], "description": "why nothing new is placed here"}
    instance = record({"uuid": TEXT, "profile": TEXT, "memory_mib": COUNT, "cordoned": cordoned})
    device = record(
        {
            "uuid": TEXT,
            "model": TEXT,
            "node": TEXT,
            "memory_mib": COUNT,
            "free_mib": COUNT,
            "compute_capability": TEXT,
            "instances": {"type": "array", "items": instance},
            "cordoned": cordoned,
            "detail": {**TEXT, "description": "what else an administrator should know of it"},
            "simulated": FLAG,
            "holders": {"type": "array", "items": TEXT, "description": "for administrators everybody, else yourself"},
        }
    )
    stranger = record({"id": TEXT, "owner": TEXT, "start": COUNT, "devices": {"type": "array", "items": TEXT}})
    unaccounted = "sessions that the ledger does not know, damaged rows: for administrators all, else your own"
    return record(
        {
            "devices": {"type": "array", "items": device},
            "unaccounted": {"type": "array", "items": stranger, "description": unaccounted},
            "driver": TEXT,
            "cuda": TEXT,
            "simulated": FLAG,
            "note": TEXT,
        }
    )


def error_schema() -> Schema:
    error = record({"reason": TEXT, "message": TEXT, "details": {"type": "object"}})
    return record({"error": error})


def create_schema() -> Schema:
    return record(
        {
            "share": ref("Share"),
            "time_limit_s": {
                "type": ["integer", "null"],
                "minimum": SHORTEST_S,
                "maximum": LARGEST,
                "description": "seconds; left out: the default of the limits; at most their max_time",
            },
            "kind": {"enum": [Kind.SESSION.value], "description": "batch is reserved by submitting a job"},
            "server_name": line(empty=True, description="empty: the default server"),
            "client_key": line(
                null=True, description="a second request with the same key gets the first one's reservation"
            ),
            "queue": {"type": "boolean", "description": "false: now or not at all (409 no-capacity). Default true"},
            "owner": line(null=True, description="for administrators: whose it shall be"),
        },
        ("share",),
    )


def active_schema() -> Schema:
    return record(
        {"generation": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}, "enforcement": {"enum": list(MEANING)}}
    )


def end_schema() -> Schema:
    detail = {**line(), "maxLength": MAX_DETAIL}
    return record({"reason": {"enum": [reason.value for reason in Reason]}, "detail": detail}, ())


def paths() -> Schema:
    one = [path("id", {"type": "string", "format": "uuid"})]
    device = [path("uuid", line())]
    owner = query("owner", line(), "for administrators: whose")
    one_state = "|".join(state.value for state in State)
    states = {"type": "string", "pattern": f"^(({one_state})(,({one_state}))*)?$"}
    listing = [owner, query("state", states, "states, separated by commas"), query("limit", _range(500), "default 100")]
    listing.append(query("kind", {"enum": [kind.value for kind in Kind]}, "default: both"))
    waiting = [
        query("unlike", {"enum": [s.value for s in State]}, "with wait_s: the state that is known already"),
        query("wait_s", {"type": "number", "minimum": 0, "maximum": 60}, "how long to wait for a change"),
    ]
    empty = body(record({}), False)
    stream = operation("Server-sent events: every change of it", None, 404, parameters=one)
    event = record({"event": {"const": "reservation"}, "data": {"type": "string", "description": "a Reservation"}})
    stream["responses"]["200"]["content"] = {"text/event-stream": {"schema": event}}
    return {
        "/offers": {"get": operation("What may be asked for, and what is free", "Offers", parameters=[owner])},
        "/reservations": {
            "get": operation("List reservations, newest first", "Reservations", parameters=listing),
            "post": operation(
                "Ask for a share", "Reservation", 409, 413, 422, 429, creates=True, requestBody=body(ref("Create"))
            ),
        },
        "/reservations/{id}": {"get": operation("Read it, or wait", "Reservation", 404, parameters=one + waiting)},
        "/reservations/{id}/events": {"get": stream},
        "/reservations/{id}/extend": {
            "post": operation(
                "Move its end",
                "Reservation",
                *(404, 409, 413),
                parameters=one,
                requestBody=body(record({"seconds": {**COUNT, "minimum": 1}})),
            )
        },
        "/reservations/{id}/starting": {
            "post": operation("The hub begins its start", "Started", 404, 409, 413, parameters=one, requestBody=empty)
        },
        "/reservations/{id}/active": {
            "post": operation(
                "The hub saw it answer", "Reservation", 404, 409, 413, parameters=one, requestBody=body(ref("Active"))
            )
        },
        "/reservations/{id}/end": {
            "post": operation(
                "End it, or leave the queue",
                "Reservation",
                *(404, 413),
                parameters=one,
                requestBody=body(ref("End"), False),
            )
        },
        "/devices": {"get": operation("The devices and what is free of them", "Devices")},
        "/devices/{uuid}/cordon": {
            "post": operation(
                "Nothing new goes to this device",
                "Devices",
                *(404, 413),
                parameters=device,
                requestBody=body(record({"why": line()})),
            )
        },
        "/devices/{uuid}/uncordon": {
            "post": operation("Back in service", "Devices", 404, 413, parameters=device, requestBody=empty)
        },
        "/devices/unaccounted/{id}/end": {
            "post": operation(
                "End a session that the ledger does not know", "Devices", 404, 413, parameters=one, requestBody=empty
            )
        },
        **openapi_activity.paths(),
        **openapi_jobagent.paths(),
        **openapi_jobs.paths(),
        **openapi_limits.paths(),
        "/health": {"get": operation("Is it serving", "Health", login=False, security=[])},
        "/openapi.json": {"get": operation("This description", None, login=False, security=[])},
    }


def _range(most: int) -> Schema:
    return {"type": "integer", "minimum": 1, "maximum": most}


ERRORS = {
    400: "the request can never be right: which field, its value, the rule",
    401: "no token, or one that is not known",
    403: "not yours to do",
    404: "nothing there, or not yours",
    409: "not now: the message says what stands against it",
    413: f"the body is larger than {json_bodies.MAX_BODY} bytes",
    422: "understood, and can never hold here, such as a share that no device has: the message says what could",
    429: "too many at once: the message says which limit",
    503: "JupyterHub or the ledger cannot be reached: try again",
}


def describe(base: str) -> dict[str, Any]:
    """The whole description; ``base`` is the address of the API, such as ``/services/timeshare/api/v1``."""
    error_content = {"application/json": {"schema": ref("Error")}}
    texts = {"type": "array", "items": TEXT, "description": "what does not work, in words"}
    health = {"status": {"enum": ["ok", "degraded"]}, "agent": FLAG, "ledger": FLAG, "live": COUNT, "warnings": texts}
    health["limits_warnings"] = {
        **COUNT,
        "description": "what in the limits in force is probably not intended; GET limits/file",
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "timeshare reservations",
            "version": "1",
            "description": "Shares of GPUs for a limited time. Tokens are JupyterHub's.",
        },
        "servers": [{"url": base}],
        "security": [{"token": []}],
        "paths": paths(),
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {f"E{code}": {"description": text, "content": error_content} for code, text in ERRORS.items()},
            "schemas": {
                "Share": share_schema(),
                "Reservation": reservation_schema(),
                "Started": openapi_activity.started_schema(reservation_schema()),
                "Reservations": record({"reservations": {"type": "array", "items": ref("Reservation")}}),
                "Offers": offers_schema(),
                "Devices": devices_schema(),
                "Create": create_schema(),
                "Active": active_schema(),
                "End": end_schema(),
                "Health": record(health),
                **openapi_activity.schemas(),
                **openapi_jobagent.schemas(),
                **openapi_jobs.schemas(),
                **openapi_limits.schemas(),
                "Error": error_schema(),
            },
        },
    }
