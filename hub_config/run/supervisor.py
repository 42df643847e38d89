"""Keeps the processes of a deployment running: starts them, logs them, starts again what dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import site
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from ...reservations.deployment import VARIABLE
from .held import HeldSockets
from .leftovers import STOP_WAIT_S, records
from .logfiles import open_log, rotate

FIRST_WAIT_S, LONGEST_WAIT_S, HEALTHY_S = 0.2, 10.0, 30.0
"""A process that exits by itself soon after its start is given more and more time; one that was killed is not."""
ROTATE_EVERY_S = 2.0
BEGIN = Path(__file__).with_name("begin.py")


@dataclass(frozen=True)
class Component:
    """A process to keep running.

    ``argv``: a module and its arguments, or a program by its full path. ``env`` is added to what all components get.
    ``sockets``: the held sockets that it inherits, by name.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    sockets: Sequence[str] = ()


@dataclass(frozen=True)
class Place:
    """Where components run. ``env``: what all of them get; ``say`` gets one line for a person at a time."""

    state_dir: Path
    deployment_file: Path
    held: HeldSockets
    env: Mapping[str, str]
    say: Callable[[str], None]

    def log_path(self, name: str) -> Path:
        return self.state_dir / "logs" / f"{name}.log"


class Supervisor:
    def __init__(self, place: Place) -> None:
        self._place = place
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        for folder in (place.state_dir / "logs", records(place.state_dir)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def start(self, component: Component) -> None:
        self._tasks[component.name] = asyncio.create_task(self._keep(component))

    async def keep_logs_short(self) -> None:
        """Rotate the logs of all components, until it is cancelled."""
        while True:
            for name in self._tasks:
                await asyncio.to_thread(rotate, self._place.log_path(name))
            await asyncio.sleep(ROTATE_EVERY_S)

    async def stop(self) -> None:
        """End all of them: SIGTERM, and SIGKILL for those that take too long."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        running = [process for process in self._processes.values() if process.returncode is None]
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        waits = [asyncio.create_task(process.wait()) for process in running]
        if waits:
            await asyncio.wait(waits, timeout=STOP_WAIT_S)
        for process in running:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def _keep(self, component: Component) -> None:
        wait = FIRST_WAIT_S
        while True:
            began = time.monotonic()
            killed, ended = await self._run(component)
            healthy = killed or time.monotonic() - began > HEALTHY_S
            wait = FIRST_WAIT_S if healthy else min(wait * 2, LONGEST_WAIT_S)
            log = self._place.log_path(component.name)
            self._place.say(f"{component.name} {ended}; it is started again (log: {log})")
            await asyncio.sleep(wait)

    async def _run(self, component: Component) -> tuple[bool, str]:
        """Run it once, and return whether a signal ended it, and how it ended in words."""
        place = self._place
        env = {**place.env, **component.env, VARIABLE: str(place.deployment_file)}
        sockets = place.held.descriptors(component.sockets)
        with self._log(component.name) as log:
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._argv(component, sockets),
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # Never the folder in which somebody typed the command: Python and others look there for code.
                    cwd="/",
                    umask=0o077,
                    pass_fds=tuple(sockets.values()),
                    # A session of its own: Ctrl-C in the terminal is for us, who then end things in order.
                    start_new_session=True,
                )
            except OSError as error:
                return False, f"could not be started ({error.strerror})"
        self._processes[component.name] = process
        code = await process.wait()
        if code < 0:
            return True, f"was ended by signal {signal.Signals(-code).name}"
        return False, f"exited with code {code}"

    def _log(self, name: str) -> BinaryIO:
        """Its log; on a disk that takes nothing more, none: a component that is down helps nobody."""
        try:
            return open_log(self._place.log_path(name))
        except OSError as error:
            self._place.say(f"{name} is started without a log: {self._place.log_path(name)}: {error.strerror}")
            return open(os.devnull, "wb")

    def _argv(self, component: Component, sockets: Mapping[str, int]) -> list[str]:
        record = str(records(self._place.state_dir) / component.name)
        inherited = ",".join(f"{name}={number}" for name, number in sockets.items())
        kind = "--" if os.path.isabs(component.argv[0]) else "-m"
        return [*python(), str(BEGIN), record, inherited, kind, *component.argv]


def python() -> list[str]:
    """Return the words that start Python so that only what is installed is imported.

    -I leaves out the working folder, every PYTHON* variable and the packages of the user's home; where timeshare may be
    installed in the latter, for one person, they are left in.
    """
    own_packages = site.ENABLE_USER_SITE and os.geteuid() != 0
    return [sys.executable, "-E" if own_packages else "-I"]
