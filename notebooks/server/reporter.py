"""Tells the reservations service what the session does, and JupyterHub's own activity, so that no culler takes silent
work for idleness."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ..transport import ask
from .watcher import PROGRAMS_S, Activity, Watcher

LOOK_S = 2.0
USUAL_S = 60.0
SOONER_AFTER_S = 60.0
"""Work or input after a pause of so long is told at once."""
SETTING = "timeshare_last_activity"
"""Jupyter Server takes every setting of such a name for activity, and tells JupyterHub of it."""


@dataclass(frozen=True)
class Target:
    """``key``: lets this session report what it does, and nothing else."""

    service_url: str
    reservation_id: str
    generation: int
    key: str


def send(target: Target, activity: Activity) -> float:
    """Reports; in how many seconds to report again. Raises OSError, ValueError."""
    body = {"generation": target.generation, **vars(activity)}
    address = f"{target.service_url.rstrip('/')}/api/v1/reservations/{target.reservation_id}/activity"
    told = ask(address, "POST", {"Authorization": f"Bearer {target.key}"}, body, timeout_s=10)
    return float(told["next_s"])


class Reporter:
    """``at_work``: whether the node measures work that this server cannot see. ``run`` until it is cancelled."""

    def __init__(self, server: Any, target: Target, watcher: Watcher, at_work: Callable[[], bool]) -> None:
        self._server = server
        self._target = target
        self._watcher = watcher
        self._at_work = at_work
        self._answers = True
        self._hurry = asyncio.Event()
        self._told_at = float("-inf")

    async def run(self) -> None:
        looking = [asyncio.create_task(step()) for step in (self._look, self._look_at_programs)]
        try:
            while True:
                wait = await self._report()
                self._hurry.clear()
                try:
                    await asyncio.wait_for(self._hurry.wait(), wait)
                except asyncio.TimeoutError:
                    continue
        finally:
            for task in looking:
                task.cancel()

    def input(self) -> None:
        """A person typed or clicked."""
        ago = self._watcher.activity().input_ago_s
        self._watcher.input()
        if ago is None or ago > SOONER_AFTER_S:
            self._hurry.set()

    async def _look(self) -> None:
        while True:
            if self._watcher.look() and time.monotonic() - self._told_at > LOOK_S:
                self._hurry.set()
            if self._watcher.activity().works or self._at_work():
                self._server.web_app.settings[SETTING] = datetime.now(timezone.utc)
            await asyncio.sleep(LOOK_S)

    async def _look_at_programs(self) -> None:
        while True:
            await asyncio.get_running_loop().run_in_executor(None, self._watcher.look_at_programs)
            # Two looks are needed before anything can be said.
            await asyncio.sleep(PROGRAMS_S if self._watcher.activity().terminal is not None else LOOK_S)

    async def _report(self) -> float:
        """Seconds until the next report."""
        self._told_at = time.monotonic()
        try:
            wait = await asyncio.get_running_loop().run_in_executor(None, send, self._target, self._watcher.activity())
        except (OSError, ValueError, KeyError) as error:
            if self._answers:
                self._server.log.warning("timeshare: activity could not be reported (%s); it is tried again", error)
            self._answers = False
            return USUAL_S / 4
        if not self._answers:
            self._server.log.info("timeshare: activity is reported again")
        self._answers = True
        return max(1.0, min(wait, 10 * USUAL_S))
