"""What requests about activity say, checked once and typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import invalid
from ..numeric import finite
from ..watching import Report
from . import bodies

LONGEST_S = 366 * 86400.0
REPORT_FIELDS = ("generation", "kernel_busy_s", "terminal", "input_ago_s")
MAX_WHY = 200
ACTIONS = ("warn", "give_back", "park", "stop")


@dataclass(frozen=True)
class Keep:
    """``seconds`` 0: the protection of that key ends."""

    key: str
    seconds: float
    why: str


@dataclass(frozen=True)
class Judgement:
    """What the culler decided. ``quiet_since``: the idle time that it saw. ``act_in_s``: of a warning, until it is
    done."""

    action: str
    why: str
    quiet_since: float
    act_in_s: float = 0.0


def parse_report(body: Mapping[str, Any], now: float) -> Report:
    """Every field must be there; null is unknown."""
    bodies.known_fields(body, REPORT_FIELDS)
    for name in REPORT_FIELDS:
        if name not in body:
            raise invalid(name, None, "is missing: send null for what is not known")
    generation, terminal = bodies.whole(body["generation"]), body["terminal"]
    if isinstance(generation, bool) or not isinstance(generation, int) or not 1 <= generation < 2**31:
        raise invalid("generation", generation, "must be the number of this start, from 1 on")
    if terminal is not None and not isinstance(terminal, bool):
        raise invalid("terminal", terminal, "must be true, false or null")
    busy = None if body["kernel_busy_s"] is None else _seconds("kernel_busy_s", body["kernel_busy_s"])
    ago = None if body["input_ago_s"] is None else _seconds("input_ago_s", body["input_ago_s"])
    return Report(now, generation, busy, terminal, None if ago is None else now - ago)


def _seconds(name: str, value: Any, least: float = 0.0) -> float:
    seconds = finite(value)
    if seconds is None or not least <= seconds <= LONGEST_S:
        raise invalid(name, value, f"must be a number of seconds from {least:g} to {LONGEST_S:g}")
    return seconds


def parse_keep(body: Mapping[str, Any]) -> Keep:
    bodies.known_fields(body, ("key", "seconds", "why"))
    seconds = _seconds("seconds", body.get("seconds"))
    if 0 < seconds < 1:
        raise invalid("seconds", seconds, "must be 0, or a number of seconds from 1 on")
    if not seconds and "why" in body:
        raise invalid("why", body["why"], "must be left out where seconds is 0: the protection ends")
    why = bodies.text("why", body.get("why"), longest=MAX_WHY) if seconds else ""
    return Keep(bodies.text("key", body.get("key"), longest=64), seconds, why)


def parse_give_back(body: Mapping[str, Any]) -> bool:
    """Whether what the session holds on its GPU is to be kept in the node's memory."""
    bodies.known_fields(body, ("park",))
    park = body.get("park", False)
    if not isinstance(park, bool):
        raise invalid("park", park, "must be true or false")
    return park


def parse_judgement(body: Mapping[str, Any]) -> Judgement:
    bodies.known_fields(body, ("action", "why", "quiet_since", "act_in_s"))
    action, quiet_since = body.get("action"), finite(body.get("quiet_since"))
    if action not in ACTIONS:
        raise invalid("action", action, f"must be one of {', '.join(ACTIONS)}")
    if quiet_since is None:
        raise invalid("quiet_since", body.get("quiet_since"), "must be the number that activity told")
    act_in_s = _seconds("act_in_s", body.get("act_in_s", 0))
    return Judgement(str(action), bodies.text("why", body.get("why"), longest=500), quiet_since, act_in_s)
