"""GPU time that was held: what it counts, and who had how much of it. Pure; time is a parameter.

Charged is what was *held*, from the grant until everything of it was seen gone, whether it was used or not: GPUs (parts
as parts) times the weight of their model. An interval is charged once, when it ends; one that still runs is added when
somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from zoneinfo import ZoneInfo

from .calendar import Every, window
from .fairshare import average_use, decayed_interval
from .kind import Kind

HOUR = 3600.0
REMEMBERED_HALF_LIVES = 20
"""After so many a use counts a millionth."""
LONGEST_WINDOW_S = 32 * 86400.0
FAR_HALF_LIVES = 200
"""A use is counted at a moment not further than this from its end: numbers stay well within what a float holds."""


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


class Running(Protocol):
    """What is held at some moment, charged until then."""

    def of(self, whose: str, name: str) -> Sequence[Charge]:
        """What is charged to one payer. ``whose``: ``user`` or ``group``."""


class Charges:
    """The ``Running`` of a list; sorted by payer when somebody asks."""

    def __init__(self, charges: Iterable[Charge]) -> None:
        self._charges = charges
        self._by_payer: dict[tuple[str, str], list[Charge]] | None = None

    def of(self, whose: str, name: str) -> Sequence[Charge]:
        if self._by_payer is None:
            self._by_payer = {}
            for charge in self._charges:
                self._by_payer.setdefault(("user", charge.owner), []).append(charge)
                self._by_payer.setdefault(("group", charge.account), []).append(charge)
        return self._by_payer.get((whose, name), ())


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


class _Past:
    """What was used of one kind, in weighted GPU-seconds by owner, as it counts at one moment for all of them.

    All uses of a kind fade alike, so that moment need not move with the clock: one factor brings everybody up to date.
    """

    def __init__(self, kind: Kind, half_life: float) -> None:
        self.kind, self.half_life = kind, half_life
        self.values: dict[str, float] = {}
        self._at = 0.0

    def add(self, charge: Charge) -> None:
        value = decayed_interval(charge.rate, charge.began, charge.ended, charge.ended, self.half_life)
        if charge.ended - self._at > FAR_HALF_LIVES * self.half_life:
            self._move(charge.ended)
        value *= 2.0 ** ((charge.ended - self._at) / self.half_life)
        self.values[charge.owner] = self.values.get(charge.owner, 0.0) + value

    def scale(self, now: float) -> float:
        """What makes a value the GPUs that were held on average, as it counts at ``now``."""
        faded = 2.0 ** min(0.0, (self._at - now) / self.half_life)  # a clock set back takes nothing back
        return average_use(faded, self.half_life)

    def _move(self, at: float) -> None:
        faded = 2.0 ** ((self._at - at) / self.half_life)
        self.values = {owner: value * faded for owner, value in self.values.items()}
        self._at = at


class Books:
    """Intervals that ended, kept as sums: by calendar window, and decayed. ``half_lives``: seconds by kind; None when
    there is no fair share."""

    def __init__(self, zone: ZoneInfo, half_lives: Mapping[Kind, float] | None, past: Iterable[Charge]) -> None:
        self._zone = zone
        self._windows: dict[str, _Window] = {}
        self._recent: list[Charge] = []
        self._decayed = {kind: _Past(kind, value) for kind, value in (half_lives or {}).items() if value}
        self._scaled_at = -1.0
        self._scales: list[tuple[_Past, float]] = []
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
        if charge.kind in self._decayed:
            self._decayed[charge.kind].add(charge)
            self._scaled_at = -1.0

    def owners(self) -> set[str]:
        """Everybody who had something that still counts for fair share."""
        return {owner for past in self._decayed.values() for owner in past.values}

    def use(self, owner: str, now: float, running: Iterable[Charge]) -> float:
        """Weighted GPUs that ``owner`` held on average, older times counting less. ``running``: hers, ended ``now``."""
        if now != self._scaled_at:
            self._scaled_at, self._scales = now, [(past, past.scale(now)) for past in self._decayed.values()]
        total = 0.0
        for past, scale in self._scales:
            value = past.values.get(owner)
            if value is not None:
                total += value * scale
            for charge in running:
                if charge.kind is past.kind:
                    held = decayed_interval(charge.rate, charge.began, now, now, past.half_life)
                    total += average_use(held, past.half_life)
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
