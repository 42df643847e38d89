"""Arrivals through the real decision: known answers, nothing lost, nothing held twice, and what people see of it."""

from __future__ import annotations

import math
import sys
from argparse import ArgumentParser, Namespace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pools import pool

from timeshare.reservations.kind import Kind
from timeshare.reservations.limits.schema import Limits
from timeshare.reservations.placement import slots_of
from timeshare.reservations.shares import parse_share
from timeshare.reservations.whatif.command import add_try, run_try
from timeshare.reservations.whatif.compare import ALL, entitlements, figures, fill
from timeshare.reservations.whatif.replay import Fate, Outcome, Scenario, replay
from timeshare.reservations.whatif.trace import Arrival, TraceError, read_trace

MONDAY = 1_767_571_200.0  # 2026-01-05, 00:00 UTC
HOUR = 3600.0
ONE = parse_share({"gpus": 1})


def asks(at: float, owner: str, run_s: float = HOUR, **fields: Any) -> Arrival:
    """``at``: hours since Monday. A session on one GPU for 2 hours at most, unless ``fields`` say otherwise."""
    given_ = {"groups": (), "kind": Kind.SESSION, "request": ONE, "time_limit_s": 7200, **fields}
    return Arrival(at=MONDAY + at * HOUR, owner=owner, run_s=run_s, **given_)


def job(at: float, owner: str, run_s: float = HOUR, **fields: Any) -> Arrival:
    return asks(at, owner, run_s, kind=Kind.BATCH, **fields)


def tried(arrivals: list[Arrival], limits: dict[str, Any] | None = None, **world: Any) -> list[Outcome]:
    devices = world.pop("devices", pool("a100"))
    scenario = Scenario(devices, arrivals, keep_stretches=True, **world)
    return replay(scenario, Limits.model_validate(limits or {}))


def hours(moment: float | None) -> float | None:
    """Since Monday."""
    return None if moment is None else (moment - MONDAY) / HOUR


# --- known answers


def test_who_finds_the_device_taken_starts_when_it_is_free_again() -> None:
    first, second = tried([asks(0, "ada"), asks(0.5, "ben")])
    assert (first.wait_s, hours(first.ended_at), first.why) == (0.0, 1.0, "completed")
    assert (second.wait_s, hours(second.ended_at)) == (HOUR / 2, 2.0)
    assert (first.held, first.weighted) == (1.0, 1.0)


def test_a_run_ends_with_its_time_limit() -> None:
    (run,) = tried([asks(0, "ada", run_s=9 * HOUR)])
    assert (hours(run.ended_at), run.why, run.held) == (2.0, "time_limit", 2.0)


def test_a_session_ends_when_it_was_idle_for_so_long_and_a_job_never_does() -> None:
    idle = {"defaults": {"idle": {"after": "30m", "grace": 0}}}
    left = {"run_s": 2 * HOUR, "idle_tail_s": 1.5 * HOUR}
    session, batch = tried([asks(0, "ada", **left), job(0, "ben", **left)], idle, devices=pool("a100", "a100"))
    assert (hours(session.ended_at), session.why, session.held, session.idle) == (1.0, "idle", 1.0, 0.5)
    assert (hours(batch.ended_at), batch.idle) == (2.0, 0.0)
    (kept,) = tried([asks(0, "ada", **left)])
    assert (kept.held, kept.idle) == (2.0, 1.5)


def test_nothing_counts_as_idle_in_the_grace_after_the_start() -> None:
    idle = {"defaults": {"idle": {"after": "30m", "grace": "15m"}}}
    (session,) = tried([asks(0, "ada", run_s=HOUR, idle_tail_s=HOUR)], idle)
    assert (hours(session.ended_at), session.why) == (0.75, "idle")


def test_refusals_have_the_codes_of_the_service() -> None:
    limits = {"defaults": {"sessions": {"at_once": 1, "max_time": "1h"}, "models": ["a*"]}}
    codes = [
        outcome.why
        for outcome in tried(
            [
                asks(0, "ada", time_limit_s=3600),
                asks(0.1, "ada", time_limit_s=3600),
                asks(0.2, "ben", time_limit_s=3601),
                asks(0.3, "cleo", time_limit_s=None, request=parse_share({"gpus": 1, "model": "t4"})),
                asks(0.4, "dora", time_limit_s=60, request=parse_share({"gpus": 3})),
            ],
            limits,
        )
    ]
    assert codes == ["completed", "too-many-sessions", "invalid", "unknown-model", "too-large"]


def test_what_was_extended_is_not_refused_for_its_length_but_cut() -> None:
    limits = {"defaults": {"sessions": {"max_time": "1h", "default_time": "1h"}}}
    (cut,) = tried([asks(0, "ada", run_s=5 * HOUR, time_limit_s=18000, extended=True)], limits)
    assert (cut.why, cut.held) == ("time_limit", 1.0)


