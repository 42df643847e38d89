"""Two loops beside the runtime: samples of what sessions do, and devices that are taken from them or given to them."""

from __future__ import annotations

import asyncio
import logging
import time

from ..engines.base import EngineUnknown, LaunchRefused, NotYet
from ..ledger import LedgerSilent
from ..monitor import FASTEST_S, Monitor
from ..reservation import PARKING, RESUMING, RETURNING, Reservation
from ..watching import Reading
from .job_starts import share_parts
from .runtime import Runtime

log = logging.getLogger("timeshare.service")
STEP_S = 0.5
HEARD_S = 60.0
"""What an agent said longer ago is not what its session does now."""
NOT_YET_S = 3.0
"""Before its node is asked again to bring back what it could not yet."""


class Watch:
    """``sample`` and ``exchange`` run until they are cancelled."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._not_before: dict[str, float] = {}

    async def sample(self) -> None:
        """Takes a sample of every session, as often as the limits need it."""
        monitor = self._runtime.monitor
        while True:
            await asyncio.sleep(FASTEST_S)
            try:
                if await self._runtime.call(monitor.due):
                    await self._runtime.call(monitor.take, await self._readings(monitor))
            except LedgerSilent:
                pass  # it is tried again
            except Exception:
                log.exception("a sample could not be taken; the next one follows")

    def _elsewhere(self) -> dict[tuple[str, int], Reading]:
        """What agents of jobs at other engines measured, as far as they were heard lately."""
        oldest = self._runtime.pool.clock() - HEARD_S
        heard = [here for here in self._runtime.meeting.arrivals() if here.said.reading and here.heard_at >= oldest]
        return {
            (here.reservation_id, here.generation): Reading(here.heard_at, **vars(here.said.reading)) for here in heard
        }

    async def _readings(self, monitor: Monitor) -> dict[tuple[str, int], Reading]:
        found = self._elsewhere()
        parking = self._runtime.parking
        keeping = await self._runtime.call(parking.keeping)
        try:
            told = await self._runtime.engine.activity(monitor.period)
        except EngineUnknown as error:
            log.warning("nothing is known of what sessions use here: %s", error)
            return found
        for reading in told:
            await self._runtime.call(parking.kept, keeping, *reading.start, reading.kept_mib)
        now = self._runtime.pool.clock()
        return found | {t.start: Reading(now, t.gpu, t.cpu, t.memory_mib) for t in told}

    async def exchange(self) -> None:
        """Has the node do what stands in the ledger, until it is done."""
        while True:
            version = self._runtime.pool.version
            try:
                due = await self._runtime.call(lambda: [r for r in self._runtime.pool.live() if r.handling])
                self._not_before = {r.id: self._not_before[r.id] for r in due if r.id in self._not_before}
                await asyncio.gather(*(self._handle(reservation) for reservation in due))
            except LedgerSilent:
                due = []  # it is tried again
            except Exception:
                log.exception("a GPU could not be exchanged; it is tried again")
                due = []
                await asyncio.sleep(STEP_S)
            await self._runtime.next_change(version, STEP_S if due else 5.0)

    async def _handle(self, reservation: Reservation) -> None:
        name = reservation.id
        if time.monotonic() < self._not_before.get(name, 0.0):
            return
        try:
            if reservation.handling in (RETURNING, PARKING):
                await self._release(reservation)
            elif reservation.handling == RESUMING:
                await self._resume(reservation)
        except LaunchRefused as error:
            log.warning("%s: %s", name, error)
            await self._runtime.call(self._runtime.parking.failed, name, str(error))
            if reservation.handling == PARKING:
                await self._runtime.call(self._runtime.monitor.not_parked, name, str(error))
        except NotYet as error:
            self._not_before[name] = time.monotonic() + NOT_YET_S
            await self._runtime.call(self._runtime.parking.delayed, name, str(error))
        except EngineUnknown as error:
            log.warning("%s: its node does not answer: %s", name, error)

    async def _release(self, reservation: Reservation) -> None:
        name, generation, limits = reservation.id, reservation.generation, self._runtime.pool.limits
        park_mib = limits.parking.host_memory_mib if reservation.handling == PARKING else None
        told = await self._runtime.engine.release(name, generation, limits.stop, park_mib)
        if told.done:
            await self._runtime.call(self._runtime.parking.returned, name, generation, told.kept_mib)

    async def _resume(self, reservation: Reservation) -> None:
        name, generation = reservation.id, reservation.generation
        told = await self._runtime.engine.resume(name, generation, share_parts(reservation))
        if told.done:
            await self._runtime.call(self._runtime.parking.resumed, name, generation, told.kept_mib)
