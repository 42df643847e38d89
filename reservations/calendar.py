"""Times of a site in its own time zone: office hours, budget windows, dates. Pure; times are seconds since the
epoch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from functools import lru_cache
from zoneinfo import ZoneInfo

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
ALL_DAY = (0, 24 * 60)
FORM = 'must be times such as "Mon-Fri 08:00-18:00", "Sat,Sun", "always" or "never"; several are separated by ;'
_SPAN = re.compile(r"([0-2]?\d):([0-5]\d)-([0-2]?\d):([0-5]\d)")


@dataclass(frozen=True)
class WeekTimes:
    """Times that come again every week. ``spans``: day of the week (0: Monday), and from and until in minutes of that
    day; a span over midnight ends beyond 24 h."""

    spans: tuple[tuple[int, int, int], ...]
    always: bool = False

    @staticmethod
    @lru_cache(maxsize=256)
    def parse(text: str) -> WeekTimes:
        """Raises ValueError saying the value and the form."""
        plain = " ".join(text.split())
        if plain == "always":
            return WeekTimes((), always=True)
        if plain == "never":
            return WeekTimes(())
        spans = [span for part in plain.split(";") for span in _part(part.strip(), text)]
        return WeekTimes(tuple(sorted(spans)))

    def contains(self, at: float, zone: ZoneInfo) -> bool:
        return self.always or any(began <= at < ended for began, ended in self._around(at, zone))

    def next_change(self, at: float, zone: ZoneInfo) -> float | None:
        """The next time after ``at`` at which ``contains`` changes; None if it never does."""
        inside = self.contains(at, zone)
        edges = sorted({edge for pair in self._around(at, zone, days=8) for edge in pair if edge > at})
        return next((edge for edge in edges if self.contains(edge, zone) is not inside), None)

    def overlaps(self, began: float, ended: float, zone: ZoneInfo) -> bool:
        """Whether some moment of [began, ended) lies within."""
        if ended <= began:
            return False
        if self.contains(began, zone):
            return True
        change = self.next_change(began, zone)
        return change is not None and change < ended

    def _around(self, at: float, zone: ZoneInfo, days: int = 1) -> Iterator[tuple[float, float]]:
        today = datetime.fromtimestamp(at, zone).date()
        for offset in range(-2, days + 1):
            day = today + timedelta(days=offset)
            for weekday, first, last in self.spans:
                if weekday == day.weekday():
                    yield _moment(day, first, zone), _moment(day, last, zone)


def _part(text: str, whole: str) -> Iterator[tuple[int, int, int]]:
    days, _, hours = text.partition(" ")
    if _SPAN.fullmatch(days) and not hours:
        days, hours = "Mon-Sun", days
    first, last = _hours(hours, whole)
    for item in days.split(","):
        start, _, end = item.partition("-")
        if start not in DAYS or (end and end not in DAYS):
            raise ValueError(f"{whole!r}: {FORM}")
        number = DAYS.index(start)
        for step in range((DAYS.index(end or start) - number) % 7 + 1):
            yield (number + step) % 7, first, last


def _hours(text: str, whole: str) -> tuple[int, int]:
    if not text:
        return ALL_DAY
    match = _SPAN.fullmatch(text)
    if match is None:
        raise ValueError(f"{whole!r}: {FORM}")
    first, last = int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])
    if first >= 1440 or last > 1440 or first == last:
        raise ValueError(f"{whole!r}: {FORM}")
    return first, last if last > first else last + 1440


def _moment(day: date, minutes: int, zone: ZoneInfo) -> float:
    """By the clock on the wall: on a day of a clock change 08:00 is still what people read as 08:00."""
    day += timedelta(days=minutes // 1440)
    return datetime.combine(day, time(minutes % 1440 // 60, minutes % 60), zone).timestamp()


def window(at: float, every: str, zone: ZoneInfo) -> tuple[float, float]:
    """Begin and end of the ``day``, ``week`` (from Monday) or ``month`` that ``at`` is in."""
    day = datetime.fromtimestamp(at, zone).date()
    if every == "day":
        first, after = day, day + timedelta(days=1)
    elif every == "week":
        first = day - timedelta(days=day.weekday())
        after = first + timedelta(days=7)
    elif every == "month":
        first = day.replace(day=1)
        after = (first + timedelta(days=32)).replace(day=1)
    else:
        raise ValueError(f"{every!r}: must be day, week or month")
    return _moment(first, 0, zone), _moment(after, 0, zone)


def parse_moment(text: str, zone: ZoneInfo) -> float:
    """``2026-12-01 09:00``, in ``zone`` unless it has an offset of its own (ISO 8601).

    A time that a clock change skips is taken as if the change had not come yet; of one that comes twice, the first.
    Raises ValueError with the rule.
    """
    try:
        found = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(f"{text!r}: must be a date and time such as 2026-12-01 09:00") from None
    if found.tzinfo is None:
        found = found.replace(tzinfo=zone)
    try:
        return found.astimezone(timezone.utc).timestamp()
    except OverflowError:
        raise ValueError(f"{text!r}: must be a date and time such as 2026-12-01 09:00") from None
