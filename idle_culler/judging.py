"""From what the service tells of all sessions to what is to be done about each. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..reservations.activity import Watched
from .rules import Action, Facts, Rules, decide

Json = Mapping[str, Any]
AWAY_S = 180.0
"""When nobody looked for so long, nobody can say whether the warnings could be read."""


@dataclass(frozen=True)
class Judgement:
    """``body``: as the service's API wants it."""

    reservation_id: str
    owner: str
    body: Json


def judge(told: Json, readable: bool) -> list[Judgement]:
    """What follows from one look. ``readable``: people could read their warnings since the last one, as far as is
    known; if not, every warning is given anew, and nothing else is done."""
    readable = readable and (told["passed_ago_s"] or 0.0) <= AWAY_S
    found = [_one(session, float(told["now"]), readable) for session in told["sessions"] if not session["handling"]]
    return [judgement for judgement in found if judgement is not None]


def _one(session: Json, now: float, readable: bool) -> Judgement | None:
    watched = None if session["watched"] is None else Watched(**session["watched"])
    warned_at, then = session["warned_at"], session["rules"]["then"]
    facts = Facts(
        started_at=float(session["started_at"]),
        watched=watched,
        kept_until=float(session["kept_until"]),
        warned_at=warned_at if readable else None,
        refused_at=float(session["refused_at"]),
    )
    rules = Rules(
        after=float(session["rules"]["after"]),
        grace=float(session["rules"]["grace"]),
        warn=tuple(session["rules"]["warn"]),
        stops=then == "stop",
    )
    decision = decide(facts, rules, now)
    if decision.action is Action.KEEP or watched is None or watched.since is None:
        return None
    body = {"why": decision.why, "quiet_since": watched.since}
    if decision.action is Action.WARN:
        if facts.warned_at is not None and facts.warned_at >= watched.since:
            return None  # it stands
        assert decision.at is not None
        body |= {"action": "warn", "act_in_s": max(0.0, decision.at - now)}
    else:
        body |= {"action": then}
    return Judgement(session["id"], session["owner"], body)
