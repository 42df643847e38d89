"""Ledger against engine, rule by rule."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest

from timeshare.reservations.engines.base import EngineSession, SessionState
from timeshare.reservations.engines.reconcile import FORGET, GONE, LOST, STOP, reconcile, unaccounted
from timeshare.reservations.kind import Kind
from timeshare.reservations.placement import Holding
from timeshare.reservations.reservation import Reason, Reservation
from timeshare.reservations.shares import parse_share

ASKED_AT = 100.0
QUEUED = Reservation("r", 1, "ada", "", Kind.SESSION, parse_share({"gpus": 1}), 3600, 0.0)
GRANTED = QUEUED.granted((Holding("GPU-0", "", 40_000, 1000, True),), 1.0)
STARTING = GRANTED.starting(2.0)
ACTIVE = STARTING.active("hardware", 3.0)
ENDING = ACTIVE.ending(Reason.TIME_LIMIT, "its time was up", 4.0)


def session(state: SessionState, generation: int = 1, code: int | None = None, message: str = "") -> EngineSession:
    return EngineSession("r", generation, state, code, message)


def acts(live: list[Reservation], *sessions: EngineSession, known: Collection[str] = ("r",)) -> list[tuple[str, str]]:
    return [(action.what, action.reason.value) for action in reconcile(live, sessions, ASKED_AT, known)]


RUNNING = session(SessionState.RUNNING)


@pytest.mark.parametrize("reservation", [STARTING, ACTIVE])
def test_what_runs_and_should_run_is_left_alone(reservation: Reservation) -> None:
    assert acts([reservation], RUNNING) == []


@pytest.mark.parametrize("reservation", [QUEUED, GRANTED, STARTING, ACTIVE, ENDING])
def test_unknown_ends_nothing_and_frees_nothing(reservation: Reservation) -> None:
    assert acts([reservation], session(SessionState.UNKNOWN)) == []


def test_a_process_without_a_live_reservation_is_ended() -> None:
    assert [what for what, _ in acts([], RUNNING)] == [STOP]
    assert [what for what, _ in acts([replace(GRANTED, generation=1)], RUNNING)] == [STOP], "it was to be started anew"


@pytest.mark.parametrize("live", [[QUEUED], [GRANTED], [STARTING], [ACTIVE], [ENDING]])
@pytest.mark.parametrize("state", [SessionState.STARTING, SessionState.RUNNING])
def test_what_runs_by_a_start_that_the_ledger_does_not_know_stays(live: list[Reservation], state: SessionState) -> None:
    """The ledger is an older one: neither the session nor its reservation ends for it."""
    later = session(state, generation=2)
    assert acts(live, later) == []
    assert unaccounted(live, [later], ("r",)) == [later]
    assert acts([], session(state), known=()) == []
    assert unaccounted([], [session(state)], ()) == [session(state)]


def test_one_that_the_ledger_does_not_know_ends_once_somebody_has_decided() -> None:
    assert acts([], session(SessionState.STOPPING), known=()) == [(STOP, "completed")]
    assert acts([ACTIVE], session(SessionState.STOPPING, 2)) == [(STOP, "completed")]
    assert acts([], session(SessionState.EXITED), known=()) == [(FORGET, "completed")]


def test_the_record_of_an_ended_reservation_is_forgotten() -> None:
    assert [what for what, _ in acts([], session(SessionState.EXITED))] == [FORGET]


@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [(0, "", "completed"), (3, "", "failed"), (-9, "", "failed"), (None, "", "lost"), (-15, "over memory", "failed")],
)
def test_an_exit_ends_the_reservation_and_says_why(code: int | None, message: str, reason: str) -> None:
    assert acts([ACTIVE], session(SessionState.EXITED, 1, code, message)) == [(GONE, reason)]


def test_an_exit_before_the_first_answer_is_a_failure_even_with_code_0() -> None:
    assert acts([STARTING], session(SessionState.EXITED, 1, 0)) == [(GONE, "failed")]


def test_an_end_that_has_begun_is_carried_on_until_nothing_is_left() -> None:
    assert [what for what, _ in acts([ENDING], RUNNING)] == [STOP]
    assert [what for what, _ in acts([ENDING])] == [STOP]
    assert [what for what, _ in acts([ENDING], session(SessionState.EXITED, 1, -15))] == [GONE]


def test_an_older_start_does_not_end_the_newer_one() -> None:
    again = replace(STARTING, generation=2)
    assert acts([again], RUNNING) == []
    assert [what for what, _ in acts([again], session(SessionState.EXITED))] == [FORGET]


def test_a_start_that_is_not_there_yet_is_waited_for() -> None:
    assert acts([STARTING]) == []


def test_a_running_session_that_its_node_does_not_know_is_lost() -> None:
    assert acts([ACTIVE]) == [(LOST, "lost")]


def test_a_session_that_became_active_after_the_question_is_not_lost() -> None:
    assert acts([replace(ACTIVE, started_at=ASKED_AT + 1)]) == []
