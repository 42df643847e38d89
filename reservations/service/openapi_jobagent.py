"""The part of the API's description that is about job agents."""

from __future__ import annotations

from ..enforcement import MEANING
from ..engines.slurm.meeting import EXITED, RUNNING, STARTING
from ..jobagent import talk
from ..text import seen_pattern
from . import jobagent_bodies as rules
from .openapi_parts import COUNT, TEXT, Schema, body, line, operation, path, record, ref

_GENERATION: Schema = {"type": "integer", "minimum": 1, "maximum": rules.MAX_NUMBER}
_MAYBE: Schema = {"type": ["number", "null"], "minimum": 0, "maximum": rules.MAX_NUMBER, "description": "null: unknown"}
_LIST: Schema = {"type": "array", "maxItems": talk.MOST_TOLD}
_WORD: Schema = {"type": "string", "pattern": r"^[^\x00]*$"}


def _counted(least: int = 0, description: str = "", null: bool = False) -> Schema:
    kind = ["integer", "null"] if null else "integer"
    return {"type": kind, "minimum": least, "maximum": rules.MAX_NUMBER, "description": description}


def _text(longest: int, *, empty: bool = False, null: bool = False, description: str = "") -> Schema:
    return {**line(empty=empty, null=null, description=description), "maxLength": longest}


def schemas() -> Schema:
    code = {"type": ["integer", "null"], "description": "negative: the signal that ended it; null: unknown"}
    ended = record(
        {
            "generation": _GENERATION,
            "code": {**code, "minimum": -255, "maximum": 255},
            "message": _text(rules.MAX_MESSAGE, empty=True),
        }
    )
    event = record(
        {"seq": _GENERATION, "kind": _text(rules.MAX_KIND), "message": _text(rules.MAX_MESSAGE)},
    )
    reading = record({"gpu": _MAYBE, "cpu": _MAYBE, "memory_mib": _counted(null=True, description="null: unknown")})
    port = {"anyOf": [{"const": 0}, {"type": "integer", "minimum": rules.FIRST_PORT, "maximum": rules.LAST_PORT}]}
    return {
        "JobAgentReport": record(
            {
                "attempt": _counted(1, "which submission of the reservation its job is"),
                "job_id": _text(rules.MAX_JOB_ID, description="of the batch system"),
                "restarts": _counted(0, "how often the batch system started this job anew"),
                "node": line(),
                "address": {"type": "string", "pattern": f"^{rules.ADDRESS.pattern}$"},
                "port": {**port, "description": "where the server listens; 0: it does not yet"},
                "devices": {"type": "array", "maxItems": rules.MAX_DEVICES, "items": _text(rules.MAX_DEVICE)},
                "level": {"enum": list(MEANING)},
                "state": {"enum": list(talk.STATES)},
                "generation": _counted(0, "the start that runs; 0: none"),
                "exits": {**_LIST, "items": ended},
                "events": {**_LIST, "items": event},
                "reading": {"oneOf": [reading, {"type": "null"}]},
                "wait_s": {"type": "number", "minimum": 0, "maximum": talk.LONGEST_WAIT_S},
            }
        ),
        "JobAgentWanted": {"oneOf": [_wait(), _run(), _stop(), _leave()]},
        "Order": record(
            {
                **_order(),
                "generation": {**_GENERATION, "description": "as starting answered"},
                "wait_s": {
                    "type": "number",
                    "minimum": 0,
                    "maximum": rules.MOST_ORDER_WAIT_S,
                    "description": "how long to wait until its server takes connections. Default 0",
                },
            },
            ("generation", "argv", "env"),
        ),
        "Ordered": record(
            {
                "generation": _GENERATION,
                "state": {"enum": [STARTING, RUNNING, EXITED]},
                "job_id": TEXT,
                "node": TEXT,
                "address": TEXT,
                "port": COUNT,
                "enforcement": {"enum": ["", *MEANING]},
                "exit": {"oneOf": [record({"code": code, "message": TEXT}), {"type": "null"}]},
            }
        ),
    }


def _order() -> Schema:
    name = {"type": "string", "pattern": f"^{rules.VARIABLE.pattern}$"}
    env = {"type": "object", "maxProperties": rules.MAX_VARIABLES, "propertyNames": name, "additionalProperties": _WORD}
    place = {**_text(rules.MAX_PATH, null=True), "pattern": seen_pattern("/")}
    first = {**_WORD, "minLength": 1}
    argv = {"type": "array", "minItems": 1, "maxItems": rules.MAX_WORDS, "prefixItems": [first], "items": _WORD}
    return {
        "generation": _GENERATION,
        "argv": argv,
        "env": env,
        "cwd": {**place, "description": "null: home"},
        "log_path": {**place, "description": "null: the job's own output"},
        "ends_at": _text(40, null=True, description="for the session's environment"),
    }


def _wait() -> Schema:
    return record({"want": {"const": "wait"}})


def _run() -> Schema:
    order = _order()
    del order["argv"]["prefixItems"]  # of answers, readers of OpenAPI take it for an older one's list
    return record({"want": {"const": "run"}, **order})


def _stop() -> Schema:
    seconds = {"type": "number", "minimum": 0}
    return record(
        {
            "want": {"const": "stop"},
            "interrupt": {"type": "boolean", "description": "kernels first"},
            "save_grace_s": seconds,
            "term_grace_s": seconds,
        }
    )


def _leave() -> Schema:
    return record({"want": {"const": "leave"}, "why": TEXT})


def paths() -> Schema:
    one = [path("id", {"type": "string", "format": "uuid"})]
    return {
        "/reservations/{id}/jobagent": {
            "post": operation(
                "A job agent says how it is, with its own key, and hears what is wanted",
                "JobAgentWanted",
                *(404, 413),
                parameters=one,
                requestBody=body(ref("JobAgentReport")),
            )
        },
        "/reservations/{id}/order": {
            "post": operation(
                "The hub hands over what the waiting job is to run",
                "Ordered",
                *(404, 409, 413),
                parameters=one,
                requestBody=body(ref("Order")),
            )
        },
    }
