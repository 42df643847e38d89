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
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from tornado.httpclient import HTTPClientError

from ..reservations.client import ServiceClient, ServiceUnreachable
from ..reservations.deployment import FILE_NAME, Deployment, DeploymentError, load_deployment
from ..reservations.devices.model import DeviceError
from ..reservations.devices.sources import open_source
from ..reservations.engines.slurm.config import CONFIG_FILE, ConfigError, read_pools
from ..reservations.errors import PublicError
from ..reservations.fetching import fetch
from ..reservations.limits.load import LimitsError, load_limits
from ..reservations.listening import inherited
from ..reservations.sockets import AGENT, HUB, PROXY_API, PUBLIC, SERVICE, run_dir_of, socket_file, unix_url
from . import proxy
from .ledger_url import LedgerUrlError, ledger_url
from .origins import host_of, shared_origin_advice
from .run import ports
from .run.environment import for_components
from .run.folders import FolderError, prepare_run_dir, prepare_state_dir
from .run.held import HeldSockets, SocketError
from .run.leftovers import end_leftovers
from .run.supervisor import Component, Place, Supervisor

HERE = Path(__file__).parent
DEFAULT_PORT = 8000
READY_WAIT_S = 120.0
END_WAIT_S = 20.0


class UpError(Exception):
    """It cannot be started; the text says why and what to do."""


ERRORS = (
    *(UpError, ports.PortError, SocketError, FolderError, LedgerUrlError),
    *(ConfigError, LimitsError, PublicError, DeploymentError, proxy.ProxyError),
)


def say(text: str) -> None:
    print(text, flush=True)


def default_state_dir(multi_user: bool) -> Path:
    if multi_user:
        return Path("/var/lib/timeshare")
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "timeshare"


def run(options: Namespace) -> int:
    """Runs until it is told to stop. The exit code."""
    os.umask(0o077)  # of what is written here, nothing is for others
    try:
        state_dir = (Path(options.state) if options.state else default_state_dir(options.multi_user)).absolute()
        with exclusively(state_dir), contextlib.closing(HeldSockets()) as held:
            deployment = prepare(state_dir, options, held)
            keep = _names(options.keep_env)
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


def prepare(state_dir: Path, options: Namespace, held: HeldSockets) -> Deployment:
    """Checks everything that can be wrong before anything starts, listens, and writes the deployment file."""
    if options.multi_user and os.geteuid() != 0:
        raise UpError("--multi-user needs root, to start sessions as other accounts: use sudo, or leave it out")
    limits_path = Path(options.limits).absolute() if options.limits else own_limits(state_dir)
    load_limits(limits_path)
    ledger = ledger_url(state_dir, options.ledger, options.ledger_password_file)
    if options.no_local:
        check_elsewhere(state_dir, options.simulate)
    else:
        describe_devices(options.simulate)
    last = earlier(state_dir)
    found = end_leftovers(state_dir)
    if found:
        say(f"Ended what an earlier run left behind: {', '.join(found)}. Its sessions go on.")
    run_dir = Path(os.path.realpath(run_dir_of(state_dir)))
    prepare_run_dir(run_dir, options.multi_user)
    held.listen(run_dir, options.multi_user)
    port = listen_in_public(options, last, held)
    deployment = build(state_dir, options, Settled(str(limits_path), ledger, run_dir, port), last)
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


def listen_in_public(options: Namespace, last: Deployment | None, held: HeldSockets) -> int:
    """Listen on the public port, and return it. Raises PortError for one that was named, or that people know from the
    last start, and that somebody else holds."""
    given = inherited(PUBLIC)  # from a socket unit of systemd
    if given is not None:
        held.hold(PUBLIC, given)
        return int(given.getsockname()[1])
    port = options.port
    if port is None and last is not None:
        port = urlsplit(last.public_url).port or DEFAULT_PORT
    elif port is None:
        port = DEFAULT_PORT
        if not ports.port_is_free(options.ip, port):
            port = ports.free_port(options.ip, set())
            say(f"Port {DEFAULT_PORT} is taken; using {port} instead, also at the next starts.")
    port = port or ports.free_port(options.ip, set())
    held.hold(PUBLIC, ports.listen(options.ip, port))
    return port


@dataclass(frozen=True)
class Settled:
    """What was found out and opened before the deployment file is written. ``port``: the public one."""

    limits_path: str
    ledger_url: str
    run_dir: Path
    port: int


def build(state_dir: Path, options: Namespace, settled: Settled, last: Deployment | None) -> Deployment:
    """The deployment of this start. All tokens are new; what people and running sessions know is kept."""
    base = "/" + options.base_url.strip("/")
    base = base if base.endswith("/") else f"{base}/"
    people = _names(options.people) or (getpass.getuser(),)
    host = f"[{options.ip}]" if ":" in options.ip else options.ip
    run_dir = settled.run_dir
    made = Deployment(
        state_dir=str(state_dir),
        public_url=f"http://{host}:{settled.port}{base}",
        proxy_api_url=unix_url(socket_file(run_dir, PROXY_API)),
        hub_url=unix_url(socket_file(run_dir, HUB), base),
        service_url=unix_url(socket_file(run_dir, SERVICE), f"{base}services/timeshare"),
        agent_socket=str(socket_file(run_dir, AGENT)),
        ledger_url=settled.ledger_url,
        limits_path=settled.limits_path,
        signing_key=last.signing_key if last is not None else secrets.token_hex(32),
        proxy_token=secrets.token_hex(32),
        service_token=secrets.token_hex(32),
        admin_token=secrets.token_hex(32),
        starter_token=secrets.token_hex(32),
        culler_token=secrets.token_hex(32),
        simulate=options.simulate,
        local=not options.no_local,
        run_dir=str(run_dir),
        subdomain_host=_subdomains(options.subdomains, f"http://{host}:{settled.port}{base}"),
        multi_user=options.multi_user,
        password="" if options.multi_user else secrets.token_urlsafe(12),
        people=() if options.multi_user else people,
        admins=_names(options.admins) or (people if not options.multi_user and len(people) == 1 else ()),
    )
    return replace(made, password=last.password) if last and last.password and made.password else made


def _subdomains(named: str, public_url: str) -> str:
    try:
        return host_of(named, public_url)
    except ValueError as error:
        raise UpError(str(error)) from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def components(deployment: Deployment) -> list[Component]:
    config = str(HERE / "jupyterhub_config.py")
    token = {"CONFIGPROXY_AUTH_TOKEN": deployment.proxy_token}
    agent = [Component("agent", ["timeshare.reservations.agent"], sockets=[AGENT])] if deployment.local else []
    return [
        Component("proxy", proxy.command(deployment), token, sockets=[PUBLIC, PROXY_API]),
        *agent,
        Component("service", ["timeshare.reservations.service"], sockets=[SERVICE]),
        Component("hub", ["timeshare.hub_config.run.hub", "-f", config], sockets=[HUB]),
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
