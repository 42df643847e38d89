"""Bringing sessions to their end: a tombstone, an interrupt, time to save, SIGTERM, SIGKILL until nothing is left.

The times are in the tombstone, so whoever reads it next goes on where the last agent was killed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from signal import SIGINT, SIGTERM

from .processes import kernels, send
from .records import MAX_GENERATION, UNREADABLE, Record, Tombstone
from .sessions import Sessions

Ready = Callable[[Record], bool]

log = logging.getLogger("timeshare.agent")
LAUNCH_WAIT_S = 1.0
"""How long the answer to a stop waits for a launch of the same reservation that is under way."""

TOMBSTONE_S = 86400.0
"""After its last process was to be gone, a stopped reservation is kept in mind for so long."""


def boot_seconds() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class StopOrder:
    """How to end a reservation's starts up to ``generation``. ``interrupt``: its kernels first, then ``save_grace_s``
    to save; after that SIGTERM, and after ``term_grace_s`` SIGKILL."""

    interrupt: bool
    save_grace_s: float
    term_grace_s: float
    generation: int = MAX_GENERATION


class Stops:
    """Begins stops and carries them on. ``ready``: whether a start may be signalled now; asked again until it may."""

    def __init__(self, sessions: Sessions, ready: Ready = lambda _: True) -> None:
        self._sessions = sessions
        self._ready = ready
        self._records = sessions.records
        self._burying = threading.Lock()
        self._step = threading.Lock()

    def stop(self, reservation_id: str, order: StopOrder) -> str:
        """Forbids this start of it and every earlier one, begins their end, and says how far it is."""
        if any(record.generation > order.generation for record in self._records.of(reservation_id)):
            return "exited"  # a later start has ended the earlier ones before it began
        now = boot_seconds()
        term_at = now + order.save_grace_s
        first = self._bury(
            reservation_id,
            Tombstone(self._sessions.boot_id, order.interrupt, term_at, term_at + order.term_grace_s, order.generation),
        )
        # A launch that is under way has seen the tombstone or begins now: only when it is done is nothing left to come.
        lock = self._sessions.lock(reservation_id)
        settled = lock.acquire(timeout=LAUNCH_WAIT_S)
        try:
            with self._step:
                records = self._records.of(reservation_id)
                if first and order.interrupt:
                    owned = self._sessions.members.owned()
                    for record in records:
                        send(owned.table, kernels(owned.of(record.key)), SIGINT)
                state = self._advance(reservation_id, records)
            return state if settled else "stopping"
        finally:
            if settled:
                lock.release()

    def _bury(self, reservation_id: str, wanted: Tombstone) -> bool:
        """True the first time. A later and stricter request makes the end come sooner, never later."""
        with self._burying:
            try:
                known = self._records.tombstone(reservation_id)
            except UNREADABLE as error:
                log.warning("the tombstone of %s cannot be read, and is written anew: %s", reservation_id, error)
                known = None
            if known is None or known.boot_id != self._sessions.boot_id or known.generation < wanted.generation:
                self._records.bury(reservation_id, wanted)
                return True
            term_at, kill_at = min(known.term_at, wanted.term_at), min(known.kill_at, wanted.kill_at)
            sooner = replace(known, term_at=term_at, kill_at=kill_at)
            if sooner != known:
                self._records.bury(reservation_id, sooner)
            return False

    def _advance(self, reservation_id: str, records: list[Record]) -> str:
        """One step of a stop: nothing, SIGTERM or SIGKILL, by the tombstone's times."""
        tombstone = self._records.tombstone(reservation_id)
        assert tombstone is not None
        state = "exited"
        for record in records:
            if record.abandon_unless_started():
                continue
            if self._sessions.look(record).state == "exited":
                continue
            state = "stopping"
            now = boot_seconds()
            if now < tombstone.term_at or not self._ready(record):
                continue
            if now >= tombstone.kill_at:
                self._sessions.members.kill(record)
            else:
                self._terminate_once(record)
        return state

    def _terminate_once(self, record: Record) -> None:
        """Asks every process once: a server that is shutting down kernels in order takes a second request badly."""
        done = record.path / "terminated"
        if done.exists():
            return
        done.touch()
        owned = self._sessions.members.owned()
        pids = owned.of(record.key)
        shim = record.shim()
        if shim is not None and record.order().filter.get("prefix"):
            # The wrapper (bubblewrap) dies at once, and the launcher would take that for the end of the server.
            pids.discard(shim.main_pid)
        send(owned.table, pids, SIGTERM)

    def advance(self) -> None:
        """Carries every stop further; call it several times a second. What is wrong with one does not hold others."""
        self._sessions.reap()
        waiting = defaultdict(list)
        for record in self._sessions.live():
            waiting[record.reservation_id].append(record)
        for reservation_id, records in waiting.items():
            try:
                stopped = [r for r in records if self._records.forbidden(reservation_id, r.generation)]
                if stopped:
                    with self._step:
                        self._advance(reservation_id, stopped)
            except UNREADABLE as error:
                log.warning("the stop of %s could not be carried on: %s", reservation_id, error)

    def sweep(self) -> None:
        """Drops tombstones that no late start can meet any more: of reservations without any record here, a day after
        their last process was to be gone. Nobody waits so long for the answer to a launch, and none outlives a boot."""
        known = {record.reservation_id for record in self._records.all()}
        now = boot_seconds()
        for path in list(self._records.stops.glob("*.json")):
            if path.stem in known:
                continue
            with self._burying:
                try:
                    tombstone = self._records.tombstone(path.stem)
                except UNREADABLE as error:
                    log.warning("the tombstone of %s cannot be read: %s", path.stem, error)
                    continue
                if tombstone is not None and now - self._over_at(tombstone) > TOMBSTONE_S:
                    self._records.exhume(path.stem)

    def _over_at(self, tombstone: Tombstone) -> float:
        """In seconds since this boot; what was to end in an earlier one was over by its beginning."""
        return tombstone.kill_at if tombstone.boot_id == self._sessions.boot_id else 0.0
