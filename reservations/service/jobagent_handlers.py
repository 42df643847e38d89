"""Where job agents report and hear what is wanted, and where the hub hands over what they are to run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..engines.slurm.meeting import EXITED, STARTING
from ..errors import PublicError
from ..jobagent import talk
from ..reservation import Reservation, State
from ..submission import check_startable
from . import bodies
from .auth import is_job_agent
from .base import Base
from .fair_thread import LANE
from .jobagent_bodies import parse_order, parse_report


class JobAgent(Base):
    """One exchange of a job agent: how it is, and what is wanted of it. Its key is checked without asking the hub."""

    public = True

    async def post(self, reservation_id: str) -> None:
        self.no_query()
        name = bodies.check_id(reservation_id)
        if not is_job_agent(self.context.settings, name, self.request.headers.get("Authorization")):
            message = "this is not the key of this reservation's job agent: it stands in its TIMESHARE_JOBAGENT_KEY"
            raise PublicError("unauthorized", message, 401)
        key, runtime = f"jobagent:{name}", self.runtime
        self.context.crowd.admit_report(key)
        LANE.set(f"jobagents:{runtime.pool.owner_of(name)}")  # one turn for all jobs of one: keys are for ever
        report, wait_s = parse_report(self.json_body())
        reservation = await runtime.call(runtime.pool.get, name)
        if reservation.state is State.ENDED:
            self.answer(talk.told(talk.Leave(f"the reservation has ended: {reservation.detail}")))
            return
        wanted = runtime.meeting.hear(name, report, runtime.pool.clock())
        if isinstance(wanted, talk.Wait) and wait_s:
            with self.context.crowd.waiting(key), self.until_closed():
                wanted = await self._wanted(name, report, wanted, wait_s)
        if not self.closed:  # it has something newer to say: nothing of this answer may get lost
            self.answer(talk.told(wanted))

    async def _wanted(self, name: str, report: talk.Report, wanted: talk.Wanted, wait_s: float) -> talk.Wanted:
        """What is wanted as soon as that is not to wait, or after ``wait_s``."""
        until = asyncio.get_running_loop().time() + wait_s
        while isinstance(wanted, talk.Wait) and (left := until - asyncio.get_running_loop().time()) > 0:
            await self.runtime.bells.wait(name, left)
            wanted = self.runtime.meeting.wanted(name, report)
        return wanted


class GiveOrder(Base):
    """The hub's spawner hands over what the job is to run, and waits until that takes connections."""

    async def post(self, reservation_id: str) -> None:
        self.no_query()
        self.own_processes_only()
        order, wait_s = parse_order(self.json_body(escaped_bytes=True))
        reservation = await self.mine(reservation_id)
        _startable(reservation, order.generation)
        engine = self.runtime.pool.engines.get(reservation.request.engine)
        there = engine.nodes_environment if engine is not None else {}
        order = replace(order, env=as_nodes_see(order.env, there))
        until = asyncio.get_running_loop().time() + wait_s
        while True:
            left = until - asyncio.get_running_loop().time()
            taken = self._taken(reservation.id, order, left > 0)
            if left <= 0 or (
                taken and self.runtime.meeting.progress(reservation.id, order.generation).state != STARTING
            ):
                break
            await self.runtime.bells.wait(reservation.id, left)
        self.answer(self._shown(reservation.id, order.generation))

    def _taken(self, name: str, order: talk.Order, patient: bool) -> bool:
        try:
            self.runtime.meeting.order(name, order)
        except PublicError as error:
            # After a restart of this service an agent that is there needs a moment to say so.
            if error.reason != "no-agent" or not patient:
                raise
            return False
        return True

    def _shown(self, name: str, generation: int) -> dict[str, Any]:
        meeting = self.runtime.meeting
        progress, arrival = meeting.progress(name, generation), meeting.arrival(name)
        here = arrival if progress.state != EXITED else None
        end = progress.exit
        return {
            "generation": generation,
            "state": progress.state,
            "job_id": here.job_id if here else "",
            "node": here.said.node if here else "",
            "address": meeting.address(here) if here else "",
            "port": here.said.port if here and here.generation == generation else 0,
            "enforcement": here.said.level if here else "",
            "exit": None if end is None else {"code": end.code, "message": end.message},
        }


def as_nodes_see(env: Mapping[str, str], there: Mapping[str, str]) -> dict[str, str]:
    """``env`` with the addresses of ``there`` in place of its own, also where they are only the beginning, as the hub's
    API is of the address for activity."""
    moved = {env[name]: address for name, address in there.items() if env.get(name)}
    seen = dict(env)
    for name, value in env.items():
        for old, new in moved.items():
            if value == old or value.startswith(f"{old}/"):
                seen[name] = new + value[len(old) :]
    return seen


def _startable(reservation: Reservation, generation: int) -> None:
    check_startable(reservation)
    if reservation.state not in (State.STARTING, State.ACTIVE):
        message = f"only a reservation that is starting can be started: it is {reservation.state.value}"
        raise PublicError("wrong-state", message, 409)
    if generation != reservation.generation:
        message = f"generation is {generation}: the reservation is at {reservation.generation}, as starting answered"
        raise PublicError("older-generation", message, 409)


def routes(base: str) -> list[tuple[str, type[Base]]]:
    one = f"{base}/reservations/([^/]+)"
    return [(f"{one}/jobagent", JobAgent), (f"{one}/order", GiveOrder)]
