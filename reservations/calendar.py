"""Times of a site, as the clock on its wall shows them: opening hours, budget windows, announced moments. Pure.

One rule for every local time, also on the two days of the year on which the clock is changed: it stands for the first
moment at which that clock shows it or a later time. So one that is skipped in spring is the moment of the change, and
one that comes twice in autumn is the first of the two. Times keep their order, spans that meet on the clock meet in
fact, and each span of a day is one stretch, an hour shorter or longer if the change is inside.

Moments are seconds since the epoch; zones are ``zoneinfo`` zones (any ``tzinfo`` works).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, tzinfo
from typing import Literal
from zoneinfo import ZoneInfo

Every = Literal["day", "week", "month"]
Stretch = tuple[float, float]

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY_MINUTES = 24 * 60
_HORIZON_DAYS = 28  # a span may be empty on the day of a change; in four weeks every span has come
_TIMES_FORM = (
    "'always', 'never' or days with times, separated by commas, such as 'Mon-Fri 08:00-18:00, Sat 22:00-06:00'"
)
_MOMENT_FORM = "a date and time such as '2026-12-01 09:00', or with an offset from UTC '2026-12-01T09:00+01:00'"
_ITEM = re.compile(r"([A-Za-z]{3})(?:\s*-\s*([A-Za-z]{3}))?(?:\s+(\d{1,2}:\d{2})\s*-\s*(\d{1,2}:\d{2}))?", re.ASCII)
_MOMENT = re.compile(r"(\d{4}-\d{2}-\d{2})[T ](\d{2}:\d{2}(?::\d{2})?)\s?(Z|[+-](?:0\d|1[0-4]):[0-5]\d)?", re.ASCII)


def parse_zone(name: str) -> ZoneInfo:
    """The time zone of that name in the IANA list. Raises ValueError with the rule when there is none."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:  # OSError: "Europe" is a folder
        raise ValueError(f"{name!r} is not a time zone: give its IANA name, such as Europe/Zurich or UTC") from error


def parse_moment(text: str, zone: tzinfo) -> float:
    """The moment, in seconds, of ``2026-12-01 09:00`` (``T`` or a space, seconds if wanted) by the clock of ``zone``.

    An offset (``+01:00`` or ``Z``) at the end takes the place of ``zone``. Without one, a time that the clock skips is
    the moment of the change, and of one that comes twice the first is meant. Raises ValueError with the valid form.
    """
    match = _MOMENT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text[:60]!r} is not a moment: write {_MOMENT_FORM}")
    offset = match[3] or ""
    try:
        given = datetime.fromisoformat(f"{match[1]}T{match[2]}{'+00:00' if offset == 'Z' else offset}")
        return given.timestamp() if offset else _moment(given, zone)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text[:60]!r} is not a moment ({error}): write {_MOMENT_FORM}") from error


def window(at: float, every: Every, zone: tzinfo) -> Stretch:
    """Beginning and end of the day, week or month that ``at`` is in, by the clock of ``zone``.

    A budget for each of them is refilled at the end. Weeks begin on Monday. Raises ValueError for another ``every``.
    """
    if every not in ("day", "week", "month"):
        raise ValueError(f"a budget for every {every!r} is not known: it must be 'day', 'week' or 'month'")
    first = _local_date(at, zone)
    if every == "week":
        first -= timedelta(days=first.weekday())
    elif every == "month":
        first = first.replace(day=1)
    start = _midnight(first, zone)
    while True:
        first = _next_first(first, every)
        end = _midnight(first, zone)
        # A clock set back over midnight shows the old date once more; the new day has begun already.
        if at < end:
            return start, end
        start = end


def _next_first(first: date, every: Every) -> date:
    if every == "month":
        return (first + timedelta(days=31)).replace(day=1)
    return first + timedelta(days=7 if every == "week" else 1)


@dataclass(frozen=True, order=True)
class Span:
    """Part of a week: from ``begin`` to before ``end``, minutes after 00:00 of ``day`` (0 is Monday).

    ``end`` lies beyond 1440 when the span goes on after midnight.
    """

    day: int
    begin: int
    end: int


