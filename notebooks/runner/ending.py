"""How a cell ended, and of a cell that ran as several ranks, which of them is the reason. Pure, but for what Linux says
of its memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .kernel import KernelDied, Outcome
from .oom_kills import OomKills, oom_kills

COMPLETED, FAILED, STOPPED, CRASHED, REFUSED = "completed", "failed", "stopped", "crashed", "refused"
OUT_OF_MEMORY = "out of memory"
READY, LOST, ENDED = "ready", "lost", "ended"
"""Of a rank alone: it can begin; its process is gone and said nothing; it was ended."""
_MEMORY_ERRORS = ("MemoryError", "OutOfMemoryError", "_ArrayMemoryError")
_WRONG = frozenset({FAILED, CRASHED, OUT_OF_MEMORY, LOST, REFUSED})


@dataclass(frozen=True)
class Ending:
    """``state``: ``completed``, ``failed`` (it raised), ``stopped`` (interrupted from outside), ``out of memory``,
    ``crashed`` (the kernel died) or ``refused`` (it was not begun)."""

    state: str
    why: str = ""

    @property
    def exit_status(self) -> int:
        return {COMPLETED: 0, REFUSED: 2}.get(self.state, 1)


@dataclass(frozen=True)
class Report:
    """What a rank said last. ``node``: where it runs, empty where there is but one. ``at``: seconds since the epoch."""

    rank: int
    state: str
    why: str = ""
    node: str = ""
    at: float = 0.0

    @property
    def wrong(self) -> bool:
        return self.state in _WRONG

    @property
    def who(self) -> str:
        return f"rank {self.rank} on {self.node}" if self.node else f"rank {self.rank}"

    @staticmethod
    def told(fields: dict[str, Any]) -> Report:
        """Raises KeyError, TypeError and ValueError for anything else."""
        texts = {name: str(fields[name]) for name in ("state", "why", "node")}
        return Report(int(fields["rank"]), at=float(fields["at"]), **texts)


def of_outcome(outcome: Outcome, *, asked_to_stop: bool) -> Ending:
    """Of a cell whose kernel lives."""
    if outcome.ok:
        return Ending(COMPLETED)
    why = f"{outcome.name}: {outcome.value}".rstrip(": ")
    if outcome.name in _MEMORY_ERRORS:
        return Ending(OUT_OF_MEMORY, f"{outcome.name}: {outcome.value}")
    return Ending(STOPPED if asked_to_stop and outcome.name in ("KeyboardInterrupt", "JobStopped") else FAILED, why)


def of_death(died: KernelDied, killed_before: OomKills) -> Ending:
    """Of a cell whose kernel died. ``killed_before``: ``oom_kills`` at its start."""
    if died.killed and oom_kills().more_than(killed_before):
        return Ending(OUT_OF_MEMORY, "its kernel was killed because memory was used up")
    return Ending(CRASHED, str(died))


def culprit(first: Report, others: Sequence[Report]) -> Report | None:
    """The rank because of which a cell did not complete; ``first`` is rank 0. None: nothing went wrong.

    A process that died takes the others along, sooner than it is noticed; else what was first is the reason. Where all
    raise the same, it is rank 0, whose variables and exception come back.
    """
    wrong = [report for report in (first, *others) if report.wrong]
    if not wrong:
        return None
    found = min(wrong, key=lambda report: (report.state == FAILED, report.at))
    return first if first.wrong and first.why == found.why else found


def because_of(report: Report) -> Ending:
    """The end of a job for what happened to one of its ranks."""
    return Ending(CRASHED if report.state == LOST else report.state, f"{report.who}: {report.why}")
