"""A firm start is never exceeded and never gets later; what cannot be kept is not promised."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest
from conftest import FULL_STRESS
from pools import Lab, pool
from promise_worlds import Loop

from timeshare.reservations.devices.model import Inventory
from timeshare.reservations.errors import PublicError
from timeshare.reservations.kind import Kind
from timeshare.reservations.limits.load import LimitsFile
from timeshare.reservations.opening import open_pool
from timeshare.reservations.reservation import Reason, Reservation

WORLDS = 20_000 if FULL_STRESS else 150
HOUR = 3600
NOON = datetime(2026, 11, 23, 12, tzinfo=timezone.utc).timestamp()


@pytest.mark.stress
def test_no_firm_start_is_exceeded_and_none_gets_later_in_any_world() -> None:
    promised = 0
    for seed in range(WORLDS):
        world = Loop(seed).play()
        assert not world.broken, world.broken
        promised += world.promised
    assert promised > WORLDS


def start(lab: Lab, reservation: Reservation) -> float:
    told = lab.pool.forecast()[reservation.id]
    assert told.firm
    assert told.latest_start is not None
    return told.latest_start - lab.now


def stop(lab: Lab, reservation: Reservation) -> None:
    lab.pool.end(reservation.id, Reason.CANCELLED, "stopped")
    lab.pool.gone(reservation.id, Reason.CANCELLED, "stopped")


def test_a_firm_start_gets_no_later_because_somebody_stops_early(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {}, "a100", "a100")
    grace = lab.limits.stop.longest_s
    long, short = lab.ask("xena", seconds=600), lab.ask("yves", seconds=240)
    two, one = lab.ask("ben", seconds=1000, gpus=2), lab.ask("cleo", seconds=360 - grace)
    assert start(lab, one) == 240 + grace
    lab.run(long, short)
    lab.later(180)
    stop(lab, long)
    assert lab.state(one) == "granted", "there is room for it until the two are free"
    assert start(lab, two) <= 600 + grace - 180


def test_what_was_promised_outlives_the_service(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {}, "a100", "a100")
    long, short = lab.ask("xena", seconds=600), lab.ask("yves", seconds=240)
    lab.ask("ben", seconds=1000, gpus=2)
    one = lab.ask("cleo", seconds=300)
    lab.run(long, short)
    before = start(lab, one)
    again = open_pool(lab.ledger, LimitsFile(lab.limits, ""), lambda: lab.now)
    assert again.forecast()[one.id].latest_start is not None
    again.set_inventory(Inventory(pool("a100", "a100")))
    lab.pool = again
    assert start(lab, one) == before


def test_two_requests_of_one_who_may_hold_one_gpu_are_not_told_the_same_start(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"defaults": {"gpus": 1}}, "a100", "a100")
    lab.ask("xena", seconds=HOUR), lab.ask("yves", seconds=2 * HOUR)
    first, second = lab.ask("ada", seconds=HOUR), lab.ask("ada", seconds=HOUR)
    told = lab.pool.forecast()
    assert told[first.id].firm
    assert not told[second.id].firm
    began, after = told[first.id].latest_start, told[second.id].latest_start
    assert began is not None
    assert after is not None
    assert after >= began + HOUR


def test_one_who_waits_for_a_limit_of_her_own_holds_back_nobody(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"pools": {"all": {"gpus": 1}}}, "a100", "a100")
    lab.ask("ada", seconds=10 * HOUR)
    own = lab.ask("ada", seconds=10 * HOUR)
    assert lab.state(own) == "queued"
    assert not lab.pool.forecast()[own.id].firm
    assert lab.ask("ben", seconds=12 * HOUR).holds
    told = lab.pool.forecast()[own.id]  # for room now, which is hers once her first one ends
    lab.later(60)
    assert lab.pool.forecast()[own.id] == told


def test_one_at_the_cap_of_a_pool_gets_what_is_free_in_another(tmp_path: Path) -> None:
    limits = {"pools": {"small": {"models": ["t4"], "gpus": 0.5}, "large": {"models": ["a100"]}}}
    lab = Lab(tmp_path, limits, "t4", "a100")
    assert [lab.ask("ada", memory_gib=10).terms.model for _ in range(2)] == ["t4", "a100"]


def test_batch_is_told_no_start_in_hours_that_are_kept_for_sessions(tmp_path: Path) -> None:
    kept = {"gpus": 1, "when": "mon-sun 09:00-17:00"}
    lab = Lab(tmp_path, {"timezone": "UTC", "pools": {"all": {"keep_for_sessions": kept}}}, "a100")
    lab.now -= lab.now % 86400  # midnight
    lab.ask("xena", seconds=8 * HOUR)
    job = lab.batch("ada", 4 * HOUR)
    told = lab.pool.forecast()[job.id]
    assert told.latest_start is not None
    hour = (told.latest_start % 86400) / HOUR
    assert hour >= 17 or hour + 4 <= 9


def test_beyond_the_depth_nothing_is_firm(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"backfill_depth": 1}, "a100")
    lab.ask("xena")
    first, second = lab.ask("ada"), lab.ask("ben")
    told = lab.pool.forecast()
    assert (told[first.id].firm, told[second.id].firm) == (True, False)


def test_where_a_budget_may_run_out_nothing_is_firm(tmp_path: Path) -> None:
    budget = {"gpu_hours": 20, "every": "month", "beyond": "refuse"}
    lab = Lab(tmp_path, {"defaults": {"budgets": [budget]}}, "a100")
    lab.ask("xena")
    waits = lab.ask("ada")
    assert not lab.pool.forecast()[waits.id].firm


def test_nobody_goes_on_into_what_is_announced(tmp_path: Path) -> None:
    entry = {"name": "driver", "begins": "2026-11-23 12:00", "ends": "2026-11-23 14:00"}
    lab = Lab(tmp_path, {"timezone": "UTC", "maintenance": [entry]}, "a100", start=NOON - 3 * HOUR)
    session = lab.ask("ada", seconds=HOUR)
    lab.run(session)
    with pytest.raises(PublicError) as caught:
        lab.pool.extend(session.id, 2 * HOUR)
    assert "2026-11-23 12:00 (UTC)" in caught.value.message
    assert "driver" in caught.value.message
    assert lab.pool.extend(session.id, HOUR).extensions == 1


def test_what_ends_is_charged_before_the_next_one_is_chosen(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"fair_share": {"age_weight": 0}}, "a100")
    first = lab.ask("ada", seconds=10 * HOUR)
    lab.run(first)
    again, other = lab.ask("ada", seconds=HOUR), lab.ask("ben", seconds=HOUR)
    lab.later(9 * HOUR)
    assert lab.pool.forecast()[again.id].position == 2
    stop(lab, first)
    assert (lab.state(again), lab.state(other)) == ("queued", "granted")


def test_a_promise_of_before_a_hard_budget_is_told_as_expected(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {}, "a100")
    first, second = lab.ask("ada"), lab.ask("ben")
    lab.run(first)
    assert lab.pool.forecast()[second.id].firm
    lab.edit({"defaults": {"budgets": [{"gpu_hours": 20, "every": "month", "beyond": "refuse"}]}})
    told = lab.pool.forecast()[second.id]
    assert not told.firm
    assert told.latest_start is not None


def test_nothing_firm_is_told_of_devices_whose_holder_is_past_its_end(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {}, "a100", "a100", "t4")
    grace = lab.limits.stop.longest_s
    two = lab.ask("ada", seconds=600, gpus=2, model="a100")
    lab.ask("ben", seconds=600, model="t4", gpus=1)
    lab.run(two)
    lab.pool.end(two.id, Reason.CANCELLED, "stopped")
    next_one = lab.ask("cleo", seconds=600, gpus=1)
    last = lab.ask("dora", seconds=600, gpus=2, model="a100")
    assert [start(lab, waiting) for waiting in (next_one, last)] == [grace, 600 + 2 * grace]
    lab.later(grace + 10)  # its processes are still there
    told = lab.pool.forecast()
    assert [told[name].firm for name in (next_one.id, last.id)] == [False, False]
    lab.pool.gone(two.id, Reason.CANCELLED, "stopped")
    assert lab.state(next_one) == "granted", "the promise stands"
    assert start(lab, last) == 600 + grace


def test_less_room_in_a_pool_shows_a_start_to_those_ahead_at_once() -> None:
    world = Loop(30802).play()  # r11 was offered a start that r5, whom nobody had looked at again, then took
    assert not world.broken, world.broken


def test_a_budget_that_is_used_up_by_what_just_ends_grants_nothing_more(tmp_path: Path) -> None:
    budget = {"gpu_hours": 10, "every": "month", "beyond": "refuse"}
    lab = Lab(tmp_path, {"defaults": {"budgets": [budget]}}, "a100")
    first = lab.ask("ada", seconds=9 * HOUR)
    lab.run(first)
    again = lab.ask("ada", seconds=HOUR)
    lab.now += 10 * HOUR  # it took an hour to stop
    lab.pool.gone(first.id, Reason.TIME_LIMIT, "gone")
    assert lab.state(again) == "queued"


def test_a_hard_budget_counts_what_runs_and_waits_will_still_use(tmp_path: Path) -> None:
    budget = {"gpu_hours": 10, "every": "month", "beyond": "refuse"}
    lab = Lab(tmp_path, {"defaults": {"budgets": [budget]}}, "a100", "a100")
    lab.run(lab.ask("ada", seconds=6 * HOUR))
    with pytest.raises(PublicError) as caught:
        lab.ask("ada", seconds=5 * HOUR)
    assert caught.value.reason == "budget"
    assert "4" in caught.value.message
    lab.ask("ada", seconds=4 * HOUR)
    with pytest.raises(PublicError):
        lab.ask("ada", seconds=60)


def test_nobody_gives_way_for_one_who_could_not_start(tmp_path: Path) -> None:
    limits = {
        "groups": {"cms": {"members": ["ada"], "quota": 0}, "atlas": {"members": ["ben"], "quota": 2}},
        "pools": {"all": {"gpus": 1, "preempt": {"after": "1m", "grace": "1m"}}},
    }
    lab = Lab(tmp_path, limits, "a100", "a100")
    own, victim = lab.ask("ben", seconds=12 * HOUR), lab.batch("ada", 20 * HOUR)
    lab.run(own, victim)
    second = lab.ask("ben", seconds=HOUR)
    for _ in range(50):
        assert lab.later(60) == []
    assert (lab.state(second), lab.state(victim)) == ("queued", "active")


def test_nobody_gives_way_for_one_who_goes_behind_everyone(tmp_path: Path) -> None:
    limits = {
        "defaults": {"budgets": [{"gpu_hours": 1, "every": "month", "beyond": "later"}]},
        "groups": {"cms": {"members": ["ada"], "quota": 0}, "atlas": {"members": ["ben"], "quota": 0}},
        "pools": {"all": {"preempt": {"after": "1m", "grace": "1m"}}},
    }
    lab = Lab(tmp_path, limits, "a100")
    past = lab.ask("ben", seconds=3 * HOUR)
    lab.run(past)
    lab.later(2 * HOUR)
    stop(lab, past)
    victim = lab.batch("ada", 20 * HOUR)
    lab.run(victim)
    lab.ask("ben", seconds=HOUR)
    for _ in range(20):
        assert lab.later(60) == []
    assert Kind.BATCH is lab.pool.get(victim.id).kind
