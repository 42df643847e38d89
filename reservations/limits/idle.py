"""The idle rules that hold for one session: those of its owner, and of the pools its devices are in. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..activity import Thresholds
from ..clock import duration_text
from .effective import EXCEPTION, GENEROUS, Effective
from .schema import IdleAction, IdleRules, Limits

THEN: Mapping[IdleAction, str] = {
    "give_back": "the GPU goes back",
    "park": "its state is kept, the GPU goes back",
    "stop": "the session ends",
}
"""What is done to an idle session, in words."""


@dataclass(frozen=True)
class IdleSettings:
    """Seconds. ``after``: idle for so long, 0: never; ``grace``: nothing counts so long after the start; ``warn``: told
    so long before; ``then``: what is done; ``keep``: how long in all its owner may protect it."""

    after: float
    grace: float
    warn: tuple[float, ...]
    then: IdleAction
    keep: float
    thresholds: Thresholds

    @property
    def text(self) -> str:
        """What happens to an idle session, in words."""
        if not self.after:
            return "being idle has no consequences"
        leads = ", ".join(duration_text(lead) for lead in sorted(self.warn, reverse=True))
        warned = f", after a warning {leads} before" if leads else ""
        return f"after {duration_text(self.after)} without work and input {THEN[self.then]}{warned}"


def idle_settings(limits: Limits, owner: Effective, pools: Iterable[str], gpus: float) -> IdleSettings:
    """``pools``: names of those that the session's devices are in; the strictest of them counts. ``gpus``: held."""
    said = [limits.pools[name].idle for name in pools if name in limits.pools]

    def value(name: str) -> Any:
        mine = owner.values[f"idle.{name}"]
        if owner.sources[f"idle.{name}"].startswith(EXCEPTION):
            return mine
        return _strictest(name, said, mine)

    after = float(value("after"))
    return IdleSettings(
        after=after / max(1.0, gpus) if value("per_gpu") else after,
        grace=float(value("grace")),
        warn=tuple(float(lead) for lead in value("warn")),
        then=value("then"),
        keep=float(value("keep")),
        thresholds=Thresholds(float(value("gpu_below")), float(value("cpu_below")), float(value("busy_cap"))),
    )


def _strictest(name: str, said: Iterable[IdleRules], otherwise: Any) -> Any:
    """Of what the pools say; ``otherwise`` when they say nothing."""
    values = [found for rules in said if (found := getattr(rules, name)) is not None]
    if not values:
        return otherwise
    generous = GENEROUS.get(f"idle.{name}", max)
    strictest = values[0]
    for further in values[1:]:
        strictest = further if generous(strictest, further) == strictest else strictest
    return strictest
