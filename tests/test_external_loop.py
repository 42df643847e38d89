"""The loop around an engine that places work itself: a real service, real job agents, and a batch system that falls
silent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from job_agents import Job, jobagent_environment, jobs
from test_external import SHARE, Engine
from test_follow import ASKED
from test_job_agent import Near, near_service, until

from timeshare.reservations.deployment import Deployment
from timeshare.reservations.devices.model import Device
from timeshare.reservations.engines.base import EngineSession, EngineUnknown, SessionState
from timeshare.reservations.engines.external import ExternalJob, Looked, Order
from timeshare.reservations.engines.nowhere import NoEngine
from timeshare.reservations.engines.rhythm import LEAST_S, LONGEST_S, pause_s
from timeshare.reservations.engines.slurm.agents import MeetingAgents
from timeshare.reservations.external import External
from timeshare.reservations.job import JobSpec
from timeshare.reservations.kind import Kind
from timeshare.reservations.limits.schema import Stop
from timeshare.reservations.placement import Holding
from timeshare.reservations.reservation import Reason, Reservation, State
from timeshare.reservations.service.__main__ import settings_of
from timeshare.reservations.service.external import ExternalLoop
from timeshare.reservations.service.job_starts import AT_ONCE, JobStarts
from timeshare.reservations.service.runtime import Runtime, is_gentle
from timeshare.reservations.shares import ShareRequest, parse_share
from timeshare.reservations.submission import Submission

DEVICE = Device("slurm/a1/0", "a100", 40_000, node="a1", order=0, simulated=True, engine="slurm")


@dataclass
class Silent(Engine):
    """Takes what it is given, and never answers a question."""

    settled_s: float = 90.0

    def holdings(self, request: ShareRequest, places: Mapping[str, Sequence[int]]) -> tuple[Holding, ...]:
        return (Holding(DEVICE.uuid, "", 40_000, 1000, False),)

    def account_of(self, owner: str) -> str:
        return owner

    async def devices(self) -> tuple[Device, ...]:
        return (DEVICE,)

    async def learn(self) -> None:
        raise EngineUnknown("it is silent")

    async def submit(self, order: Order) -> str:
        return "100"

    async def look(self, job_ids: Sequence[str], within_s: float) -> Looked:
        raise EngineUnknown("it is silent")

    async def interrupt(self, job: ExternalJob) -> None:
        raise EngineUnknown("it is silent")

    cancel = interrupt

    async def extend(self, job: ExternalJob, seconds: int) -> None:
        raise EngineUnknown("it is silent")


@contextlib.asynccontextmanager
async def silent_cluster(place: Deployment) -> AsyncIterator[Near]:
    async with near_service(place) as near:
        engine, runtime = Silent(), near.runtime
        runtime.pool.engines["slurm"] = engine
        agents = MeetingAgents(runtime.meeting, runtime.pool, engine.holdings, is_gentle)
        loop = asyncio.create_task(ExternalLoop(runtime, engine, agents, "tag").run())
        try:
            yield near
        finally:
            loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await loop


async def asked(near: Near) -> str:
    """A session whose job is handed over."""
    made, _ = await near.runtime.submit(Submission("ada", SHARE, 3600))
    await until(lambda: near.runtime.pool.get(made.id).external.job_id)
    return made.id


async def test_a_session_begins_by_the_word_of_its_job_while_the_cluster_is_silent(
    place: Deployment, tmp_path: Path
) -> None:
    async with silent_cluster(place) as near:
        with jobs(tmp_path) as started:
            name = await asked(near)
            started.append(Job(tmp_path, jobagent_environment(place, name)))
            begun = await until(lambda: near.runtime.pool.get(name).holds and near.runtime.pool.get(name))
            assert (begun.state, begun.holdings, begun.external.node) == (
                State.GRANTED,
                (Holding(DEVICE.uuid, "", 40_000, 1000, False),),
                "a1",
            )


async def test_a_session_is_told_of_its_end_while_the_cluster_is_silent(place: Deployment, tmp_path: Path) -> None:
    async with silent_cluster(place) as near:
        with jobs(tmp_path) as started:
            name, runtime = await asked(near), near.runtime
            job = Job(tmp_path, jobagent_environment(place, name))
            started.append(job)
            await until(lambda: runtime.pool.get(name).holds)
            await runtime.call(runtime.pool.end, name, Reason.CANCELLED, "by its owner")
            assert await asyncio.to_thread(job.exit_code) == 0
            assert runtime.pool.get(name).state is State.ENDING, "that nothing is left of it, the cluster has to say"


async def test_another_job_than_the_one_that_was_handed_over_begins_nothing(place: Deployment, tmp_path: Path) -> None:
    async with silent_cluster(place) as near:
        with jobs(tmp_path) as started:
            name = await asked(near)
            stranger = Job(tmp_path, jobagent_environment(place, name, SLURM_JOB_ID="99"))
            started.append(stranger)
            await until(lambda: near.runtime.meeting.arrival(name) or stranger.process.poll() is not None)
            await asyncio.sleep(0.5)
            assert near.runtime.pool.get(name).state is State.QUEUED


@dataclass
class Stubborn(NoEngine):
    """Has two sessions that are to end, and cannot end the first one."""

    ended: list[str] = field(default_factory=list)

    async def sessions(self) -> list[EngineSession]:
        return [EngineSession(name, 1, SessionState.STOPPING, None, "") for name in ("first", "second")]

    async def stop(
        self, reservation_id: str, rules: Stop, interrupt: bool, generation: int | None = None
    ) -> SessionState:
        if reservation_id == "first":
            raise EngineUnknown("its record cannot be read")
        self.ended.append(reservation_id)
        return SessionState.EXITED


async def test_a_session_that_cannot_be_ended_keeps_no_other_one_from_its_end(place: Deployment) -> None:
    engine = Stubborn()
    runtime = Runtime(settings_of(place), engine)
    await runtime.start()
    try:
        await until(lambda: engine.ended)
    finally:
        await runtime.stop()
    assert set(engine.ended) == {"second"}


@dataclass
class Slow(NoEngine):
    """Has asked for a start of ada's that takes for ever."""

    started: list[str] = field(default_factory=list)

    async def submit(self, order: dict[str, Any]) -> str:
        self.started.append(order["owner"])
        if order["owner"] == "ada":
            await asyncio.Event().wait()
        return "simulated"


