"""Every value of the limits file is read by something, shown where it concerns a person, and tried on both sides of its
edge. A key that is new to the schema fails here until it has all of that."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pools import Lab, pool
from test_limits import _cancelled
from test_limits_numbers import LEAVES

from timeshare.reservations.activity import Sample, Thresholds, working
from timeshare.reservations.devices.model import Inventory
from timeshare.reservations.errors import PublicError
from timeshare.reservations.kind import Kind
from timeshare.reservations.limits.effective import BUILT_IN, resolve
from timeshare.reservations.limits.idle import idle_settings
from timeshare.reservations.limits.schema import Limits
from timeshare.reservations.notices import time_notice
from timeshare.reservations.service.job_bodies import Estimate
from timeshare.reservations.service.job_handlers import estimate_view
from timeshare.reservations.service.limits_views import explanation, fair_view
from timeshare.reservations.service.offers import offers_view
from timeshare.reservations.shares import parse_share
from timeshare.reservations.submission import Submission
from timeshare.reservations.sweeping import Sweeper, charges_kept_s

HOUR, DAY = 3600, 86400
NINE = 1_795_424_400.0  # Monday, 2026-11-23 09:00 UTC
ROOT = Path(__file__).parent.parent


class Leaf(NamedTuple):
    """``reader``: who goes by it, below reservations/. ``edge``: the test that tries both sides; of this file without
    a file's name."""

    reader: str
    edge: str