def test_a_budget_that_two_share_is_not_given_out_twice() -> None:
    limits = {"groups": {"cms": {"budgets": [{"gpu_hours": 3, "every": "day"}]}}}
    both = tried(
        [asks(1, "ada", 2 * HOUR, groups=("cms",)), asks(1, "ben", 2 * HOUR, groups=("cms",))],
        limits,
        devices=pool("a100", "a100"),
    )
    assert [(outcome.fate.value, outcome.why) for outcome in both] == [("finished", "completed"), ("refused", "budget")]
    assert [outcome.held for outcome in both] == [2.0, 0.0]


OFFICE = {
    "groups": {"cms": {"quota": 1}, "atlas": {"quota": 0}},
    "pools": {"all": {"preempt": {"when": "Mon-Fri 08:00-18:00", "after": "30m", "grace": "2m"}}},
}


def test_a_person_in_office_hours_has_over_quota_batch_preempted_and_it_runs_again() -> None:
    batch = job(7.0, "ben", 3 * HOUR, groups=("atlas",), time_limit_s=4 * 3600)
    person = asks(9.0, "ada", HOUR, groups=("cms",))
    run, session = tried([batch, person], OFFICE)
    assert session.wait_s == 120
    assert (run.preemptions, run.fate, run.lost) == (1, Fate.FINISHED, pytest.approx(2 + 2 / 60))
    # From 7:00 to 9:02 in vain, then all of it once the person has gone at 10:02.
    assert hours(run.ended_at) == pytest.approx(13 + 2 / 60)
    assert run.held == pytest.approx(5 + 2 / 60)
    run, _ = tried([batch, person], OFFICE, checkpoints=True)
    assert (run.held, run.lost) == (pytest.approx(3.0), 0.0)


def test_before_office_hours_the_person_waits_until_they_begin() -> None:
    batch = job(6.0, "ben", 3 * HOUR, groups=("atlas",), time_limit_s=4 * 3600)
    _, session = tried([batch, asks(7.0, "ada", groups=("cms",))], OFFICE)
    assert session.wait_s == HOUR + 120


def test_what_does_not_end_in_time_is_unfinished_and_counts_as_far_as_it_came() -> None:
    runs, waits, late = tried([asks(0, "ada", 2 * HOUR), asks(0.5, "ben"), asks(5, "cleo")], until=MONDAY + HOUR)
    assert [outcome.fate for outcome in (runs, waits, late)] == [Fate.UNFINISHED] * 3
    assert (runs.held, waits.held, waits.started_at, late.started_at) == (1.0, 0.0, None, None)


# --- what always holds

SHARES = [{"gpus": 1}, {"gpus": 2}, {"memory_gib": 10}, {"memory_gib": 30, "compute_percent": 20}, {"cpu_only": True}]
RULES: dict[str, Any] = {
    "weights": {"t4": 0.5},
    "defaults": {"gpus": 3, "waiting": 5, "idle": {"after": "20m"}, "budgets": [{"gpu_hours": 6, "every": "day"}]},
    "groups": {"cms": {"shares": 3, "quota": 2}, "atlas": {"quota": 1}},
    "fair_share": {},
    "pools": {
        "big": {
            "models": ["a100"],
            "keep_for_sessions": {"gpus": 1, "when": "Mon-Fri 08:00-18:00"},
            "preempt": {"after": "10m", "grace": "1m"},
        }
    },
    "maintenance": [{"name": "work", "begins": "2026-01-05 12:00", "ends": "2026-01-05 14:00", "pool": "big"}],
}
ARRIVALS = st.lists(
    st.builds(
        lambda at, who, kind, share, limit, run, tail: asks(
            at / 60,
            who,
            float(run),
            groups=("cms",) if who < "c" else ("atlas",) if who < "d" else (),
            kind=kind,
            request=parse_share(share),
            time_limit_s=limit,
            idle_tail_s=float(min(run, tail)),
        ),
        st.integers(0, 30 * 60),
        st.sampled_from(["ada", "ben", "cleo", "dora"]),
        st.sampled_from(list(Kind)),
        st.sampled_from(SHARES),
        st.sampled_from([None, 600, 3600, 7200]),
        st.integers(0, 10800),
        st.integers(0, 7200),
    ),
    max_size=25,
).map(lambda found: sorted(found, key=lambda arrival: arrival.at))


