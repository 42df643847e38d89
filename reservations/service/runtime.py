"""The running service around the pool: one thread owns it, loops feed it facts and carry out what follows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from ..administration import Administration
from ..clock import SteadyClock
from ..engines import reconcile as plan
from ..engines.base import Engine, EngineEvent, EngineSession, EngineSilent, EngineUnknown, SessionState
from ..engines.slurm.meeting import Meeting
from ..errors import PublicError
from ..kind import Kind
from ..ledger import Ledger, LedgerLost, LedgerSilent
from ..ledger.outage import SILENT
from ..ledger.reader import Reader
from ..limits.load import read_limits
from ..monitor import Monitor
from ..opening import close_local, open_pool
from ..parking import Parking
from ..pool import Pool
from ..reservation import Reason, Reservation, State
from ..submission import Answer, Submission
from ..text import escaped
from .bells import Bells
from .fair_queue import Pace
from .fair_thread import LANE, SUBMISSIONS, FairThread
from .people import People
from .retention import Retention
from .settings import Settings
from .trying import Trials

log = logging.getLogger("timeshare.service")
T = TypeVar("T")
MOST_TOGETHER = 64
"""Submissions that share one commit."""
LEDGER_S = 5.0
"""How often a ledger that was silent is tried again."""
MOST_TOLD = 1000
"""Characters of one notice."""


@dataclass(frozen=True)
class _Wish:
    """``payer``: the lane of who asks."""

    wish: Submission
    answer: asyncio.Future[Answer]
    payer: str


class Runtime:
    """Owns pool and engine. ``call`` is the only way to the pool once the loops run. ``meeting``: job agents and what
    is wanted of them, for the event loop alone; ``bells`` ring when it changes, that of any when the pool does too."""

    def __init__(
        self, settings: Settings, engine: Engine, people: People | None = None, pace: Pace | None = None
    ) -> None:
        self.settings = settings
        self.people = people
        self.trials = Trials()
        self.engine = engine
        self.meeting = Meeting()
        self.bells = Bells()
        self.meeting.changed = self.bells.ring
        self._thread = FairThread("pool", pace)
        self._watchers: list[Callable[[Collection[str]], None]] = []
        self._reports = ThreadPoolExecutor(1, thread_name_prefix="reports")
        self._changed = asyncio.Event()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._seen_at: float | None = None
        self._gpus_at: float | None = None
        self._stopping = False
        self._wishes: dict[str, deque[_Wish]] = {}
        """By owner, in the order in which it is their turn."""
        self._to_settle: dict[str, str] = {}
        """Who ended each reservation that the ledger holds and that is not understood."""
        self._submitting: asyncio.Task[None] | None = None
        self.pool: Pool
        self.monitor: Monitor
        self.parking: Parking
        self.administration: Administration
        self.retention: Retention
        self.ledger: Ledger
        self.reader = Reader(settings.ledger_url)

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.pool = await self._thread.run(self._open)

        def changed(names: Collection[str]) -> None:
            loop.call_soon_threadsafe(self._notify, names)

        self.pool.changed = changed
        for step, period in (
            (self._time_step, 1.0),
            (self._limits_step, 1.0),
            (self._engine_step, self.settings.engine_period_s),
            (self._ledger_step, LEDGER_S),
        ):
            self._tasks.append(asyncio.create_task(self._every(step, period)))
        self.retention = Retention(self)
        self._tasks.append(asyncio.create_task(self.retention.run()))

    def _open(self) -> Pool:
        ledger = Ledger.open(self.settings.ledger_url)
        clock = SteadyClock(ledger.clock_anchor())
        ledger.store_clock_anchor(clock.anchor)
        file = read_limits(self.settings.limits_path)
        pool = open_pool(ledger, file, clock)
        if not self.settings.local:
            close_local(pool)
        self.monitor, self.parking = Monitor(pool, ledger), Parking(pool)
        self.administration = Administration(pool, ledger, self.settings.limits_path)
        self.ledger = ledger
        return pool

    async def stop(self) -> None:
        self._stopping = True
        while any(not task.done() for task in self._tasks):
            # Again if need be: before Python 3.12 a cancellation that meets a finished wait_for is swallowed by it.
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=0.5)
        self._reports.shutdown(cancel_futures=True)
        self.reader.close()
        self._thread.stop()

    async def call(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Runs ``function`` in the pool's thread, when it is the turn of whoever asks (``LANE``).

        While the ledger cannot be written, what needs that is refused (LedgerSilent), and all else goes on. When it is
        another process's, or was written in a way that nobody here knows of, the process ends and is started again by
        whoever supervises it: all that is known must be read anew.
        """
        return await self._guarded(self._thread.run(lambda: function(*arguments, **options)))

    async def _guarded(self, answer: Awaitable[T]) -> T:
        try:
            return await answer
        except (LedgerLost, SQLAlchemyError) as error:
            log.critical("the ledger is lost, this process stops: %s", error)
            os.kill(os.getpid(), signal.SIGTERM)
            raise PublicError("ledger-lost", "the service is restarting: try again in a few seconds", 503) from error

    async def read(self, function: Callable[..., T], *arguments: Any) -> T:
        """Runs a question to ``reader``, one at a time, beside the pool's thread. Raises PublicError 503 when the
        ledger does not answer it."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reports, lambda: function(*arguments))
        except SQLAlchemyError as error:
            log.warning("the ledger cannot be read: %s", error)
            raise LedgerSilent(SILENT, "the ledger does not answer: try again in a minute", 503) from error

    async def know(self, person: str) -> None:
        """Makes sure that her groups are known before limits are applied to her; the last answer stands while the hub
        is silent. Raises PublicError 503 for somebody of whom it never told."""
        if self.people is None or not person or not self.pool.limits.groups:
            return
        groups = await self.people.groups(person)
        standing = self.pool.standing
        if groups is not None and not (standing.knows(person) and standing.groups(person) == groups):
            await self.call(self.pool.set_groups, person, groups)
        if groups is None and not standing.knows(person):
            message = (
                f"JupyterHub does not answer, so nobody can say which groups {person} is in: try again in a minute"
            )
            raise PublicError("hub-unreachable", message, 503)

    async def submit(self, wish: Submission) -> tuple[Reservation, bool]:
        """Submits together with whatever else is asked for while the ledger is busy. Raises PublicError."""
        await self.know(wish.owner)
        await self._thread.turn()
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._wishes.setdefault(wish.owner, deque()).append(_Wish(wish, answer, LANE.get()))
        if self._submitting is None or self._submitting.done():
            self._submitting = asyncio.create_task(self._submit_together())
        found = await answer
        if isinstance(found, PublicError):
            raise found
        return found

    def _next_wishes(self) -> list[_Wish]:
        """One of each owner: those share a decision, and who asks for much holds up nobody."""
        batch = []
        for owner in list(self._wishes)[:MOST_TOGETHER]:
            mine = self._wishes.pop(owner)
            batch.append(mine.popleft())
            if mine:
                self._wishes[owner] = mine  # behind the others
        return batch

    async def _submit_together(self) -> None:
        LANE.set(SUBMISSIONS)  # a turn for all of them
        while self._wishes:
            batch = self._next_wishes()
            submit = partial(self.pool.submit_many, [one.wish for one in batch])
            try:
                answers = await self._guarded(self._thread.run(submit, [one.payer for one in batch]))
            except PublicError as error:
                answers = [error] * len(batch)
            except Exception as error:
                log.exception("submissions failed")
                answers = [PublicError("internal", f"something went wrong here: {type(error).__name__}", 500)] * len(
                    batch
                )
            for one, found in zip(batch, answers, strict=True):
                if not one.answer.done():  # its caller may have gone
                    one.answer.set_result(found)

    async def next_change(self, version: int, seconds: float) -> None:
        """Returns after the pool's next change since ``version``, or after ``seconds``."""
        changed = self._changed
        if self.pool.version == version:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(changed.wait(), seconds)

    def watch_changes(self, watcher: Callable[[Collection[str]], None]) -> None:
        """Has ``watcher`` told the names of what changed, in the event loop; none: what all may see."""
        self._watchers.append(watcher)

    def _notify(self, names: Collection[str]) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        self.bells.ring(*names)
        for watcher in self._watchers:
            watcher(names)

    def hurry(self) -> None:
        """Compares with the engine now instead of at the next period."""
        self._wake.set()

    @property
    def fresh(self) -> bool:
        """True while the engine was heard of lately."""
        return self._lately(self._seen_at)

    def _lately(self, at: float | None) -> bool:
        return at is not None and time.monotonic() - at < self.settings.stale_after_s

    async def _every(self, step: Callable[[], Awaitable[None]], period: float) -> None:
        while not self._stopping:
            try:
                await step()
            except (EngineUnknown, asyncio.TimeoutError) as error:
                log.warning("the engine did not answer: %s", error)
            except LedgerSilent:
                pass  # said once, when it began; every step of every loop meets it again
            except PublicError as error:
                log.warning("a step was refused: %s", error)
            except Exception:
                log.exception("a step failed; it is tried again")
            if step == self._engine_step:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), period)
                self._wake.clear()
            else:
                await asyncio.sleep(period)

    async def _time_step(self) -> None:
        if not self.fresh:
            # Devices that nobody reports are not given out; ends that are due still begin.
            await self.call(self.pool.pause)
        else:
            await self.call(self.pool.resume)
        ending = await self.call(self.pool.tick)
        if ending:
            self.hurry()

    async def _ledger_step(self) -> None:
        """Nobody may want to write for a long time, and until then it would be told as silent."""
        await self.call(self.ledger.try_again)

    async def _limits_step(self) -> None:
        await self.call(self.administration.look)

    async def _engine_step(self) -> None:
        hello = await self.engine.hello()
        await self.call(self._take_node, hello)
        was_fresh = self.fresh
        if self.pool.inventory is not None or self.pool.gpus_unknown:
            self._seen_at = time.monotonic()  # it answers; its GPUs may take their time
        # Before the devices: none is given out on which something runs that nobody knew of.
        asked_at = self.pool.clock()
        sessions = await self.engine.sessions()
        known = await self.call(self._take_sessions, sessions)
        await self._settle(sessions)
        await self._look_at_gpus()
        self._seen_at = time.monotonic()
        if not was_fresh:
            await self._time_step()  # who waited for the devices to be seen again need not wait for the next tick
        await self._hear(str(hello.get("boot_id", "")))
        live = await self.call(lambda: [r for r in self.pool.live() if r.external is None])
        for action in plan.reconcile(live, sessions, asked_at, known):
            try:
                await self._carry_out(action)
            except EngineSilent:
                raise
            except (EngineUnknown, PublicError) as error:  # of this one; the others have to end all the same
                log.warning("%s: %s was not done: %s", action.reservation_id, action.what, error)

    async def _hear(self, boot_id: str) -> None:
        """Takes in what the engine noticed, each event once: a cordon that was lifted must not come back."""
        heard = await self.call(self.pool.events_heard, boot_id)
        for event in await self.engine.events(heard):
            await self.call(self._take_event, event)
            await self.call(self.pool.hear, boot_id, event.seq)

    def _take_sessions(self, sessions: list[EngineSession]) -> frozenset[str]:
        """Keeps in mind which of them the ledger does not account for; those it has a reservation of."""
        known = self.pool.known({session.reservation_id for session in sessions})
        found = plan.unaccounted(self.pool.live(), sessions, known)
        for session in found:
            if session not in self.pool.unaccounted:
                log.warning(
                    "a session of %s (%s, start %d) runs that the ledger does not know: it stays until an "
                    "administrator ends it, and its devices are out of service",
                    *(session.owner or "somebody", session.reservation_id, session.generation),
                )
        self.pool.set_unaccounted(found)
        return known

    async def end_unaccounted(self, name: str, who: str) -> None:
        """An administrator, ``who``, wants the session ``name`` to end, which the ledger does not know. Raises
        PublicError 503 when the node does not answer."""
        log.warning("%s ends the session %s, which the ledger does not know", who, name)
        try:
            state = await self.engine.stop(name, self.pool.limits.stop, True)
        except EngineUnknown as error:
            raise PublicError("engine-silent", f"its node does not answer ({error}): try again", 503) from None
        if name in self.pool.apart and state is SessionState.EXITED:
            await self.call(self.pool.settle, name, who)
        elif name in self.pool.apart:
            self._to_settle[name] = who
        self.hurry()

    async def _settle(self, sessions: Sequence[EngineSession]) -> None:
        """Writes the end of rows that were not understood and that administrators ended, once nothing of them runs."""
        running = {session.reservation_id for session in sessions if session.state is not SessionState.EXITED}
        for name in self._to_settle.keys() - running:
            await self.call(self.pool.settle, name, self._to_settle.pop(name))

    async def _look_at_gpus(self) -> None:
        """What nobody can say of the GPUs is unknown; the node has other work, which does not depend on it."""
        try:
            inventory = await self.engine.inventory()
        except EngineUnknown as error:
            log.warning("nothing is known about the GPUs now: %s", error)
            if not self._lately(self._gpus_at):
                await self.call(self.pool.lose_sight, escaped(str(error))[:MOST_TOLD])
            return
        self._gpus_at = time.monotonic()
        await self.call(self.pool.set_inventory, inventory)

    def _take_node(self, hello: dict[str, Any]) -> None:
        self.pool.device_filter = hello.get("device_filter")
        self.pool.session_bounds = tuple(hello.get("session_bounds") or ())
        self.pool.can_give_back = bool(hello.get("can_exchange", False))
        self.pool.node_cannot_park = str(hello.get("cannot_park", ""))

    def _take_event(self, event: EngineEvent) -> None:
        if event.cordon and event.device_uuid:
            self.pool.cordon(event.device_uuid, escaped(event.message))
        if event.reservation_id:
            self.pool.notice(event.reservation_id, "danger", escaped(event.message)[:MOST_TOLD])

    async def _carry_out(self, action: plan.Action) -> None:
        if action.what == plan.FORGET:
            await self.engine.forget(action.reservation_id, action.generation)
        elif action.what == plan.GONE:
            await self._gone(action)
        elif action.what == plan.LOST:
            begun = await self.call(self._begin_end, action)
            if begun is not None:
                await self._stop(begun)
        else:
            reservation = await self.call(self._live_or_none, action.reservation_id)
            await self._stop(reservation, action)

    @staticmethod
    def _last_start(reservation: Reservation) -> int | None:
        """Batch may be started again after a stop; of a session every start is forbidden for good."""
        return max(1, reservation.generation) if reservation.kind is Kind.BATCH else None

    def _live_or_none(self, reservation_id: str) -> Reservation | None:
        return next((r for r in self.pool.live() if r.id == reservation_id), None)

    def _begin_end(self, action: plan.Action) -> Reservation | None:
        reservation = self.pool.get(action.reservation_id)
        if reservation.generation != action.generation or not (reservation.holds or reservation.state is State.PARKED):
            return None  # told of an earlier start: it was requeued meanwhile
        return self.pool.end(action.reservation_id, action.reason, action.detail)

    async def _gone(self, action: plan.Action) -> None:
        # The node must refuse a late start before the devices go to somebody else.
        reservation = await self.call(self._live_or_none, action.reservation_id)
        last = None if reservation is None else self._last_start(reservation)
        if await self.engine.stop(action.reservation_id, self.pool.limits.stop, False, last) is SessionState.EXITED:
            await self.call(self.pool.gone, action.reservation_id, action.reason, action.detail, action.generation)
            await self.engine.forget(action.reservation_id, action.generation)

    async def _stop(self, reservation: Reservation | None, action: plan.Action | None = None) -> None:
        """Asks the engine to end it; when nothing is left there, the end is written."""
        if reservation is None:
            if action is not None:
                await self.engine.stop(action.reservation_id, self.pool.limits.stop, False)
            return
        rules = self.pool.stop_of(reservation)
        state = await self.engine.stop(reservation.id, rules, is_gentle(reservation), self._last_start(reservation))
        if state is SessionState.EXITED and reservation.state is State.ENDING:
            await self.call(
                self.pool.gone,
                reservation.id,
                reservation.reason or Reason.LOST,
                reservation.detail,
                reservation.generation,
            )


def is_gentle(reservation: Reservation) -> bool:
    """Whether it gets an interrupt and time to save first. A job always does: nobody sits at it who could have saved
    before cancelling. Who ends a session by hand has."""
    unasked = (Reason.TIME_LIMIT, Reason.BUDGET, Reason.IDLE, Reason.PREEMPTED)
    return reservation.kind is Kind.BATCH or reservation.reason in unasked
