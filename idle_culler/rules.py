"""What follows from a session's activity: it is kept, warned, or gives its GPU back. Pure: time is a parameter.

Nobody loses work without having been told: what is done to a session is done only if its owner could read the warning
for the whole time that it promised, and if the session was measured, and idle, all that time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..reservations.activity import Idle, Watched, idle
from ..reservations.clock import duration_text


class Action(str, Enum):
    """``give_back``: its GPU goes back to the pool, or it is stopped."""

    KEEP = "keep"
    WARN = "warn"
    GIVE_BACK = "give back"


@dataclass(frozen=True)
class Rules:
    """Seconds. ``after``: idle for so long, 0: never; ``grace``: nothing counts so long after the start; ``warn``: told
    so long before, the longest first; empty: told when the time is over, and a minute is waited. ``stops``: it is
    stopped instead of giving its GPU back."""

    after: float
    grace: float = 900.0
    warn: tuple[float, ...] = (600.0, 120.0)
    stops: bool = False

    @property
    def lead(self) -> float:
        """How long a warning must have been there before anything is done."""
        return max((lead for lead in self.warn if lead < self.after), default=min(60.0, self.after))


@dataclass(frozen=True)
class Facts:
    """About one session. ``started_at``: since when it holds what it holds. ``kept_until``: its owner protects it till
    then. ``warned_at``: since when she could read the last warning, as it is written down; None: there is none, or it
    could not be shown. ``refused_at``: when its node could not do last what was to be done; its idle time counts from
    there."""

    started_at: float
    watched: Watched | None
    kept_until: float = 0.0
    warned_at: float | None = None
    refused_at: float = 0.0


@dataclass(frozen=True)
class Decision:
    """``why`` for people. ``idle_since``: None when it is not idle. ``at``: when its GPU goes back if nothing
    happens."""

    action: Action
    why: str
    idle_since: float | None = None
    at: float | None = None


def decide(facts: Facts, rules: Rules, now: float) -> Decision:
    """What to do now with a session."""
    if not rules.after:
        return Decision(Action.KEEP, "no idle limit holds for it")
    if now < facts.kept_until:
        return Decision(Action.KEEP, f"its owner protects it for another {duration_text(facts.kept_until - now)}")
    found = idle(facts.watched, now)
    since = max(found.since, facts.started_at + rules.grace, facts.kept_until)
    if since >= now:
        why = found.why if found.since >= now else "it has just begun, or was protected until now"
        return Decision(Action.KEEP, why)
    # What was done after a warning makes it void: the next idle time has one of its own.
    counted = max(since, facts.refused_at)
    warned_at = facts.warned_at if facts.warned_at is not None and counted <= facts.warned_at <= now else None
    due = counted + rules.after
    if warned_at is not None and now >= max(due, warned_at + rules.lead):
        return Decision(Action.GIVE_BACK, _reason(found, since, now, rules), since, now)
    if now < due - rules.lead:
        return Decision(
            Action.KEEP, f"idle for {duration_text(now - since)} of {duration_text(rules.after)}", since, due
        )
    at = max(due, (now if warned_at is None else warned_at) + rules.lead)
    return Decision(Action.WARN, _reason(found, since, now, rules), since, at)


def _reason(found: Idle, since: float, now: float, rules: Rules) -> str:
    return (
        f"idle for {duration_text(now - since)} (the limit is {duration_text(rules.after)}); before that, {found.why}"
    )