@given(ARRIVALS, st.booleans())
def test_nothing_is_lost_and_nothing_is_held_beyond_what_there_is(arrivals: list[Arrival], ruled: bool) -> None:
    devices = pool("a100", "a100", "t4")
    outcomes = tried(arrivals, RULES if ruled else None, devices=devices)
    assert [outcome.arrival for outcome in outcomes] == arrivals
    for outcome in outcomes:
        assert outcome.fate is not Fate.UNFINISHED
        assert (outcome.ended_at is not None) == (outcome.fate is Fate.FINISHED)
        assert 0 <= outcome.idle <= outcome.held + 1e-9
        assert 0 <= outcome.lost <= outcome.held + 1e-9
    for slot in slots_of(devices):
        steps: list[tuple[float, int, int, int]] = []
        for began, ended, holdings in (part for outcome in outcomes for part in outcome.stretches):
            for holding in holdings:
                if holding.key == slot.key and ended > began:
                    steps += [
                        (began, 1, holding.memory_mib, holding.compute),
                        (ended, 0, -holding.memory_mib, -holding.compute),
                    ]
        memory = compute = 0
        for _, _, more_memory, more_compute in sorted(steps):
            memory, compute = memory + more_memory, compute + more_compute
            assert memory <= slot.memory_mib
            assert compute <= slot.compute


@given(ARRIVALS)
def test_the_same_limits_twice_give_the_same(arrivals: list[Arrival]) -> None:
    assert tried(arrivals, RULES, devices=pool("a100", "t4")) == tried(arrivals, RULES, devices=pool("a100", "t4"))


@given(st.dictionaries(st.text(max_size=3), st.tuples(st.floats(0, 1e6), st.floats(0.01, 100)), min_size=1))
def test_filling_gives_nobody_more_than_she_wants_and_leaves_nothing_that_is_wanted(
    people: dict[str, tuple[float, float]],
) -> None:
    wanted = {name: want for name, (want, _) in people.items()}
    amount = sum(wanted.values()) / 2
    given_ = fill(amount, wanted, {name: shares for name, (_, shares) in people.items()})
    assert all(0 <= given_[name] <= wanted[name] for name in wanted)
    assert math.isclose(sum(given_.values()), amount, rel_tol=1e-9, abs_tol=1e-9)


def test_filling_goes_by_shares() -> None:
    wanted = {"much": 100.0, "little": 10.0, "some": 100.0, "none": 100.0}
    shares = {"much": 2.0, "little": 2.0, "some": 1.0, "none": 0.0}
    assert fill(100, wanted, shares) == pytest.approx({"much": 60, "little": 10, "some": 30, "none": 0})


def test_under_saturation_groups_and_people_receive_their_shares() -> None:
    limits = Limits.model_validate(
        {
            "fair_share": {"half_life": {"session": "4h", "batch": "4h"}, "age_weight": 0},
            "groups": {"cms": {"shares": 50}, "atlas": {"shares": 30}, "theory": {"shares": 20}},
            "defaults": {"jobs": {"at_once": 1000}},
        }
    )
    names = [(f"{group}{number}", group) for group in limits.groups for number in range(2)]
    arrivals = [job(0, who, 900.0, groups=(group,), time_limit_s=1800) for _ in range(90) for who, group in names]
    scenario = Scenario(pool(*["a100"] * 6), arrivals, until=MONDAY + 3 * 4 * HOUR)
    outcomes = replay(scenario, limits)
    received, entitled, _ = entitlements(scenario, limits, outcomes)
    assert figures(scenario, limits, outcomes)[ALL].jain >= 0.95
    total = sum(received.values())
    assert max(abs(received[who] - entitled[who]) / total for who in received) <= 0.05


# --- traces

HEAD = "submitted_at,owner,groups,kind,gpus,memory_gib,model,time_limit_s,run_s,idle_s\n"
GOOD = HEAD + (
    "2026-01-05T09:30:00+01:00,ada,cms;atlas,session,1,,a100-40gb,3600,1800,600\n1767571200,ben,,batch,,10,,,7200,\n"
)


