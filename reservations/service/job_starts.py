"""Starts jobs whose turn has come. It keeps nothing: what is to be started stands in the ledger, and the engine starts
each generation once, however often it is asked."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from ..clock import rfc3339
from ..engines.base import EngineUnknown, LaunchRefused
from ..errors import PublicError
from ..ledger import LedgerSilent
from ..reservation import Reason, Reservation, State
from .runtime import Runtime

log = logging.getLogger("timeshare.service")
RUNNER = "timeshare.notebooks.runner"
PERIOD_S = 1.0
AT_ONCE = 8
"""Starts of one owner that are under way."""


def share_parts(reservation: Reservation) -> list[dict[str, Any]]:
    """What it holds, as the agent has it."""
    names = ("device_uuid", "instance_uuid", "memory_mib", "compute", "whole")
    return [{name: getattr(holding, name) for name in names} for holding in reservation.holdings]


class JobStarts:
    """``run`` until it is cancelled."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._begun: dict[str, asyncio.Task[None]] = {}
        self._turns: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def run(self) -> None:
        try:
            await self._run()
        finally:
            for begun in list(self._begun.values()):
                begun.cancel()

    async def _run(self) -> None:
        while True:
            version = self._runtime.pool.version
            try:
                await self.step()
            except LedgerSilent:
                pass  # it is tried again
            except Exception:
                log.exception("starting jobs failed; it is tried again")
                await asyncio.sleep(PERIOD_S)
            await self._runtime.next_change(version, PERIOD_S)

    async def step(self) -> None:
        """One look at the ledger, and the starts that follow. None of them is waited for: one that takes long, as its
        owner can make it, holds up no other one."""
        pool = self._runtime.pool
        due = await self._runtime.call(
            lambda: [
                r
                for r in pool.live()
                if r.job is not None and r.external is None and r.state in (State.GRANTED, State.STARTING)
            ]
        )
        self._begun = {name: begun for name, begun in self._begun.items() if not begun.done()}
        for reservation in due:
            if reservation.id not in self._begun:
                self._begun[reservation.id] = asyncio.create_task(self._in_turn(reservation))

    async def _in_turn(self, reservation: Reservation) -> None:
        """So many of one owner at once, as each keeps the node's agent busy."""
        turns = self._turns.setdefault(reservation.owner, asyncio.Semaphore(AT_ONCE))
        async with turns:
            try:
                await self._start(await self._runtime.call(self._runtime.pool.get, reservation.id))
            except LedgerSilent:
                pass  # it is tried again
            except Exception:
                log.exception("job %s could not be started; it is tried again", reservation.id)
                await asyncio.sleep(PERIOD_S)

    async def _start(self, reservation: Reservation) -> None:
        pool, call = self._runtime.pool, self._runtime.call
        if reservation.state not in (State.GRANTED, State.STARTING):
            return  # it was ended while it waited
        try:
            if reservation.state is State.GRANTED:
                reservation = await call(pool.starting, reservation.id)
            level = await self._runtime.engine.submit(self._order(reservation))
            await call(pool.active, reservation.id, reservation.generation, level)
        except LaunchRefused as error:
            await call(pool.end, reservation.id, Reason.FAILED, f"it could not be started: {error}")
            self._runtime.hurry()
        except EngineUnknown as error:
            log.warning("job %s is not started yet: %s", reservation.id, error)
            await asyncio.sleep(PERIOD_S)
        except PublicError as error:
            log.info("job %s was not started: %s", reservation.id, error.message)

    def _order(self, reservation: Reservation) -> dict[str, Any]:
        job, settings = reservation.job, self._runtime.settings
        assert job is not None
        log_path = settings.log_dir / f"{reservation.id}.log" if settings.log_dir else None
        return {
            "reservation_id": reservation.id,
            "generation": reservation.generation,
            "owner": reservation.owner,
            "user": settings.account(reservation.owner),
            "argv": [job.python, "-m", RUNNER, job.folder, "--digest", job.digest, "--key-stdin"],
            "env": self._environment(reservation),
            "stdin": job.key,
            # -m puts the working folder before Python's own: nobody but root may be able to put a module there.
            "cwd": "/",
            "log_path": None if log_path is None else str(log_path),
            "share": share_parts(reservation),
            "share_text": reservation.request.describe(),
            "ends_at": rfc3339(reservation.ends_at),
            "cpus": reservation.terms.cpus,
            "memory_mib": reservation.terms.host_memory_mib,
        }

    def _environment(self, reservation: Reservation) -> dict[str, str]:
        """What the runner needs; the environment of the cell is in the job."""
        job = reservation.job
        assert job is not None
        grace = self._runtime.pool.stop_of(reservation).save_grace
        path = f"{Path(job.python).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        found = {"PATH": path, "TIMESHARE_STOP_GRACE_S": f"{grace:g}"}
        kept = ("LANG", "LC_ALL", "TZ") if self._runtime.settings.multi_user else ("LANG", "LC_ALL", "TZ", "HOME")
        return {**{name: os.environ[name] for name in kept if name in os.environ}, **found}
