"""What happens to idle sessions, in words. Pure reading of the pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..kind import Kind
from ..limits.effective import Effective
from ..limits.idle import idle_settings
from ..limits.schema import IdleRules
from ..pool import Pool


def idle_texts(pool: Pool, effective: Effective) -> list[str]:
    """What happens to idle sessions of a person, as it is in force: in general, in pools with rules of their own, and
    to those that run."""
    limits, texts = pool.limits, []

    def text(pools: Sequence[str], gpus: float) -> str:
        rules = idle_settings(limits, effective, pools, gpus)
        stops = rules.then == "give_back" and not pool.can_give_back
        return (replace(rules, then="stop") if stops else rules).text

    texts.append(f"A session: {text((), 1)}")
    if effective.values["idle.per_gpu"] and effective.values["idle.after"]:
        texts.append(f"A session of 4 GPUs, as the time is divided by the GPUs held: {text((), 4)}")
    for name, rules in limits.pools.items():
        if rules.idle != IdleRules():
            divided = f"; of 4 GPUs: {text((name,), 4)}" if text((name,), 1) != text((name,), 4) else ""
            texts.append(f"In the pool {name}: {text((name,), 1)}{divided}")
    for reservation in pool.live_of(effective.person):
        if reservation.kind is Kind.SESSION and reservation.holds:
            texts.append(f"Your {reservation.request.describe()} now: {pool.idle_rules(reservation).text}")
    return texts
