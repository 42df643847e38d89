"""When an idle session gives its GPU back: histories as sentences, and what holds for all of them."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from timeshare.idle_culler.rules import Action, Facts, Rules, decide
from timeshare.reservations.activity import GAP_S, SAME_INPUT_S, Sample, Thresholds, Watched, idle, watch, working

MINUTE = 60.0
HOUR = 60
IDLE: dict[str, Any] = {"kernel_busy_s": 0.0, "gpu": 0.0, "cpu": 1.0, "terminal": False, "input_at": 0.0}
TRAINS = {**IDLE, "kernel_busy_s": 1.0, "gpu": 90.0, "cpu": 100.0}
SILENT = {**IDLE, "kernel_busy_s": 1.0}
"""A kernel that runs a cell, and neither GPU nor CPU does anything."""
RULES = Rules(after=60 * MINUTE, grace=15 * MINUTE, warn=(10 * MINUTE, 2 * MINUTE))
USUAL = Thresholds()
CAPPED = Thresholds(busy_cap_s=120 * MINUTE)


@dataclass
class Told:
    """What became of a session: minutes of its first warning, and of the end of its share (None: it was kept)."""

    warned: int | None = None
    ended: int | None = None
    why: str = ""


def live(
    *parts: tuple[int, dict[str, Any] | None],
    rules: Rules = RULES,
    thresholds: Thresholds = USUAL,
    deliverable: bool = True,
    **more: Any,
) -> Told:
    """Runs the rules once a minute over parts of so many minutes each; None: nothing is heard in it."""
    told, watched, warned_at, minute, busy_since = Told(), None, None, 0, None
    for minutes, signals in parts:
        for _ in range(minutes):
            minute += 1
            now = minute * MINUTE
            if signals is not None:
                busy = signals.get("kernel_busy_s", None)
                busy_since = None if not busy else busy_since if busy_since is not None else now
                at = signals.get("at", now)
                shown = {**signals, "at": at, "kernel_busy_s": now - busy_since + 1 if busy_since is not None else busy}
                watched = watch(watched, Sample(**shown), thresholds, now)
            decision = decide(Facts(0.0, watched, warned_at=warned_at, **more), rules, now)
            told.why = decision.why
            if decision.action is Action.WARN and (warned_at is None or warned_at < (decision.idle_since or 0)):
                told.warned = minute if told.warned is None else told.warned
                warned_at = now if deliverable else None
            if decision.action is Action.GIVE_BACK:
                told.ended = minute
                return told
    return told


KEPT: dict[str, list[tuple[int, dict[str, Any] | None]]] = {
    "a silent cell that keeps the GPU busy for ten hours": [(10 * HOUR, {**SILENT, "gpu": 97.0})],
    "a silent cell that only computes on the CPU": [(10 * HOUR, {**SILENT, "cpu": 99.0})],
    "a cell that waits, for without a cap every running cell is work": [(10 * HOUR, SILENT)],
    "a training in a terminal": [(10 * HOUR, {**IDLE, "terminal": True})],
    "a training in a terminal that only shows on the GPU": [(10 * HOUR, {**IDLE, "gpu": 60.0})],
    "data that is loaded for 20 minutes between epochs": [(30, TRAINS), (20, {**SILENT, "cpu": 80.0})] * 6,
    "pauses of 50 minutes between cells": [(5, TRAINS), (50, IDLE)] * 6,
    "a GPU that is used for a minute in every 40": [(1, TRAINS), (39, IDLE)] * 8,
    "a debugger that waits for its person, within the cap": [(100, SILENT)],
    "a MIG slice of which nobody can measure the use": [(10 * HOUR, {**IDLE, "gpu": None})],
    "processes of which the driver tells nothing": [(30, TRAINS), (10 * HOUR, {**IDLE, "gpu": None})],
    "CPU use that is unknown": [(10 * HOUR, {**IDLE, "cpu": None})],
    "kernels of which nobody reports": [(10 * HOUR, {**IDLE, "kernel_busy_s": None})],
    "terminals of which nobody reports": [(10 * HOUR, {**IDLE, "terminal": None})],
    "input of which nobody reports": [(10 * HOUR, {**IDLE, "input_at": None})],
    "a session of which nothing was ever heard": [(10 * HOUR, None)],
    "a sampler that died": [(20, TRAINS), (10 * HOUR, None)],
    "a sampler that died while the session was idle": [(50, IDLE), (10 * HOUR, None)],
    "telemetry that is away for five minutes of every half hour": [(25, IDLE), (5, None)] * 10,
    "telemetry that is frozen at 0": [(20, IDLE), (10 * HOUR, {**IDLE, "at": 20 * MINUTE})],
    "telemetry that is frozen at 100": [(20, TRAINS), (10 * HOUR, {**TRAINS, "at": 20 * MINUTE})],
    "a clock that stepped a day ahead": [(20, IDLE), (10 * HOUR, {**IDLE, "at": 86400 * 2})],
    "a person who types every half hour and runs nothing": [
        part for n in range(8) for part in [(30, {**IDLE, "input_at": n * 30 * MINUTE})]
    ],
    "a session that has just begun": [(14, IDLE)],
    "an hour that is not full": [(15 + 59, IDLE)],
    "work that comes back after the warning": [(15 + 52, IDLE), (5, TRAINS), (40, IDLE)],
    "a keystroke after the warning": [(15 + 52, IDLE), (30, {**IDLE, "input_at": (15 + 53) * MINUTE})],
    "a GPU that only hums, yet at its threshold": [(10 * HOUR, {**IDLE, "gpu": 5.0})],
    "a core that is a tenth used": [(10 * HOUR, {**IDLE, "cpu": 10.0})],
}


@pytest.mark.parametrize("name", KEPT)
def test_kept_is(name: str) -> None:
    told = live(*KEPT[name], thresholds=CAPPED if "within the cap" in name else Thresholds())
    assert told.ended is None, told.why
    assert told.why


GIVEN_BACK: dict[str, tuple[list[tuple[int, dict[str, Any] | None]], int, int]] = {
    # what happened, the minute of the warning, the minute in which its GPU goes back
    "an open tab and nothing else": ([(200, IDLE)], 65, 75),
    "a model that stays loaded at 0 %": ([(30, TRAINS), (200, IDLE)], 81, 91),
    "a training that is over": ([(6 * HOUR, TRAINS), (200, IDLE)], 411, 421),
    "a terminal whose program has ended": ([(120, {**IDLE, "terminal": True}), (200, IDLE)], 171, 181),
    "a last keystroke, and then nothing": ([(30, IDLE), (200, {**IDLE, "input_at": 30 * MINUTE})], 80, 90),
    "a GPU that only hums below its threshold": ([(200, {**IDLE, "gpu": 4.9})], 65, 75),
    "a core that is hardly used": ([(200, {**IDLE, "cpu": 9.9})], 65, 75),
    "a gap in the telemetry, counted from its end": ([(30, IDLE), (10, None), (200, IDLE)], 91, 101),
    "a GPU that was unknown, counted from when it is known": ([(90, {**IDLE, "gpu": None}), (200, IDLE)], 141, 151),
    "one sample that is late, for three minutes are no gap": ([(40, IDLE), (2, None), (200, IDLE)], 65, 75),
    "a short use that begins the hour anew": ([(50, IDLE), (1, TRAINS), (200, IDLE)], 102, 112),
    "a clock that stepped back and goes on": ([(20, IDLE), (5, {**IDLE, "at": 60.0}), (200, IDLE)], 76, 86),
}


@pytest.mark.parametrize("name", GIVEN_BACK)
def test_after_an_idle_hour_and_a_warning_of_ten_minutes_goes_back_the_gpu_of(name: str) -> None:
    parts, warned, ended = GIVEN_BACK[name]
    told = live(*parts)
    assert (told.warned, told.ended) == (warned, ended)
    assert told.why.startswith("idle for 1 h (the limit is 1 h); before that, ")


def idle_in(first: int, last: int) -> Watched | None:
    """What is known after idle minutes."""
    watched = None
    for n in range(first, last + 1):
        watched = watch(watched, Sample(n * MINUTE, **IDLE), Thresholds(), n * MINUTE)
    return watched


def test_a_running_cell_without_gpu_and_cpu_counts_up_to_its_cap() -> None:
    told = live((10 * HOUR, SILENT), thresholds=CAPPED)
    assert (told.warned, told.ended) == (120 + 50 + 1, 120 + 60 + 1)
    assert live((10 * HOUR, {**SILENT, "gpu": 30.0}), thresholds=CAPPED).ended is None
    assert live((10 * HOUR, {**SILENT, "cpu": 30.0}), thresholds=CAPPED).ended is None


def test_a_protected_run_is_kept_until_its_time_is_over_and_the_hour_begins_then() -> None:
    told = live((20 * HOUR, IDLE), kept_until=8 * HOUR * MINUTE)
    assert told.ended == 9 * HOUR
    assert live((7 * HOUR, IDLE), kept_until=8 * HOUR * MINUTE).why == "its owner protects it for another 1 h"


def test_without_an_idle_limit_everything_is_kept() -> None:
    assert live((100 * HOUR, IDLE), rules=replace(RULES, after=0)).why == "no idle limit holds for it"


def test_a_warning_that_nobody_could_read_is_none() -> None:
    told = live((20 * HOUR, IDLE), deliverable=False)
    assert told.warned is not None
    assert told.ended is None


def test_a_warning_that_came_late_delays_the_end() -> None:
    facts = Facts(0.0, idle_in(1, 200), warned_at=195 * MINUTE)
    assert decide(facts, RULES, 200 * MINUTE).action is Action.WARN
    assert decide(facts, RULES, 200 * MINUTE).at == 205 * MINUTE


def test_a_warning_is_remembered_over_a_restart_of_whoever_gave_it() -> None:
    written = Facts(0.0, idle_in(1, 75), warned_at=65 * MINUTE)
    assert decide(written, RULES, 75 * MINUTE).action is Action.GIVE_BACK
    assert decide(replace(written, warned_at=None), RULES, 75 * MINUTE).action is Action.WARN


def test_a_short_limit_warns_as_long_as_it_can() -> None:
    rules = Rules(after=5 * MINUTE, grace=0.0)
    assert rules.lead == 2 * MINUTE
    told = live((60, IDLE), rules=rules)
    assert (told.warned, told.ended) == (4, 6)


def test_a_short_history_counts_from_its_first_sample() -> None:
    found = idle(idle_in(100, 120), 120 * MINUTE)
    assert (found.since, found.why) == (100 * MINUTE, "it was not watched before")


@pytest.mark.parametrize("sample", [{**IDLE, "input_at": None}, {**SILENT, "terminal": None, "input_at": None}])
def test_an_input_that_nobody_knows_is_null_wherever_it_is_told(sample: dict[str, Any]) -> None:
    watched = watch(None, Sample(MINUTE, **sample), USUAL, MINUTE)
    assert watched is not None
    assert json.loads(json.dumps(vars(watched), allow_nan=False))["input_at"] is None
    then = watch(watched, Sample(2 * MINUTE, **{**IDLE, "input_at": 90.0}), USUAL, 2 * MINUTE)
    assert then is not None
    assert then.input_at == 90.0


@given(st.lists(st.floats(0, SAME_INPUT_S), min_size=1))
def test_an_input_is_one_however_long_its_reports_take(delays: list[float]) -> None:
    watched: Watched | None = Watched(0.0, 0.0, "a cell was running", 0.0)
    for minute, delay in enumerate(delays, 1):
        sample = Sample(minute * MINUTE, **{**IDLE, "input_at": 50 + delay})
        watched = watch(watched, sample, USUAL, sample.at)
    assert watched is not None
    assert watched.since == 50 + delays[0]


def test_what_it_works_on_is_said_in_words() -> None:
    assert working(Sample(0, **TRAINS), Thresholds()) == "its GPU was at 90 %"
    assert working(Sample(0, **{**IDLE, "gpu": None, "terminal": None}), Thresholds()) == (
        "nobody knows its GPU use and terminals"
    )


def signals() -> st.SearchStrategy[dict[str, Any] | None]:
    """Of a minute; None: nothing is heard."""
    some = st.fixed_dictionaries(
        {
            "kernel_busy_s": st.sampled_from([0.0, 0.0, 0.0, 600.0, None]),
            "gpu": st.sampled_from([0.0, 0.0, 0.0, 50.0, None]),
            "cpu": st.sampled_from([0.0, 0.0, 0.0, 50.0, None]),
            "terminal": st.sampled_from([False, False, False, True, None]),
            "input_at": st.sampled_from([0.0, 0.0, 0.0, 0.0, None]),
        }
    )
    return st.one_of(st.just(IDLE), st.just(IDLE), st.just(IDLE), some, st.none())


@given(
    st.lists(st.tuples(st.integers(1, 40), signals()), max_size=12),
    st.lists(st.booleans(), min_size=8, max_size=8),
)
@example([(200, IDLE)], [True] * 8)
def test_nothing_is_done_without_a_full_warning_or_on_what_is_unknown(
    parts: list[tuple[int, dict[str, Any] | None]], deliverable: list[bool]
) -> None:
    rules = Rules(after=20 * MINUTE, grace=5 * MINUTE, warn=(6 * MINUTE,))
    samples: list[Sample] = []
    watched: Watched | None = None
    warned_at: float | None = None
    minute = tries = 0
    for minutes, told in parts:
        for _ in range(minutes):
            minute += 1
            now = minute * MINUTE
            if told is not None:
                samples.append(Sample(now, **told))
                watched = watch(watched, samples[-1], Thresholds(), now)
            decision = decide(Facts(0.0, watched, warned_at=warned_at), rules, now)
            if decision.action is Action.WARN and (warned_at is None or warned_at < (decision.idle_since or 0)):
                tries += 1
                warned_at = now if deliverable[tries % 8] else None
            if decision.action is not Action.GIVE_BACK:
                continue
            assert warned_at is not None
            assert now - warned_at >= rules.lead
            window = [sample for sample in samples if sample.at > now - rules.after]
            times = [now - rules.after, *(sample.at for sample in window), now]
            assert all(later - sooner <= GAP_S for sooner, later in itertools.pairwise(times))
            assert not any(working(sample, Thresholds()) for sample in window)
            return


def test_after_its_node_could_not_do_it_the_idle_time_counts_anew_with_a_warning_of_its_own() -> None:
    watched = Watched(at=300 * MINUTE, since=0.0, why="a cell ran", input_at=0.0)
    refused = Facts(0.0, watched, warned_at=None, refused_at=280 * MINUTE)
    assert decide(replace(refused, refused_at=0.0), RULES, 300 * MINUTE).action is Action.WARN
    assert decide(refused, RULES, 300 * MINUTE).action is Action.KEEP
    later = replace(refused, watched=replace(watched, at=330 * MINUTE))
    told = decide(later, RULES, 330 * MINUTE)
    assert told.action is Action.WARN
    assert "idle for 5 h 15 min" in told.why  # since when nothing ran, not since the refusal
    assert told.at == 340 * MINUTE
    old = replace(later, warned_at=200 * MINUTE)  # what was told before the refusal is over
    assert decide(old, RULES, 330 * MINUTE).action is Action.WARN
    assert decide(old, RULES, 345 * MINUTE).action is not Action.GIVE_BACK
