"""``timeshare up``: the whole of it on one machine."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import getpass
import os
import secrets
import signal
import sys
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from tornado.httpclient import HTTPClientError
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from ..reservations.client import ServiceClient, ServiceUnreachable
from ..reservations.deployment import FILE_NAME, Deployment, DeploymentError, load_deployment
from ..reservations.devices.model import DeviceError
from ..reservations.devices.sources import open_source
from ..reservations.engines.slurm.config import CONFIG_FILE, ConfigError, read_pools
from ..reservations.errors import PublicError
from ..reservations.limits.load import LimitsError, load_limits
from ..reservations.sockets import run_dir_of
from . import proxy
from .origins import host_of, shared_origin_advice
from .ports import PortError, free_port, port_is_free
from .supervisor import Component, Supervisor, end_leftovers

HERE = Path(__file__).parent
READY_WAIT_S = 120.0
END_WAIT_S = 20.0


class UpError(Exception):
    """It cannot be started; the text says why and what to do."""


def say(text: str) -> None:
    print(text, flush=True)


def default_state_dir(multi_user: bool) -> Path:
    if multi_user:
        return Path("/var/lib/timeshare")
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "timeshare"


def run(options: Namespace) -> int:
    """Runs until it is told to stop. The exit code."""
    try:
        state_dir = (Path(options.state) if options.state else default_state_dir(options.multi_user)).absolute()
        with exclusively(state_dir):
            deployment = prepare(state_dir, options)
            return asyncio.run(serve(deployment))
    except (UpError, PortError, ConfigError, LimitsError, PublicError, DeploymentError, proxy.ProxyError) as error:
        print(f"timeshare up: {error}", file=sys.stderr)
        return 1


@contextlib.contextmanager
def exclusively(state_dir: Path):  # type: ignore[no-untyped-def]
    """One ``up`` on a state folder at a time. Raises UpError naming the other."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
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


def prepare(state_dir: Path, options: Namespace) -> Deployment:
    """Checks everything that can be wrong before anything starts, and writes the deployment file."""
    if options.multi_user and os.geteuid() != 0:
        raise UpError("--multi-user needs root, to start sessions as other accounts: use sudo, or leave it out")
    limits_path = Path(options.limits).absolute() if options.limits else own_limits(state_dir)
    load_limits(limits_path)
    if options.no_local:
        check_elsewhere(state_dir, options.simulate)
    else:
        describe_devices(options.simulate)
    found = end_leftovers(state_dir / FILE_NAME)
    if found:
        say(f"Ended what an earlier run left behind: {', '.join(found)}. Its sessions go on.")
    deployment = build(state_dir, options, limits_path, earlier(state_dir))
    deployment.save()
    if not proxy.script_path(state_dir).exists():
        say("Installing the proxy (once) …")
    proxy.install(state_dir)
    return deployment


def own_limits(state_dir: Path) -> Path:
    """The deployment's own limits file, made from the one that comes along when there is none yet."""
    path = state_dir / "limits.yaml"
    if not path.exists():
        draft = path.with_name(".limits.yaml.new")
        draft.write_text((HERE / "limits.yaml").read_text())
        draft.replace(path)
    return path


def check_elsewhere(state_dir: Path, simulate: str) -> None:
    """Raises UpError, ConfigError where nothing could run at all."""
    pools = read_pools(state_dir)
    if simulate:
        raise UpError("--simulate is about GPUs of this machine, and --no-local leaves them out: give one of them")
    if not pools:
        raise UpError(f"--no-local needs a Slurm, and {state_dir / CONFIG_FILE} is not there: see docs/slurm.md")
    say(f"Nothing runs on this machine. Sessions and batch run at: {', '.join(pool.name for pool in pools)}")


def describe_devices(simulate: str) -> None:
    source = open_source(simulate)
    try:
        inventory = source.inventory()
    except DeviceError as error:
        say(f"GPUs: {error}. Sessions without a GPU work; GPUs are offered when the driver answers.")
        return
    finally:
        source.close()
    names = ", ".join(sorted({device.model for device in inventory.devices}))
    if inventory.simulated:
        say(f"GPUs: {len(inventory.devices)} simulated ({names}). Sessions run on the CPU.")
    elif inventory.devices:
        say(f"GPUs: {len(inventory.devices)} ({names}), driver {inventory.driver}")
    else:
        say(f"GPUs: none: {inventory.note}. Sessions without a GPU work.")
        say("To try timeshare with simulated GPUs: timeshare up --simulate a100-40gb:2,t4:1")


def earlier(state_dir: Path) -> Deployment | None:
    """The deployment of the last start, for its tokens, password and ports."""
    if not (state_dir / FILE_NAME).exists():
        return None
    return load_deployment(state_dir / FILE_NAME)


