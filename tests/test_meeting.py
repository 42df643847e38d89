"""Where job agents and the hub meet, without either: who is welcome, what is wanted, what became of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from timeshare.reservations.engines.slurm.meeting import EXITED, RUNNING, STARTING, Meeting
from timeshare.reservations.errors import PublicError
from timeshare.reservations.jobagent.talk import Exit, Leave, Order, Reading, Report, Stop, Wait

ID = "0b7c3f4e-0000-0000-0000-000000000000"
NOW = 1_795_000_000.0
WAITS = Report(1, "100", 0, "a1", "10.0.0.1", 0, ("GPU-0",), "hardware", "waiting", 0)
STOP = Stop(True, 30, 10)


def runs(generation: int = 1, port: int = 40000, **more: Any) -> Report:
    return replace(WAITS, state="running", generation=generation, port=port, **more)


def order(generation: int = 1) -> Order:
    return Order(generation, ("jupyterhub-singleuser",), {"TOKEN": "secret"})


@pytest.fixture
def meeting() -> Meeting:
    return Meeting()


def test_an_agent_that_arrives_is_known_and_waits(meeting: Meeting) -> None:
    assert meeting.hear(ID, WAITS, NOW) == Wait()
    here = meeting.arrival(ID)
    assert here is not None
    assert (here.attempt, here.job_id, here.generation, here.heard_at) == (1, "100", 0, NOW)
    assert meeting.arrivals() == [here]


def test_an_order_is_told_until_the_agent_says_that_it_runs(meeting: Meeting) -> None:
    meeting.hear(ID, WAITS, NOW)
    meeting.order(ID, order())
    assert meeting.hear(ID, WAITS, NOW + 1) == order()
    assert meeting.hear(ID, WAITS, NOW + 2) == order()
    assert meeting.hear(ID, runs(), NOW + 3) == Wait()


def test_a_server_runs_once_it_listens(meeting: Meeting) -> None:
    meeting.hear(ID, WAITS, NOW)
    meeting.order(ID, order())
    assert meeting.progress(ID, 1).state == STARTING
    meeting.hear(ID, runs(port=0), NOW + 1)
    assert meeting.progress(ID, 1).state == STARTING
    meeting.hear(ID, runs(), NOW + 2)
    assert meeting.progress(ID, 1).state == RUNNING
    meeting.hear(ID, replace(WAITS, state="ended", exits=(Exit(1, 3),)), NOW + 3)
    assert (meeting.progress(ID, 1).state, meeting.progress(ID, 1).exit) == (EXITED, Exit(1, 3))


def test_nobody_takes_an_order_where_nobody_is_or_whoever_was_has_ended(meeting: Meeting) -> None:
    for report in (None, replace(WAITS, state="ended")):
        if report is not None:
            meeting.hear(ID, report, NOW)
        with pytest.raises(PublicError) as refused:
            meeting.order(ID, order())
        assert (refused.value.reason, refused.value.status) == ("no-agent", 409)


def test_an_older_order_is_refused_whoever_knows_of_the_newer_one(meeting: Meeting) -> None:
    for number, report in enumerate((runs(2), replace(WAITS, exits=(Exit(2, 0),)))):
        name = f"{number}"
        meeting.hear(name, report, NOW)
        with pytest.raises(PublicError, match="generation 2 was started already"):
            meeting.order(name, order(1))
    meeting.hear(ID, WAITS, NOW)
    meeting.order(ID, order(2))
    with pytest.raises(PublicError, match="generation 2 was started already"):
        meeting.order(ID, order(1))


def test_a_start_that_has_ended_is_not_ordered_again(meeting: Meeting) -> None:
    meeting.hear(ID, WAITS, NOW)
    meeting.order(ID, order())
    assert meeting.hear(ID, replace(WAITS, exits=(Exit(1, None, "it cannot be run"),)), NOW + 1) == Wait()
    meeting.order(ID, order())
    assert meeting.hear(ID, WAITS, NOW + 2) == Wait()


def test_a_higher_generation_is_told_beside_the_lower_one_that_runs(meeting: Meeting) -> None:
    meeting.hear(ID, runs(1), NOW)
    meeting.order(ID, order(2))
    assert meeting.hear(ID, runs(1), NOW + 1) == order(2)


def test_after_a_restart_of_the_service_a_running_server_is_taken_back_in(meeting: Meeting) -> None:
    assert meeting.hear(ID, runs(3), NOW) == Wait()
    meeting.order(ID, order(3))  # the hub asks again for what it had ordered
    assert meeting.progress(ID, 3).state == RUNNING
    assert meeting.hear(ID, runs(3), NOW + 1) == Wait()


def test_the_second_job_leaves(meeting: Meeting) -> None:
    meeting.hear(ID, WAITS, NOW)
    told = meeting.hear(ID, replace(WAITS, job_id="101"), NOW + 1)
    assert told == Leave("job 100 of this reservation came first")
    here = meeting.arrival(ID)
    assert here is not None
    assert here.job_id == "100"


def test_the_job_that_the_ledger_knows_is_welcome_and_no_other(meeting: Meeting) -> None:
    meeting.expect(ID, 2, "101")
    assert meeting.hear(ID, WAITS, NOW) == Leave("attempt 2, job 101 is wanted")
    assert meeting.hear(ID, replace(WAITS, attempt=2, job_id="101"), NOW) == Wait()


def test_a_job_must_be_on_the_node_where_the_batch_system_has_it(meeting: Meeting) -> None:
    """Else a person could have the hub send her browser wherever she likes."""
    meeting.expect(ID, 1, "100", "a1")
    assert meeting.hear(ID, WAITS, NOW) == Wait()
    assert meeting.hear(ID, replace(WAITS, node="b2"), NOW) == Leave("attempt 1, job 100, on a1 is wanted")


def test_the_one_that_came_first_leaves_once_the_ledger_knows_another(meeting: Meeting) -> None:
    meeting.hear(ID, runs(), NOW)
    meeting.expect(ID, 2)
    assert meeting.arrival(ID) is None
    assert isinstance(meeting.wanted(ID, runs()), Leave)
    assert meeting.progress(ID, 1).state == EXITED


def test_of_two_unknown_jobs_the_one_with_the_server_stays(meeting: Meeting) -> None:
    meeting.hear(ID, WAITS, NOW)
    assert meeting.hear(ID, runs(1, job_id="101"), NOW + 1) == Wait()
    assert isinstance(meeting.wanted(ID, WAITS), Leave)


def test_a_job_that_was_started_anew_does_not_get_what_its_first_run_was_given(meeting: Meeting) -> None:
    meeting.hear(ID, WAITS, NOW)
    meeting.order(ID, order())
    meeting.hear(ID, runs(), NOW + 1)
    again = replace(WAITS, restarts=1)
    assert meeting.hear(ID, again, NOW + 100) == Wait()
    exit = meeting.progress(ID, 1).exit
    assert exit is not None
    assert exit.code is None
    assert isinstance(meeting.hear(ID, runs(), NOW + 101), Leave)  # the first run's last words come late
    meeting.order(ID, order(2))
    assert meeting.hear(ID, again, NOW + 102) == order(2)


def test_a_job_that_ends_while_an_order_waits_for_it_has_ended_for_whoever_ordered(meeting: Meeting) -> None:
    meeting.hear(ID, WAITS, NOW)
    meeting.order(ID, order())
    meeting.hear(ID, replace(WAITS, state="ended"), NOW + 1)
    assert meeting.progress(ID, 1).state == EXITED


def test_a_stop_holds_for_attempts_up_to_it_those_that_come_later_too(meeting: Meeting) -> None:
    meeting.stop(ID, 1, STOP)
    assert meeting.hear(ID, WAITS, NOW) == STOP
    with pytest.raises(PublicError) as refused:
        meeting.order(ID, order())
    assert refused.value.reason == "stopping"
    meeting.expect(ID, 2)
    assert meeting.hear(ID, replace(WAITS, attempt=2), NOW + 1) == Wait()


def test_who_waits_is_woken_by_what_matters_and_not_by_a_reading(meeting: Meeting) -> None:
    rung: list[str] = []
    meeting.changed = rung.append
    meeting.hear(ID, WAITS, NOW)
    meeting.hear(ID, WAITS, NOW + 1)
    meeting.hear(ID, replace(WAITS, reading=Reading(1, 2, 3)), NOW + 2)
    assert len(rung) == 1
    meeting.order(ID, order())
    meeting.order(ID, order())
    meeting.stop(ID, 1, STOP)
    meeting.stop(ID, 1, STOP)
    meeting.expect(ID, 1, "100")
    meeting.expect(ID, 1, "100")
    meeting.forget(ID)
    assert rung == [ID] * 5


def test_the_batch_system_s_address_of_a_node_wins(meeting: Meeting) -> None:
    meeting.hear(ID, WAITS, NOW)
    here = meeting.arrival(ID)
    assert here is not None
    assert meeting.address(here) == "10.0.0.1"
    meeting.addresses = {"a1": "10.9.9.9"}
    assert meeting.address(here) == "10.9.9.9"


def test_an_order_is_never_shown(meeting: Meeting) -> None:
    assert "secret" not in repr(order())
    assert "jupyterhub" not in repr(order())


def test_what_is_forgotten_is_gone(meeting: Meeting) -> None:
    meeting.hear(ID, replace(WAITS, exits=(Exit(1, 0),)), NOW)
    assert meeting.exits(ID) == {1: Exit(1, 0)}
    meeting.forget(ID)
    assert (meeting.arrival(ID), meeting.exits(ID)) == (None, {})
