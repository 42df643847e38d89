"""Whether what was read from the ledger can be what timeshare wrote: numbers that count, text that is text.

A disk, a hand or a bug may have changed any value. What is not understood is told as such, row by row; nothing is
guessed, and no other row suffers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ..external import External
from ..job import JobSpec
from ..placement import Holding
from ..reservation import Reservation, State, Terms

ODD = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)
"""What reading an odd value raises."""
LATEST = 1e11
"""Seconds: no time of timeshare is later (the year 5138)."""
MOST = 2**53
TEXTS = ("id", "owner", "server_name", "detail", "enforcement", "account", "handling")
COUNTS = ("seq", "generation", "extensions", "requeues", "kept_mib", "time_limit_s")
TIMES = ("granted_at", "starting_at", "started_at", "ends_at", "ending_at", "ended_at", "asked_again_at")
HELD = (State.GRANTED, State.STARTING, State.ACTIVE, State.ENDING)


def number(name: str, value: Any, most: float = LATEST) -> float:
    """Return ``value`` if it is a number from 0 to ``most``. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ValueError(f"{name} is {str(value)[:40]!r}, which is no number from 0 to {most:g}")
    return value


def count(name: str, value: Any) -> int:
    """Return ``value`` if it is a count. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MOST:
        raise ValueError(f"{name} is {str(value)[:40]!r}, which is no count")
    return value


def text(name: str, value: Any) -> str:
    """Return ``value`` if it is text that any database and page takes. Raises ValueError."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{name} is no text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is no text") from None
    return value


def flag(name: str, value: Any) -> bool:
    """Return ``value`` if it is true or false. Raises ValueError."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {str(value)[:40]!r}, neither true nor false")
    return value


def table(name: str, value: Any) -> Mapping[str, Any]:
    """Return ``value`` if it is an object of JSON. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no object")
    return value


def row(values: Mapping[str, Any]) -> None:
    """Raises ValueError for plain columns of a reservation that timeshare cannot have written."""
    for name in TEXTS:
        text(name, values[name])
    for name in COUNTS:
        count(name, values[name])
    number("submitted_at", values["submitted_at"])
    for name in TIMES:
        if values[name] is not None:
            number(name, values[name])
    if values["client_key"] is not None:
        text("client_key", values["client_key"])


def reservation(found: Reservation) -> Reservation:
    """Return it if its parts fit each other. Raises ValueError."""
    held = found.state in HELD and found.granted_at is not None
    if found.state in (State.GRANTED, State.STARTING, State.ACTIVE, State.PARKED) and found.granted_at is None:
        raise ValueError(f"it is {found.state.value} and was never granted")
    if held and found.ends_at is None:
        raise ValueError("it holds devices and has no end")
    if found.state is State.QUEUED and found.granted_at is not None:
        raise ValueError("it is queued and was granted")
    return found


def terms(told: Any) -> Terms:
    """Raises ValueError, TypeError."""
    found = Terms(**table("terms", told))
    number("terms.gpus", found.gpus, 1e6)
    number("terms.rate", found.rate, 1e12)
    text("terms.model", found.model)
    text("terms.limits_version", found.limits_version)
    if found.cpus is not None:
        number("terms.cpus", found.cpus)
    if found.host_memory_mib is not None:
        count("terms.host_memory_mib", found.host_memory_mib)
    return found


def holdings(told: Any) -> tuple[Holding, ...]:
    """Raises ValueError, TypeError."""
    if not isinstance(told, list):
        raise ValueError("its devices are no list")
    found = tuple(Holding(**table("a device", one)) for one in told)
    for one in found:
        text("device_uuid", one.device_uuid)
        text("instance_uuid", one.instance_uuid)
        count("memory_mib", one.memory_mib)
        count("compute", one.compute)
        flag("whole", one.whole)
    return found


def job(told: Any) -> JobSpec:
    """Raises ValueError, TypeError."""
    found = JobSpec(**table("job", told))
    for name in ("name", "python", "folder", "digest", "key", "array"):
        text(f"job.{name}", getattr(found, name))
    for name in ("index", "parallel", "of"):
        count(f"job.{name}", getattr(found, name))
    return found


def external(told: Any) -> External:
    """Raises ValueError, TypeError."""
    found = External(**table("external", told))
    for name in ("job_id", "said", "node"):
        text(f"external.{name}", getattr(found, name))
    for name in ("attempt", "base"):
        count(f"external.{name}", getattr(found, name))
    for name in ("tried_at", "expected_at"):
        if getattr(found, name) is not None:
            number(f"external.{name}", getattr(found, name))
    flag("external.asked_to_stop", found.asked_to_stop)
    return found


def finite(values: Iterable[Any]) -> bool:
    """Whether all of them are numbers that sums can be made of: none below 0, none without end."""
    return all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) and 0 <= v < 1e18 for v in values
    )