LIMITS, BOUNDS, PREEMPTION = "test_limits::", "test_host_bounds::", "test_preemption::"
IDLE, IDLE_RULES = "limits/idle.py", "test_idle_rules::"
READ: dict[str, Leaf] = {
    "backfill_depth": Leaf("schedule.py", "test_schedule::test_without_backfill_nobody_overtakes"),
    "defaults.budgets.[].beyond": Leaf("standing.py", LIMITS + "test_a_soft_budget_sends_behind_everyone_else"),
    "defaults.budgets.[].every": Leaf("standing.py", "test_a_budget_refills_when_its_window_ends"),
    "defaults.budgets.[].gpu_hours": Leaf(
        "standing.py", LIMITS + "test_a_budget_refuses_what_it_cannot_pay_and_says_what_it_could"
    ),
    "defaults.budgets.[].kinds.[]": Leaf("limits/checks.py", "test_a_budget_is_for_its_kinds"),
    "defaults.extension.longest": Leaf("limits/checks.py", LIMITS + "test_extensions_are_counted_and_bounded"),
    "defaults.extension.times": Leaf("limits/checks.py", LIMITS + "test_extensions_are_counted_and_bounded"),
    "defaults.extension.total": Leaf("limits/checks.py", "test_extensions_end_at_the_total"),
    "defaults.gpus": Leaf(
        "limits/effective.py", LIMITS + "test_gpus_at_once_are_kept_and_what_is_beyond_waits_for_ones_own_end"
    ),
    "defaults.idle.after": Leaf(
        IDLE, IDLE_RULES + "test_after_an_idle_hour_and_a_warning_of_ten_minutes_goes_back_the_gpu_of"
    ),
    "defaults.idle.busy_cap": Leaf(IDLE, IDLE_RULES + "test_a_running_cell_without_gpu_and_cpu_counts_up_to_its_cap"),
    "defaults.idle.cpu_below": Leaf(IDLE, "test_idle_begins_below_its_thresholds"),
    "defaults.idle.gpu_below": Leaf(IDLE, "test_idle_begins_below_its_thresholds"),
    "defaults.idle.grace": Leaf(IDLE, IDLE_RULES + "test_kept_is"),
    "defaults.idle.keep": Leaf(IDLE, "test_idle_rules_are_those_of_the_file"),
    "defaults.idle.per_gpu": Leaf(IDLE, "test_limits_warnings::test_idle_rules_are_told_as_they_are_in_force"),
    "defaults.idle.then": Leaf(IDLE, "test_limits_warnings::test_idle_rules_are_told_as_they_are_in_force"),
    "defaults.idle.warn.[]": Leaf(IDLE, IDLE_RULES + "test_a_short_limit_warns_as_long_as_it_can"),
    "defaults.largest": Leaf("limits/effective.py", LIMITS + "test_a_share_may_be_as_large_as_the_limit_and_no_larger"),
    "defaults.models.[]": Leaf(
        "limits/checks.py", LIMITS + "test_shapes_and_models_not_open_to_her_are_refused_and_never_given"
    ),
    "defaults.sessions.at_once": Leaf(
        "limits/effective.py", LIMITS + "test_sessions_jobs_and_waiting_requests_are_counted_apart"
    ),
    "defaults.sessions.default_cpus": Leaf(
        "limits/effective.py", BOUNDS + "test_a_default_beyond_the_most_of_another_scope_is_the_most"
    ),
    "defaults.sessions.default_host_memory_gib": Leaf(
        "limits/effective.py", BOUNDS + "test_a_default_beyond_the_most_of_another_scope_is_the_most"
    ),
    "defaults.sessions.default_time": Leaf("limits/effective.py", "test_the_default_time_is_that_of_the_file"),
    "defaults.sessions.max_cpus": Leaf(
        "limits/effective.py", BOUNDS + "test_cores_may_be_asked_for_up_to_the_limit_and_no_further"
    ),
    "defaults.sessions.max_host_memory_gib": Leaf(
        "limits/effective.py", BOUNDS + "test_memory_may_be_asked_for_up_to_the_limit_and_no_further"
    ),
    "defaults.sessions.max_time": Leaf("limits/effective.py", LIMITS + "test_the_longest_time_is_that_of_the_kind"),
    "defaults.shapes.[]": Leaf(
        "limits/checks.py", LIMITS + "test_shapes_and_models_not_open_to_her_are_refused_and_never_given"
    ),
    "defaults.shares": Leaf("standing.py", "test_shares_of_people_and_groups_decide_who_goes_first"),
    "defaults.waiting": Leaf("limits/checks.py", LIMITS + "test_sessions_jobs_and_waiting_requests_are_counted_apart"),
    "events.[].begins": Leaf("limits/schema.py", LIMITS + "test_an_event_keeps_devices_for_those_it_is_for"),
    "events.[].ends": Leaf("limits/schema.py", "test_after_its_end_an_event_keeps_nothing"),
    "events.[].gpus": Leaf("standing.py", "test_an_event_keeps_as_many_as_it_says_of_its_pool_and_nodes"),
    "events.[].groups.[]": Leaf("standing.py", "test_an_event_keeps_as_many_as_it_says_of_its_pool_and_nodes"),
    "events.[].name": Leaf(
        "service/offers.py", "test_limits_warnings::test_maintenance_of_some_nodes_is_announced_for_these"
    ),
    "events.[].nodes.[]": Leaf("standing.py", "test_an_event_keeps_as_many_as_it_says_of_its_pool_and_nodes"),
    "events.[].pool": Leaf("standing.py", "test_an_event_keeps_as_many_as_it_says_of_its_pool_and_nodes"),
    "events.[].users.[]": Leaf("standing.py", LIMITS + "test_an_event_keeps_devices_for_those_it_is_for"),
    "fair_share.age_weight": Leaf("standing.py", "test_weights_of_fair_share_decide_against_age"),
    "fair_share.half_life.batch": Leaf("standing.py", "test_the_past_counts_by_its_half_life"),
    "fair_share.half_life.session": Leaf("standing.py", "test_the_past_counts_by_its_half_life"),
    "fair_share.max_age": Leaf("standing.py", PREEMPTION + "test_who_had_less_goes_first_and_age_wins_in_the_end"),
    "fair_share.method": Leaf("standing.py", "test_the_method_of_fair_share_is_that_of_the_file"),
    "fair_share.weight": Leaf("standing.py", "test_weights_of_fair_share_decide_against_age"),
    "fractions.[]": Leaf("service/offers.py", "test_the_form_offers_the_fractions_of_the_file"),
    "groups.NAME.gpus": Leaf("standing.py", LIMITS + "test_a_group_holds_no_more_than_its_members_may_together"),
    "groups.NAME.inherits": Leaf("limits/effective.py", LIMITS + "test_a_group_inherits_what_it_does_not_say"),
    "groups.NAME.members.[]": Leaf("limits/effective.py", LIMITS + "test_a_pool_is_for_its_groups_kinds_and_times"),
    "groups.NAME.quota": Leaf("standing.py", PREEMPTION + "test_work_within_quota_goes_first_then_sessions_then_batch"),
    "groups.NAME.shares": Leaf("standing.py", "test_shares_of_people_and_groups_decide_who_goes_first"),
    "host_memory_fraction": Leaf(
        "admission.py", BOUNDS + "test_no_limit_of_a_person_goes_beyond_the_fraction_of_the_machine"
    ),
    "job_files.keep": Leaf("service/job_handlers.py", "test_a_job_is_told_how_long_and_how_large_its_files_may_be"),
    "job_files.space_gib": Leaf(
        "service/job_handlers.py", "test_a_job_is_told_how_long_and_how_large_its_files_may_be"
    ),
    "maintenance.[].begins": Leaf("limits/schema.py", LIMITS + "test_maintenance_shortens_what_starts_and_drains"),
    "maintenance.[].ends": Leaf("limits/schema.py", LIMITS + "test_maintenance_shortens_what_starts_and_drains"),
    "maintenance.[].name": Leaf(
        "service/offers.py", "test_limits_warnings::test_maintenance_of_some_nodes_is_announced_for_these"
    ),
    "maintenance.[].nodes.[]": Leaf("standing.py", "test_maintenance_is_of_its_pool_and_nodes"),
    "maintenance.[].pool": Leaf("standing.py", "test_maintenance_is_of_its_pool_and_nodes"),
    "maintenance.[].why": Leaf("service/offers.py", "test_maintenance_is_of_its_pool_and_nodes"),
    "notices.[]": Leaf("notices.py", "test_notices_come_when_the_file_says"),
    "parking.host_memory_gib": Leaf("pool.py", "test_idle_parking::test_without_memory_set_aside_nothing_is_parked"),
    "pools.NAME.engines.[]": Leaf(
        "limits/pools.py", LIMITS + "test_a_pool_of_another_engine_has_no_device_of_this_machine"
    ),
    "pools.NAME.gpus": Leaf("standing.py", "test_a_pool_bounds_what_one_person_holds_there"),
    "pools.NAME.groups.[]": Leaf("standing.py", LIMITS + "test_a_pool_is_for_its_groups_kinds_and_times"),
    "pools.NAME.keep_for_sessions.gpus": Leaf(
        "standing.py",
        LIMITS + "test_gpus_kept_for_sessions_are_not_taken_by_batch_that_would_run_into_office_hours",
    ),
    "pools.NAME.keep_for_sessions.when": Leaf(
        "standing.py",
        LIMITS + "test_gpus_kept_for_sessions_are_not_taken_by_batch_that_would_run_into_office_hours",
    ),
    "pools.NAME.kinds.[]": Leaf("standing.py", "test_a_pool_is_for_its_kinds"),
    "pools.NAME.max_time": Leaf("standing.py", LIMITS + "test_a_pool_is_for_its_groups_kinds_and_times"),
    "pools.NAME.models.[]": Leaf("limits/pools.py", LIMITS + "test_a_pool_is_for_its_groups_kinds_and_times"),
    "pools.NAME.nodes.[]": Leaf("limits/pools.py", "test_a_pool_is_of_its_nodes"),
    "pools.NAME.preempt.after": Leaf(
        "standing.py",
        PREEMPTION + "test_a_person_who_waits_gets_the_place_of_over_quota_batch_which_is_requeued_and_finishes",
    ),
    "pools.NAME.preempt.grace": Leaf(
        "standing.py",
        PREEMPTION + "test_a_person_who_waits_gets_the_place_of_over_quota_batch_which_is_requeued_and_finishes",
    ),
    "pools.NAME.preempt.when": Leaf("standing.py", "test_batch_gives_way_in_the_hours_of_the_file"),
    "requests_waiting": Leaf(
        "limits/checks.py", "test_crowd::test_there_is_always_a_place_for_somebody_who_comes_later"
    ),
    "retention.changes": Leaf("sweeping.py", "test_what_is_over_is_kept_as_long_as_the_file_says"),
    "retention.charges": Leaf("sweeping.py", "test_what_is_over_is_kept_as_long_as_the_file_says"),
    "retention.decisions": Leaf("sweeping.py", "test_what_is_over_is_kept_as_long_as_the_file_says"),
    "retention.reservations": Leaf("sweeping.py", "test_what_is_over_is_kept_as_long_as_the_file_says"),
    "retention.session_logs": Leaf(
        "service/retention.py", "test_long_past::test_logs_go_by_age_and_size_and_those_of_live_sessions_stay"
    ),
    "retention.session_logs_gib": Leaf(
        "service/retention.py", "test_long_past::test_logs_go_by_age_and_size_and_those_of_live_sessions_stay"
    ),
    "start_timeout": Leaf("deadlines.py", "test_what_is_not_started_in_time_is_given_up"),
    "start_within": Leaf("deadlines.py", "test_what_is_not_started_in_time_is_given_up"),
    "stop.save_grace": Leaf("notices.py", "test_agent::test_a_stop_interrupts_kernels_and_leaves_time_to_save"),
    "stop.term_grace": Leaf("limits/schema.py", "test_limits::test_maintenance_shortens_what_starts_and_drains"),
    "timezone": Leaf(
        "limits/schema.py", "test_limits_warnings::test_a_budget_says_when_it_refills_by_the_clock_of_the_file"
    ),
    "weights.NAME": Leaf("standing.py", LIMITS + "test_a_budget_refuses_what_it_cannot_pay_and_says_what_it_could"),
}
"""Of a kind of section that stands in several places, one: groups.NAME.each and users.NAME are as defaults."""