def build(state_dir: Path, options: Namespace, limits_path: Path, last: Deployment | None) -> Deployment:
    base = "/" + options.base_url.strip("/")
    base = base if base.endswith("/") else f"{base}/"
    wanted = options.port
    port = wanted if wanted and port_is_free(options.ip, wanted) else free_port(options.ip, set())
    if port != wanted and wanted:
        say(f"Port {wanted} is taken; using {port} instead.")
    taken = {port}
    inner = [_kept_port(last, name, taken) for name in ("proxy_api_url", "hub_url", "service_url")]
    people = _names(options.people) or (getpass.getuser(),)
    made = Deployment(
        state_dir=str(state_dir),
        public_url=f"http://{options.ip}:{port}{base}",
        proxy_api_url=f"http://127.0.0.1:{inner[0]}",
        hub_url=f"http://127.0.0.1:{inner[1]}{base}",
        service_url=f"http://127.0.0.1:{inner[2]}{base}services/timeshare",
        agent_socket=str(state_dir / "run" / "agent.sock"),
        ledger_url=options.ledger or f"sqlite:///{state_dir}/ledger.sqlite",
        limits_path=str(limits_path),
        proxy_token=secrets.token_hex(32),
        service_token=secrets.token_hex(32),
        admin_token=secrets.token_hex(32),
        starter_token=secrets.token_hex(32),
        culler_token=secrets.token_hex(32),
        simulate=options.simulate,
        local=not options.no_local,
        run_dir=str(run_dir_of(state_dir)),
        subdomain_host=_subdomains(options.subdomains, f"http://{options.ip}:{port}{base}"),
        multi_user=options.multi_user,
        password="" if options.multi_user else secrets.token_urlsafe(12),
        people=() if options.multi_user else people,
        admins=_names(options.admins) or (people if not options.multi_user and len(people) == 1 else ()),
    )
    if last is None:
        return made
    kept = ("proxy_token", "service_token", "admin_token", "starter_token")
    made = replace(
        made, **{name: getattr(last, name) for name in kept}, culler_token=last.culler_token or made.culler_token
    )
    return replace(made, password=last.password) if last.password and made.password else made


def _subdomains(named: str, public_url: str) -> str:
    try:
        return host_of(named, public_url)
    except ValueError as error:
        raise UpError(str(error)) from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _kept_port(last: Deployment | None, name: str, taken: set[int]) -> int:
    """The port of the last start, so that sessions that run find hub and service again; a free one if it is taken."""
    port = urlsplit(getattr(last, name)).port if last is not None else None
    if port is None or port in taken or not port_is_free("127.0.0.1", port):
        port = free_port("127.0.0.1", taken)
    taken.add(port)
    return port


def components(deployment: Deployment) -> list[Component]:
    config = str(HERE / "jupyterhub_config.py")
    python = [sys.executable, "-m"]
    agent = [Component("agent", [*python, "timeshare.reservations.agent"])] if deployment.local else []
    return [
        Component("proxy", proxy.command(deployment), {"CONFIGPROXY_AUTH_TOKEN": deployment.proxy_token}),
        *agent,
        Component("service", [*python, "timeshare.reservations.service"]),
        Component("hub", [*python, "jupyterhub", "-f", config]),
        Component("culler", [*python, "timeshare.idle_culler"]),
        Component("starter", [*python, "timeshare.spawners.starter"]),
    ]


async def serve(deployment: Deployment) -> int:
    loop = asyncio.get_running_loop()
    asked: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked.put_nowait, number)
    supervisor = Supervisor(deployment.path, Path(deployment.state_dir) / "logs", say)
    began = time.monotonic()
    for component in components(deployment):
        supervisor.start(component)
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
        await supervisor.stop()
    say("Stopped.")
    return 0


def greet(deployment: Deployment, seconds: float) -> None:
    say(f"Ready after {seconds:.1f} s.")
    say("")
    say(f"  Open      {deployment.address}")
    if deployment.multi_user:
        say("  Log in    with your account on this machine")
    else:
        say(f"  Log in    as {' or '.join(deployment.people)}")
        say(f"  Password  {deployment.password}")
    say("")
    advice = shared_origin_advice(deployment.multi_user or len(deployment.people) > 1, deployment.subdomain_host)
    if advice:
        say(f"{advice}.")
        say("")
    say("Ctrl-C stops everything, sessions too.")


async def until_ready(deployment: Deployment) -> bool:
    hubs = [f"{url}hub/health" for url in (deployment.hub_url, deployment.public_url)]
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
        await SimpleAsyncHTTPClient().fetch(address, headers=headers, request_timeout=5)
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
