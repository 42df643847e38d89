"""Keeps the processes of a deployment running: starts them, logs them, starts again what dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..reservations.agent.processes import start_ticks
from ..reservations.deployment import VARIABLE

COMPONENT = "TIMESHARE_COMPONENT"
"""In the environment of every supervised process: how a later supervisor knows the ones that an earlier one left."""
FIRST_WAIT_S, LONGEST_WAIT_S, HEALTHY_S = 0.2, 10.0, 30.0
"""A process that exits by itself soon after its start is given more and more time; one that was killed is not."""
STOP_WAIT_S = 8.0
MAX_LOG = 10 * 1024 * 1024


@dataclass(frozen=True)
class Component:
    """A process to keep running. ``env`` is added to ours."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)


class Supervisor:
    """``say`` gets one line for a person at a time. ``deployment_file`` marks the processes as this deployment's."""

    def __init__(self, deployment_file: Path, log_dir: Path, say: Callable[[str], None]) -> None:
        self._file = deployment_file
        self._logs = log_dir
        self._say = say
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)

    def start(self, component: Component) -> None:
        self._tasks[component.name] = asyncio.create_task(self._keep(component))

    async def stop(self) -> None:
        """Ends all of them: SIGTERM, and SIGKILL for those that take too long."""
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
            self._say(f"{component.name} {ended}; it is started again (log: {self.log_path(component.name)})")
            await asyncio.sleep(wait)

    async def _run(self, component: Component) -> tuple[bool, str]:
        """Runs it once; whether a signal ended it, and how it ended in words."""
        env = {**os.environ, **component.env, VARIABLE: str(self._file), COMPONENT: component.name}
        with open_log(self.log_path(component.name)) as log:
            try:
                # A session of its own: Ctrl-C in the terminal is for us, who then end things in order.
                process = await asyncio.create_subprocess_exec(
                    *component.argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            except OSError as error:
                return False, f"could not be started ({error.strerror})"
        self._processes[component.name] = process
        code = await process.wait()
        if code < 0:
            return True, f"was ended by signal {signal.Signals(-code).name}"
        return False, f"exited with code {code}"

    def log_path(self, name: str) -> Path:
        return self._logs / f"{name}.log"


def open_log(path: Path):  # type: ignore[no-untyped-def]
    """The log to append to; a long one is put aside first, one of them is kept."""
    if path.exists() and path.stat().st_size > MAX_LOG:
        path.replace(path.with_suffix(".log.1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def leftovers(deployment_file: Path) -> dict[int, str]:
    """Processes that an earlier supervisor of this deployment left: pid and component. Sessions carry no such mark."""
    mark = f"{VARIABLE}={deployment_file}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        names = [v.partition(b"=")[2].decode() for v in variables if v.startswith(COMPONENT.encode() + b"=")]
        if mark in variables and names and start_ticks(int(entry.name)) is not None:
            found[int(entry.name)] = names[0]
    return found


def end_leftovers(deployment_file: Path) -> list[str]:
    """Ends what an earlier supervisor left; the names of what was found."""
    found = leftovers(deployment_file)
    identities = {pid: start_ticks(pid) for pid in found}
    for number, patience in ((signal.SIGTERM, STOP_WAIT_S), (signal.SIGKILL, 2.0)):
        alive = [pid for pid, ticks in identities.items() if ticks is not None and start_ticks(pid) == ticks]
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        until = time.monotonic() + patience
        while time.monotonic() < until and any(start_ticks(pid) == identities[pid] for pid in alive):
            time.sleep(0.05)
    return sorted(set(found.values()))
