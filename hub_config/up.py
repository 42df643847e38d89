"""``timeshare up``: the whole of it on one machine."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from tornado.httpclient import HTTPClientError

from ..reservations.client import ServiceClient, ServiceUnreachable
from ..reservations.deployment import Deployment, DeploymentError
from ..reservations.engines.slurm.config import ConfigError
from ..reservations.errors import PublicError
from ..reservations.fetching import fetch
from ..reservations.limits.load import LimitsError
from ..reservations.service.bounds import BoundsError
from ..reservations.sockets import AGENT, HUB, PROXY_API, PUBLIC, SERVICE
from . import proxy
from .front import FrontError
from .ledger_url import LedgerUrlError
from .origins import shared_origin_advice
from .run import ports
from .run.environment import for_components
from .run.folders import FolderError, default_state_dir, prepare_state_dir
from .run.held import HeldSockets, SocketError
from .run.prepare import CONFIG, UpError, names, prepare, say
from .run.supervisor import Component, Place, Supervisor
from .saved.plan import pending
from .up_options import add_options

READY_WAIT_S = 120.0
END_WAIT_S = 20.0
ERRORS = (
    *(UpError, FrontError, ports.PortError, SocketError, FolderError, LedgerUrlError),
    *(ConfigError, LimitsError, BoundsError, PublicError, DeploymentError, proxy.ProxyError),
)


def add(command: ArgumentParser, state: Callable[[ArgumentParser], None]) -> None:
    """Add the options. ``state`` adds the one that names the deployment."""
    add_options(command, state)
    command.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Runs until it is told to stop. The exit code."""
    os.umask(0o077)  # of what is written here, nothing is for others
    try:
        state_dir = (Path(options.state) if options.state else default_state_dir(options.multi_user)).absolute()
        with exclusively(state_dir), contextlib.closing(HeldSockets()) as held:
            if pending(state_dir):
                raise UpError(f"a restore into {state_dir} was interrupted: run `timeshare restore --finish` first")
            deployment = prepare(state_dir, options, held)
            if options.prepare_only:
                say(f"Prepared: {deployment.path} is written. Start the units of systemd.")
                return 0
            keep = names(options.keep_env)
            env = for_components(os.environ, os.geteuid() == 0, keep)
            return asyncio.run(serve(deployment, Place(state_dir, deployment.path, held, env, say)))
    except ERRORS as error:
        print(f"timeshare up: {error}", file=sys.stderr)
        return 1


@contextlib.contextmanager
def exclusively(state_dir: Path):  # type: ignore[no-untyped-def]
    """One ``up`` on a state folder at a time. Raises UpError naming the other."""
    prepare_state_dir(state_dir, say)
    try:
        file = open(state_dir / "up.lock", "a+")  # noqa: SIM115
    except OSError as error:
        raise UpError(
            f"{state_dir} cannot be used to keep state in: {error.strerror}; name another by --state"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            message = f"it already runs on {state_dir} (process {file.read().strip() or 'unknown'})"
            raise UpError(f"{message}: stop that one, or name another folder by --state") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def components(deployment: Deployment) -> list[Component]:
    config = str(CONFIG / "jupyterhub_config.py")
    token = {"CONFIGPROXY_AUTH_TOKEN": deployment.proxy_token}
    front = Component("proxy", proxy.command(deployment), token, sockets=[PUBLIC, PROXY_API])
    hub = Component("hub", ["timeshare.hub_config.run.hub_start", "-f", config], sockets=[HUB])
    return [
        *([front] if deployment.own_proxy else []),
        *([Component("agent", ["timeshare.reservations.agent"], sockets=[AGENT])] if deployment.local else []),
        Component("service", ["timeshare.reservations.service"], sockets=[SERVICE]),
        *([hub] if deployment.own_hub else []),
        Component("culler", ["timeshare.idle_culler"]),
        Component("starter", ["timeshare.spawners.starter"]),
    ]


async def serve(deployment: Deployment, place: Place) -> int:
    loop = asyncio.get_running_loop()
    asked: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.put_nowait, number)
    supervisor = Supervisor(place)
    began = time.monotonic()
    for component in components(deployment):
        supervisor.start(component)
    logs = asyncio.create_task(supervisor.keep_logs_short())
    try:
        stop = asyncio.create_task(asked.get())
        ready = asyncio.create_task(until_ready(deployment))
        await asyncio.wait({stop, ready}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done() and ready.result():
            greet(deployment, time.monotonic() - began)
        elif ready.done():
            say(f"It is not ready after {READY_WAIT_S:g} s; the logs in {deployment.state_dir}/logs say why.")
        number = await stop
        ready.cancel()
        if number is signal.SIGINT:
            await end_sessions(deployment, asked)
        else:
            say("Stopping; sessions go on, and the next `timeshare up` finds them again.")
    finally:
        logs.cancel()
        await supervisor.stop()
    say("Stopped.")
    return 0


def greet(deployment: Deployment, seconds: float) -> None:
    say(f"Ready after {seconds:.1f} s.")
    if not deployment.own_hub:
        say(f"It serves the hub at {deployment.hub_url}, whose configuration calls adopt.configure.")
        say("Ctrl-C stops it, and all sessions.")
        return
    say("")
    say(f"  Open      {deployment.address}")
    if deployment.multi_user:
        say("  Log in    with your account on this machine")
    else:
        say(f"  Log in    as {' or '.join(deployment.people)}")
        say(f"  Password  {deployment.password}")
    port = urlsplit(deployment.public_url).port or 80
    if advice := ports.public_port_advice(port, deployment.multi_user, ports.first_open_port()):
        say("")
        say(f"  Beware    {advice}.")
    say("")
    advice = shared_origin_advice(deployment.multi_user or len(deployment.people) > 1, deployment.subdomain_host)
    if advice:
        say(f"{advice}.")
        say("")
    say("Ctrl-C stops everything, sessions too.")


async def until_ready(deployment: Deployment) -> bool:
    urls = (deployment.hub_url, deployment.public_url) if deployment.own_hub else ()
    hubs = [f"{url}hub/health" for url in urls]
    addresses = [*hubs, f"{deployment.service_url}/api/v1/health"]
    until = time.monotonic() + READY_WAIT_S
    for address in addresses:
        while not await answers(address, deployment.subdomain_host):
            if time.monotonic() > until:
                return False
            await asyncio.sleep(0.1)
    return True


async def answers(address: str, subdomain_host: str = "") -> bool:
    headers = {"Host": urlsplit(subdomain_host).netloc} if subdomain_host else {}  # by which the proxy finds the hub
    try:
        await fetch(address, headers=headers, request_timeout=5)
    except (OSError, HTTPClientError):
        return False
    return True


async def end_sessions(deployment: Deployment, asked: asyncio.Queue[signal.Signals]) -> None:
    """Ends every reservation, until all are gone, the time is up, or somebody presses Ctrl-C again."""
    service = ServiceClient(deployment.service_url, deployment.admin_token)
    states = "queued,granted,starting,active,parked,ending"
    try:
        live = await service.list(states=states, limit=500)
        if live:
            say(f"Stopping {len(live)} session{'s' if len(live) > 1 else ''} … (Ctrl-C again: at once)")
        for reservation in live:
            await service.end(reservation["id"], "cancelled", "timeshare was stopped")
        until = time.monotonic() + END_WAIT_S
        while time.monotonic() < until and asked.empty() and await service.list(states=states, limit=1):
            await asyncio.sleep(0.2)
    except (ServiceUnreachable, PublicError) as error:
        say(f"Sessions could not be ended in order: {error}")