def written(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_trace_is_read_by_time(tmp_path: Path) -> None:
    ben, ada = read_trace(written(tmp_path, GOOD))
    assert ada == Arrival(
        MONDAY + 8.5 * HOUR,
        "ada",
        ("cms", "atlas"),
        Kind.SESSION,
        parse_share({"gpus": 1, "model": "a100-40gb"}),
        3600,
        1800.0,
        600.0,
    )
    assert (ben.kind, ben.time_limit_s, ben.groups) == (Kind.BATCH, None, ())
    assert ben.request == parse_share({"memory_gib": 10})


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("tomorrow,ada,,,1,,,,60,", "line 2: submitted_at is 'tomorrow': must be RFC 3339"),
        ("nan,ada,,,1,,,,60,", "submitted_at"),
        ("1e20,ada,,,1,,,,60,", "submitted_at is '1e20'"),
        ("0,,,,1,,,,60,", "owner is '': must be a name"),
        ("0,ada,,lecture,1,,,,60,", "kind is 'lecture': must be session or batch"),
        ("0,ada,,,,,,,60,", "line 2: no share asked for: give exactly one of"),
        ("0,ada,,,1,2,,,60,", "two shapes at once"),
        ("0,ada,,,some,,,,60,", "gpus is 'some': must be a whole number"),
        ("0,ada,,,1,,A100,,60,", "model is 'A100': must be a model name"),
        ("0,ada,,,1,,,30,60,", "time_limit_s is '30': must be a number of seconds from 60"),
        ("0,ada,,,1,,,,-1,", "run_s is '-1'"),
        ("0,ada,,,1,,,,inf,", "run_s is 'inf'"),
        ("0,ada,,,1,,,,,", "run_s is ''"),
        ("0,ada,,,1,,,,60,61", "idle_s is '61': is part of run_s, so it must be at most 60"),
        ("0,ada", "line 2: has not the 10 fields"),
    ],
)
def test_what_is_wrong_in_a_trace_is_told_with_line_column_value_and_rule(tmp_path: Path, row: str, told: str) -> None:
    with pytest.raises(TraceError) as caught:
        read_trace(written(tmp_path, HEAD + row + "\n"))
    assert told in str(caught.value)
    assert "trace.csv, line 2" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("owner,run_s\n", "the column 'submitted_at' is missing"),
        ("submitted_at,owner,run_s,colour\n", "the column 'colour' is not known"),
        ("submitted_at,owner,owner,run_s\n", "the column 'owner' stands there twice"),
        (HEAD, "has no arrivals"),
        ("", "the column 'submitted_at' is missing"),
    ],
)
def test_a_wrong_heading_is_told(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(TraceError, match="trace") as caught:
        read_trace(written(tmp_path, text))
    assert told in str(caught.value)


def test_what_is_no_trace_at_all_is_told(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="No such file"):
        read_trace(tmp_path / "none.csv")
    (tmp_path / "picture").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(TraceError, match="UTF-8"):
        read_trace(tmp_path / "picture")


# --- the command


def options(folder: Path, *more: str) -> Namespace:
    parser = ArgumentParser()
    kinds = parser.add_subparsers()
    add_try(kinds, lambda command: command.add_argument("--state", default=""), lambda found: folder / found.state)
    written(folder, "defaults: {sessions: {max_time: 1h, default_time: 1h}}\n", "new.yaml")
    written(folder, "{}\n", "old.yaml")
    output = ["--output", str(folder / "out.html")]
    return parser.parse_args(["try", str(folder / "new.yaml"), *output, *more])


def with_trace(folder: Path) -> list[str]:
    trace = written(folder, GOOD + "2026-01-05T12:00:00Z,<b>eve</b>,,,1,,,7200,60,\n")
    return ["--trace", str(trace), "--against", str(folder / "old.yaml"), "--devices", "a100-40gb:2"]


class _Tags(HTMLParser):
    """Fails where tags do not match; keeps what a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_command_prints_a_table_and_writes_one_page_that_needs_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_try(options(tmp_path, *with_trace(tmp_path))) == 0
    told = capsys.readouterr()
    assert "3 requests of 3 people on 2 devices" in told.out
    assert "refused: invalid" in told.out
    assert told.err == ""
    page = (tmp_path / "out.html").read_text()
    tags = _Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    assert {"svg", "table"} <= tags.seen
    assert not tags.seen & {"script", "img", "link", "iframe", "object"}
    assert all(target.startswith("#") for target in tags.loads)
    assert "url(http" not in page


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--trace", "none.csv", "--against", "OLD", "--devices", "t4:1"], "none.csv: cannot be read"),
        (["--trace", "TRACE", "--against", "OLD", "--devices", "t4:many"], "write model:count"),
        (["--trace", "TRACE", "--against", "gone.yaml", "--devices", "t4:1"], "gone.yaml: cannot be read"),
        (["--trace", "TRACE", "--devices", "t4:1"], "is timeshare started?"),
        (["--history", "--against", "OLD", "--devices", "t4:1"], "is timeshare started?"),
        (["--history", "--days", "0", "--against", "OLD", "--devices", "t4:1"], "--days is 0: it must be above 0"),
    ],
)
def test_what_cannot_be_tried_is_told_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], told: str
) -> None:
    known = {"TRACE": str(written(tmp_path, GOOD)), "OLD": str(tmp_path / "old.yaml")}
    assert run_try(options(tmp_path, *(known.get(word, word) for word in more))) == 1
    error = capsys.readouterr().err
    assert error.startswith("timeshare limits try: ")
    assert told in error


def test_there_is_a_bar_only_where_somebody_looks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Terminal:
        text = ""

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            self.text += text
            return len(text)

        def flush(self) -> None:
            """Nothing is kept back."""

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert run_try(options(tmp_path, *with_trace(tmp_path))) == 0
    assert "100 %  both limits\n" in terminal.text
