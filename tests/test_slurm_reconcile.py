"""The ledger beside Slurm's accounting: what agrees, what differs, and who had how much by each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from slurm_examples import DATA

from timeshare.hub_config.reconcile import part, span
from timeshare.reservations.engines.slurm.accounting import SlurmEnd, parse_accounting
from timeshare.reservations.engines.slurm.comparison import Charged, Key, Period, Ran, Total, compare, ran_of

TAG = "0a1b2c3d"
HOUR = 3600.0
DAY = Period(0.0, 24 * HOUR)
ID = "5f0c3f2e-8a9b-4c53-9e0a-0a3b8f1f4a11"
END = SlurmEnd(
    7,
    f"timeshare-{TAG}-{ID}.1",
    "ada",
    "COMPLETED",
    started_at=HOUR,
    ended_at=3 * HOUR,
    nodes=("a1",),
    tres={"cpu": 8, "gres/gpu": 2, "gres/gpu:a100": 2},
)
HELD = Charged(ID, (ID, 0), "ada", "7", gpus=2, seconds=2 * HOUR, gpu_hours=4)


def ran(*ends: SlurmEnd, period: Period = DAY) -> dict[Key, Ran]:
    return ran_of(ends, TAG, period, {"a1": 4})


def kinds(held: Charged, *ends: SlurmEnd, tolerance: float = 0.05) -> list[str]:
    return [one.kind for one in compare([held], ran(*ends), tolerance).differences]


def test_what_agrees_is_no_difference_and_counts_on_both_sides() -> None:
    report = compare([HELD], ran(END), 0.05)
    assert report.differences == []
    assert report.totals == [Total("ada", 4.0, 4.0)]


def test_attempts_of_a_job_and_its_restarts_are_one() -> None:
    again = replace(END, name=f"timeshare-{TAG}-{ID}.2", job_id=9, started_at=4 * HOUR, ended_at=5 * HOUR)
    held = replace(HELD, seconds=3 * HOUR, gpu_hours=6, job="9")
    assert compare([held], ran(END, again), 0.05).totals == [Total("ada", 6.0, 6.0)]
    assert kinds(held, END, again) == []


def test_jobs_of_others_and_of_other_deployments_are_left_alone() -> None:
    others = [replace(END, name="fit"), replace(END, name=f"timeshare-ffffffff-{ID}.1")]
    assert ran(*others) == {}


def test_a_job_that_the_ledger_does_not_know_is_told_with_what_it_took() -> None:
    (found,) = compare([], ran(END), 0.05).differences
    assert (found.kind, found.owner, found.job, found.slurm) == ("not-in-ledger", "ada", "7", 4.0)
    assert ID in found.detail
    never_began = replace(END, started_at=None, ended_at=2 * HOUR, state="CANCELLED")
    assert compare([], ran(never_began), 0.05).differences == []


def test_a_reservation_whose_job_slurm_does_not_know_is_told_unless_that_is_new() -> None:
    assert kinds(HELD) == ["not-in-slurm"]
    assert kinds(replace(HELD, is_new=True)) == []
    assert kinds(replace(HELD, job="", gpus=0, seconds=0, gpu_hours=0)) == []  # never handed over


def test_durations_may_differ_by_the_tolerance_or_two_minutes() -> None:
    assert kinds(replace(HELD, seconds=2 * HOUR - 350), END) == []
    assert kinds(replace(HELD, seconds=2 * HOUR - 400), END) == ["duration"]
    assert kinds(replace(HELD, seconds=2 * HOUR - 400), END, tolerance=0.1) == []
    short = replace(END, ended_at=HOUR + 60)
    assert kinds(replace(HELD, seconds=170), short) == []
    assert kinds(replace(HELD, seconds=190), short) == ["duration"]


def test_gpus_that_differ_are_told_and_a_part_is_rounded_to_what_slurm_can_give() -> None:
    assert kinds(replace(HELD, gpus=1), END) == ["gpu-count"]
    shards = replace(END, tres={"gres/shard": 2})
    assert ran(shards)[(ID, 0)].gpus == 0.5
    assert kinds(replace(HELD, gpus=0.5), shards) == []
    assert kinds(replace(HELD, gpus=0.3125), shards) == []
    assert kinds(replace(HELD, gpus=0.25), shards) == ["gpu-count"]


def test_tasks_of_an_array_are_told_apart() -> None:
    name = f"timeshare-{TAG}-scan.1"
    tasks = [replace(END, name=name, array_job_id=7, array_task_id=at, job_id=7 + at) for at in (0, 1)]
    waiting = replace(END, name=name, array_job_id=7, array_task_id=None, started_at=None)
    report = compare([replace(HELD, key=("scan", 1), job="7_1")], ran(*tasks, waiting), 0.05)
    assert [(one.kind, one.job) for one in report.differences] == [("not-in-ledger", "7_0")]


def test_only_what_lies_in_the_period_counts_and_what_runs_counts_until_now() -> None:
    assert ran(END, period=Period(2 * HOUR, 24 * HOUR))[(ID, 0)].gpu_hours == 2.0
    runs = replace(END, state="RUNNING", ended_at=None)
    assert ran(runs, period=Period(0.0, 2 * HOUR))[(ID, 0)].gpu_hours == 2.0


def test_what_holds_no_gpu_is_not_compared() -> None:
    assert kinds(replace(HELD, gpus=0, seconds=0, gpu_hours=0), replace(END, tres={"cpu": 1})) == []


def test_the_largest_difference_comes_first_and_totals_are_by_person() -> None:
    small = replace(HELD, id="b", key=("b", 0), owner="ben", gpu_hours=1)
    report = compare([small, HELD], {}, 0.05)
    assert [one.reservation for one in report.differences] == [ID, "b"]
    assert report.totals == [Total("ada", 4.0, 0.0), Total("ben", 1.0, 0.0)]


def test_accounting_of_a_real_slurm_is_read() -> None:
    ends = parse_accounting((DATA / "22.05" / "sacct_duplicates.txt").read_text())
    named = [replace(end, name=f"timeshare-{TAG}-{end.name}.1") for end in ends]
    found = ran_of(named, TAG, Period(0.0, 2e9), {})
    assert found[("steps", 0)].gpus == 1
    assert found[("steps", 0)].seconds == 6
    assert {key[1] for key in found if key[0] == "array"} == {0, 1, 2}


@pytest.mark.parametrize(("text", "seconds"), [("12h", 43200), ("7d", 7 * 86400), ("4w", 28 * 86400)])
def test_a_span_is_hours_days_or_weeks(text: str, seconds: float) -> None:
    assert span(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "0d", "7 days", "-1d"])
def test_what_is_no_span_is_refused_with_what_would_work(text: str) -> None:
    with pytest.raises(Exception, match="such as 12h, 7d or 4w"):
        span(text)
    with pytest.raises(Exception, match="from 0 to 1"):
        part("5")
