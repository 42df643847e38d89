"""``python -m timeshare.reservations.agent``: the process that owns this node's GPUs and sessions."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..deployment import DeploymentError, current_deployment
from ..devices.sources import open_checkpointer, open_source
from ..errors import PublicError
from ..storage import full_disk
from ..text import log_lines
from .grouptrial import bounds_of, choose_groups
from .isolation import choose
from .server import Agent, Unsafe, serve
from .sessions import Sessions

log = logging.getLogger("timeshare.agent")


def lock_folder(root: Path) -> int:
    """The lock of the only agent on ``root``; held as long as the process lives. Ends the process when taken."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(root / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"timeshare agent: another agent already runs on {root}")
    return descriptor


async def repeat(step: Callable[[], None], period_s: float) -> None:
    """Each step has a thread of its own: no number of requests keeps it waiting."""
    thread = ThreadPoolExecutor(1, step.__name__)
    while True:
        try:
            await asyncio.get_running_loop().run_in_executor(thread, step)
        except Exception:
            log.exception("a step failed; it is tried again")
        await asyncio.sleep(period_s)


async def run(agent: Agent, socket_path: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    steps = [
        asyncio.create_task(repeat(agent.stops.advance, 0.2)),
        asyncio.create_task(repeat(agent.stops.sweep, 3600.0)),
        asyncio.create_task(repeat(agent.guard.check, 1.0)),
        asyncio.create_task(repeat(agent.sampler.look, 1.0)),
        asyncio.create_task(repeat(agent.oom_watch.look, 1.0)),
    ]
    await serve(agent, socket_path, stop)
    for step in steps:
        step.cancel()


def main() -> None:
    log_lines()
    os.umask(0o077)
    try:
        deployment = current_deployment()
        root = Path(deployment.state_dir) / "agent"
        lock = lock_folder(root)
        source = open_source(deployment.simulate)
    except (DeploymentError, PublicError) as error:
        sys.exit(f"timeshare agent: {error}")
    run_dir = Path(deployment.run_dir) if deployment.run_dir else None
    way = choose()
    groups = choose_groups(way.name if way else None)
    try:
        sessions = Sessions(root, way, bool(deployment.simulate), run_dir=run_dir, groups=groups)
    except OSError as error:
        if (why := full_disk(error, root)) is None:
            raise
        sys.exit(f"timeshare agent: {why}: it cannot start until there is room")
    agent = Agent(sessions, source, open_checkpointer(source), deployment.multi_user)
    log.info("device filter: %s", way.name if way else "none")
    log.info("control groups: %s, bounds: %s", groups.name if groups else "none", bounds_of(groups))
    try:
        asyncio.run(run(agent, Path(deployment.agent_socket)))
    except (Unsafe, OSError) as error:
        sys.exit(f"timeshare agent: {error}")
    source.close()
    os.close(lock)


if __name__ == "__main__":
    main()