@dataclass(frozen=True)
class WeekTimes:
    """Times that come back every week. ``text`` is how they were written; it plays no part in comparisons."""

    spans: tuple[Span, ...]
    text: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.text

    @classmethod
    def parse(cls, text: str) -> WeekTimes:
        """Reads ``always``, ``never``, or days with times: ``Mon-Fri 08:00-18:00, Fri 22:00-06:00, Sat-Sun``.

        Days without times are whole days and come last in a list, so that nobody takes them for days of the times that
        follow. A span whose end is not after its beginning ends on the next day; days may go round (``Fri-Mon``); the
        last minute of a day is before ``24:00``. Raises ValueError with the value and the valid form.
        """
        written = text.strip()
        if written.lower() == "never":
            return cls((), written)
        spans: list[Span] = []
        whole = ""
        for item in ("Mon-Sun" if written.lower() == "always" else written).split(","):
            days, times = _parse_item(item.strip(), text)
            if times and whole:
                message = f"are the times for {whole!r}, too? Write its times, or put it last if whole days are meant"
                raise ValueError(f"{text!r}: {message}")
            whole = "" if times else item.strip()
            spans += [Span(day, *(times or (0, _DAY_MINUTES))) for day in days]
        return cls(tuple(sorted(set(spans))), written)

    def contains(self, at: float, zone: tzinfo) -> bool:
        """Whether ``at`` (seconds) is within these times by the clock of ``zone``."""
        return any(began <= at < ended for began, ended in self._stretches(at, zone, days_ahead=1))

    def overlaps(self, began: float, ended: float, zone: tzinfo) -> bool:
        """Whether any moment from ``began`` to before ``ended`` (seconds; may be infinite) is within these times."""
        stretches = self._stretches(began, zone, _HORIZON_DAYS)
        first = next((start for start, end in stretches if end > began), math.inf)
        return began < ended and first < ended

    def next_change(self, at: float, zone: tzinfo) -> float | None:
        """The first moment after ``at`` (seconds) at which these times begin or end; None when they never do."""
        found = self._open_after(at, zone)
        if found is None:
            return None
        began, ended = found
        if at < began:
            return began
        last = _midnight(_local_date(at, zone) + timedelta(days=_HORIZON_DAYS), zone)
        return ended if ended < last else None

    def _open_after(self, at: float, zone: tzinfo) -> Stretch | None:
        """The first stretch within these times that ends after ``at``, joined with those that meet it."""
        found: Stretch | None = None
        for began, ended in self._stretches(at, zone, _HORIZON_DAYS):
            if found is None:
                found = (began, ended) if ended > at else None
            elif began <= found[1]:
                found = (found[0], max(found[1], ended))
            else:
                break
        return found

    def _stretches(self, at: float, zone: tzinfo, days_ahead: int) -> Iterator[Stretch]:
        """The spans around ``at`` as stretches of time, by their beginnings; some may meet or overlap.

        They are looked for from the day before, for spans over midnight, to ``days_ahead``, 1 or more: when a clock set
        back over midnight shows the old date once more, the next day's spans have begun.
        """
        today = _local_date(at, zone)
        for ahead in range(-1, days_ahead + 1):
            day = today + timedelta(days=ahead)
            midnight = datetime.combine(day, time())
            for span in self.spans:
                if span.day == day.weekday():
                    began = _moment(midnight + timedelta(minutes=span.begin), zone)
                    ended = _moment(midnight + timedelta(minutes=span.end), zone)
                    if began < ended:  # all of it may be skipped by the clock
                        yield began, ended


def _parse_item(item: str, text: str) -> tuple[list[int], tuple[int, int] | None]:
    """Days (0 is Monday) and times (minutes; None for whole days) of one item of ``text``."""
    match = _ITEM.fullmatch(item)
    if match is None:
        raise ValueError(f"{text!r} are not times of a week ({item!r} is not understood): write {_TIMES_FORM}")
    first = _day(match[1], text)
    last = _day(match[2], text) if match[2] else first
    days = [(first + i) % 7 for i in range((last - first) % 7 + 1)]
    if match[3] is None:
        return days, None
    begin, end = (_minutes(clock, text) for clock in (match[3], match[4]))
    if begin in (end, _DAY_MINUTES):
        raise ValueError(f"{text!r}: {match[3]}-{match[4]} is empty; a whole day is 00:00-24:00")
    return days, (begin, end if begin < end else end + _DAY_MINUTES)


def _day(name: str, text: str) -> int:
    if name.title() not in _DAYS:
        raise ValueError(f"{text!r}: {name!r} is not a day; days are {', '.join(_DAYS)}")
    return _DAYS.index(name.title())


def _minutes(clock: str, text: str) -> int:
    """Minutes after midnight of ``08:30``."""
    hours, minutes = (int(part) for part in clock.split(":"))
    if minutes > 59 or hours * 60 + minutes > _DAY_MINUTES:
        raise ValueError(f"{text!r}: {clock} is not a time of day; these go from 00:00 to 24:00")
    return hours * 60 + minutes


def _local_date(at: float, zone: tzinfo) -> date:
    # Rounded down: fromtimestamp alone takes the last half microsecond of a day for the next one.
    return datetime.fromtimestamp(math.floor(at), zone).date()


def _midnight(day: date, zone: tzinfo) -> float:
    return _moment(datetime.combine(day, time()), zone)


def _moment(local: datetime, zone: tzinfo) -> float:
    """The first moment (seconds) at which the clock of ``zone`` shows ``local`` (naive) or a later time."""
    # PEP 495: fold 0 is the first of two; of a skipped time, fold 0 lies after the change and fold 1 before it.
    after = local.replace(tzinfo=zone, fold=0).timestamp()
    before = local.replace(tzinfo=zone, fold=1).timestamp()
    if before >= after:
        return after
    skipped = _offset(before, zone)
    while after - before > 0.5:  # changes are at whole seconds
        middle = (before + after) / 2
        before, after = (middle, after) if _offset(middle, zone) == skipped else (before, middle)
    return float(round(after))


def _offset(at: float, zone: tzinfo) -> timedelta | None:
    return datetime.fromtimestamp(at, zone).utcoffset()
