"""What a job is doing, in one word and a sentence: from what the service says of its reservation and what its runner
left in its folder. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

WAITING, STARTING, RUNNING, UNKNOWN = "waiting", "starting", "running", "unknown"
COMPLETED, FAILED, OVER_TIME, OVER_BUDGET, CANCELLED = "completed", "failed", "over time", "over budget", "cancelled"
OUT_OF_MEMORY, CRASHED, PREEMPTED, LOST, REFUSED = "out of memory", "crashed", "preempted", "lost", "refused"
_FINAL = frozenset({COMPLETED, FAILED, OUT_OF_MEMORY, REFUSED})
"""Words of a runner after which nothing is started again, whoever asks."""
_LIVE = {"queued": WAITING, "granted": STARTING, "starting": STARTING, "active": RUNNING, "ending": RUNNING}
_REASONS = {
    "time_limit": OVER_TIME,
    "budget": OVER_BUDGET,
    "idle": CANCELLED,
    "cancelled": CANCELLED,
    "preempted": PREEMPTED,
    "lost": LOST,
    "refused": REFUSED,
}


@dataclass(frozen=True)
class Status:
    """``why``: for people, may be empty. ``ended``: nothing more will happen by itself. ``attempt``: of how often it
    was started. ``left_s``: of its time, in seconds; None while it does not run. ``placement``: what it holds;
    ``where``: the engine, node and number there, empty for this machine."""

    state: str
    why: str = ""
    ended: bool = False
    attempt: int = 0
    left_s: int | None = None
    placement: str = ""
    where: str = ""


def status_of(reservation: Mapping[str, Any] | None, told: Mapping[str, Any] | None) -> Status:
    """``reservation``: as the service shows it, None when it cannot be asked. ``told``: status.json, None when there
    is none."""
    if reservation is None:
        if told is not None and told["state"] in _FINAL:
            return Status(str(told["state"]), str(told["why"]), True, int(told["attempt"]))
        return Status(UNKNOWN, "the service cannot be asked, and the job itself has not said how it ended")
    return replace(_status_of(reservation, told), where=_where(reservation))


def _status_of(reservation: Mapping[str, Any], told: Mapping[str, Any] | None) -> Status:
    attempt = int(reservation["generation"])
    ours = told if told is not None and int(told["attempt"]) >= attempt > 0 else None
    if reservation["state"] == "ended":
        return _ended(reservation, ours, attempt)
    if ours is not None and ours["state"] in _FINAL and reservation["state"] != "queued":
        return Status(str(ours["state"]), str(ours["why"]), True, attempt)
    return Status(
        _LIVE[reservation["state"]],
        _waiting_why(reservation) if reservation["state"] == "queued" else "",
        attempt=attempt,
        left_s=reservation["remaining_s"],
        placement=_placement(reservation),
    )


def _ended(reservation: Mapping[str, Any], told: Mapping[str, Any] | None, attempt: int) -> Status:
    reason, detail = str(reservation["reason"]), str(reservation["detail"])
    if told is not None and told["state"] == COMPLETED:  # its end and the limit met
        return Status(COMPLETED, str(told["why"]), True, attempt)
    if reason in _REASONS:
        return Status(_REASONS[reason], detail, True, attempt)
    if told is not None and told["state"] in (*_FINAL, CRASHED):
        return Status(str(told["state"]), str(told["why"]), True, attempt)
    if reason == "completed":
        return Status(COMPLETED, detail, True, attempt)
    if told is None and "signal" in detail:
        return Status(CRASHED, detail, True, attempt)
    return Status(OUT_OF_MEMORY if "memory" in detail else FAILED, detail, True, attempt)


def _waiting_why(reservation: Mapping[str, Any]) -> str:
    again = f"preempted, it starts again (attempt {reservation['generation'] + 1})" if reservation["requeues"] else ""
    position = f"position {reservation['position']}" if reservation["position"] else ""
    start = reservation["latest_start_in_s"]
    word = "starts" if reservation["firm"] else "is expected to start"
    within = "" if start is None else f"{word} within {duration(start)}"
    return ", ".join(part for part in (again, position, within, str(reservation["why_waiting"] or "")) if part)


def _where(reservation: Mapping[str, Any]) -> str:
    """``The cluster, a1, job 4711``; empty for this machine."""
    if reservation["engine"] == "local":
        return ""
    job = f"job {reservation['external_job']}" if reservation["external_job"] else ""
    return ", ".join(part for part in (reservation["engine_title"], reservation["external_node"], job) if part)


def _placement(reservation: Mapping[str, Any]) -> str:
    models = Counter(holding["model"] for holding in reservation["placement"])
    text = ", ".join(f"{count} × {model}" if count > 1 else model for model, count in models.items())
    return f"{text} (simulated)" if text and reservation["simulated"] else text


def duration(seconds: float) -> str:
    """``5400`` -> ``1 h 30 min``; below two minutes in seconds."""
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return " ".join(part for part in (f"{hours} h" if hours else "", f"{minutes} min" if minutes else "") if part)


def summary(states: Iterable[str]) -> str:
    """Of a sweep: ``80 completed, 3 failed, 13 running``."""
    return ", ".join(f"{count} {state}" for state, count in Counter(states).most_common())
