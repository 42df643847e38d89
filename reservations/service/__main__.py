"""``python -m timeshare.reservations.service``: the process that owns the ledger."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from pathlib import Path
from urllib.parse import urlsplit

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_unix_socket

from ..deployment import Deployment, DeploymentError, current_deployment
from ..engines.local import LocalEngine
from ..engines.nowhere import NoEngine
from ..engines.slurm.config import ConfigError
from ..errors import PublicError
from ..limits.load import LimitsError
from ..listening import BACKLOG, inherited
from ..sockets import SERVICE, socket_path
from ..text import log_lines
from .auth import HubTokens, TokenChecker
from .base import Context
from .bounds import BoundsError, raise_file_limit, read_bounds
from .crowd import Crowd
from .fair_queue import Pace
from .feeds import Feeds
from .handlers import make_app
from .job_starts import JobStarts
from .listening import make_server
from .people import HubPeople, People
from .runtime import Runtime
from .settings import Settings
from .slurm import slurm_loops
from .watch import Watch

SWITCH_S = 0.0005
"""Until the event loop may go on while the pool's thread computes. Python's own 5 ms (sys.setswitchinterval) are longer
than a request takes, and each one would wait for them several times."""


def settings_of(deployment: Deployment) -> Settings:
    return Settings(
        url=deployment.service_url,
        public_url=deployment.public_service_url,
        public_hub_api_url=deployment.public_hub_api_url,
        ledger_url=deployment.ledger_url,
        admin_token=deployment.admin_token,
        signing_key=deployment.signing_key,
        culler_token=deployment.culler_token,
        limits_path=Path(deployment.limits_path) if deployment.limits_path else None,
        agent_socket=Path(deployment.agent_socket),
        hub_api_url=deployment.hub_api_url,
        hub_token=deployment.service_token,
        multi_user=deployment.multi_user,
        log_dir=Path(deployment.state_dir) / "logs" / "sessions",
        state_dir=Path(deployment.state_dir),
        local=deployment.local,
        account_prefix=deployment.account_prefix,
    )


def listen(server: HTTPServer, url: str) -> None:
    """Have ``server`` listen on the socket that this process inherits; without one, at the address of ``url``."""
    held, path, address = inherited(SERVICE), socket_path(url), urlsplit(url)
    if held is not None:
        server.add_socket(held)
    elif path is not None:
        server.add_socket(bind_unix_socket(path, 0o600, BACKLOG))
    else:
        server.listen(address.port or 80, address.hostname or "127.0.0.1")


async def serve(settings: Settings, tokens: TokenChecker | None, people: People | None = None) -> None:
    """Serves until SIGTERM or SIGINT."""
    assert settings.agent_socket is not None
    bounds = read_bounds(settings.state_dir)
    pace = Pace(bounds.work_share, bounds.work_burst_s)
    runtime = Runtime(settings, LocalEngine(settings.agent_socket) if settings.local else NoEngine(), people, pace)
    await runtime.start()
    if settings.log_dir is not None:
        settings.log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    watch = Watch(runtime)
    loops = [loop.run() for loop in slurm_loops(runtime, settings)]
    feeds = Feeds(runtime)
    own = (JobStarts(runtime).run(), watch.sample(), watch.exchange(), feeds.run())
    steps = [asyncio.create_task(step) for step in (*own, *loops)]
    app = make_app(Context(settings, runtime, tokens, Crowd(bounds), feeds))
    server = make_server(app, bounds, raise_file_limit(bounds.connections))
    listen(server, settings.url)
    gc.collect()
    gc.freeze()  # what was loaded until now stays: to look through all of it again and again takes 100 ms each time
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    server.stop()
    for step in steps:
        step.cancel()
    await runtime.stop()


def main() -> None:
    log_lines()
    sys.setswitchinterval(SWITCH_S)
    try:
        settings = settings_of(current_deployment())
        people = HubPeople(settings.hub_api_url, settings.hub_token)
        asyncio.run(serve(settings, HubTokens(settings), people))
    except (DeploymentError, LimitsError, ConfigError, BoundsError, PublicError) as error:
        sys.exit(f"timeshare service: {error}")


if __name__ == "__main__":
    main()
