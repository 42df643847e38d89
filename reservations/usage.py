"""GPU time that was held: what it counts, and who had how much of it. Pure; time is a parameter.

Charged is what was *held*, from the grant until everything of it was seen gone, whether it was used or not: GPUs (parts
as parts) times the weight of their model. An interval is charged once, when it ends; one that still runs is added when
somebody asks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, get_args
from zoneinfo import ZoneInfo

from .calendar import Every, Stretch, window
from .fairshare import average_use, decayed_interval
from .kind import Kind

HOUR = 3600.0
REMEMBERED_HALF_LIVES = 20
"""After so many a use counts a millionth."""
DAY_S = 86400.0
LONGEST_WINDOW_S = 32 * DAY_S
FORMAT = 1
"""Of ``Books.as_json``; another one is not read."""
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


def _sound(values: Iterable[Any]) -> bool:
    """Whether all of them are numbers from 0 on that have an end."""
    return all(type(value) in (int, float) and 0 <= value < math.inf for value in values)


class _Windows:
    """What was charged in the calendar's windows of one length, in weighted GPU-hours by payer.

    Kept are the window that the present is in and, for a clock that is set back a little, those of the day before.
    """

    def __init__(self, every: Every, zone: ZoneInfo) -> None:
        self._every, self._zone = every, zone
        self._kept: list[tuple[Stretch, dict[Payer, float]]] = []

    def move_to(self, now: float) -> None:
        """Begins new windows as time passes. Nothing that was charged before can lie in them: it ended before."""
        if self._kept and now < self._kept[-1][0][1]:
            return
        known = dict(self._kept)
        at = window(now - DAY_S, self._every, self._zone)
        self._kept = [(at, known.get(at, {}))]
        while at[1] <= now:
            at = window(at[1], self._every, self._zone)
            self._kept.append((at, known.get(at, {})))

    def add(self, charge: Charge) -> None:
        for stretch, hours in self._kept:
            more = charge.hours(*stretch)
            if more:
                for payer in payers(charge):
                    hours[payer] = hours.get(payer, 0.0) + more

    def at(self, now: float) -> tuple[Stretch, Mapping[Payer, float]]:
        """The window that ``now`` is in, and what was charged in it."""
        self.move_to(now)
        for stretch, hours in reversed(self._kept):
            if stretch[0] <= now < stretch[1]:
                return stretch, hours
        return window(now, self._every, self._zone), {}

    def as_json(self) -> Any:
        return [
            [*stretch, [[whose, name, kind.value, value] for (whose, name, kind), value in hours.items()]]
            for stretch, hours in self._kept
        ]

    def restored(self, stored: Any) -> _Windows:
        """Others of this length, as ``as_json`` told them."""
        made = _Windows(self._every, self._zone)
        made._kept = [
            ((began, ended), {(whose, name, Kind(kind)): value for whose, name, kind, value in hours})
            for began, ended, hours in stored
        ]
        return made

    @property
    def is_sound(self) -> bool:
        """Whether all in it can be times and sums."""
        return all(_sound((*stretch, *hours.values())) for stretch, hours in self._kept)


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

    def as_json(self) -> Any:
        return {"at": self._at, "values": self.values}

    def restored(self, stored: Any) -> _Past:
        """Another of this kind, as ``as_json`` told it."""
        made = _Past(self.kind, self.half_life)
        made._at, made.values = float(stored["at"]), dict(stored["values"])
        return made

    @property
    def is_sound(self) -> bool:
        """Whether all in it can be times and sums."""
        return _sound((self._at, *self.values.values()))


class Books:
    """Intervals that ended, kept as sums alone: by calendar window, and decayed. ``half_lives``: seconds by kind; None
    when there is no fair share."""

    def __init__(self, zone: ZoneInfo, half_lives: Mapping[Kind, float] | None) -> None:
        self._rules = {"zone": zone.key, "half_lives": {k.value: v for k, v in (half_lives or {}).items() if v}}
        self._windows = {every: _Windows(every, zone) for every in get_args(Every)}
        self._decayed = {kind: _Past(kind, value) for kind, value in (half_lives or {}).items() if value}
        self._scaled_at = -1.0
        self._scales: list[tuple[_Past, float]] = []
        self._moved_to = 0.0
        self.unkept = 0
        """Intervals taken in since the sums were last written down."""

    @staticmethod
    def horizon(half_lives: Mapping[Kind, float] | None) -> float:
        """How far back (seconds) intervals matter."""
        longest = max(half_lives.values()) if half_lives else 0.0
        return max(LONGEST_WINDOW_S, REMEMBERED_HALF_LIVES * longest)

    def follows(self, other: Books) -> bool:
        """Whether the sums of ``other`` were made by the same rules, and may stand in for these."""
        return self._rules == other._rules

    def as_json(self) -> dict[str, Any]:
        """All of it; ``restore`` takes it back, to the last digit."""
        return {
            "format": FORMAT,
            "rules": self._rules,
            "moved_to": self._moved_to,
            "windows": {every: windows.as_json() for every, windows in self._windows.items()},
            "decayed": {kind.value: past.as_json() for kind, past in self._decayed.items()},
        }

    def restore(self, stored: Mapping[str, Any], now: float) -> bool:
        """Takes back what ``as_json`` gave. False, and nothing is taken, where it was made by other rules, or later
        than ``now`` by more than a clock is set back, or has sums that can be none: then they must be made anew. Raises
        KeyError, TypeError, ValueError, AttributeError, and nothing is taken, for what ``as_json`` never gives."""
        if stored.get("format") != FORMAT or stored["rules"] != self._rules or not stored["moved_to"] - DAY_S <= now:
            return False
        windows = {every: known.restored(stored["windows"][every]) for every, known in self._windows.items()}
        decayed = {kind: known.restored(stored["decayed"][kind.value]) for kind, known in self._decayed.items()}
        if not all(one.is_sound for one in windows.values()) or not all(one.is_sound for one in decayed.values()):
            return False
        self._windows, self._decayed, self._moved_to = windows, decayed, float(stored["moved_to"])
        self._scaled_at = -1.0
        return True

    def close(self, charge: Charge, now: float) -> None:
        """Takes in an interval that has ended, at ``now`` or before."""
        self._moved_to = max(self._moved_to, now)
        self.unkept += 1
        for windows in self._windows.values():
            windows.move_to(now)
            windows.add(charge)
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
        _, hours = self._windows[every].at(now)
        return sum(hours.get((*payer, kind), 0.0) for kind in kinds)

    def window(self, every: Every, now: float) -> tuple[float, float]:
        """Begin and end (when it refills) of the window that ``now`` is in."""
        return self._windows[every].at(now)[0]
