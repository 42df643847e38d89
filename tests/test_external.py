"""Reservations at engines that place work themselves: what follows from what they say, and what the ledger keeps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from pools import Lab, pool

from timeshare.reservations.elsewhere import Outlook, OwnLimit, OwnLimits
from timeshare.reservations.engines.external import ExternalJob, Life, job_name
from timeshare.reservations.engines.follow import (
    LOST_S,
    Adopt,
    Arrival,
    Begin,
    Cancel,
    Extend,
    Gone,
    Interrupt,
    Note,
    Runs,
    Seen,
    SubmitAgain,
    WaitsAgain,
    follow,
)
from timeshare.reservations.engines.matching import by_reservation, grouped, orphans
from timeshare.reservations.errors import PublicError
from timeshare.reservations.external import External
from timeshare.reservations.job import JobSpec
from timeshare.reservations.kind import Kind
from timeshare.reservations.ledger.policy import charges_since
from timeshare.reservations.limits.schema import Stop
from timeshare.reservations.outside import Outside
from timeshare.reservations.placement import Holding
from timeshare.reservations.reservation import Reason, Reservation, State
from timeshare.reservations.service.job_bodies import Estimate
from timeshare.reservations.service.job_handlers import estimate_view
from timeshare.reservations.service.views import reservation_view
from timeshare.reservations.shares import ShareRequest, parse_share
from timeshare.reservations.submission import Submission

SETTLED_S = Seen(None, 0.0).settled_s
SHARE = parse_share({"gpus": 1, "engine": "slurm"})
HELD = (Holding("slurm/a1/0", "", 40_000, 1000, False),)
STOP = Stop(save_grace=30, term_grace=10)
ASKED = Reservation("r", 1, "ada", "", Kind.SESSION, SHARE, 3600, 0.0, external=External())
TRIED = replace(ASKED, external=External(attempt=1, tried_at=10.0))
QUEUED = replace(ASKED, external=External(attempt=1, tried_at=10.0, job_id="7"))
GRANTED = QUEUED.granted(HELD, 20.0)
ACTIVE = GRANTED.starting(21.0).active("simulated", 22.0)
JOB = replace(QUEUED, kind=Kind.BATCH, job=JobSpec("fit", "/py", "/f", "0" * 64, array="a"))
JOB_RUNS = JOB.granted(HELD, 20.0).starting(21.0).active("simulated", 22.0)
PENDING = ExternalJob("7", "timeshare-t-r.1", "ada", Life.PENDING, said="Priority", expected_at=99.0)
RUNNING = replace(PENDING, life=Life.RUNNING, said="", expected_at=None, node="a1", holdings=HELD, time_limit_s=3645)
ENDED = replace(RUNNING, life=Life.ENDED, reason=Reason.FAILED, detail="its node failed")
FREE = Outlook(1)
HERE = Arrival("7", HELD, "a1", 100.0)
SILENT = Arrival("7", HELD, "a1", 100.0 - LOST_S)


def acts(reservation: Reservation, job: ExternalJob | None, at: float = 100.0, **more: Any) -> list[object]:
    return list(follow(reservation, Seen(job, at, **more), STOP))


def test_what_was_not_handed_over_is_left_alone() -> None:
    assert acts(ASKED, None) == []


def test_an_attempt_that_may_be_on_its_way_is_waited_for_and_then_made_again() -> None:
    assert acts(TRIED, None, 10.0 + SETTLED_S - 1) == []
    assert acts(TRIED, None, 10.0 + SETTLED_S) == [SubmitAgain()]


def test_an_attempt_that_arrived_is_adopted_by_its_name() -> None:
    assert acts(TRIED, PENDING) == [Adopt("7"), Note("Priority", 99.0)]


def test_a_session_begins_when_its_allocation_was_heard_of_and_not_before() -> None:
    assert acts(QUEUED, RUNNING) == [Note("its node is preparing the start", None, "a1")]
    assert acts(QUEUED, RUNNING, arrival=HERE) == [Begin(HELD, "a1")]
    assert acts(QUEUED, None, arrival=HERE) == [Begin(HELD, "a1")], "its own word is newer than the list of its engine"
    assert acts(ACTIVE, RUNNING, arrival=HERE) == []


def test_a_job_begins_and_runs_at_once() -> None:
    assert acts(JOB, RUNNING) == [Begin(HELD, "a1"), Runs(1)]
    assert acts(JOB_RUNS, RUNNING) == []


def test_a_job_that_was_taken_back_waits_again_and_runs_as_its_next_start() -> None:
    assert acts(JOB_RUNS, PENDING) == [WaitsAgain("its engine took back what it held: Priority")]
    again = replace(RUNNING, restarts=1)
    assert acts(JOB_RUNS, again) == [WaitsAgain("its engine started it again"), Begin(HELD, "a1"), Runs(2)]


def test_a_session_whose_allocation_was_taken_back_is_over() -> None:
    assert acts(ACTIVE, PENDING) == [Cancel()]


@pytest.mark.parametrize("reservation", [QUEUED, GRANTED, ACTIVE, JOB_RUNS])
def test_unknown_changes_nothing(reservation: Reservation) -> None:
    assert acts(reservation, replace(RUNNING, life=Life.UNKNOWN)) == []


def test_a_job_that_its_engine_lost_before_it_began_is_handed_over_again() -> None:
    assert acts(QUEUED, None, 100.0, absent_since=100.0 - LOST_S + 1) == []
    assert acts(QUEUED, None, 100.0, absent_since=100.0 - LOST_S) == [SubmitAgain()]


@pytest.mark.parametrize("reservation", [GRANTED, ACTIVE, JOB_RUNS])
def test_a_job_that_is_not_listed_is_over_only_when_it_stays_away(reservation: Reservation) -> None:
    assert acts(reservation, None) == []
    assert acts(reservation, None, 100.0, absent_since=100.0 - LOST_S + 1) == []
    assert acts(reservation, None, 100.0, absent_since=100.0 - LOST_S) == [
        Gone(Reason.LOST, "its engine does not know this job any more")
    ]


@pytest.mark.parametrize("reservation", [GRANTED, ACTIVE])
def test_a_session_that_is_not_listed_goes_on_while_its_agent_is_heard(reservation: Reservation) -> None:
    away = {"absent_since": 100.0 - LOST_S}
    assert acts(reservation, None, 100.0, **away, arrival=HERE) == []
    assert acts(reservation, None, 99.9, absent_since=0.0 - LOST_S, arrival=SILENT) == []
    assert acts(reservation, None, 100.0, **away, arrival=SILENT) == [
        Gone(Reason.LOST, "its engine does not know this job any more")
    ]
    over = ending(reservation)
    assert acts(over, None, 100.0, **away, arrival=SILENT) == acts(over, None, 100.0, **away)


def test_a_session_whose_job_ended_before_it_could_begin_has_failed_however_well_that_ended() -> None:
    well = replace(ENDED, reason=Reason.COMPLETED, detail="")
    (gone,) = acts(QUEUED, well)
    assert isinstance(gone, Gone)
    assert (gone.reason, gone.detail[:19]) == (Reason.FAILED, "its job ended befor")
    assert acts(JOB, well) == [Gone(Reason.COMPLETED, "")]


def test_a_job_that_began_and_ended_between_two_looks_has_held_what_it_asked_for() -> None:
    ran = replace(ENDED, started_at=50.0, ended_at=80.0)
    gone = Gone(Reason.FAILED, "its node failed", 80.0)
    assert acts(JOB, ran) == [Begin(HELD, "a1", 50.0), Runs(1, 50.0), gone]
    assert acts(JOB.granted(HELD, 50.0), ran) == [Runs(1, 50.0), gone], "as after a crash"
    assert acts(JOB_RUNS, ran) == [gone]
    assert acts(JOB, replace(ran, started_at=None)) == [gone], "it never ran"
    assert acts(QUEUED, ran) == [gone], "a session never had a server"


@pytest.mark.parametrize("reservation", [QUEUED, GRANTED, ACTIVE, JOB_RUNS])
def test_an_end_that_its_engine_tells_is_its_end(reservation: Reservation) -> None:
    assert acts(reservation, ENDED) == [Gone(Reason.FAILED, "its node failed")]


def ending(reservation: Reservation, at: float = 50.0) -> Reservation:
    return reservation.ending(Reason.TIME_LIMIT, "its time was up", at)


def test_what_waits_is_cancelled_at_once() -> None:
    assert acts(ending(QUEUED), PENDING) == [Cancel()]


def test_a_session_ends_by_its_agent_and_by_force_when_that_takes_too_long() -> None:
    assert acts(ending(ACTIVE), RUNNING, 60.0, arrival=HERE) == []
    assert acts(ending(ACTIVE), RUNNING, 60.0) == [Cancel()], "an agent that nobody hears cannot be told"
    assert acts(ending(ACTIVE), RUNNING, 50.0 + 55.0, arrival=HERE) == [Cancel()]


def test_a_job_is_interrupted_once_has_its_time_and_is_then_ended() -> None:
    assert acts(ending(JOB_RUNS), RUNNING, 51.0) == [Interrupt()]
    told = ending(replace(JOB_RUNS, external=replace(JOB_RUNS.external, asked_to_stop=True)))  # type: ignore[arg-type]
    assert acts(told, RUNNING, 51.0) == []
    assert acts(told, RUNNING, 80.0) == [Cancel()]
    assert acts(told, replace(RUNNING, life=Life.ENDING), 90.0) == []


def test_one_that_ends_and_never_arrived_is_gone_when_nothing_can_come_any_more() -> None:
    over = ending(TRIED)
    assert acts(over, None, 10.0 + SETTLED_S - 1) == []
    assert acts(over, None, 10.0 + SETTLED_S) == [Gone(Reason.TIME_LIMIT, "its time was up")]


def test_a_session_that_was_extended_has_its_limit_moved_there_too() -> None:
    longer = ACTIVE.extended(1800)
    assert acts(longer, RUNNING, arrival=HERE) == [Extend(5400)]
    assert acts(longer, replace(RUNNING, time_limit_s=5445), arrival=HERE) == []


# --- with a ledger


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
    assert "you hold 2 of the 2 GPUs" in lab.pool.world().kept_back(asked[2])
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


def test_jobs_of_nobody_are_found_by_their_names_and_those_of_others_are_not() -> None:
    mine = [QUEUED, replace(JOB, id="j")]
    known = {
        "7": PENDING,
        "8": replace(PENDING, job_id="8", name=job_name("t", "gone", 1)),
        "9": replace(PENDING, job_id="9", name=job_name("t", "r", 2)),
        "10": replace(PENDING, job_id="10", name=job_name("other", "gone", 1)),
        "11": replace(ENDED, job_id="11", name=job_name("t", "gone", 1)),
        "12": replace(PENDING, job_id="12", name="somebody's own"),
    }
    assert [job.job_id for job in orphans(mine, known, "t")] == ["8", "9"]


def test_a_task_of_an_older_attempt_is_nobodys_though_others_of_its_array_are_still_at_that_attempt() -> None:
    first = replace(JOB, id="j0")
    second = replace(JOB, id="j1", job=replace(JOB.job, index=1), external=External(attempt=2, tried_at=1.0))  # type: ignore[type-var]
    known = {f"5_{at}": replace(PENDING, job_id=f"5_{at}", name=job_name("t", "a", 1), index=at) for at in range(2)}
    assert [job.job_id for job in orphans([first, second], known, "t")] == ["5_1"]


def test_a_job_is_known_by_its_id_and_an_unknown_one_by_name_and_index() -> None:
    task = replace(JOB, external=External(attempt=1, tried_at=1.0), job=replace(JOB.job, index=3))  # type: ignore[type-var]
    known = {"5_3": replace(PENDING, job_id="5_3", name=job_name("t", "a", 1), index=3), "7": RUNNING}
    assert by_reservation([QUEUED], known, "t") == {"r": RUNNING}
    assert by_reservation([QUEUED], {"7": replace(RUNNING, name="another's")}, "t") == {}, "its number was given away"
    assert by_reservation([task], known, "t")["r"].job_id == "5_3"
