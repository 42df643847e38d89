"""What the limits bring about over hours and days, through the real decision: fairness, idle limits, an office day."""

from __future__ import annotations

import fairness
import idle
import pytest
from conftest import FULL_STRESS

from timeshare.reservations.devices.simulated import parse_spec
from timeshare.reservations.kind import Kind
from timeshare.reservations.limits.load import parse_limits
from timeshare.reservations.shares import parse_share
from timeshare.reservations.whatif.replay import Fate, Outcome, Scenario, replay
from timeshare.reservations.whatif.trace import Arrival

HOUR = 3600.0
MIDNIGHT = 1_767_571_200.0  # Monday, 2026-01-05, UTC
OFFICE = """
timezone: UTC
requests_waiting: 1000
defaults: {waiting: 1000, gpus: 8, largest: 1, jobs: {at_once: 100, max_time: 1d}, sessions: {at_once: 4, max_time: 8h}}
groups: {cms: {shares: 1, quota: 3}, atlas: {shares: 1, quota: 5}}
fair_share: {half_life: {session: 1d, batch: 1d}}
pools:
  interactive:
    models: ["v100*"]
    preempt: {when: "Mon-Fri 07:00-19:00", after: 30m, grace: 2m}
"""
QUOTA = {"cms": 3, "atlas": 5}


@pytest.mark.stress
@pytest.mark.skipif(not FULL_STRESS, reason="40 s of computing: make stress runs it, and test_whatif a shorter one")
def test_three_half_lives_of_saturation_give_unequal_groups_their_shares() -> None:
    found = fairness.measure(each=2, half_lives=3)
    assert found.jain >= 0.95
    assert found.error <= 0.05


def test_an_idle_limit_keeps_what_is_busy_and_its_own_length_after_it() -> None:
    runs = [idle.Run(0, 10, 1), idle.Run(20, 30, 2), idle.Run(80, 100, 2)]  # idle for 10 and for 50 minutes
    assert idle.reserved_hours([runs]) == 2 * 100 / 60
    found = idle.measure([runs], 15)
    assert (round(found.held, 6), round(found.again, 6)) == (20 + 10 + 15 + 20, round(100 / 3, 6))


def office_day() -> list[Outcome]:
    """Over night one group fills all eight devices with batch; from nine on people of the other come."""
    gpu = parse_share({"gpus": 1})
    night = [
        Arrival(MIDNIGHT + 5 * HOUR + n, f"cms-{n % 4}", ("cms",), Kind.BATCH, gpu, 86400, (2 + n % 5) * HOUR)
        for n in range(24)
    ]
    people = [
        Arrival(MIDNIGHT + (9 + n / 3) * HOUR, f"atlas-{n % 6}", ("atlas",), Kind.SESSION, gpu, 8 * 3600, 1.5 * HOUR)
        for n in range(24)
    ]
    return replay(Scenario(parse_spec("v100-32gb:8"), [*night, *people], keep_stretches=True), parse_limits(OFFICE))


def held_at(outcomes: list[Outcome], account: str, at: float) -> int:
    return sum(a <= at < b for o in outcomes if o.account == account for a, b, _ in o.stretches)


def test_on_an_office_day_people_get_the_place_of_over_quota_batch_which_finishes_later() -> None:
    outcomes = office_day()
    jobs = [outcome for outcome in outcomes if outcome.arrival.kind is Kind.BATCH]
    people = [outcome for outcome in outcomes if outcome.arrival.kind is Kind.SESSION]
    assert {outcome.fate for outcome in outcomes} == {Fate.FINISHED}
    assert sum(outcome.preemptions for outcome in jobs) > 0
    assert [outcome for outcome in people if outcome.preemptions] == []
    within = [o for o in people if held_at(outcomes, "atlas", o.arrival.at) < QUOTA["atlas"]]
    assert len(within) > 5
    assert max(o.wait_s or 0.0 for o in within) <= 30 * 60 + 2 * 60  # a job runs half an hour at least, then its grace


def test_on_an_office_day_no_group_is_preempted_below_its_quota_and_no_job_back_and_forth() -> None:
    outcomes = office_day()
    for outcome in outcomes:
        cut_short = outcome.stretches[: outcome.preemptions]
        for began, ended, _ in cut_short:
            assert ended - began >= 30 * 60
            assert 7 <= (ended - MIDNIGHT) / HOUR % 24 <= 19 + 2 / 60
            assert held_at(outcomes, outcome.account, ended - 1) > QUOTA[outcome.account]
    often = [outcome.preemptions for outcome in outcomes if outcome.arrival.kind is Kind.BATCH]
    waited = [outcome for outcome in outcomes if outcome.arrival.kind is Kind.SESSION and outcome.wait_s]
    assert sum(often) <= len(waited)
