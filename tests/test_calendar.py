"""Times of a site: opening hours, budget windows and moments, also on the days on which the clock is changed."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone, tzinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeshare.reservations.calendar import Every, Span, WeekTimes, parse_moment, parse_zone, window

ZURICH = parse_zone("Europe/Zurich")  # 2026: 02:00 to 03:00 on 29 March, 03:00 to 02:00 on 25 October
APIA = parse_zone("Pacific/Apia")  # there was no 30 December 2011
HOUR = 3600

ZONES = st.sampled_from(
    [
        "UTC",
        "Europe/Zurich",
        "America/New_York",
        "America/St_Johns",  # changed at 00:01, so that the old date came back
        "America/Havana",  # changes at 00:00 and 01:00
        "Asia/Kathmandu",  # 5:45
        "Australia/Lord_Howe",  # by half an hour
        "Africa/Casablanca",  # four changes in some years
        "Pacific/Apia",
    ]
).map(parse_zone)
MOMENTS = st.floats(parse_moment("2005-01-01 00:00Z", timezone.utc), parse_moment("2035-01-01 00:00Z", timezone.utc))


def zurich(text: str) -> float:
    return parse_moment(text, ZURICH)


def span_texts() -> st.SearchStrategy[str]:
    days = st.sampled_from(
        ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun", "Mon-Fri", "Sat-Sun", "Fri-Mon", "Mon-Sun"]
    )
    begins = st.sampled_from(["00:00", "00:30", "02:00", "02:30", "03:00", "08:00", "18:00", "22:00", "23:30"])
    ends = st.sampled_from(["00:15", "02:15", "02:45", "06:00", "12:00", "23:00", "24:00"])
    return st.builds("{} {}-{}".format, days, begins, ends)


TIMES = st.lists(span_texts(), min_size=1, max_size=4).map(lambda spans: WeekTimes.parse(", ".join(spans)))


def test_working_hours_hold_from_their_beginning_to_before_their_end() -> None:
    times = WeekTimes.parse("Mon-Fri 08:00-18:00")
    assert [times.contains(zurich(f"2026-11-23 {clock}"), ZURICH) for clock in ("07:59:59", "08:00", "17:59:59")] == [
        False,
        True,
        True,
    ]
    six = zurich("2026-11-23 18:00")
    assert not times.contains(six, ZURICH)
    assert times.next_change(six, ZURICH) == zurich("2026-11-24 08:00")
    assert not times.contains(zurich("2026-11-22 12:00"), ZURICH)


def test_the_same_moment_is_another_time_in_another_zone() -> None:
    times = WeekTimes.parse("Mon 08:00-18:00")
    assert times.contains(zurich("2026-11-23 08:30"), ZURICH)
    assert not times.contains(zurich("2026-11-23 08:30"), parse_zone("America/New_York"))


def test_a_span_over_midnight_ends_on_the_next_day_and_sunday_night_ends_on_monday() -> None:
    times = WeekTimes.parse("Fri 22:00-06:00, Sun 22:00-06:00")
    inside = ["2026-11-27 22:00", "2026-11-28 05:59:59", "2026-11-29 23:00", "2026-11-30 05:00"]
    outside = ["2026-11-27 05:00", "2026-11-28 06:00", "2026-11-28 22:00", "2026-11-30 06:00"]
    assert all(times.contains(zurich(text), ZURICH) for text in inside)
    assert not any(times.contains(zurich(text), ZURICH) for text in outside)


def test_days_may_be_lists_go_round_and_stand_alone() -> None:
    weekend = WeekTimes.parse("sat, SUN")
    assert weekend == WeekTimes.parse("Sat-Sun") == WeekTimes.parse(" Sat-Sun  0:00 - 24:00 ")
    assert [span.day for span in WeekTimes.parse("Fri-Mon").spans] == [0, 4, 5, 6]
    assert WeekTimes.parse("Wed 09:30-12:00").spans == (Span(2, 570, 720),)
    assert str(WeekTimes.parse("Mon-Fri 18:00-08:00, Sat-Sun ")) == "Mon-Fri 18:00-08:00, Sat-Sun"


def test_always_and_never_do_not_change() -> None:
    at = zurich("2026-03-29 00:00")
    always, never = WeekTimes.parse("always"), WeekTimes.parse("Never")
    assert always.contains(at, ZURICH)
    assert always.overlaps(at, at + 1, ZURICH)
    assert not never.contains(at, ZURICH)
    assert not never.overlaps(at, math.inf, ZURICH)
    in_two_parts = WeekTimes.parse("Mon-Sun 08:00-18:00, Mon-Sun 18:00-08:00")
    assert always.next_change(at, ZURICH) is never.next_change(at, ZURICH) is in_two_parts.next_change(at, ZURICH)
    assert always.next_change(at, ZURICH) is None


def test_an_interval_overlaps_when_part_of_it_is_inside_and_touching_is_not_enough() -> None:
    times = WeekTimes.parse("Mon 08:00-18:00")
    sunday, eight = zurich("2026-11-22 12:00"), zurich("2026-11-23 08:00")
    assert not times.overlaps(sunday, eight, ZURICH)
    assert times.overlaps(sunday, eight + 1, ZURICH)
    assert times.overlaps(sunday, math.inf, ZURICH)
    assert not times.overlaps(zurich("2026-11-23 18:00"), zurich("2026-11-30 08:00"), ZURICH)
    assert not times.overlaps(eight, eight, ZURICH)


def test_a_night_is_an_hour_shorter_in_spring_and_longer_in_autumn() -> None:
    night = WeekTimes.parse("Sat 22:00-06:00")
    for began, hours in (("2026-03-28 22:00", 7), ("2026-10-24 22:00", 9), ("2026-11-21 22:00", 8)):
        assert night.next_change(zurich(began), ZURICH) == zurich(began) + hours * HOUR


def test_a_span_that_the_clock_skips_waits_for_the_next_week() -> None:
    times = WeekTimes.parse("Sun 02:00-03:00")
    assert times.next_change(zurich("2026-03-28 12:00"), ZURICH) == zurich("2026-04-05 02:00")


def test_a_span_that_ends_in_the_hour_that_comes_twice_ends_the_first_time() -> None:
    early, late = WeekTimes.parse("Sun 00:00-02:30"), WeekTimes.parse("Sun 02:30-05:00")
    change = zurich("2026-10-25T02:30+02:00")
    again = zurich("2026-10-25T02:15+01:00")
    assert early.next_change(zurich("2026-10-25 00:00"), ZURICH) == change
    assert late.next_change(zurich("2026-10-25 00:00"), ZURICH) == change
    assert late.contains(again, ZURICH)
    assert not early.contains(again, ZURICH)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "'' is not understood.*'always', 'never' or days with times"),
        ("8-18", "'8-18' is not understood"),
        ("Mon 08:00", "'Mon 08:00' is not understood"),
        ("Mon-Fri 08:00-18:00,", "'' is not understood"),
        ("always, Mon", "'always' is not understood"),
        ("Mon-Fry 08:00-18:00", "'Fry' is not a day; days are Mon, Tue"),
        ("Mon 08:00-24:01", "24:01 is not a time of day.*00:00 to 24:00"),
        ("Mon 08:60-09:00", "08:60 is not a time of day"),
        ("Mon 08:00-08:00", "is empty; a whole day is 00:00-24:00"),
        ("Mon 24:00-08:00", "is empty"),
        ("Mon, Wed 08:00-10:00", "are the times for 'Mon', too"),
    ],
)
def test_what_is_not_a_time_of_the_week_is_refused_with_the_valid_form(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as refusal:
        WeekTimes.parse(text)
    assert repr(text) in str(refusal.value)


@given(TIMES, MOMENTS, ZONES)
def test_what_is_inside_is_what_the_clock_on_the_wall_shows(times: WeekTimes, at: float, zone: tzinfo) -> None:
    local = datetime.fromtimestamp(math.floor(at), zone)
    if local.fold:  # the second of two hours belongs to what the first one ended with
        return
    minutes = local.hour * 60 + local.minute
    shown = any(
        begin <= minutes + days * 1440 < end
        for days in (0, 1)
        for day, begin, end in ((span.day, span.begin, span.end) for span in times.spans)
        if day == (local.weekday() - days) % 7
    )
    assert times.contains(at, zone) == shown


@given(TIMES, MOMENTS, ZONES)
def test_nothing_changes_before_the_next_change_and_then_it_does(times: WeekTimes, at: float, zone: tzinfo) -> None:
    change = times.next_change(at, zone)
    now = times.contains(at, zone)
    if change is None:
        change, after = at + 20 * 86400, now
    else:
        after = not now
        assert times.contains(change, zone) == after
    assert change > at
    for part in (0.01, 0.3, 0.5, 0.7, 0.99):
        moment = at + part * (change - at)
        assert moment >= change or times.contains(moment, zone) == now  # two floats side by side have none between them
    assert times.overlaps(at, change, zone) == now
    assert times.overlaps(at, change + 1, zone) == (now or after)


@given(TIMES, MOMENTS, st.floats(0, 10 * 86400), ZONES)
def test_an_interval_overlaps_when_it_begins_inside_or_something_begins_in_it(
    times: WeekTimes, began: float, length: float, zone: tzinfo
) -> None:
    ended = began + length
    inside = False
    at: float | None = began
    while at is not None and at < ended and not inside:
        inside = times.contains(at, zone)
        at = times.next_change(at, zone)
    assert times.overlaps(began, ended, zone) == inside


def test_windows_begin_at_midnight_on_monday_and_on_the_first() -> None:
    at = zurich("2026-11-25 12:34:56")
    expected: dict[Every, tuple[str, str]] = {
        "day": ("2026-11-25", "2026-11-26"),
        "week": ("2026-11-23", "2026-11-30"),
        "month": ("2026-11-01", "2026-12-01"),
    }
    for every, (start, end) in expected.items():
        assert window(at, every, ZURICH) == (zurich(f"{start} 00:00"), zurich(f"{end} 00:00"))


def test_a_day_has_23_hours_in_spring_and_25_in_autumn_and_one_that_never_was_is_left_out() -> None:
    for day, hours in (("2026-03-29", 23), ("2026-10-25", 25), ("2026-12-31", 24)):
        start, end = window(zurich(f"{day} 12:00"), "day", ZURICH)
        assert end - start == hours * HOUR
    start, end = window(parse_moment("2011-12-29 12:00", APIA), "day", APIA)
    assert end - start == 24 * HOUR
    assert datetime.fromtimestamp(end, APIA).day == 31


def test_an_hour_of_the_old_date_that_comes_back_after_midnight_belongs_to_the_new_day() -> None:
    zone = parse_zone("America/St_Johns")  # at 00:01 on 7 November 2010 the clock was set back to 23:01
    midnight = parse_moment("2010-11-07 00:00", zone)
    again = midnight + 0.5 * HOUR
    assert datetime.fromtimestamp(again, zone).day == 6
    start, end = window(again, "day", zone)
    assert start == midnight
    assert end == midnight + 25 * HOUR
    sunday = WeekTimes.parse("Sun")
    assert sunday.contains(again, zone)
    assert (sunday.next_change(start - 1, zone), sunday.next_change(again, zone)) == (start, end)


@given(MOMENTS, st.sampled_from(["day", "week", "month"]), ZONES)
def test_windows_tile_time_without_gap_or_overlap(at: float, every: Every, zone: tzinfo) -> None:
    start, end = window(at, every, zone)
    assert start <= at < end
    assert window(start, every, zone) == window(math.nextafter(end, 0), every, zone) == (start, end)
    assert window(end, every, zone)[0] == end
    assert window(math.nextafter(start, 0), every, zone)[1] == start


def test_a_window_for_anything_else_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'year' is not known: it must be 'day', 'week' or 'month'"):
        window(0.0, "year", ZURICH)  # type: ignore[arg-type]


def test_a_moment_is_read_by_the_clock_of_the_site_or_by_its_own_offset() -> None:
    nine = datetime(2026, 12, 1, 8, tzinfo=timezone.utc).timestamp()
    same = ["2026-12-01 09:00", "2026-12-01T09:00:00", "2026-12-01T08:00Z", "2026-12-01 03:00 -05:00"]
    assert [parse_moment(text, ZURICH) for text in same] == [nine] * 4


def test_a_time_that_the_clock_skips_is_the_moment_of_the_change() -> None:
    change = zurich("2026-03-29T01:00Z")
    assert [zurich(f"2026-03-29 {clock}") for clock in ("02:00", "02:10", "02:59:59", "03:00")] == [change] * 4
    assert parse_moment("2011-12-30 15:00", APIA) == parse_moment("2011-12-31 00:00", APIA)


def test_of_a_time_that_comes_twice_the_first_is_meant_unless_the_offset_says_otherwise() -> None:
    assert zurich("2026-10-25 02:30") == zurich("2026-10-25T00:30Z")
    assert zurich("2026-10-25 02:30+01:00") == zurich("2026-10-25T01:30Z")


@pytest.mark.parametrize(
    "text",
    [
        "tomorrow",
        "2026-12-01",
        "2026-13-01 09:00",
        "2026-02-29 09:00",
        "2026-12-01 25:00",
        "2026-12-01 09:00+99:00",
        "01.12.2026 09:00",
    ],
)
def test_what_is_not_a_moment_is_refused_with_the_valid_form(text: str) -> None:
    with pytest.raises(ValueError, match="such as '2026-12-01 09:00'") as refusal:
        zurich(text)
    assert repr(text) in str(refusal.value)


@given(st.datetimes(datetime(2005, 1, 1), datetime(2035, 1, 1)), st.integers(0, 3000), ZONES)
def test_local_times_keep_their_order_and_those_that_exist_are_what_the_clock_shows(
    local: datetime, minutes: int, zone: tzinfo
) -> None:
    local = local.replace(second=0, microsecond=0)
    text, later = (moment.strftime("%Y-%m-%d %H:%M") for moment in (local, local + timedelta(minutes=minutes)))
    at = parse_moment(text, zone)
    assert at <= parse_moment(later, zone)
    shown = datetime.fromtimestamp(at, zone)
    just_before = datetime.fromtimestamp(at - 1, zone)
    assert shown.replace(tzinfo=None) >= local > just_before.replace(tzinfo=None)
    if shown.replace(tzinfo=None) > local:  # skipped: the clock is changed at this moment
        assert shown.utcoffset() != just_before.utcoffset()


@pytest.mark.parametrize("name", ["Europe", "Europe/Zurch", "", "../../etc/passwd", "/etc/passwd"])
def test_what_is_not_a_zone_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(ValueError, match="is not a time zone: give its IANA name, such as Europe/Zurich"):
        parse_zone(name)


def test_zones_are_known_on_a_machine_without_any() -> None:
    program = (
        "from timeshare.reservations.calendar import parse_moment, parse_zone; "
        "print(parse_moment('2026-07-01 11:00', parse_zone('Asia/Tokyo')))"
    )
    environment = {**os.environ, "PYTHONTZPATH": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) == datetime(2026, 7, 1, 2, tzinfo=timezone.utc).timestamp()
