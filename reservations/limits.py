"""The admin's limits: schema, loading, and the checks that the decision and the service make with them.

One YAML file, validated here; unknown keys are errors. Durations are written as ``90s``, ``30m``, ``12h``, ``7d`` or as
a number of seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from .clock import duration_text
from .errors import PublicError, invalid
from .reservation import Kind, Reservation, State
from .schedule import Rules

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(value: Any) -> int:
    """Whole seconds of ``90s``, ``30m``, ``12h``, ``7d`` or a number. Raises ValueError with the rule."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"(\d{1,9})\s*([smhd])", value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a duration such as 90s, 30m, 12h or 7d")
    return int(match[1]) * UNITS[match[2]]


Duration = Annotated[int, BeforeValidator(parse_duration), Field(ge=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Extension(_Section):
    """How far a person may move the end of a running session herself, while that makes nobody wait longer."""

    longest: Duration = Field(default=7200, description="Most time that one extension adds. Default 2h. 0: none.")
    total: Duration = Field(
        default=86400, description="Longest a session may last in all, extensions included. Default 24h."
    )


class Stop(_Section):
    """How a session is stopped at its end."""

    save_grace: Duration = Field(default=30, description="After the interrupt, time to save. Default 30s.")
    term_grace: Duration = Field(default=10, description="After SIGTERM, before SIGKILL. Default 10s.")

    @property
    def longest_s(self) -> int:
        """What a stop may take in all: both graces, and 5 s for the devices to be seen free."""
        return self.save_grace + self.term_grace + 5


class Limits(_Section):
    """What may be asked for. Example: ``{max_time: 8h, sessions_per_user: 2}``."""

    default_time: Duration = Field(default=7200, ge=60, description="Time limit when none is asked for. Default 2h.")
    max_time: Duration = Field(default=43200, ge=60, description="Longest time limit to ask for. Default 12h.")
    sessions_per_user: int = Field(default=4, ge=1, description="Sessions at once, waiting ones included. Default 4.")
    requests_waiting: int = Field(default=2000, ge=1, description="Requests that may wait in all. Default 2000.")
    start_within: Duration = Field(
        default=600, ge=10, description="A granted session that is not started is given up after this. Default 10m."
    )
    start_timeout: Duration = Field(
        default=180, ge=10, description="A start that is not running after this is ended. Default 3m."
    )
    notices: tuple[Duration, ...] = Field(
        default=(1800, 600, 120), description="When to tell people before the end. Default [30m, 10m, 2m]."
    )
    fractions: tuple[float, ...] = Field(
        default=(0.25, 0.5), description="Parts of a device that the form offers. Default [0.25, 0.5]. []: none."
    )
    backfill_depth: int = Field(
        default=100, ge=0, description="How far down the queue overtaking is considered. Default 100. 0: never."
    )
    extension: Extension = Extension()
    stop: Stop = Stop()

    @model_validator(mode="after")
    def _consistent(self) -> Limits:
        if self.default_time > self.max_time:
            raise ValueError(f"default_time ({self.default_time} s) is longer than max_time ({self.max_time} s)")
        if any(not 0 < fraction < 1 for fraction in self.fractions):
            raise ValueError(f"fractions must lie between 0 and 1, not {list(self.fractions)}")
        return self

    @property
    def rules(self) -> Rules:
        return Rules(backfill_depth=self.backfill_depth)


class LimitsError(Exception):
    """The limits file cannot be used; the text says where and what would be right."""


def load_limits(path: Path | None) -> Limits:
    """The limits in ``path``; the defaults for None. Raises LimitsError naming file, key, value and rule."""
    if path is None:
        return Limits()
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LimitsError(f"{path}: cannot be read: {error}") from None
    try:
        return Limits.model_validate({} if data is None else data)
    except ValidationError as error:
        lines = [f"{path}: {'.'.join(map(str, e['loc'])) or 'file'}: {_rule(e)}" for e in error.errors()]
        raise LimitsError("\n".join(lines)) from None


def _rule(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return f"no such key; known keys: {', '.join(Limits.model_fields)}"
    return f"{error['msg']} (it is {error['input']!r})"


def check_time(limits: Limits, seconds: int | None) -> int:
    """The time limit to use for what was asked (None: the default). Raises PublicError beyond the limits."""
    if seconds is None:
        return limits.default_time
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 60 <= seconds <= limits.max_time:
        rule = f"must be from 60 to {limits.max_time} seconds ({duration_text(limits.max_time)}), the longest here"
        raise invalid("time_limit_s", seconds, rule)
    return seconds


def check_submission(limits: Limits, owner: str, kind: Kind, live: Iterable[Reservation]) -> None:
    """Raises PublicError when ``owner`` may not ask for one more. ``live``: every reservation that has not ended."""
    live = list(live)
    waiting = sum(1 for other in live if other.state is State.QUEUED)
    if waiting >= limits.requests_waiting:
        message = f"{waiting} requests are waiting and the limit is {limits.requests_waiting}: try again later"
        raise PublicError("queue-full", message, 429, {"waiting": waiting, "limit": limits.requests_waiting})
    mine = [other for other in live if other.owner == owner and other.kind is kind]
    if kind is Kind.SESSION and len(mine) >= limits.sessions_per_user:
        message = (
            f"you have {len(mine)} sessions running or waiting and the limit is {limits.sessions_per_user}: "
            "stop one, or leave the queue, and ask again"
        )
        raise PublicError("too-many-sessions", message, 429, {"have": len(mine), "limit": limits.sessions_per_user})


def check_extension(limits: Limits, reservation: Reservation, seconds: int) -> None:
    """Raises PublicError when ``reservation`` may not go on for ``seconds`` more."""
    longest = longest_extension(limits, reservation)
    if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds < 1:
        raise invalid("seconds", seconds, f"must be from 1 to {longest}")
    if seconds > longest:
        message = (
            f"seconds is {seconds}: one extension adds at most {duration_text(limits.extension.longest)} and a session "
            f"lasts at most {duration_text(limits.extension.total)}; this one may be extended by {longest} s"
        )
        raise PublicError("extension-limit", message, 409, {"seconds": seconds, "longest_s": longest})


def longest_extension(limits: Limits, reservation: Reservation) -> int:
    """Seconds by which the limits alone would let this session go on."""
    return max(0, min(limits.extension.longest, limits.extension.total - reservation.time_limit_s))