async def test_a_job_that_takes_long_to_start_keeps_no_other_ones_waiting(place: Deployment) -> None:
    """An account can stop its own process between setuid and its program, each time."""
    engine = Slow()
    runtime = Runtime(settings_of(place), engine)
    await runtime.start()
    starts = asyncio.create_task(JobStarts(runtime).run())
    try:

        async def ask(owner: str, name: str) -> None:
            spec = JobSpec(name, "/python", "/job", "0" * 64)
            await runtime.submit(Submission(owner, parse_share({"cpu_only": True}), 60, Kind.BATCH, job=spec))

        for number in range(AT_ONCE + 2):
            await ask("ada", f"job{number}")
        await until(lambda: engine.started)
        await ask("ben", "fit")
        await until(lambda: "ben" in engine.started)
        await until(lambda: engine.started.count("ada") == AT_ONCE)
    finally:
        starts.cancel()
        await runtime.stop()
    assert engine.started.count("ada") == AT_ONCE


# --- how often it is asked

WAITS = replace(ASKED, external=External(attempt=1, tried_at=100.0, job_id="7"))
JOB = replace(WAITS, kind=Kind.BATCH)
RUNS = WAITS.granted((), 110.0).starting(111.0).active("simulated", 112.0)
JOB_RUNS = JOB.granted((), 110.0).starting(111.0).active("simulated", 112.0)


def test_what_was_just_handed_over_is_asked_about_often_and_what_waits_long_is_not() -> None:
    assert pause_s([WAITS], 100.0) == LEAST_S
    assert pause_s([WAITS], 180.0) == 8.0
    assert pause_s([WAITS], 100.0 + 3600) == LONGEST_S
    assert pause_s([WAITS, replace(WAITS, external=External(1, 3690.0))], 3700.0) == LEAST_S


@pytest.mark.parametrize("nothing", [[], [ASKED], [RUNS]], ids=["nobody", "kept back here", "a session that runs"])
def test_nothing_is_about_to_be_told_by_the_cluster(nothing: list[Reservation]) -> None:
    assert pause_s(nothing, 112.0) == LONGEST_S


def test_a_job_that_just_began_may_be_short_and_an_end_is_waited_for() -> None:
    assert pause_s([JOB_RUNS], 113.0) == LEAST_S
    assert pause_s([JOB_RUNS], 112.0 + 3600) == LONGEST_S
    assert pause_s([RUNS.ending(Reason.CANCELLED, "", 5000.0)], 5001.0) == LEAST_S


@dataclass
class Partly(Silent):
    """Knows of no job, or tells some in words that nobody understands."""

    partial: bool = False

    async def look(self, job_ids: Sequence[str], within_s: float) -> Looked:
        return Looked({}, 0.0, self.partial)


async def test_a_job_that_may_be_among_those_not_understood_is_not_taken_for_gone(place: Deployment) -> None:
    async with silent_cluster(place) as near:
        name = await asked(near)
        for partial in (True, False):
            engine = Partly(partial=partial)
            agents = MeetingAgents(near.runtime.meeting, near.runtime.pool, engine.holdings, is_gentle)
            loop = ExternalLoop(near.runtime, engine, agents, "tag")
            await loop.step()
            assert (name in loop._absent) is not partial
