"""Two loops beside the runtime: samples of what sessions do, and devices that are taken from them or given to them."""

from __future__ import annotations

import asyncio
import logging

from ..engines.base import EngineUnknown, LaunchRefused
from ..monitor import FASTEST_S, Monitor
from ..reservation import RESUMING, RETURNING, Reservation
from ..watching import Reading
from .job_starts import share_parts
from .runtime import Runtime

log = logging.getLogger("timeshare.service")
STEP_S = 0.5


class Watch:
    """``sample`` and ``exchange`` run until they are cancelled."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def sample(self) -> None:
        """Takes a sample of every session, as often as the limits need it."""
        monitor = self._runtime.monitor
        while True:
            await asyncio.sleep(FASTEST_S)
            try:
                if await self._runtime.call(monitor.due):
                    await self._runtime.call(monitor.take, await self._readings(monitor))
            except Exception:
                log.exception("a sample could not be taken; the next one follows")

    async def _readings(self, monitor: Monitor) -> dict[tuple[str, int], Reading]:
        try:
            told = await self._runtime.engine.activity(monitor.period)
        except EngineUnknown as error:
            log.warning("nothing is known of what sessions use: %s", error)
            return {}
        now = self._runtime.pool.clock()
        return {(t.reservation_id, t.generation): Reading(now, t.gpu, t.cpu, t.memory_mib) for t in told}

    async def exchange(self) -> None:
        """Has the node do what stands in the ledger, until it is done."""
        while True:
            version = self._runtime.pool.version
            try:
                due = await self._runtime.call(lambda: [r for r in self._runtime.pool.live() if r.handling])
                await asyncio.gather(*(self._handle(reservation) for reservation in due))
            except Exception:
                log.exception("a GPU could not be exchanged; it is tried again")
                due = []
                await asyncio.sleep(STEP_S)
            await self._runtime.next_change(version, STEP_S if due else 5.0)

    async def _handle(self, reservation: Reservation) -> None:
        engine, call, parking = self._runtime.engine, self._runtime.call, self._runtime.parking
        name, generation = reservation.id, reservation.generation
        try:
            if reservation.handling == RETURNING:
                if await engine.release(name, generation, self._runtime.pool.limits.stop):
                    await call(parking.returned, name, generation)
            elif reservation.handling == RESUMING:
                await engine.resume(name, generation, share_parts(reservation))
                await call(parking.resumed, name, generation)
        except LaunchRefused as error:
            log.warning("%s: %s", name, error)
            await call(parking.failed, name, str(error))
        except EngineUnknown as error:
            log.warning("%s: its node does not answer: %s", name, error)
