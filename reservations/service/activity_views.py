"""What the API shows of activity. Pure reading of pool and monitor."""

from __future__ import annotations

from typing import Any

from ..activity import idle, working
from ..clock import rfc3339
from ..limits.idle import IdleSettings
from ..monitor import Monitor, Session
from ..pool import Pool
from ..reservation import Reservation, State
from ..watching import Warned

HISTORY_S = 3600.0


def activity_view(pool: Pool, monitor: Monitor, reservation: Reservation) -> dict[str, Any]:
    """For the owner of a session: what is known of it, what follows, and what was decided."""
    now = pool.clock()
    session, rules = monitor.session(reservation.id), monitor.rules(reservation)
    found, sample = idle(session.watched, now), session.sample
    at_work = "" if sample is None else working(sample, rules.thresholds)
    kept_s = max(0.0, session.keeps.until(now) - now)
    return {
        "signals": _signals(session, now),
        "working": at_work,
        "idle_s": None if found.since >= now else round(now - found.since, 1),
        "why": found.why,
        "rules": _rules(rules),
        "warning": _warning(session.warned, now) if session.warned and reservation.state is State.ACTIVE else None,
        "kept_s": round(kept_s),
        "kept_why": session.keeps.why(now),
        "keep_left_s": round(max(0.0, rules.keep - session.keeps.used_s)),
        "cannot_park": pool.cannot_park(reservation),
        "history": [
            {"ago_s": round(now - p.at), "gpu": p.gpu, "cpu": p.cpu, "memory_mib": p.memory_mib}
            for p in session.history
            if now - p.at <= HISTORY_S
        ],
        "decisions": [
            {"at": rfc3339(float(d["at"])), "what": d["what"], "why": d["why"], "signals": d["signals"]}  # type: ignore[arg-type]
            for d in monitor.decisions(reservation.id)
        ],
    }


def _signals(session: Session, now: float) -> dict[str, Any]:
    sample, reading = session.sample, session.reading
    if sample is None:
        names = ("heard_ago_s", "kernel_busy_s", "gpu", "cpu", "terminal", "input_ago_s", "memory_mib")
        return dict.fromkeys(names)
    return {
        "heard_ago_s": round(now - sample.at, 1),
        "kernel_busy_s": sample.kernel_busy_s,
        "gpu": sample.gpu,
        "cpu": sample.cpu,
        "terminal": sample.terminal,
        "input_ago_s": None if sample.input_at is None else round(max(0.0, now - sample.input_at), 1),
        "memory_mib": None if reading is None else reading.memory_mib,
    }


def _rules(rules: IdleSettings) -> dict[str, Any]:
    return {"after_s": rules.after, "warn_s": list(rules.warn), "action": rules.then, "keep_s": rules.keep}


def _warning(warned: Warned, now: float) -> dict[str, Any]:
    return {
        "text": warned.text,
        "ago_s": round(now - warned.at),
        "in_s": max(0, round(warned.act_at - now)),
        "action": warned.action,
    }


def everybody_view(pool: Pool, monitor: Monitor) -> dict[str, Any]:
    """For the culler: every session that runs, as the rules look at it. Times are seconds of one clock, ``now`` too."""
    now = pool.clock()
    passed = monitor.passed_at
    monitor.passed_at = now
    rows = []
    for reservation, rules, session in monitor.watched_sessions():
        watched, warned = session.watched, session.warned
        rows.append(
            {
                "id": reservation.id,
                "owner": reservation.owner,
                "started_at": max(reservation.started_at or 0.0, reservation.granted_at or 0.0),
                "handling": reservation.handling,
                "watched": None if watched is None else vars(watched),
                "kept_until": session.keeps.until(0.0),
                "refused_at": session.refused_at,
                "warned_at": None if warned is None else warned.at,
                "rules": {"after": rules.after, "grace": rules.grace, "warn": list(rules.warn), "then": rules.then},
                "memory_mib": None if session.reading is None else session.reading.memory_mib,
            }
        )
    return {"now": now, "passed_ago_s": None if passed is None else now - passed, "sessions": rows}
