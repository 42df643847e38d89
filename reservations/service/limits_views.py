"""Limits as JSON: what one person may have and why, and what administrators see. Pure reading."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timezone, tzinfo
from enum import Enum
from typing import Any

from ..administration import Moment
from ..clock import duration_text, moment_text, rfc3339
from ..engines.matching import index_of, name_of
from ..kind import Kind
from ..ledger.reader import Used
from ..limits.effective import BUILT_IN, Effective, Override
from ..limits.engines import HERE
from ..limits.idle import THEN
from ..limits.pools import engine_of, membership
from ..limits.values import UNLIMITED, amount_text, gpus_text
from ..pool import Pool
from ..ranking import fair_factors
from ..reservation import Reservation
from ..standing import Purse
from ..tally import Tally
from ..usage import HOUR, Charge, Charges
from .host_views import host_texts
from .idle_texts import idle_texts
from .offers import announcements

DAY = 86400.0
LABELS = {
    "shapes": "Shapes of share",
    "models": "Models",
    "largest": "Largest share (GPUs)",
    "gpus": "GPUs at once",
    "waiting": "Requests waiting at once",
    "sessions.at_once": "Sessions at once, waiting ones included",
    "sessions.default_time": "Time of a session, if none is chosen",
    "sessions.max_time": "Longest time of a session",
    "sessions.default_cpus": "Cores of a session, if none are chosen",
    "sessions.max_cpus": "Most cores of a session",
    "sessions.default_host_memory_gib": "Main memory of a session, if none is chosen (GiB)",
    "sessions.max_host_memory_gib": "Most main memory of a session (GiB)",
    "jobs.at_once": "Batch jobs at once, waiting ones included",
    "jobs.default_time": "Time of a batch job, if none is chosen",
    "jobs.max_time": "Longest time of a batch job",
    "jobs.default_cpus": "Cores of a batch job, if none are chosen",
    "jobs.max_cpus": "Most cores of a batch job",
    "jobs.default_host_memory_gib": "Main memory of a batch job, if none is chosen (GiB)",
    "jobs.max_host_memory_gib": "Most main memory of a batch job (GiB)",
    "extension.longest": "One extension adds at most",
    "extension.total": "Longest in all, with extensions",
    "extension.times": "Extensions without asking",
    "shares": "Weight within the group, for fair share",
    "idle.after": "Acted on after being idle for",
    "idle.then": "What happens to an idle session",
    "idle.per_gpu": "That idle time is divided by the GPUs held",
    "idle.grace": "After the start, nothing counts as idle",
    "idle.gpu_below": "Idle means: GPU use below (%)",
    "idle.cpu_below": "Idle means: CPU use below (% of a core)",
    "idle.busy_cap": "A busy cell without any use counts as work for",
    "idle.warn": "Told so long before",
    "idle.keep": "A run may be protected for",
}
_TIMES = {"default_time", "max_time", "longest", "total", "after", "grace", "busy_cap", "keep"}
DURATIONS = {key for key in BUILT_IN if key.rpartition(".")[2] in _TIMES}
NEVER = {"idle.after": "never", "idle.busy_cap": "always"}


def limit_text(key: str, value: Any) -> str:
    """A limit in words, such as ``2 h``."""
    if key in NEVER and not value:
        return NEVER[key]
    if key == "idle.then":
        return THEN[value]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key in DURATIONS:
        return duration_text(value)
    if isinstance(value, tuple):
        texts = [duration_text(v) if key == "idle.warn" else v.value if isinstance(v, Enum) else str(v) for v in value]
        return "all" if value == ("*",) else ", ".join(texts) or "none"
    return amount_text(float(value))


def explanation(pool: Pool, person: str) -> dict[str, Any]:
    """What ``person`` may have, has used, and waits for; where each limit comes from."""
    now = pool.clock()
    effective = pool.standing.effective(person, now)
    world = pool.world()
    policy, facts = world.policy([person]), world.facts
    tally = Tally(pool.slots, facts.held, policy)
    told = pool.forecast()
    mine = list(pool.live_of(person))
    account = policy.account(effective.account)
    return {
        "person": person,
        "groups": list(effective.groups),
        "account": effective.account,
        "version": pool.standing.version,
        "limits": limit_rows(effective),
        "host": host_texts(pool, person) if pool.local else [],
        "idle": idle_texts(pool, effective),
        "budgets": [purse_view(purse, now) for purse in pool.purses(person)],
        "holds_gpus": round(tally.by_owner[person], 3),
        "group_holds_gpus": round(tally.by_account[effective.account], 3),
        "group_quota": account.quota if policy.quotas else None,
        "fair_share": fair_view(pool, person),
        "waiting": [
            {
                "id": r.id,
                "share_text": r.request.describe(),
                "position": told[r.id].position,
                "latest_start": rfc3339(told[r.id].latest_start),
                "why": told[r.id].why,
            }
            for r in mine
            if r.waits and r.id in told
        ],
        "pools": pool_rows(pool, effective),
        "engines": engine_limits(pool, person),
        "exceptions": [
            override_view(o, now, pool.limits.zone)
            for o in pool.standing.overrides
            if _hers(o, effective) and o.in_force(now)
        ],
        "announced": announcements(pool, now),
    }


def engine_limits(pool: Pool, owner: str) -> list[dict[str, Any]]:
    """What engines allow ``owner`` by rules of their own; empty: everybody. Those of which that is not readable are
    left out."""
    told = [(engine, engine.own_limits(owner)) for engine in pool.engines.values()]
    return [
        {
            "engine": engine.name,
            "title": engine.title,
            "as_of": rfc3339(own.seen_at),
            "limits": [{"of": one.of, "what": one.what, "value": one.value, "name": one.name} for one in own.limits],
        }
        for engine, own in told
        if own is not None
    ]


def _hers(override: Override, effective: Effective) -> bool:
    if override.scope == "user":
        return override.name == effective.person
    return override.name in effective.groups


def limit_rows(effective: Effective) -> list[dict[str, str]]:
    return [
        {"key": key, "what": label, "value": limit_text(key, effective.values[key]), "from": effective.sources[key]}
        for key, label in LABELS.items()
    ]


def purse_view(purse: Purse, now: float) -> dict[str, Any]:
    unlimited = purse.hours == UNLIMITED
    return {
        "whose": purse.whose,
        "name": purse.name,
        "every": purse.budget.every,
        "beyond": purse.budget.beyond,
        "kinds": [kind.value for kind in purse.budget.kinds],
        "gpu_hours": None if unlimited else round(purse.hours, 2),
        "used": round(purse.used, 2),
        "left": None if unlimited else round(purse.left, 2),
        "refills_at": rfc3339(purse.refills_at),
        "refills": purse.refills,
        "empty_at": rfc3339(purse.lasts_until(now)),
    }


def budget_rows(pool: Pool) -> list[dict[str, Any]]:
    """The budgets of all groups, and those of people that something was taken from; the emptiest first."""
    standing, now = pool.standing, pool.clock()
    running = Charges(pool.running())
    people = {r.owner for r in pool.live()} | set(standing.known_groups())
    found = [purse for name in standing.limits.groups for purse in standing.group_purses(name, running, now)]
    for person in people:
        mine = standing.purses(person, running, now) if standing.has_budgets(person, now) else []
        found += [purse for purse in mine if purse.whose == "user" and (purse.used or purse.rate)]
    found.sort(key=lambda purse: (-purse.used / max(purse.hours, 1e-9), purse.name))
    return [purse_view(purse, now) for purse in found[:500]]


def fair_view(pool: Pool, person: str) -> dict[str, Any] | None:
    """Her place by fair share; None when the limits have none."""
    world = pool.world()
    policy, facts = world.policy([person]), world.facts
    if policy.fair is None:
        return None
    factors = fair_factors(facts, policy, Tally(pool.slots, facts.held, policy))
    mine = factors.get((policy.person(person).account, person), 1.0)
    return {
        "method": policy.fair.method,
        "factor": round(mine, 4),
        "ahead": sum(1 for factor in factors.values() if factor > mine),
        "people": len(factors),
        "average_gpus": round(policy.person(person).use, 3),
    }


def pool_rows(pool: Pool, effective: Effective) -> list[dict[str, Any]]:
    """Each pool of devices with what a person may do there."""
    rows = []
    devices = membership(pool.limits.pools, pool.slots).of
    for rule in pool.world().policy([effective.person]).pools:
        places = {engine_of(slot) for slot in devices.get(rule.name, ())}
        only_here = f" ({where_it_holds(places)})" if where_it_holds(places) else ""
        refusal = rule.refusal(Kind.SESSION, effective.groups, 60)
        notes = ["it has no devices here"] if rule.unmatched else []
        if rule.max_time != UNLIMITED:
            notes.append(f"at most {duration_text(rule.max_time)} at a time")
        if rule.gpus != UNLIMITED:
            notes.append(f"at most {gpus_text(rule.gpus)} at once{only_here}")
        kept = pool.limits.pools[rule.name].keep_for_sessions
        if kept is not None:
            notes.append(f"{gpus_text(kept.gpus)} kept for sessions: {kept.when}{only_here}")
        if pool.limits.pools[rule.name].preempt is not None:
            notes.append(f"batch beyond a group's quota gives way to people who wait{only_here}")
        rows.append(
            {"name": rule.name, "gpus": round(rule.gpus_in_all, 3), "open": not refusal, "notes": notes, "why": refusal}
        )
    return rows


def where_it_holds(places: Collection[str]) -> str:
    """Where a rule holds that an engine decides itself, of a pool with devices of these engines; empty: everywhere."""
    elsewhere = ", ".join(sorted(set(places) - {HERE}))
    if not elsewhere:
        return ""
    return (
        f"on this machine only: {elsewhere} decides itself" if HERE in places else f"does not hold: {elsewhere} decides"
    )


def override_view(override: Override, now: float, zone: tzinfo) -> dict[str, Any]:
    """``zone``: of the limits; ``ends`` is for reading."""
    return {
        "id": override.id,
        "scope": override.scope,
        "name": override.name,
        "limits": override.limits.model_dump(mode="json", exclude_defaults=True),
        "extra_gpu_hours": override.extra_gpu_hours,
        "until": rfc3339(override.until),
        "ends": moment_text(override.until, zone),
        "why": override.why,
        "by": override.by,
        "made_at": rfc3339(override.made_at),
        "in_force": override.in_force(now),
    }


def handed_over_rows(
    ended: Sequence[Reservation], charged: Mapping[str, tuple[float, float, float]], moment: Moment, now: float
) -> list[dict[str, Any]]:
    """What each reservation at an engine was charged, with its name there; for the comparison with its accounting.
    ``charged``: by reservation, most GPUs at once, seconds and GPU-seconds of what has ended."""
    sums = dict(charged)
    for charge in moment.running:
        gpus, held, gpu_s = sums.get(charge.reservation_id, (0.0, 0.0, 0.0))
        more = charge.ended - charge.began
        sums[charge.reservation_id] = max(gpus, charge.gpus), held + more, gpu_s + charge.gpus * more
    # What ended while the report was read is among both, and still live by ``moment``.
    there = {reservation.id: reservation for reservation in (*ended, *moment.live)}
    return [
        _handed_over_row(reservation, sums.get(reservation.id, (0.0, 0.0, 0.0)), now)
        for reservation in sorted(there.values(), key=lambda r: r.seq)
        if reservation.external is not None and reservation.external.handed_over
    ]


def _handed_over_row(reservation: Reservation, charged: tuple[float, float, float], now: float) -> dict[str, Any]:
    external, (gpus, held_s, gpu_s) = reservation.external, charged
    assert external is not None
    return {
        "id": reservation.id,
        "owner": reservation.owner,
        "engine": reservation.request.engine,
        "name": name_of(reservation),
        "index": index_of(reservation),
        "job": external.job_id,
        "handed_over_s": max(0, round(now - (external.tried_at or reservation.submitted_at))),
        "gpus": gpus,
        "held_s": round(held_s, 1),
        "gpu_hours": round(gpu_s / HOUR, 4),
    }


def usage_rows(past: Iterable[Used], running: Iterable[Charge], by: Sequence[str]) -> list[dict[str, Any]]:
    """GPU-hours held, by the groupings asked for, the most first. ``running``: cut to the same time as ``past``."""
    found: dict[tuple[str, ...], list[float]] = {}
    for used in (*past, *(_used(charge, by) for charge in running)):
        row = found.setdefault(tuple(_shown(*pair) for pair in zip(by, used.key, strict=True)), [0.0, 0.0, 0.0])
        row[0] += used.intervals
        row[1] += used.gpu_s / HOUR
        row[2] += used.weighted_s / HOUR
    ordered = sorted(found.items(), key=lambda entry: (-entry[1][2], entry[0]))
    return [
        {
            **dict(zip(by, key, strict=True)),
            "intervals": int(count),
            "gpu_hours": round(hours, 4),
            "weighted_gpu_hours": round(weighted, 4),
        }
        for key, (count, hours, weighted) in ordered
    ]


def _used(charge: Charge, by: Sequence[str]) -> Used:
    """What runs, as the ledger will have it."""
    values = {**vars(charge), "group": charge.account, "kind": charge.kind.value, "day": int(charge.began // DAY)}
    held = charge.ended - charge.began
    return Used(tuple(str(values[name]) for name in by), 1, charge.gpus * held, charge.rate * held)


def _shown(name: str, value: str) -> str:
    if name == "day":
        return datetime.fromtimestamp(float(value) * DAY, timezone.utc).date().isoformat()
    return value or {"model": "none", "reason": "running"}.get(name, "")
