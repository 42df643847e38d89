"""Time in which a person protects her session from the idle rules. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MOST = 8
"""Protections of a session at a time."""


@dataclass(frozen=True)
class Keep:
    """One protection: until when, and why."""

    until: float
    why: str


@dataclass(frozen=True)
class Keeps:
    """All protections of a session, by key. ``used_s``: what they come to in all, past and future; what lies side
    by side counts once."""

    by_key: Mapping[str, Keep] = field(default_factory=dict)
    used_s: float = 0.0

    def until(self, now: float) -> float:
        """When the last of them is over; ``now`` or earlier when none holds."""
        return max((keep.until for keep in self.by_key.values()), default=now)

    def why(self, now: float) -> str:
        """The reasons of those that hold."""
        return "; ".join(dict.fromkeys(keep.why for keep in self.by_key.values() if keep.until > now))

    def is_full(self, key: str, now: float) -> bool:
        """Whether there is no room for one more of that key: everybody who waits reads all of them."""
        others = [name for name, keep in self.by_key.items() if name != key and keep.until > now]
        return len(others) >= MOST

    def add(self, key: str, until: float, why: str, now: float) -> Keeps:
        """With a protection of that key, in place of an earlier one."""
        return self._changed({**self.by_key, key: Keep(until, why)}, now)

    def end(self, key: str, now: float) -> Keeps:
        """Without that one: the time that it had left comes back."""
        return self._changed({name: keep for name, keep in self.by_key.items() if name != key}, now)

    def _changed(self, by_key: Mapping[str, Keep], now: float) -> Keeps:
        kept = {name: keep for name, keep in by_key.items() if keep.until > now}
        before, after = max(self.until(now), now), max((keep.until for keep in kept.values()), default=now)
        return Keeps(kept, max(0.0, self.used_s + after - before))

    def as_json(self) -> dict[str, Any]:
        return {"used_s": self.used_s, "by_key": {name: [k.until, k.why] for name, k in self.by_key.items()}}

    @classmethod
    def from_json(cls, data: Any) -> Keeps:
        return cls({name: Keep(*values) for name, values in data["by_key"].items()}, data["used_s"])
