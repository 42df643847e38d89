"""What requests about jobs say, checked once and typed."""

from __future__ import annotations

import re
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import invalid
from ..job import JobSpec, absolute_path, digest
from ..kind import Kind
from ..shares import ShareRequest, parse_share
from ..submission import Submission
from . import bodies
from .auth import Caller

MAX_TASKS = 256
TASK_FIELDS = ("subfolder", "digest")
_SUBFOLDER = re.compile(r"[0-9A-Za-z_-]{0,40}")
SUBMIT_FIELDS = ("share", "time_limit_s", "name", "python", "folder", "tasks", "max_parallel", "client_key", "owner")
ESTIMATE_FIELDS = ("share", "time_limit_s", "count", "owner")


def parse_submit(body: Mapping[str, Any], caller: Caller) -> list[Submission]:
    """One submission for each task; they share an array and a key."""
    bodies.known_fields(body, SUBMIT_FIELDS)
    owner, request, seconds = _asked(body, caller)
    name = bodies.text("name", body.get("name", ""), empty=True)
    python = absolute_path("python", body.get("python"))
    folder = absolute_path("folder", body.get("folder"))
    tasks = _tasks(body.get("tasks"))
    parallel = _count("max_parallel", body.get("max_parallel", 0), 0, MAX_TASKS)
    client_key = body.get("client_key")
    if client_key is not None:
        client_key = bodies.text("client_key", client_key, longest=200)
    array, key = str(uuid.uuid4()), secrets.token_hex(32)
    return [
        Submission(
            owner=owner,
            request=request,
            time_limit_s=seconds,
            kind=Kind.BATCH,
            client_key=None if client_key is None else f"{client_key}#{index}",
            job=JobSpec(name, python, _inside(folder, subfolder), wanted, key, array, index, parallel, len(tasks)),
        )
        for index, (subfolder, wanted) in enumerate(tasks)
    ]


@dataclass(frozen=True)
class Estimate:
    """What somebody would like to know before she submits ``count`` jobs."""

    wish: Submission
    count: int


def parse_estimate(body: Mapping[str, Any], caller: Caller) -> Estimate:
    bodies.known_fields(body, ESTIMATE_FIELDS)
    owner, request, seconds = _asked(body, caller)
    count = _count("count", body.get("count", 1), 1, MAX_TASKS)
    return Estimate(Submission(owner, request, seconds, Kind.BATCH), count)


def parse_offset(query: Mapping[str, str]) -> int:
    bodies.known_fields(query, ("offset",))
    value = query.get("offset", "0")
    if not re.fullmatch(r"[0-9]{1,15}", value):
        raise invalid("offset", value, "must be a whole number of bytes from 0 on")
    return int(value)


def _asked(body: Mapping[str, Any], caller: Caller) -> tuple[str, ShareRequest, int | None]:
    share = body.get("share")
    if not isinstance(share, dict):
        raise invalid("share", share, 'must be an object such as {"gpus": 1}')
    seconds = bodies.optional_seconds("time_limit_s", body.get("time_limit_s"))
    return bodies.acting_for(body.get("owner"), caller), parse_share(share), seconds


def _tasks(value: Any) -> list[tuple[str, str]]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_TASKS:
        count = len(value) if isinstance(value, list) else value
        raise invalid("tasks", count, f"must be a list of 1 to {MAX_TASKS} objects with subfolder and digest")
    found = []
    for task in value:
        if not isinstance(task, dict):
            raise invalid("tasks", task, "each must be an object with subfolder and digest")
        bodies.known_fields(task, TASK_FIELDS)
        subfolder = task.get("subfolder", "")
        if not isinstance(subfolder, str) or not _SUBFOLDER.fullmatch(subfolder):
            raise invalid(
                "subfolder", subfolder, "must be at most 40 letters, digits, '-' and '_'; empty: the folder itself"
            )
        found.append((subfolder, digest("digest", task.get("digest"))))
    return found


def _inside(folder: str, subfolder: str) -> str:
    return f"{folder.rstrip('/')}/{subfolder}" if subfolder else folder


def _count(name: str, value: Any, least: int, most: int) -> int:
    number = bodies.whole(value)
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
        raise invalid(name, value, f"must be a whole number from {least} to {most}")
    return number
