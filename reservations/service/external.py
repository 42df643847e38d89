"""The loop around an engine that places work itself: hands over what waits for it, asks it about everything at once,
and carries out what follows. It keeps nothing that is needed after a crash."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from ..engines.base import EngineUnknown, LaunchRefused
from ..engines.external import ExternalEngine, ExternalJob, Life, Order, job_name, named_after
from ..engines.follow import (
    Act,
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
    told,
)
from ..engines.matching import by_reservation, grouped, index_of, name_of, orphans
from ..engines.rhythm import LONGEST_S, pause_s
from ..errors import PublicError
from ..kind import Kind
from ..outside import Outside
from ..reservation import Reason, Reservation, State
from .bells import ANY, heard
from .runtime import Runtime

log = logging.getLogger("timeshare.service")
AT_ONCE = 8
"""Commands that are under way at the same time."""
DEVICES_S = 30.0
"""Between two looks at what the engine has."""
LEARN_S = 300.0
"""Between two looks at its own limits."""
RETRY_S = 5.0


class Agents(Protocol):
    """The job agents of sessions, as far as they were heard."""

    def arrival(self, reservation: Reservation) -> Arrival | None:
        """Of the attempt that is under way; None while it was not heard."""

    def expect(self, reservation: Reservation) -> None:
        """Only the job that the ledger means is let in."""

    def stop(self, reservation: Reservation) -> None:
        """Tells its agent that the end has come."""

    def end(self, reservation: Reservation) -> tuple[Reason, str] | None:
        """How the server of its last start ended; None where nobody saw."""

    def news(self) -> list[tuple[str, str]]:
        """What agents have noticed since the last call: the reservation, and the words for its owner."""

    def forget(self, keep: Iterable[str]) -> None:
        """Drops what is known of those of this engine that are not among ``keep``."""


LEFTOVERS_AT_ONCE = 5
"""Names of leftover jobs that are looked for in the ledger with one question to the engine."""


class ExternalLoop:
    """``run`` until it is cancelled. ``tag``: of this deployment, in the names of its jobs."""

    def __init__(self, runtime: Runtime, engine: ExternalEngine, agents: Agents, tag: str) -> None:
        self._runtime, self._engine, self._agents, self._tag = runtime, engine, agents, tag
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._absent: dict[str, float] = {}
        self._known: dict[str, bool] = {}
        """Whether the ledger has what a leftover job is called after, by that name."""
        self._handing: set[asyncio.Task[None]] = set()
        self._outside: Outside | None = None

    @property
    def outside(self) -> Outside:
        if self._outside is None:
            self._outside = Outside(self._runtime.pool)
        return self._outside

    async def run(self) -> None:
        await asyncio.gather(
            self._repeat(self._see_devices, DEVICES_S),
            self._repeat(self._engine.learn, LEARN_S),
            self._hand_over_all(),
            self._look_all(),
            self._hear_all(),
        )

    async def _repeat(self, step: Callable[[], Awaitable[None]], period: float) -> None:
        while True:
            await self._tried(step)
            await asyncio.sleep(period)

    async def _tried(self, step: Callable[[], Awaitable[None]]) -> bool:
        try:
            await step()
        except EngineUnknown as error:
            log.warning("%s did not answer: %s", self._engine.name, error)
            return False
        except Exception:
            log.exception("%s: a step failed; it is tried again", self._engine.name)
            return False
        return True

    async def _see_devices(self) -> None:
        devices = await self._engine.devices()
        await self._runtime.call(self._runtime.pool.set_devices, self._engine.name, devices)

    # --- handing over

    async def _hand_over_all(self) -> None:
        while True:
            version = self._runtime.pool.version
            if not await self._tried(self.hand_over):
                await asyncio.sleep(RETRY_S)
            await self._runtime.next_change(version, RETRY_S)

    async def hand_over(self) -> None:
        """Everything whose turn it is; an array goes as one."""
        pool = self._runtime.pool
        ready = await self._runtime.call(lambda: pool.world().handed_over_next(self._engine.name))
        for group in grouped(ready):
            await self._begin(group)

    async def _begin(self, group: Sequence[Reservation], *, lost: bool = False) -> None:
        ids = [reservation.id for reservation in group]
        written = await self._runtime.call(self.outside.handing_over, ids, lost=lost)
        for reservation in written:
            if reservation.kind is Kind.SESSION:
                # Before its job can begin: an agent of the new attempt must not find that the old one is wanted.
                self._agents.expect(reservation)
        if written:
            task = asyncio.create_task(self._submit(written))
            self._handing.add(task)
            task.add_done_callback(self._handing.discard)

    async def _submit(self, group: Sequence[Reservation]) -> None:
        first = group[0]
        assert first.external is not None
        attempt = first.external.attempt
        async with self._gate:
            try:
                order = self._order(group)
                job_id = await self._engine.submit(order)
            except LaunchRefused as error:
                for reservation in group:
                    await self._runtime.call(self.outside.refused, reservation.id, attempt, str(error))
                return
            except EngineUnknown as error:
                # Nobody knows whether it arrived: it is looked for by its name.
                log.warning("%s: %s may not have been handed over: %s", self._engine.name, first.id, error)
                return
            except Exception:
                log.exception("%s could not be handed over", first.id)
                return
        for reservation in group:
            task = f"{job_id}_{index_of(reservation)}" if order.is_array else job_id
            await self._runtime.call(self.outside.handed_over, reservation.id, attempt, task)

    # --- hearing

    async def _hear_all(self) -> None:
        while True:
            bell = self._runtime.bells.next(ANY)  # before: what is told meanwhile counts
            await self._tried(self.hear)
            await heard(bell, LONGEST_S)

    async def hear(self) -> None:
        """What needs no answer of the engine: sessions whose job agents have arrived begin, those that end are told."""
        mine = await self._runtime.call(self._mine)
        sessions = [reservation for reservation in mine if reservation.kind is Kind.SESSION]
        acts = [(reservation, told(reservation, self._agents.arrival(reservation))) for reservation in sessions]
        await asyncio.gather(*(self._carry_out(reservation, None, found) for reservation, found in acts))

    def _order(self, group: Sequence[Reservation]) -> Order:
        first = group[0]
        grace = self._runtime.pool.limits.stop.longest_s
        assert first.external is not None
        return Order(
            name=job_name(self._tag, name_of(first), first.external.attempt),
            owner=first.owner,
            kind=first.kind,
            request=first.request,
            seconds=first.time_limit_s + grace,
            tasks={index_of(reservation): reservation for reservation in group},
            parallel=first.job.parallel if first.job is not None else 0,
        )

    # --- following

    async def _look_all(self) -> None:
        while True:
            if not await self._tried(self.step):
                await asyncio.sleep(RETRY_S)
            await self._rest()

    async def _rest(self) -> None:
        """Until the next look, which a change may bring nearer."""
        clock = asyncio.get_running_loop().time
        looked_at, pool = clock(), self._runtime.pool
        while True:
            version = pool.version
            left = looked_at + await self._runtime.call(self._pause) - clock()
            if left <= 0:
                return
            await self._runtime.next_change(version, left)

    def _pause(self) -> float:
        return pause_s(self._mine(), self._runtime.pool.clock())

    async def step(self) -> None:
        """One question, and what follows."""
        mine = await self._runtime.call(self._mine)
        self._agents.forget(reservation.id for reservation in mine)
        ids = [r.external.job_id for r in mine if r.external is not None and r.external.job_id]
        looked = await self._engine.look(ids, await self._runtime.call(self._pause))
        known, asked_at = looked.jobs, self._runtime.pool.clock() - looked.age_s
        mine = await self._runtime.call(self._mine)
        jobs = by_reservation(mine, known, self._tag, self._engine.account_of)
        # What may be among those that were not understood is not known to be absent.
        told = [one for one in mine if one.id in jobs or not looked.partial]
        acts = [(one, jobs.get(one.id), self._acts(one, jobs.get(one.id), asked_at)) for one in told]
        await asyncio.gather(*(self._carry_out(*act) for act in acts))
        for name, text in self._agents.news():
            await self._runtime.call(self._runtime.pool.notice, name, "danger", text)
        await self._end_leftovers(orphans(mine, known, self._tag))

    async def _end_leftovers(self, found: Sequence[ExternalJob]) -> None:
        """Ends jobs of what has ended. One that the ledger never knew stays, and is told once: an older ledger may have
        been restored."""
        names = {named_after(job.name, self._tag) for job in found}
        self._known = {name: known for name, known in self._known.items() if name in names}
        # Everybody can give a job such a name: no more than a few are looked for at a time.
        for name in sorted(names - set(self._known))[:LEFTOVERS_AT_ONCE]:
            known = await self._runtime.read(self._runtime.reader.knows, name)
            # Of a live row that is not understood nobody can say that it is over.
            self._known[name] = known and name not in self._runtime.pool.apart
            if not self._known[name]:
                told = "%s: a job called after %r is of this deployment, and the ledger does not know it: it stays"
                log.warning(told, self._engine.name, name)
        leftovers = [job for job in found if self._known.get(named_after(job.name, self._tag))]
        await asyncio.gather(*(self._cancel(job) for job in leftovers))

    def _mine(self) -> list[Reservation]:
        return [
            r for r in self._runtime.pool.live() if r.external is not None and r.request.engine == self._engine.name
        ]

    def _acts(self, reservation: Reservation, job: ExternalJob | None, asked_at: float) -> list[Act]:
        if job is None:
            self._absent.setdefault(reservation.id, asked_at)
        else:
            self._absent.pop(reservation.id, None)
        if job is not None:
            job = replace(job, holdings=self._engine.holdings(reservation.request, job.places))
        session = reservation.kind is Kind.SESSION
        if session:
            self._agents.expect(reservation)
        arrival = self._agents.arrival(reservation) if session else None
        end = self._agents.end(reservation) if session else None
        if job is not None and job.life is Life.ENDED and job.reason in (Reason.COMPLETED, Reason.FAILED) and end:
            job = replace(job, reason=end[0], detail=end[1])
        seen = Seen(job, asked_at, self._absent.get(reservation.id), arrival, self._engine.settled_s)
        return follow(reservation, seen, self._runtime.pool.stop_of(reservation))

    async def _carry_out(self, reservation: Reservation, job: ExternalJob | None, acts: Sequence[Act]) -> None:
        if reservation.state is State.ENDING and reservation.kind is Kind.SESSION:
            self._agents.stop(reservation)
        for act in acts:
            try:
                await self._do(reservation, job, act)
            except (EngineUnknown, PublicError, LaunchRefused) as error:
                log.warning("%s: %s was not done: %s", reservation.id, type(act).__name__, error)
                return
            except Exception:
                log.exception("%s: %s failed", reservation.id, type(act).__name__)
                return

    async def _do(self, reservation: Reservation, job: ExternalJob | None, act: Act) -> None:
        call, name = self._runtime.call, reservation.id
        assert reservation.external is not None
        attempt = reservation.external.attempt
        if isinstance(act, SubmitAgain):
            await self._begin([reservation], lost=True)
        elif isinstance(act, Adopt):
            await call(self.outside.handed_over, name, attempt, act.job_id)
        elif isinstance(act, Note):
            await call(self.outside.noted, name, act.said, act.expected_at, act.node)
            if reservation.kind is Kind.SESSION:
                # At once: its agent may come from another node now.
                self._agents.expect(await call(self._runtime.pool.get, name))
        elif isinstance(act, Begin):
            await call(self.outside.begun, name, attempt, act.holdings, act.node, act.since)
        elif isinstance(act, Runs):
            level = self._engine.enforcement(reservation.request)
            await call(self.outside.runs, name, act.generation, level, act.since)
        elif isinstance(act, WaitsAgain):
            await call(self.outside.waits_again, name, act.why)
        elif isinstance(act, Gone):
            await call(self.outside.gone, name, attempt, act.reason, act.detail, act.at)
        elif job is not None:
            await self._at_engine(reservation, job, act)

    async def _at_engine(self, reservation: Reservation, job: ExternalJob, act: Act) -> None:
        async with self._gate:
            if isinstance(act, Interrupt):
                await self._runtime.call(self.outside.asked_to_stop, reservation.id)
                await self._engine.interrupt(job)
            elif isinstance(act, Extend):
                await self._engine.extend(job, act.seconds)
            elif isinstance(act, Cancel):
                await self._engine.cancel(job)

    async def _cancel(self, job: ExternalJob) -> None:
        log.warning("%s: job %s (%s) belongs to nobody any more and is ended", self._engine.name, job.job_id, job.name)
        try:
            async with self._gate:
                await self._engine.cancel(job)
        except (EngineUnknown, LaunchRefused) as error:
            log.warning("job %s could not be ended: %s", job.job_id, error)
