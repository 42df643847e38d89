"""What is known about what a session does. Every signal is measured or unknown, and unknown is never idle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

GAP_S = 180.0
"""Samples further apart than this leave a gap of which nothing is known. They come about once a minute."""


@dataclass(frozen=True)
class Sample:
    """One look at a session. ``at``: when it was taken, seconds of one clock that the samples of a session share.

    ``kernel_busy_s``: for how long a kernel of it has been running cells without a pause, 0 when none is. ``gpu``: use
    in percent of what it holds; 0 for a session without a GPU. ``cpu``: in percent of one core. ``terminal``: a program
    works in a terminal. ``input_at``: the last time that a person typed or clicked, at first the start of the session.
    None stands for unknown.
    """

    at: float
    kernel_busy_s: float | None = None
    gpu: float | None = None
    cpu: float | None = None
    terminal: bool | None = None
    input_at: float | None = None


@dataclass(frozen=True)
class Thresholds:
    """Below ``gpu`` percent and ``cpu`` percent of a core nothing works. ``busy_cap_s``: a kernel that is busy counts
    as work for so long without either; 0: always."""

    gpu: float = 5.0
    cpu: float = 10.0
    busy_cap_s: float = 0.0


@dataclass(frozen=True)
class Idle:
    """``since``: everything from then on was measured, and was idle. ``why`` it is not idle from earlier on: what was
    seen last, in words."""

    since: float
    why: str


def working(sample: Sample, thresholds: Thresholds) -> str:
    """What the session works on, in words; empty when everything is measured and nothing does."""
    if sample.gpu is not None and sample.gpu >= thresholds.gpu:
        return f"its GPU was at {sample.gpu:.0f} %"
    if sample.cpu is not None and sample.cpu >= thresholds.cpu:
        return f"it used {sample.cpu:.0f} % of a core"
    if sample.terminal:
        return "a program worked in a terminal"
    unknown = [name for name, value in _signals(sample) if value is None]
    if unknown:
        return f"nobody knows its {' and '.join(unknown)}"
    busy = sample.kernel_busy_s or 0.0
    if busy and (not thresholds.busy_cap_s or busy < thresholds.busy_cap_s):
        return "a cell was running"
    return ""


def _signals(sample: Sample) -> Iterable[tuple[str, object]]:
    return (
        ("GPU use", sample.gpu),
        ("CPU use", sample.cpu),
        ("terminals", sample.terminal),
        ("kernels", sample.kernel_busy_s),
        ("input", sample.input_at),
    )


def idle(samples: Sequence[Sample], now: float, thresholds: Thresholds) -> Idle:
    """Since when a session has been idle; ``now`` if it is not, or if nobody can say.

    ``samples`` in the order in which they came. One whose clock does not go on tells nothing new, and one from the
    future tells nothing at all.
    """
    told = _in_order(samples, now)
    if not told:
        return Idle(now, "nothing was heard of it")
    if now - told[-1].at > GAP_S:
        return Idle(now, "nothing was heard of it lately")
    since, why = told[-1].at, ""
    for sample, later in zip(reversed(told), [None, *reversed(told)], strict=False):
        if later is not None and later.at - sample.at > GAP_S:
            why = "nothing was heard of it for a while"
            break
        why = working(sample, thresholds)
        if why:
            since = later.at if later is not None else now
            break
        since = sample.at
    typed = max((sample.input_at for sample in told if sample.input_at is not None), default=float("-inf"))
    if typed > since:
        return Idle(min(typed, now), "somebody typed or clicked")
    return Idle(since, why or "it was not watched before")


def _in_order(samples: Sequence[Sample], now: float) -> list[Sample]:
    found: list[Sample] = []
    for sample in samples:
        if sample.at <= now and (not found or sample.at > found[-1].at):
            found.append(sample)
    return found
