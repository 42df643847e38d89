"""Every limit on both sides of its edge, in the pool itself; and who is meant by which scope."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pools import Lab

from timeshare.reservations.errors import PublicError
from timeshare.reservations.kind import Kind
from timeshare.reservations.limits.effective import BUILT_IN, Override, resolve
from timeshare.reservations.limits.schema import Limits, PersonLimits

HOUR = 3600


def refused(lab: Lab, owner: str, kind: Kind = Kind.SESSION, seconds: int | None = HOUR, **share: Any) -> PublicError:
    with pytest.raises(PublicError) as caught:
        lab.ask(owner, kind, seconds, **share)
    return caught.value


def test_a_share_may_be_as_large_as_the_limit_and_no_larger(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"defaults": {"largest": 0.5}}, "a100", "a100")
    assert lab.ask("ada", memory_gib=19.5).holds
    error = refused(lab, "ada", memory_gib=20)
    assert error.reason == "share-too-large"
    assert "0.512" in error.message
    assert "0.5" in error.message


def test_a_small_share_does_not_go_where_it_would_count_too_much(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"defaults": {"largest": 0.5}}, "t4", "a100")
    lab.pool.set_inventory(lab.pool.inventory.__class__((_device("t4", 16_000, 0), _device("a100", 80_000, 1))))  # type: ignore[union-attr]
    granted = lab.ask("ada", memory_gib=10)
    assert granted.terms.model == "a100"


def _device(model: str, memory_mib: int, order: int) -> Any:
    from timeshare.reservations.devices.model import Device

    return Device(uuid=f"GPU-{order}", model=model, memory_mib=memory_mib, node="local", order=order)


def test_gpus_at_once_are_kept_and_what_is_beyond_waits_for_ones_own_end(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"defaults": {"gpus": 2}}, *["a100"] * 4)
    first, second, third = (lab.ask("ada") for _ in range(3))
    assert [lab.state(r) for r in (first, second, third)] == ["granted", "granted", "queued"]
    assert lab.why(third) == "you hold 2 of the 2 GPUs that one person may hold at once; this needs 1 more"
    assert lab.pool.forecast()[third.id].latest_start == lab.now + HOUR + lab.limits.stop.longest_s
    assert lab.ask("ben").holds, "who is kept back by her own limit stands in nobody's way"
    lab.pool.end(first.id, _cancelled(), "done")
    assert lab.state(third) == "granted"
    assert refused(lab, "ada", gpus=3).reason == "share-too-large"


def _cancelled() -> Any:
    from timeshare.reservations.reservation import Reason

    return Reason.CANCELLED


def test_sessions_jobs_and_waiting_requests_are_counted_apart(tmp_path: Path) -> None:
    limits = {"defaults": {"sessions": {"at_once": 2}, "jobs": {"at_once": 1}, "waiting": 1}}
    lab = Lab(tmp_path, limits, "a100")
    lab.ask("ada")
    lab.ask("ada")
    assert refused(lab, "ada").reason == "too-many-sessions"
    assert refused(lab, "ada", Kind.BATCH).reason == "too-many-waiting"
    assert lab.batch("ben").seq
    assert refused(lab, "ben", Kind.BATCH).reason == "too-many-jobs"


@pytest.mark.parametrize(("kind", "longest"), [(Kind.SESSION, 7200), (Kind.BATCH, 9000)])
def test_the_longest_time_is_that_of_the_kind(tmp_path: Path, kind: Kind, longest: int) -> None:
    limits = {"defaults": {"sessions": {"max_time": 7200}, "jobs": {"default_time": "1h", "max_time": 9000}}}
    lab = Lab(tmp_path, limits, "a100")
    assert lab.ask("ada", kind, longest).time_limit_s == longest
    error = refused(lab, "ada", kind, longest + 1)
    assert str(longest + 1) in error.message
    assert str(longest) in error.message


def test_shapes_and_models_not_open_to_her_are_refused_and_never_given(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"defaults": {"shapes": ["whole"], "models": ["t4"]}}, "a100", "t4")
    assert refused(lab, "ada", memory_gib=2).reason == "not-allowed"
    assert "t4" in refused(lab, "ada", model="a100", gpus=1).message
    assert lab.ask("ada").terms.model == "t4"
    assert lab.state(lab.ask("ada")) == "queued", "the free a100 is not hers"


def test_extensions_are_counted_and_bounded(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"defaults": {"extension": {"longest": "1h", "total": "3h", "times": 2}}}, "a100")
    mine = lab.ask("ada", seconds=HOUR)
    lab.pool.extend(mine.id, HOUR)
    with pytest.raises(PublicError, match="seconds is 3601"):
        lab.pool.extend(mine.id, HOUR + 1)
    assert lab.pool.extend(mine.id, 60).extensions == 2
    with pytest.raises(PublicError, match="2 times"):
        lab.pool.extend(mine.id, 60)


def test_a_budget_refuses_what_it_cannot_pay_and_says_what_it_could(tmp_path: Path) -> None:
    limits = {"weights": {"a100": 2}, "defaults": {"budgets": [{"gpu_hours": 8, "every": "week"}]}}
    lab = Lab(tmp_path, limits, "a100")
    error = refused(lab, "ada", seconds=4 * HOUR + 1, gpus=1, model="a100")
    assert error.reason == "budget"
    assert "8" in error.message
    assert "ask for at most 4 h" in error.message
    assert error.details["refills_at"]
    assert lab.ask("ada", seconds=4 * HOUR, gpus=1, model="a100").holds


def test_an_empty_budget_is_announced_and_then_ends_what_runs(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {}, "a100", "a100")
    both = [lab.ask("ada", seconds=2 * HOUR), lab.ask("ada", seconds=2 * HOUR)]
    lab.run(*both)
    lab.edit({"defaults": {"budgets": [{"gpu_hours": 2, "every": "month"}]}})
    assert lab.pool.budget_ends_at(both[0]) == lab.now + HOUR
    assert lab.later(HOUR - 1) == []
    ended = lab.later(2)
    assert {r.id for r in ended} == {r.id for r in both}
    assert {(r.reason.value if r.reason else "") for r in ended} == {"budget"}
    assert "2 of 2 GPU-hours this month" in ended[0].detail


def test_a_soft_budget_sends_behind_everyone_else(tmp_path: Path) -> None:
    limits = {"defaults": {"budgets": [{"gpu_hours": 1, "every": "month", "beyond": "later"}]}}
    lab = Lab(tmp_path, limits, "a100")
    mine = lab.ask("ada", seconds=2 * HOUR)
    lab.run(mine)
    again = lab.ask("ada", seconds=HOUR)
    lab.later(90 * 60)
    other = lab.ask("ben", seconds=HOUR)
    told = lab.pool.forecast()
    assert (told[other.id].position, told[again.id].position) == (1, 2)
    assert told[other.id].firm is False


def test_a_group_holds_no_more_than_its_members_may_together(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"groups": {"cms": {"members": ["ada", "ben"], "gpus": 1}}}, "a100", "a100")
    assert lab.ask("ada").holds
    waits = lab.ask("ben")
    assert lab.why(waits) == "the group cms holds 1 of the 1 GPU that it may hold together"
    assert lab.ask("cleo").holds
    assert refused(lab, "ben", gpus=2).reason == "share-too-large"


def test_a_pool_is_for_its_groups_kinds_and_times(tmp_path: Path) -> None:
    limits = {
        "groups": {"cms": {"members": ["ada"]}},
        "pools": {"big": {"models": ["a100"], "groups": ["cms"]}, "small": {"models": ["t4"], "max_time": "2h"}},
    }
    lab = Lab(tmp_path, limits, "a100", "t4")
    assert "the pool big is for cms" in refused(lab, "ben", model="a100", gpus=1).message
    assert "2 h" in refused(lab, "ben", seconds=2 * HOUR + 1, gpus=1, model="t4").message
    assert lab.ask("ben", seconds=2 * HOUR).terms.model == "t4"
    assert lab.ask("ada", seconds=3 * HOUR).terms.model == "a100"


def test_a_pool_of_another_engine_has_no_device_of_this_machine(tmp_path: Path) -> None:
    lab = Lab(
        tmp_path, {"groups": {"phys": {}}, "pools": {"cluster": {"engines": ["slurm"], "groups": ["phys"]}}}, "a100"
    )
    assert lab.state(lab.ask("ada")) == "granted"
    here = Lab(
        _fresh(tmp_path), {"groups": {"phys": {}}, "pools": {"p": {"engines": ["local"], "groups": ["phys"]}}}, "a100"
    )
    assert "the pool p is for phys" in refused(here, "ada").message


def test_gpus_kept_for_sessions_are_not_taken_by_batch_that_would_run_into_office_hours(tmp_path: Path) -> None:
    kept = {"gpus": 1, "when": "Mon-Fri 08:00-18:00"}
    monday_6 = 1_795_413_600.0  # 2026-11-23 06:00 UTC
    lab = Lab(tmp_path, {"pools": {"all": {"keep_for_sessions": kept}}}, "a100", "a100", start=monday_6)
    assert lab.batch("ada", 2 * HOUR).holds
    assert lab.batch("ben", HOUR).holds, "it ends before eight"
    lab.later(0)
    lab2 = Lab(_fresh(tmp_path), {"pools": {"all": {"keep_for_sessions": kept}}}, "a100", "a100", start=monday_6)
    assert lab2.batch("ada", 5 * HOUR).holds
    waits = lab2.batch("ben", 5 * HOUR)
    assert lab2.state(waits) == "queued"
    assert "1 of the 2 GPUs of the pool all are kept for sessions" in lab2.why(waits)
    assert lab2.ask("cleo").holds, "the kept one is for her"


def _fresh(folder: Path) -> Path:
    inner = folder / "second"
    inner.mkdir()
    return inner


def test_maintenance_shortens_what_starts_and_drains(tmp_path: Path) -> None:
    limits = {"maintenance": [{"name": "driver", "begins": "2026-11-23 12:00", "ends": "2026-11-23 14:00"}]}
    nine = 1_795_424_400.0  # 2026-11-23 09:00 UTC
    lab = Lab(tmp_path, limits, "a100", start=nine)
    grace = lab.limits.stop.longest_s
    too_long = lab.ask("ada", seconds=3 * HOUR)
    assert lab.state(too_long) == "queued"
    assert lab.pool.forecast()[too_long.id].latest_start == nine + 5 * HOUR
    assert lab.ask("ben", seconds=3 * HOUR - grace).holds


def test_an_event_keeps_devices_for_those_it_is_for(tmp_path: Path) -> None:
    event = {"name": "class", "begins": "2026-11-23 10:00", "ends": "2026-11-23 12:00", "gpus": 1, "users": ["tom"]}
    nine = 1_795_424_400.0
    lab = Lab(tmp_path, {"events": [event]}, "a100", "a100", start=nine)
    assert lab.ask("ada", seconds=2 * HOUR).holds
    assert lab.state(lab.ask("ben", seconds=2 * HOUR)) == "queued"
    assert lab.ask("tom", seconds=2 * HOUR).holds


def test_the_most_generous_group_counts_then_the_person_then_the_exception() -> None:
    limits = Limits.model_validate(
        {
            "defaults": {"gpus": 1, "largest": 1},
            "groups": {"a": {"each": {"gpus": 2, "models": ["t4"]}}, "b": {"each": {"gpus": 4, "models": ["v100"]}}},
            "users": {"ada": {"gpus": 3}},
        }
    )
    ben = resolve(limits, "ben", ["a", "b"])
    assert (ben.gpus, ben.sources["gpus"]) == (4, "groups.b.each")
    assert ben.values["models"] == ("t4", "v100")
    assert (ben.largest, ben.sources["largest"]) == (1, "defaults")
    assert (ben.account, ben.groups) == ("a", ("a", "b"))
    ada = resolve(limits, "ada", ["b"])
    assert (ada.gpus, ada.sources["gpus"]) == (3, "users.ada")
    more = Override("1", "user", "ada", PersonLimits.model_validate({"gpus": 8}), 0, 100.0, "talk", "root", 0.0)
    assert resolve(limits, "ada", [], [more], now=99).gpus == 8
    assert resolve(limits, "ada", [], [more], now=100).gpus == 3


def test_a_group_inherits_what_it_does_not_say() -> None:
    limits = Limits.model_validate(
        {"groups": {"staff": {"each": {"gpus": 5, "largest": 2}}, "cms": {"inherits": "staff", "each": {"gpus": 6}}}}
    )
    mine = resolve(limits, "ada", ["cms"])
    assert (mine.gpus, mine.largest) == (6, 2)
    assert mine.sources["largest"] == "groups.staff.each"


def test_without_any_limits_everybody_has_what_is_built_in() -> None:
    found = resolve(Limits(), "ada", [])
    assert dict(found.values) == dict(BUILT_IN)
    assert found.account == "others"


def test_a_grant_records_the_limits_in_force(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"weights": {"a100": 3}}, "a100")
    granted = lab.ask("ada", memory_gib=10)
    assert granted.terms.limits_version == lab.pool.standing.version
    assert granted.rate == pytest.approx(3 * granted.terms.gpus)
    assert lab.ledger.get(granted.id) == granted
