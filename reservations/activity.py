"""What is known about what a session does. Every signal is measured or unknown, and unknown is never idle."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

GAP_S = 180.0
"""Samples further apart than this leave a gap of which nothing is known. They come about once a minute."""

SAME_INPUT_S = 3.0
"""An input is told by its age, in reports that take now longer and now shorter, of a clock of their own: what is not
later than the known one by more than this is that one, told again."""


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
class Watched:
    """What the samples of a session come to. ``at``: when the last one was taken. ``since``: everything from then on
    was measured, and was idle; None: it worked at ``at``. ``why`` it is not idle from earlier on: what was seen last,
    in words. ``input_at``: the last input; None: unknown."""

    at: float
    since: float | None
    why: str
    input_at: float | None


@dataclass(frozen=True)
class Idle:
    """``since``: idle from then on. ``why`` not from earlier on, in words."""

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


def watch(before: Watched | None, sample: Sample, thresholds: Thresholds, now: float) -> Watched | None:
    """What is known with one more ``sample``. One whose clock does not go on tells nothing new, and one from the future
    tells nothing at all."""
    if sample.at > now or (before is not None and sample.at <= before.at):
        return before
    typed = _last_input(before, sample)
    why = working(sample, thresholds)
    if why:
        return Watched(sample.at, None, why, typed)
    if before is None:
        since, why = sample.at, "it was not watched before"
    elif sample.at - before.at > GAP_S:
        since, why = sample.at, "nothing was heard of it for a while"
    else:
        since, why = sample.at if before.since is None else before.since, before.why
    if typed is not None and typed > since:
        since, why = min(typed, sample.at), "somebody typed or clicked"
    return Watched(sample.at, since, why, typed)


def _last_input(before: Watched | None, sample: Sample) -> float | None:
    known, told = None if before is None else before.input_at, sample.input_at
    if known is None or told is None:
        return known if told is None else told
    return known if told <= known + SAME_INPUT_S else told


def idle(watched: Watched | None, now: float) -> Idle:
    """Since when a session has been idle; ``now`` if it is not, or if nobody can say."""
    if watched is None:
        return Idle(now, "nothing was heard of it")
    if now - watched.at > GAP_S:
        return Idle(now, "nothing was heard of it lately")
    return Idle(now if watched.since is None else watched.since, watched.why)
