"""What follows for a reservation from what its engine says of its job, and which job is whose. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_external import HELD, SHARE

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
from timeshare.reservations.engines.matching import by_reservation, orphans
from timeshare.reservations.external import External
from timeshare.reservations.job import JobSpec
from timeshare.reservations.kind import Kind
from timeshare.reservations.limits.schema import Stop
from timeshare.reservations.reservation import Reason, Reservation

SETTLED_S = Seen(None, 0.0).settled_s
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
    taken_back = replace(PENDING, restarts=1)
    assert acts(JOB_RUNS, taken_back) == [WaitsAgain("its engine took back what it held: Priority")]
    again = replace(RUNNING, restarts=1)
    assert acts(JOB_RUNS, again) == [WaitsAgain("its engine started it again"), Begin(HELD, "a1"), Runs(2)]


def test_a_session_whose_allocation_was_taken_back_is_over() -> None:
    taken_back = replace(PENDING, restarts=1)
    assert acts(ACTIVE, taken_back) == [Gone(Reason.LOST, "its engine took back what it held: Priority"), Cancel()]


def test_a_start_that_its_engine_forgot_is_told_as_that_and_not_as_a_cancellation_by_its_owner() -> None:
    forgot = "its engine took back what it held, or lost sight of its start in a crash, and ends what runs of it"
    assert acts(ACTIVE, replace(PENDING, said="")) == [Gone(Reason.LOST, forgot), Cancel()]
    assert acts(JOB_RUNS, replace(PENDING, said="")) == [WaitsAgain(forgot)]


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


def test_jobs_of_nobody_are_found_by_their_names_and_those_of_others_are_not() -> None:
    mine = [QUEUED, replace(JOB, id="j")]
    known = {
        "7": PENDING,
        "8": replace(PENDING, job_id="8", name=job_name("t", "gone", 1)),
        "9": replace(PENDING, job_id="9", name=job_name("t", "r", 0)),
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


def test_a_job_of_a_later_attempt_than_the_ledger_knows_is_no_leftover() -> None:
    """An attempt is written before it is made: the ledger is an older one that was restored."""
    known = {str(at): replace(PENDING, job_id=str(at), name=job_name("t", "r", at)) for at in (1, 2, 3)}
    second = replace(QUEUED, external=External(attempt=2, tried_at=1.0))
    assert [job.job_id for job in orphans([second], known, "t")] == ["1"]


def test_a_job_is_known_by_its_id_and_an_unknown_one_by_name_and_index() -> None:
    task = replace(JOB, external=External(attempt=1, tried_at=1.0), job=replace(JOB.job, index=3))  # type: ignore[type-var]
    known = {"5_3": replace(PENDING, job_id="5_3", name=job_name("t", "a", 1), index=3), "7": RUNNING}
    assert by_reservation([QUEUED], known, "t") == {"r": RUNNING}
    assert by_reservation([QUEUED], {"7": replace(RUNNING, name="another's")}, "t") == {}, "its number was given away"
    assert by_reservation([task], known, "t")["r"].job_id == "5_3"


def test_a_job_of_another_account_is_nobodys_whatever_its_name_is() -> None:
    """Names are in everybody's queue, and that of the next attempt is easily guessed: whoever had a job of that name
    had it taken for hers, who was charged for it, or told that hers had ended."""
    hers, anothers = replace(PENDING, name="timeshare-t-r.1"), replace(RUNNING, job_id="8", owner="mallory")
    assert by_reservation([TRIED], {"8": anothers}, "t") == {}
    assert by_reservation([QUEUED], {"7": replace(anothers, job_id="7")}, "t") == {}
    for known in ({"7": hers, "8": anothers}, {"8": anothers, "7": hers}):
        assert by_reservation([TRIED], known, "t") == {"r": hers}
    one_account = {"7": replace(hers, owner="service")}
    assert by_reservation([TRIED], one_account, "t", lambda _: "service") == {"r": one_account["7"]}
    untold = replace(hers, owner="")
    assert by_reservation([TRIED], {"7": untold, "8": anothers}, "t") == {"r": untold}
