"""GPU time that was held: what it counts, and who had how much of it. Pure; time is a parameter.

Charged is what was *held*, from the grant until everything of it was seen gone, whether it was used or not: GPUs (parts
as parts) times the weight of their model. An interval is charged once, when it ends; one that still runs is added when
somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from .calendar import Every, window
from .fairshare import Decayed, average_use, decayed_interval
from .kind import Kind

HOUR = 3600.0
REMEMBERED_HALF_LIVES = 20
"""After so many a use counts a millionth."""
LONGEST_WINDOW_S = 32 * 86400.0


@dataclass(frozen=True)
class Charge:
    """One interval in which a reservation held devices. ``gpus``: as counted; ``rate``: weighted GPUs. Seconds."""

    reservation_id: str
    owner: str
    account: str
    kind: Kind
    model: str
    gpus: float
    rate: float
    began: float
    ended: float
    reason: str = ""

    def hours(self, began: float, ended: float) -> float:
        """Weighted GPU-hours of it between ``began`` and ``ended``."""
        return self.rate * max(0.0, min(self.ended, ended) - max(self.began, began)) / HOUR


Payer = tuple[str, str, Kind]
"""Who is charged: ``user`` or ``group``, the name, and for which kind."""


def payers(charge: Charge) -> tuple[Payer, Payer]:
    return ("user", charge.owner, charge.kind), ("group", charge.account, charge.kind)


@dataclass
class _Window:
    """What was charged since the beginning of the calendar's window that now is in."""

    began: float
    ended: float
    hours: dict[Payer, float]

    def add(self, charge: Charge) -> None:
        hours = charge.hours(self.began, self.ended)
        for payer in payers(charge):
            self.hours[payer] = self.hours.get(payer, 0.0) + hours


class Books:
    """Intervals that ended, kept as sums: by calendar window, and decayed. ``half_lives``: seconds by kind; None when
    there is no fair share."""

    def __init__(self, zone: ZoneInfo, half_lives: Mapping[Kind, float] | None, past: Iterable[Charge]) -> None:
        self._zone = zone
        self._half_lives = half_lives
        self._windows: dict[str, _Window] = {}
        self._recent: list[Charge] = []
        self._decayed: dict[tuple[str, Kind], Decayed] = {}
        for charge in past:
            self.close(charge)

    @staticmethod
    def horizon(half_lives: Mapping[Kind, float] | None) -> float:
        """How far back (seconds) intervals matter."""
        longest = max(half_lives.values()) if half_lives else 0.0
        return max(LONGEST_WINDOW_S, REMEMBERED_HALF_LIVES * longest)

    def close(self, charge: Charge) -> None:
        """Takes in an interval that has ended."""
        self._recent.append(charge)
        for known in self._windows.values():
            known.add(charge)
        if self._half_lives is not None:
            self._decay(charge, self._half_lives[charge.kind])

    def _decay(self, charge: Charge, half_life: float) -> None:
        key = (charge.owner, charge.kind)
        before = self._decayed.get(key, Decayed(0.0, 0.0, charge.ended))
        at = max(before.at, charge.ended)
        more = decayed_interval(charge.rate, charge.began, charge.ended, at, half_life)
        moved = before.moved_to(at, half_life)
        self._decayed[key] = Decayed(moved.value + more, 0.0, at)

    def owners(self) -> set[str]:
        """Everybody who had something that still counts for fair share."""
        return {owner for owner, _ in self._decayed}

    def use(self, owner: str, now: float, running: Iterable[Charge]) -> float:
        """Weighted GPUs that ``owner`` held on average, older times counting less. ``running``: hers, ended ``now``."""
        if self._half_lives is None:
            return 0.0
        total = 0.0
        for kind, half_life in self._half_lives.items():
            if not half_life:
                continue
            value = sum(
                decayed_interval(c.rate, c.began, now, now, half_life)
                for c in running
                if c.kind is kind and now > c.began
            )
            past = self._decayed.get((owner, kind))
            if past is not None:
                value += past.value * 0.5 ** (max(0.0, now - past.at) / half_life)
            total += average_use(value, half_life)
        return total

    def hours(self, payer: tuple[str, str], kinds: Iterable[Kind], every: Every, now: float) -> float:
        """Weighted GPU-hours of intervals that ended, within the window that ``now`` is in."""
        current = self._window(every, now)
        return sum(current.hours.get((*payer, kind), 0.0) for kind in kinds)

    def window(self, every: Every, now: float) -> tuple[float, float]:
        """Begin and end (when it refills) of the window that ``now`` is in."""
        current = self._window(every, now)
        return current.began, current.ended

    def _window(self, every: Every, now: float) -> _Window:
        known = self._windows.get(every)
        if known is None or not known.began <= now < known.ended:
            known = _Window(*window(now, every, self._zone), {})
            self._recent = [charge for charge in self._recent if charge.ended > now - LONGEST_WINDOW_S]
            for charge in self._recent:
                known.add(charge)
            self._windows[every] = known
        return known
