"""What is put together to watch a session: its own reports, its node's readings, what is remembered of both. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from .activity import Sample

KEPT = 120
"""Points of a session's history; one a minute or so."""


@dataclass(frozen=True)
class Report:
    """What a session's own server says. ``at``: when it came in. ``input_at``: the last time that a person typed,
    clicked or ran a cell. The rest as in ``Sample``."""

    at: float
    generation: int
    kernel_busy_s: float | None
    terminal: bool | None
    input_at: float | None


@dataclass(frozen=True)
class Reading:
    """What its node measured, over the time since the last one. ``gpu`` in percent of what it holds, ``cpu`` in percent
    of a core, ``memory_mib`` of GPU memory; None: unknown."""

    at: float
    gpu: float | None
    cpu: float | None
    memory_mib: int | None


@dataclass(frozen=True)
class Point:
    """Of a session's history, for the plots."""

    at: float
    gpu: float | None
    cpu: float | None
    memory_mib: int | None


History = tuple[Point, ...]


@dataclass(frozen=True)
class Warned:
    """A warning. ``at``: since when its owner could read it all the time. ``quiet_since``: the idle time that it is
    about. ``act_at``: when ``action`` follows. ``text``: why; ``consequence``: what it means, both for people."""

    at: float
    quiet_since: float
    act_at: float
    action: str
    text: str
    consequence: str


def sample_of(report: Report | None, reading: Reading | None, now: float, fresh_s: float) -> Sample | None:
    """The sample of this moment. What is older than ``fresh_s`` is unknown; None when nothing is newer."""
    report = report if report is not None and now - report.at <= fresh_s else None
    reading = reading if reading is not None and now - reading.at <= fresh_s else None
    if report is None and reading is None:
        return None
    busy = report.kernel_busy_s if report is not None else None
    return Sample(
        at=now,
        kernel_busy_s=busy + now - report.at if busy and report is not None else busy,
        gpu=reading.gpu if reading is not None else None,
        cpu=reading.cpu if reading is not None else None,
        terminal=report.terminal if report is not None else None,
        input_at=report.input_at if report is not None else None,
    )
