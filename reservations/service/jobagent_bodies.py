"""What job agents say, and what is ordered of them, checked once and typed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..enforcement import MEANING
from ..errors import PublicError, invalid
from ..jobagent import talk
from ..numeric import finite
from ..text import escaped
from . import bodies

REPORT_FIELDS = (*(field.name for field in fields(talk.Report)), "wait_s")
ORDER_FIELDS = (*(field.name for field in fields(talk.Order)), "wait_s")
ADDRESS = re.compile(r"[A-Za-z0-9._:-]{1,255}")
VARIABLE = re.compile(r"[^=\x00]{1,255}")
MAX_JOB_ID, MAX_DEVICE, MAX_DEVICES, MAX_MESSAGE, MAX_KIND = 64, 128, 1024, 500, 32
MAX_WORDS, MAX_VARIABLES = 1000, 2000
MAX_NUMBER = 2**31 - 1
MAX_TEXT = 64 * 1024
MAX_PATH = 4096
FIRST_PORT, LAST_PORT = 1024, 65535
MOST_ORDER_WAIT_S = 60


def parse_report(body: Mapping[str, Any]) -> tuple[talk.Report, float]:
    """The report, and for how long the agent waits for an answer. Every field must be there."""
    bodies.known_fields(body, REPORT_FIELDS)
    _complete(body, REPORT_FIELDS)
    reading = body["reading"]
    report = talk.Report(
        attempt=_count("attempt", body["attempt"], 1),
        job_id=bodies.text("job_id", body["job_id"], longest=MAX_JOB_ID),
        restarts=_count("restarts", body["restarts"]),
        node=bodies.text("node", body["node"]),
        address=_address(body["address"]),
        port=_port(body["port"]),
        devices=tuple(
            bodies.text("devices", device, longest=MAX_DEVICE)
            for device in _list("devices", body["devices"], MAX_DEVICES)
        ),
        level=_one_of("level", body["level"], tuple(MEANING)),
        state=_one_of("state", body["state"], talk.STATES),
        generation=_count("generation", body["generation"]),
        exits=tuple(_exit(item) for item in _list("exits", body["exits"], talk.MOST_TOLD)),
        events=tuple(_event(item) for item in _list("events", body["events"], talk.MOST_TOLD)),
        reading=None if reading is None else _reading(reading),
    )
    return report, _wait("wait_s", body["wait_s"], talk.LONGEST_WAIT_S)


def parse_order(body: Mapping[str, Any]) -> tuple[talk.Order, float]:
    """What to run, and how long to wait until it does."""
    bodies.known_fields(body, ORDER_FIELDS)
    _complete(body, ("generation", "argv", "env"))
    argv = tuple(_word("argv", word) for word in _list("argv", body["argv"], MAX_WORDS))
    if not argv or not argv[0]:
        raise _hidden("argv", "must name a program first")
    ends_at = body.get("ends_at")
    order = talk.Order(
        generation=_count("generation", body["generation"], 1),
        argv=argv,
        env=_variables(body["env"]),
        cwd=_path("cwd", body.get("cwd")),
        log_path=_path("log_path", body.get("log_path")),
        ends_at=None if ends_at is None else bodies.text("ends_at", ends_at, longest=40),
    )
    return order, _wait("wait_s", body.get("wait_s", 0), MOST_ORDER_WAIT_S)


def _complete(body: Mapping[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if name not in body:
            raise invalid(name, None, "is missing")


def _count(name: str, value: Any, least: int = 0) -> int:
    value = bodies.whole(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MAX_NUMBER:
        raise invalid(name, value, f"must be a whole number from {least} to {MAX_NUMBER}")
    return value


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    number = finite(value)
    if number is None or not 0 <= number <= MAX_NUMBER:
        raise invalid(name, value, f"must be a number from 0 to {MAX_NUMBER}, or null: unknown")
    return number


def _wait(name: str, value: Any, most: float) -> float:
    seconds = _number(name, value)
    if seconds is None or seconds > most:
        raise invalid(name, value, f"must be a number of seconds from 0 to {most:g}")
    return seconds


def _port(value: Any) -> int:
    port = _count("port", value)
    if port and not FIRST_PORT <= port <= LAST_PORT:
        raise invalid("port", port, f"must be from {FIRST_PORT} to {LAST_PORT}, or 0: it does not listen yet")
    return port


def _address(value: Any) -> str:
    # It becomes part of a URL.
    if not isinstance(value, str) or not ADDRESS.fullmatch(value):
        raise invalid("address", value, "must be a host name or an IP address")
    return value


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in known:
        raise invalid(name, value, f"must be one of {', '.join(known)}")
    return value


def _list(name: str, value: Any, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise invalid(name, value if not isinstance(value, list) else len(value), f"must be a list of at most {most}")
    return value


def _record(name: str, value: Any, known: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise invalid(name, value, f"must be an object with {', '.join(known)}")
    bodies.known_fields(value, known)
    _complete(value, known)
    return value


def _exit(value: Any) -> talk.Exit:
    told = _record("exits", value, ("generation", "code", "message"))
    code = bodies.whole(told["code"])
    if code is not None and (isinstance(code, bool) or not isinstance(code, int) or not -255 <= code <= 255):
        raise invalid("code", code, "must be from -255 to 255, or null: unknown")
    return talk.Exit(_count("generation", told["generation"], 1), code, _message(told["message"], empty=True))


def _event(value: Any) -> talk.Event:
    told = _record("events", value, ("seq", "kind", "message"))
    kind = bodies.text("kind", told["kind"], longest=MAX_KIND)
    return talk.Event(_count("seq", told["seq"], 1), kind, _message(told["message"]))


def _message(value: Any, *, empty: bool = False) -> str:
    """What a process on the node said may be in it: one odd character must not silence the agent."""
    text = bodies.text("message", escaped(value) if isinstance(value, str) else value, empty=empty, longest=MAX_TEXT)
    return text[:MAX_MESSAGE]


def _reading(value: Any) -> talk.Reading:
    told = _record("reading", value, ("gpu", "cpu", "memory_mib"))
    memory = told["memory_mib"]
    return talk.Reading(
        _number("gpu", told["gpu"]),
        _number("cpu", told["cpu"]),
        None if memory is None else _count("memory_mib", memory),
    )


def _hidden(name: str, rule: str) -> PublicError:
    """Says nothing of the value: it may hold a token."""
    return PublicError("invalid", f"{name}: {rule}", 400, {"field": name, "rule": rule})


def _word(name: str, value: Any) -> str:
    """What a process can be given."""
    try:
        if isinstance(value, str) and "\0" not in value:
            value.encode("utf-8", "surrogateescape")
            return value
    except UnicodeEncodeError:
        pass
    raise _hidden(name, "must be text without NUL that can be written as UTF-8")


def _name(name: str, value: Any) -> str:
    if not VARIABLE.fullmatch(_word(name, value)):
        raise _hidden(name, "names of variables have from 1 to 255 characters, and no '='")
    return str(value)


def _variables(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_VARIABLES:
        raise _hidden("env", f"must be an object of at most {MAX_VARIABLES} variables")
    return {_name("env", name): _word("env", text) for name, text in value.items()}


def _path(name: str, value: Any) -> str | None:
    if value is None:
        return None
    path = bodies.text(name, value, longest=MAX_PATH)
    if not path.startswith("/"):
        raise invalid(name, path, "must be an absolute path, or null")
    return path
