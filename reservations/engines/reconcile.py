"""Ledger against engine: what must be done so that both tell the same. Pure, and doing it twice changes nothing.

Unknown never frees a device: without an answer of the engine this is not called, and a session in state ``unknown``
is left alone. Nor does it end anybody's work: a session is no leftover if the ledger never knew it, or knows earlier
starts of it only. A start is written before its process exists, so the ledger is an older one that was restored, or
another deployment's. Such a session stays until an administrator decides (``unaccounted``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ..reservation import Reason, Reservation, State
from .base import EngineSession, SessionState

GONE = "gone"
STOP = "stop"
FORGET = "forget"
LOST = "lost"


@dataclass(frozen=True)
class Action:
    """``stop``: end its processes. ``gone``: they were seen gone, write the end. ``lost``: it should run and is not
    there, begin its end. ``forget``: the engine may drop its record of this generation."""

    what: str
    reservation_id: str
    generation: int = 0
    reason: Reason = Reason.COMPLETED
    detail: str = ""


def reconcile(
    live: Iterable[Reservation], sessions: Iterable[EngineSession], asked_at: float, known: Collection[str]
) -> list[Action]:
    """``live``: reservations that have not ended, read *after* ``sessions`` were asked for at ``asked_at``. ``known``:
    ids, of those that ``sessions`` name, that the ledger has, ended or not."""
    sessions = list(sessions)
    by_id = {reservation.id: reservation for reservation in live}
    ahead = {id(session) for session in unaccounted(by_id.values(), sessions, known)}
    names = {session.reservation_id for session in sessions if id(session) in ahead}
    actions = [
        action
        for session in sessions
        if id(session) not in ahead or session.state is SessionState.STOPPING  # somebody has decided
        for action in _session(None if id(session) in ahead else by_id.get(session.reservation_id), session)
    ]
    present = {(session.reservation_id, session.generation) for session in sessions}
    for reservation in by_id.values():
        if (reservation.id, reservation.generation) not in present and reservation.id not in names:
            actions += _absent(reservation, asked_at)
    return actions


def unaccounted(
    live: Iterable[Reservation], sessions: Iterable[EngineSession], known: Collection[str]
) -> list[EngineSession]:
    """The sessions that run, or may, and that no start in the ledger accounts for. Parameters as of ``reconcile``."""
    starts = {reservation.id: reservation.generation for reservation in live}
    return [
        session
        for session in sessions
        if session.state is not SessionState.EXITED
        and (
            session.reservation_id not in known
            or session.generation > starts.get(session.reservation_id, session.generation)
        )
    ]


def _session(reservation: Reservation | None, session: EngineSession) -> list[Action]:
    if session.state is SessionState.UNKNOWN:
        return []
    exited = session.state is SessionState.EXITED
    if reservation is None or reservation.state in (State.QUEUED, State.GRANTED):
        # A start is written before its process exists, so this one belongs to a reservation that has ended.
        what = FORGET if exited else STOP
        return [Action(what, session.reservation_id, session.generation)]
    if session.generation < reservation.generation:
        # The start of a higher generation ends the lower one; until then it is left to run down.
        return [Action(FORGET, session.reservation_id, session.generation)] if exited else []
    if exited:
        reason, detail = _exit(reservation, session)
        return [Action(GONE, reservation.id, session.generation, reason, detail)]
    if reservation.state is State.ENDING:
        return [Action(STOP, reservation.id, session.generation)]
    return []


def _exit(reservation: Reservation, session: EngineSession) -> tuple[Reason, str]:
    if session.message:
        return Reason.FAILED, session.message
    if reservation.job is not None and session.exit_code is not None:
        return _job_exit(session.exit_code)
    if reservation.state is State.STARTING:
        return Reason.FAILED, f"the server exited with code {session.exit_code} before it answered; see its log"
    if session.exit_code == 0:
        return Reason.COMPLETED, "the server was shut down from within"
    if session.exit_code is None:
        return Reason.LOST, "the server's processes are gone and nobody saw how they ended"
    return Reason.FAILED, f"the server exited with code {session.exit_code}; see its log"


def _job_exit(code: int) -> tuple[Reason, str]:
    """Exit statuses as ``timeshare.notebooks.runner`` has them."""
    if code == 0:
        return Reason.COMPLETED, "its cell ran to the end"
    if code == 1:
        return Reason.FAILED, "its cell raised an error; its outputs say which"
    if code < 0:
        return Reason.FAILED, f"it was ended by signal {-code}; most often 9 means out of memory"
    return Reason.FAILED, f"it could not be run (exit status {code}); its status and its log say why"


def _absent(reservation: Reservation, asked_at: float) -> list[Action]:
    if reservation.state is State.ENDING:
        return [Action(STOP, reservation.id, reservation.generation)]
    settled = reservation.started_at is not None and reservation.started_at < asked_at
    if reservation.state in (State.ACTIVE, State.PARKED) and settled:
        detail = "its node no longer knows this session; it may have been restarted"
        return [Action(LOST, reservation.id, reservation.generation, Reason.LOST, detail)]
    return []
