"""Reservations at engines that place work themselves: what the ledger keeps of them, and what limits say."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from pools import Lab, pool

from timeshare.reservations.elsewhere import Outlook, OwnLimit, OwnLimits
from timeshare.reservations.engines.matching import grouped
from timeshare.reservations.errors import PublicError
from timeshare.reservations.job import JobSpec
from timeshare.reservations.kind import Kind
from timeshare.reservations.ledger.policy import charges_since
from timeshare.reservations.outside import Outside
from timeshare.reservations.placement import Holding
from timeshare.reservations.reservation import Reason, Reservation, State
from timeshare.reservations.service.job_bodies import Estimate
from timeshare.reservations.service.job_handlers import estimate_view
from timeshare.reservations.service.views import reservation_view
from timeshare.reservations.shares import ShareRequest, parse_share
from timeshare.reservations.submission import Submission

SHARE = parse_share({"gpus": 1, "engine": "slurm"})
HELD = (Holding("slurm/a1/0", "", 40_000, 1000, False),)
FREE = Outlook(1)


@dataclass
class Engine:
    """One that takes everything."""

    name: str = "slurm"
    title: str = "The cluster"
    nodes_environment: dict[str, str] = field(default_factory=dict)
    now: Outlook = FREE
    silent: str = ""

    def check(self, request: ShareRequest, seconds: int, kind: Kind) -> None:
        if request.count > 4:
            raise PublicError("too-large", f"gpus is {request.count}: the most is 4", 422)

    def enforcement(self, request: ShareRequest) -> str:
        return "simulated"

    def outlook(self, request: ShareRequest, seconds: int, owner: str) -> Outlook:
        return self.now

    def own_limits(self, owner: str) -> OwnLimits | None:
        return OwnLimits([OwnLimit(f"account of {owner or 'all'}", "running jobs", "4", "MaxJobs")], 0.0)

    def announced(self) -> list[str]:
        return ["The cluster, maintenance from 2026-12-01 09:00 to 12:00 (UTC): all nodes"]

    def silence(self) -> str:
        return self.silent

    def troubles(self) -> list[str]:
        return []

    def cannot_extend(self) -> str:
        return "this site does not allow it"


def lab_with_engine(folder: Path, **limits: Any) -> tuple[Lab, Outside]:
    lab = Lab(folder, {"defaults": limits}, "t4")
    lab.pool.engines["slurm"] = Engine()
    lab.pool.set_devices("slurm", [replace(d, uuid=f"slurm/{d.uuid}") for d in pool("a100", "a100", node="a1")])
    return lab, Outside(lab.pool)


def array(lab: Lab, count: int, parallel: int) -> list[Reservation]:
    spec = JobSpec("scan", "/py", "/f", "0" * 64, array="many", parallel=parallel, of=count)
    wishes = [Submission("ada", SHARE, 3600, Kind.BATCH, job=replace(spec, index=i)) for i in range(count)]
    return [lab.pool.submit(wish)[0] for wish in wishes]


def next_ones(lab: Lab) -> list[str]:
    return [r.id for r in lab.pool.world().handed_over_next("slurm")]


def test_devices_of_an_engine_are_not_given_out_here(tmp_path: Path) -> None:
    lab, _ = lab_with_engine(tmp_path)
    with pytest.raises(PublicError, match="this pool has t4"):
        lab.ask("ada", gpus=1, model="a100")
    here, there = lab.ask("ada", gpus=1), lab.ask("ada", gpus=1, model="a100", engine="slurm")
    assert lab.state(here) == "granted"
    assert lab.state(there) == "queued"
    lab.later(1)
    assert lab.state(there) == "queued"


def test_what_an_engine_could_never_start_is_refused_before_it_is_asked(tmp_path: Path) -> None:
    lab, _ = lab_with_engine(tmp_path)
    with pytest.raises(PublicError, match="gpus is 5"):
        lab.ask("ada", gpus=5, engine="slurm")
    with pytest.raises(PublicError, match="must be one of the engines of this site: slurm"):
        lab.ask("ada", gpus=1, engine="condor")


def test_a_reservation_goes_there_runs_and_is_charged(tmp_path: Path) -> None:
    lab, outside = lab_with_engine(tmp_path)
    asked = lab.ask("ada", gpus=1, engine="slurm")
    assert next_ones(lab) == [asked.id]
    outside.handing_over([asked.id])
    assert next_ones(lab) == [], "the intention is written down before the act"
    outside.handed_over(asked.id, 1, "7")
    outside.noted(asked.id, "others go first", 1_795_000_100.0, "")
    outside.begun(asked.id, 1, (Holding("slurm/GPU-0", "", 40_000, 1000, False),), "a1")
    found = lab.pool.get(asked.id)
    assert (found.state, found.terms.gpus, found.terms.model) == (State.GRANTED, 1.0, "a100")
    lab.run(found)
    lab.now += 3600
    lab.pool.end(asked.id, Reason.CANCELLED, "by its owner")
    assert lab.state(asked) == "ending", "its job is still there"
    outside.gone(asked.id, 1, Reason.LOST, "")
    ended = lab.pool.get(asked.id)
    assert (ended.state, ended.reason, ended.detail) == (State.ENDED, Reason.CANCELLED, "by its owner")
    assert [charge.gpus for charge in lab.pool.running()] == []


@pytest.mark.parametrize(
    ("began", "ended", "charged"),
    [(100, 400, (100, 400)), (-5, 400, (0, 400)), (100, 9999, (100, 500)), (400, 100, (400, 400))],
    ids=["as told", "its clock is behind", "its clock is ahead", "nonsense"],
)
def test_a_job_that_nobody_saw_run_is_charged_for_when_it_ran(
    tmp_path: Path, began: int, ended: int, charged: tuple[int, int]
) -> None:
    lab, outside = lab_with_engine(tmp_path)
    (task,) = array(lab, 1, parallel=0)
    asked_at = lab.now
    outside.handing_over([task.id])
    lab.now += 500
    outside.begun(task.id, 1, (Holding("slurm/GPU-0", "", 40_000, 1000, False),), "a1", asked_at + began)
    outside.runs(task.id, 1, "simulated", asked_at + began)
    outside.gone(task.id, 1, Reason.COMPLETED, "", asked_at + ended)
    with lab.ledger.transaction() as connection:
        (charge,) = charges_since(connection, 0.0)
    assert (charge.began - asked_at, charge.ended - asked_at, charge.gpus) == (*charged, 1.0)
    over = lab.pool.get(task.id)
    assert (over.state, over.generation, over.ended_at) == (State.ENDED, 1, asked_at + charged[1])


def test_one_that_waits_there_and_is_left_is_over_only_when_its_job_is(tmp_path: Path) -> None:
    lab, outside = lab_with_engine(tmp_path)
    kept, waiting = lab.ask("ada", gpus=1, engine="slurm"), lab.ask("ben", gpus=1, engine="slurm")
    lab.pool.end(kept.id, Reason.CANCELLED, "left the queue")
    assert lab.state(kept) == "ended", "its engine never heard of it"
    outside.handing_over([waiting.id])
    lab.pool.end(waiting.id, Reason.CANCELLED, "left the queue")
    assert lab.state(waiting) == "ending"
    outside.gone(waiting.id, 1, Reason.CANCELLED, "")
    assert lab.state(waiting) == "ended"


def test_limits_keep_back_what_is_too_much_and_what_may_begin_counts(tmp_path: Path) -> None:
    lab, outside = lab_with_engine(tmp_path, gpus=2)
    asked = [lab.ask("ada", gpus=1, engine="slurm") for _ in range(3)]
    assert next_ones(lab) == [asked[0].id, asked[1].id]
    outside.handing_over([asked[0].id, asked[1].id])
    assert next_ones(lab) == []
    assert "you hold 2 of the 2 GPUs" in lab.pool.kept_back(asked[2])
    here = lab.ask("ada", gpus=1)
    assert lab.state(here) == "queued", "one limit for all engines"
    outside.gone(asked[0].id, 1, Reason.COMPLETED, "done")
    assert next_ones(lab) == [asked[2].id]


def test_every_gpu_of_every_node_counts(tmp_path: Path) -> None:
    lab, _ = lab_with_engine(tmp_path, gpus=3)
    nodes = [replace(d, uuid=f"{n}/{d.uuid}", node=n) for n in ("a1", "b1") for d in pool("a100", "a100")]
    lab.pool.set_devices("slurm", nodes)
    with pytest.raises(PublicError, match="2 whole GPUs on each of 2 nodes of slurm counts 4 GPUs; your limit"):
        lab.ask("ada", gpus=2, nodes=2, engine="slurm")
    two = lab.ask("ada", gpus=1, nodes=2, engine="slurm")
    lab.ask("ada", gpus=2, engine="slurm")
    assert next_ones(lab) == [two.id], "three at once: the other must wait"


def estimate(lab: Lab, **share: Any) -> dict[str, Any]:
    return estimate_view(lab.pool, Estimate(Submission("ada", parse_share(share), 3600, Kind.BATCH), 1))


def test_an_estimate_of_what_an_engine_runs_is_what_it_says(tmp_path: Path) -> None:
    lab, _ = lab_with_engine(tmp_path)
    told = estimate(lab, gpus=2, engine="slurm")
    assert (told["possible"], told["latest_start_in_s"], told["firm"], told["gpu_hours"]) == (True, 0, False, 2.0)
    assert (told["engine"], told["engine_title"]) == ("slurm", "The cluster")
    busy = Engine(now=Outlook(0, "2 wait before you", 600.0))
    lab.pool.engines["slurm"] = busy
    told = estimate(lab, gpus=2, engine="slurm")
    assert (told["latest_start_in_s"], told["why"]) == (600, "2 wait before you")
    busy.now = Outlook(0, "the cluster is down", closed=True)
    assert (estimate(lab, gpus=2, engine="slurm")["possible"], estimate(lab, gpus=1)["engine"]) == (False, "local")
    told = estimate(lab, gpus=2, engine="condor")
    assert (told["possible"], "must be one of the engines" in told["why"]) == (False, True)


def test_an_array_goes_as_one_where_its_bound_is_within_the_limits(tmp_path: Path) -> None:
    lab, outside = lab_with_engine(tmp_path, gpus=2)
    tasks = array(lab, 6, parallel=2)
    ready = lab.pool.world().handed_over_next("slurm")
    assert [r.id for r in ready] == [t.id for t in tasks]
    assert len(grouped(ready)) == 1
    outside.handing_over([t.id for t in tasks])
    assert lab.state(lab.ask("ada", gpus=1)) == "queued", "two of them may begin at any moment"


def test_an_array_is_handed_over_once_all_of_it_was_asked_for_or_no_more_of_it_comes(tmp_path: Path) -> None:
    lab, _ = lab_with_engine(tmp_path)
    spec = JobSpec("scan", "/py", "/f", "0" * 64, array="many", of=3)
    for index in range(2):
        lab.pool.submit(Submission("ada", SHARE, 3600, Kind.BATCH, job=replace(spec, index=index)))
    assert next_ones(lab) == []
    lab.now += 4
    assert len(next_ones(lab)) == 2, "whoever asked for them has gone"
    lab.now -= 4
    lab.pool.submit(Submission("ada", SHARE, 3600, Kind.BATCH, job=replace(spec, index=2)))
    assert len(next_ones(lab)) == 3


def test_an_array_beyond_the_limits_follows_in_parts_within_its_bound(tmp_path: Path) -> None:
    lab, outside = lab_with_engine(tmp_path, gpus=1)
    tasks = array(lab, 4, parallel=2)
    assert next_ones(lab) == [tasks[0].id]
    outside.handing_over([tasks[0].id])
    assert next_ones(lab) == []
    outside.gone(tasks[0].id, 1, Reason.COMPLETED, "done")
    lab.now += 4
    assert next_ones(lab) == [tasks[1].id]


def test_a_job_that_was_taken_back_is_counted_from_its_old_place_and_starts_again(tmp_path: Path) -> None:
    lab, outside = lab_with_engine(tmp_path)
    (task,) = array(lab, 1, parallel=0)
    outside.handing_over([task.id])
    outside.handed_over(task.id, 1, "7")
    outside.begun(task.id, 1, HELD, "a1")
    outside.runs(task.id, 1, "simulated")
    outside.waits_again(task.id, "preempted there")
    waiting = lab.pool.get(task.id)
    assert (waiting.state, waiting.requeues, waiting.external and waiting.external.job_id) == (State.QUEUED, 1, "7")
    outside.begun(task.id, 1, HELD, "a1")
    outside.runs(task.id, 2, "simulated")
    assert (lab.pool.get(task.id).state, lab.pool.get(task.id).generation) == (State.ACTIVE, 2)


def test_a_granted_session_that_nobody_starts_is_ended_there_too(tmp_path: Path) -> None:
    lab, outside = lab_with_engine(tmp_path)
    asked = lab.ask("ada", gpus=1, engine="slurm")
    outside.handing_over([asked.id])
    outside.begun(asked.id, 1, HELD, "a1")
    lab.later(700)
    assert lab.state(asked) == "ending"


def test_who_waits_reads_what_the_engine_said_and_since_when_it_is_silent(tmp_path: Path) -> None:
    lab, outside = lab_with_engine(tmp_path)
    asked = lab.ask("ada", gpus=1, engine="slurm")
    outside.handing_over([asked.id])
    outside.noted(asked.id, "others go first", None, "")
    assert reservation_view(lab.pool, lab.pool.get(asked.id))["why_waiting"] == "others go first"
    lab.pool.engines["slurm"].silent = "The cluster has not answered for 1 min"  # type: ignore[attr-defined]
    told = reservation_view(lab.pool, lab.pool.get(asked.id))["why_waiting"]
    assert told == "others go first; The cluster has not answered for 1 min"


def test_ends_are_moved_only_where_the_engine_allows_it(tmp_path: Path) -> None:
    lab, outside = lab_with_engine(tmp_path)
    asked = lab.ask("ada", gpus=1, engine="slurm")
    outside.handing_over([asked.id])
    outside.begun(asked.id, 1, HELD, "a1")
    with pytest.raises(PublicError, match="its end cannot be moved: this site does not allow it"):
        lab.pool.extend(asked.id, 60)


def test_all_of_it_is_there_again_after_a_restart(tmp_path: Path) -> None:
    lab, outside = lab_with_engine(tmp_path)
    asked = lab.ask("ada", gpus=1, engine="slurm")
    outside.handing_over([asked.id])
    outside.handed_over(asked.id, 1, "7")
    outside.noted(asked.id, "Priority", 12.0, "")
    again, _ = lab_with_engine(tmp_path)
    assert again.pool.get(asked.id) == lab.pool.get(asked.id)