def test_every_value_of_the_schema_has_a_reader_and_a_test_of_its_edge() -> None:
    assert {".".join(place) for place in LEAVES} == set(READ)


@pytest.mark.parametrize("place", READ)
def test_its_reader_reads_it(place: str) -> None:
    key = [step for step in place.split(".") if step not in ("[]", "NAME")][-1]
    assert key in _words(READ[place].reader), f"{READ[place].reader} does not read {key}"


@cache
def _words(reader: str) -> set[str]:
    """Attributes and texts of a module's code, its docstrings left out."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / "reservations" / reader).read_text())):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
            found |= set(re.split(r"\W+", node.value))
    return found


@pytest.mark.parametrize("place", READ)
def test_its_edge_is_tried_by_a_test_that_there_is(place: str) -> None:
    file, _, name = READ[place].edge.rpartition("::")
    path = Path(__file__).with_name(f"{file}.py") if file else Path(__file__)
    assert f"def {name}(" in path.read_text(), f"{path.name} has no {name}"


@pytest.mark.parametrize("key", BUILT_IN)
def test_what_concerns_a_person_is_shown_with_who_says_it(tmp_path: Path, key: str) -> None:
    found = explanation(Lab(tmp_path, {}, "t4").pool, "ada")
    row = next((row for row in found["limits"] if row["key"] == key), None)
    assert row is not None or key == "budgets", "those are shown with what is used"
    assert row is None or (row["value"] and row["from"] == "built in")


# --- edges that are tried nowhere else


def refused(lab: Lab, owner: str, kind: Kind = Kind.SESSION, seconds: int = HOUR, **share: Any) -> str:
    with pytest.raises(PublicError) as caught:
        lab.ask(owner, kind, seconds, **share)
    return caught.value.message


def test_a_budget_refills_when_its_window_ends(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"defaults": {"budgets": [{"gpu_hours": 2, "every": "day"}]}}, "t4", start=NINE)
    lab.run(first := lab.ask("ada", seconds=2 * HOUR))
    lab.later(2 * HOUR)
    lab.pool.gone(first.id, _cancelled(), "done")
    lab.now = NINE + 15 * HOUR - 1
    assert "0 are left" in refused(lab, "ada")
    lab.now = NINE + 15 * HOUR
    assert lab.ask("ada").holds


def test_a_budget_is_for_its_kinds(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"defaults": {"budgets": [{"gpu_hours": 0, "kinds": ["batch"]}]}}, "t4")
    assert lab.ask("ada").holds
    assert "GPU-hours" in refused(lab, "ada", Kind.BATCH)


def test_extensions_end_at_the_total(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"defaults": {"extension": {"longest": "2h", "total": "2h"}}}, "t4")
    mine = lab.ask("ada", seconds=HOUR)
    with pytest.raises(PublicError, match="lasts at most 2 h"):
        lab.pool.extend(mine.id, HOUR + 1)
    assert lab.pool.extend(mine.id, HOUR).time_limit_s == 2 * HOUR


def test_the_default_time_is_that_of_the_file(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"defaults": {"sessions": {"default_time": "3h"}, "jobs": {"default_time": "5h"}}}, "t4")
    assert lab.ask("ada", seconds=None).time_limit_s == 3 * HOUR
    assert lab.ask("ada", Kind.BATCH, None).time_limit_s == 5 * HOUR


def test_idle_begins_below_its_thresholds() -> None:
    limits = Limits.model_validate({"defaults": {"idle": {"gpu_below": 7, "cpu_below": 30}}})
    found = idle_settings(limits, resolve(limits, "ada", ()), (), 1).thresholds
    assert found == Thresholds(7, 30, 0)
    quiet = Sample(0.0, kernel_busy_s=0.0, gpu=6.9, cpu=29.9, terminal=False, input_at=0.0)
    assert working(quiet, found) == ""
    assert "GPU" in working(replace(quiet, gpu=7.0), found)
    assert "core" in working(replace(quiet, cpu=30.0), found)


def test_idle_rules_are_those_of_the_file() -> None:
    idle = {"after": "2h", "grace": "5m", "busy_cap": "1h", "warn": ["7m"], "then": "stop", "keep": "3h"}
    limits = Limits.model_validate({"defaults": {"idle": idle}, "pools": {"p": {"idle": {"keep": "1h"}}}})
    mine = resolve(limits, "ada", ())
    found = idle_settings(limits, mine, (), 1)
    assert (found.after, found.grace, found.warn, found.then, found.keep) == (7200, 300, (420,), "stop", 10800)
    assert found.thresholds.busy_cap_s == 3600
    assert idle_settings(limits, mine, ("p",), 1).keep == 3600


SHARED: dict[str, Any] = {"groups": {"a": {"members": ["ada", "ann"]}, "b": {"members": ["ben"]}}, "fair_share": {}}


def factors(lab: Lab, *people: str) -> list[float]:
    return [float((fair_view(lab.pool, person) or {})["factor"]) for person in people]


def used(lab: Lab, *owners: str) -> None:
    """An hour of one GPU for each of them, which is over."""
    held = [lab.ask(owner, seconds=HOUR) for owner in owners]
    lab.run(*held)
    lab.later(HOUR)
    for one in held:
        lab.pool.gone(one.id, _cancelled(), "done")


def test_shares_of_people_and_groups_decide_who_goes_first(tmp_path: Path) -> None:
    people = {**SHARED, "users": {"ann": {"shares": 4}}}
    groups = {**SHARED, "groups": {"a": {"members": ["ada", "ann"]}, "b": {"members": ["ben"], "shares": 0.1}}}
    orders = []
    for number, limits in enumerate((SHARED, people, groups)):
        folder = tmp_path / str(number)
        folder.mkdir()
        lab = Lab(folder, limits, "t4", "t4", "t4")
        used(lab, "ada", "ann", "ben")
        orders.append(factors(lab, "ada", "ann", "ben"))
    equal, more, less = orders
    assert equal[0] == equal[1] < equal[2], "two of one group used more of its share"
    assert more[1] > more[0]
    assert less[2] < min(less[:2])


def test_the_past_counts_by_its_half_life(tmp_path: Path) -> None:
    for number, (session, batch) in enumerate((("1h", "100d"), ("100d", "1h"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        lab = Lab(folder, {**SHARED, "fair_share": {"half_life": {"session": session, "batch": batch}}}, "t4", "t4")
        held = [lab.ask("ada", seconds=HOUR), lab.batch("ben", HOUR)]
        lab.run(*held)
        lab.later(HOUR)
        for one in held:
            lab.pool.gone(one.id, _cancelled(), "done")
        lab.later(24 * HOUR)
        of_session, of_batch = (lab.pool.world().policy([name]).person(name).use for name in ("ada", "ben"))
        assert (of_session < of_batch) is (session == "1h")


def test_the_method_of_fair_share_is_that_of_the_file(tmp_path: Path) -> None:
    found = []
    for method in ("fair_tree", "classic"):
        (tmp_path / method).mkdir()
        lab = Lab(tmp_path / method, {**SHARED, "fair_share": {"method": method}}, "t4", "t4")
        used(lab, "ada", "ben")
        found.append(factors(lab, "ada", "ann", "ben"))
    assert found[0] != found[1]


def test_weights_of_fair_share_decide_against_age(tmp_path: Path) -> None:
    for number, (weight, age, first) in enumerate(((1, 0, "ben"), (0, 1, "ada"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        lab = Lab(folder, {**SHARED, "fair_share": {"weight": weight, "age_weight": age}}, "t4")
        used(lab, "ada")
        lab.ask("ann", seconds=5 * HOUR)
        early = lab.ask("ada", seconds=HOUR)
        lab.later(300)
        late = lab.ask("ben", seconds=HOUR)
        told = lab.pool.forecast()
        assert min(early, late, key=lambda one: told[one.id].position or 0).owner == first


WHEN = {"begins": "2026-11-23 10:00", "ends": "2026-11-23 12:00"}


def test_after_its_end_an_event_keeps_nothing(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"events": [{"name": "e", "gpus": 1, "users": ["tom"], **WHEN}]}, "t4", start=NINE + HOUR)
    waits = lab.ask("ada")
    lab.now = NINE + 3 * HOUR - 1
    lab.later(0)
    assert lab.state(waits) == "queued"
    lab.later(1)
    assert lab.state(waits) == "granted"


def test_an_event_keeps_as_many_as_it_says_of_its_pool_and_nodes(tmp_path: Path) -> None:
    event = {"name": "e", "gpus": 1, "groups": ["cms"], "pool": "big", "nodes": ["n2"], **WHEN}
    pools = {"big": {"models": ["a100"]}, "small": {}}
    limits = {"groups": {"cms": {"members": ["tom"]}}, "pools": pools, "events": [event]}
    lab = Lab(tmp_path, limits, start=NINE + HOUR)
    one, two = pool("a100", "a100", node="n1"), pool("a100", "a100", "t4", node="n2")
    devices = [replace(device, uuid=f"{device.node}-{device.uuid}") for device in (*one, *two)]
    lab.pool.set_inventory(Inventory(tuple(devices)))
    assert all(lab.ask(name).holds for name in ("ada", "ben", "cleo", "dora")), "four of five"
    assert lab.state(lab.ask("eve")) == "queued"
    kept = lab.ask("tom")
    assert [holding.device_uuid for holding in kept.holdings] == ["n2-GPU-1"]


def test_maintenance_is_of_its_pool_and_nodes(tmp_path: Path) -> None:
    entry = {"name": "m", "pool": "big", "nodes": ["n2"], "why": "new cables", **WHEN}
    lab = Lab(tmp_path, {"pools": {"big": {"models": ["a100"]}}, "maintenance": [entry]}, start=NINE + HOUR)
    devices = [*pool("a100", node="n1"), *pool("a100", "t4", node="n2")]
    lab.pool.set_inventory(Inventory(tuple(replace(d, uuid=f"{d.node}-{d.uuid}") for d in devices)))
    held = [lab.ask(name) for name in ("ada", "ben", "cleo")]
    assert [lab.state(one) for one in held] == ["granted", "granted", "queued"]
    (told,) = offers_view(lab.pool, "ada", True)["announced"]
    assert told.endswith("the node n2 of the pool big, new cables (m)")


def test_the_form_offers_the_fractions_of_the_file(tmp_path: Path) -> None:
    def sizes(folder: str, fractions: list[float]) -> list[float]:
        (tmp_path / folder).mkdir()
        lab = Lab(tmp_path / folder, {"fractions": fractions}, "t4")
        found = [offer["share"].get("memory_gib") for offer in offers_view(lab.pool, "ada", True)["offers"]]
        return sorted(round(size / (40_000 / 1024), 2) for size in found if size is not None)

    assert sizes("some", [0.125, 0.75]) == [0.12, 0.75]
    assert sizes("none", []) == []


def test_a_job_is_told_how_long_and_how_large_its_files_may_be(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"job_files": {"keep": "3d", "space_gib": 2}}, "t4")
    asked = Estimate(Submission("ada", parse_share({"gpus": 1}), HOUR, Kind.BATCH), 1)
    assert estimate_view(lab.pool, asked)["space"] == {"keep_s": 3 * DAY, "bytes": 2 * 1024**3}
    lab.edit({"job_files": {"space_gib": "unlimited"}})
    assert estimate_view(lab.pool, asked)["space"]["bytes"] is None


def test_notices_come_when_the_file_says(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"notices": ["20m", "5m"]}, "t4")
    lab.run(mine := lab.ask("ada", seconds=HOUR))
    for left, level in ((20 * 60 + 1, None), (20 * 60, "warning"), (5 * 60 + 1, "warning"), (5 * 60, "danger")):
        found = time_notice(lab.pool.get(mine.id), lab.limits, mine.granted_at + HOUR - left)  # type: ignore[operator]
        assert (found.level if found else None) == level


def test_a_pool_bounds_what_one_person_holds_there(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"pools": {"p": {"models": ["a100"], "gpus": 1}}}, "a100", "a100", "t4")
    assert lab.ask("ada", gpus=1, model="a100").holds
    waits = lab.ask("ada", gpus=1, model="a100")
    assert "the 1 GPU of the pool p that one person may hold at once" in lab.why(waits)
    assert lab.ask("ben", gpus=1, model="a100").holds
    assert lab.ask("ada", gpus=1, model="t4").holds


def test_a_pool_is_for_its_kinds(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"pools": {"p": {"kinds": ["batch"]}}}, "t4")
    assert "the pool p takes no sessions" in refused(lab, "ada")
    assert lab.batch("ada").holds


def test_a_pool_is_of_its_nodes(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"groups": {"cms": {}}, "pools": {"p": {"nodes": ["n1*"], "groups": ["cms"]}}})
    devices = [*pool("t4", node="n10"), *pool("t4", node="n2")]
    lab.pool.set_inventory(Inventory(tuple(replace(d, uuid=d.node) for d in devices)))
    assert [holding.device_uuid for holding in lab.ask("ada").holdings] == ["n2"]
    assert lab.state(lab.ask("ada")) == "queued"


def test_batch_gives_way_in_the_hours_of_the_file(tmp_path: Path) -> None:
    limits = {
        "groups": {"a": {"members": ["ada"], "quota": 0}, "b": {"members": ["ben"], "quota": 1}},
        "pools": {"all": {"preempt": {"when": "Mon 12:00-13:00", "after": 0}}},
    }
    lab = Lab(tmp_path, limits, "t4", start=NINE)
    lab.run(lab.batch("ada", 20 * HOUR))
    lab.ask("ben")
    assert lab.later(3 * HOUR - 1) == []
    assert [one.owner for one in lab.later(1)] == ["ada"]


def test_what_is_not_started_in_time_is_given_up(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"start_within": "2m", "start_timeout": "1m"}, "t4", "t4")
    lost, slow = lab.ask("ada"), lab.ask("ben")
    lab.later(60)
    lab.pool.starting(slow.id)
    lab.later(59)
    assert [lab.state(one) for one in (lost, slow)] == ["granted", "starting"]
    lab.later(1)
    assert [lab.state(one) for one in (lost, slow)] == ["ended", "ending"]


def test_what_is_over_is_kept_as_long_as_the_file_says(tmp_path: Path) -> None:
    kept = {"reservations": "20d", "decisions": "2d", "charges": "3d", "changes": "4d"}
    lab = Lab(tmp_path, {"retention": kept}, "t4")
    sweeper = Sweeper(lab.pool, lab.ledger)
    assert charges_kept_s(lab.limits) >= 3 * DAY
    lab.pool.end(lab.ask("ada").id, _cancelled(), "done")
    ended_at = lab.now
    lab.now = ended_at + 20 * DAY - 1
    assert "reservations" not in sweeper.piece()
    lab.now = ended_at + 20 * DAY + 1
    assert "reservations" in sweeper.piece()
    told = {what: seconds for what, seconds, _ in sweeper._duties()}
    assert (told["reservations"], told["decisions"], told["changes"]) == (20 * DAY, 2 * DAY, 4 * DAY)
    lab.edit({"retention": {"reservations": 0}})
    assert {what: seconds for what, seconds, _ in sweeper._duties()}["reservations"] == 0
