"""When to ask Slurm again. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

MAX_DOUBLINGS = 32


@dataclass(frozen=True)
class Pace:
    """When to ask again: every ``period_s`` while there are answers, or after as long as an answer took to come; ever
    more rarely while there are none, up to ``longest_s``. ``luck`` (0 to 1, at random) keeps several that wait for the
    same controller apart."""

    period_s: float
    longest_s: float
    failures: int = 0
    next_at: float = 0.0

    def due(self, now: float) -> bool:
        return now >= self.next_at

    def answered(self, now: float, took_s: float = 0.0) -> Pace:
        return replace(self, failures=0, next_at=now + max(self.period_s, took_s))

    def silent(self, now: float, luck: float) -> Pace:
        doubled = self.period_s * 2.0 ** min(self.failures + 1, MAX_DOUBLINGS)
        wait = min(max(self.longest_s, self.period_s), doubled)
        return replace(self, failures=self.failures + 1, next_at=now + wait * (0.75 + 0.25 * luck))
