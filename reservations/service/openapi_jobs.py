"""The part of the API's description that is about jobs."""

from __future__ import annotations

from ..job import MAX_PATH
from ..numeric import LARGEST
from ..submission import SHORTEST_S
from ..text import seen_pattern
from .job_bodies import MAX_TASKS
from .openapi_limits import budget_schema
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

_PATH: Schema = {
    "type": "string",
    "maxLength": MAX_PATH,
    "pattern": seen_pattern("/"),
    "description": "an absolute path",
}
_TIME_LIMIT: Schema = {
    "type": ["integer", "null"],
    "minimum": SHORTEST_S,
    "maximum": LARGEST,
    "description": "seconds; left out: the default of the limits; at most their max_time",
}


def job_schema() -> Schema:
    """Of a reservation."""
    job = record({"name": TEXT, "folder": TEXT, "array": TEXT, "index": COUNT, "parallel": COUNT})
    return {"oneOf": [job, {"type": "null"}], "description": "what a batch reservation runs"}


def schemas() -> Schema:
    subfolder = {
        "type": "string",
        "pattern": "^[0-9A-Za-z_-]{0,40}$",
        "description": "of folder, where this one's file is; default: folder itself",
    }
    task = record({"subfolder": subfolder, "digest": {"type": "string", "pattern": "^[0-9a-f]{64}$"}}, ("digest",))
    owner = line(null=True, description="for administrators: whose it shall be")
    submit = {
        "share": ref("Share"),
        "time_limit_s": _TIME_LIMIT,
        "name": line(empty=True, description="for lists"),
        "python": {**_PATH, "description": "the interpreter that runs it"},
        "folder": {**_PATH, "description": "where the jobs are, as their owner sees it"},
        "tasks": {"type": "array", "items": task, "minItems": 1, "maxItems": MAX_TASKS},
        "max_parallel": {"type": "integer", "minimum": 0, "maximum": MAX_TASKS, "description": "0: as limits allow"},
        "client_key": {**line(null=True, description="a second request with it gets the same jobs"), "maxLength": 200},
        "owner": owner,
    }
    wanted = {
        "share": ref("Share"),
        "time_limit_s": _TIME_LIMIT,
        "count": {"type": "integer", "minimum": 1, "maximum": MAX_TASKS, "description": "how many jobs"},
        "owner": owner,
    }
    return {
        "SubmitJobs": record(submit, ("share", "python", "folder", "tasks")),
        "Jobs": record({"jobs": {"type": "array", "items": ref("Reservation")}, "key": TEXT}),
        "EstimateJobs": record(wanted, ("share",)),
        "Estimate": record(
            {
                "possible": FLAG,
                "why": {"type": "string", "description": "why it is not possible, or not at once"},
                "latest_start": TIME,
                "latest_start_in_s": SECONDS,
                "firm": {"type": "boolean", "description": "latest_start can only come earlier"},
                "engine": {**TEXT, "description": "where it would run: local, or the name of an engine"},
                "engine_title": {**TEXT, "description": "the same for people; empty for this machine"},
                "time_limit_s": COUNT,
                "gpu_hours": {**NUMBER, "description": "at most, of all jobs together"},
                "budgets": {"type": "array", "items": budget_schema()},
                "space": record(
                    {
                        "keep_s": {**COUNT, "description": "how long a job's files are kept after its end"},
                        "bytes": {
                            "type": ["integer", "null"],
                            "description": "what all of them may take; null: no end",
                        },
                    }
                ),
            }
        ),
        "JobKey": record({"key": {"type": "string", "description": "signs the results"}}),
        "JobLines": record({"text": TEXT, "next": {**COUNT, "description": "the offset to go on with"}}),
    }


def paths() -> Schema:
    one = [path("id", {"type": "string", "format": "uuid"})]
    offset = query("offset", {"type": "string", "pattern": "^[0-9]{1,15}$"}, "byte to read from; default 0")
    return {
        "/jobs": {
            "post": operation(
                "Submit jobs, all or none",
                "Jobs",
                *(409, 413, 422, 429),
                creates=True,
                requestBody=body(ref("SubmitJobs")),
            )
        },
        "/jobs/estimate": {
            "post": operation(
                "When could it start, what would it cost",
                "Estimate",
                *(413, 422),
                requestBody=body(ref("EstimateJobs")),
            )
        },
        "/jobs/{id}/key": {"get": operation("What its results are signed with", "JobKey", 404, parameters=one)},
        "/jobs/{id}/lines": {"get": operation("What it put out", "JobLines", 404, parameters=[*one, offset])},
    }
