"""What happens before anything starts: checks, sockets, the deployment file and the proxy."""

from __future__ import annotations

import getpass
import os
import secrets
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from ...reservations.deployment import FILE_NAME, Deployment, load_deployment
from ...reservations.devices.model import DeviceError
from ...reservations.devices.sources import open_source
from ...reservations.engines.slurm.config import CONFIG_FILE, read_pools
from ...reservations.limits.load import load_limits
from ...reservations.listening import inherited
from ...reservations.sockets import AGENT, HUB, PROXY_API, PUBLIC, SERVICE, run_dir_of, socket_file, unix_url
from .. import proxy
from ..findings import FAIL
from ..front import base_path, believed, check_same_host, front_of
from ..import_path import import_path_findings, places_of_python
from ..ledger_url import ledger_url
from ..limits_findings import warnings_at_start
from ..origins import host_of
from . import ports
from .folders import prepare_run_dir
from .held import HeldSockets
from .leftovers import end_leftovers

CONFIG = Path(__file__).parent.parent
DEFAULT_PORT = 8000


class UpError(Exception):
    """It cannot be started; the text says why and what to do."""


def say(text: str) -> None:
    print(text, flush=True)


def prepare(state_dir: Path, options: Namespace, held: HeldSockets) -> Deployment:
    """Check everything that can be wrong before anything starts, listen, and write the deployment file.

    With ``--prepare-only`` nothing listens: units of systemd hold the sockets.
    """
    check_root(options.multi_user)
    check_hub(options)
    front_of(options.public_url, options.base_url)
    believed(options.web_server, options.ip)
    limits_path = Path(options.limits).absolute() if options.limits else own_limits(state_dir)
    load_limits(limits_path)
    ledger = ledger_url(state_dir, options.ledger, options.ledger_password_file)
    if options.no_local:
        check_elsewhere(state_dir, options.simulate)
    else:
        describe_devices(options.simulate)
    for text in warnings_at_start(limits_path, state_dir, options.simulate, not options.no_local):
        say(text)
    last = earlier(state_dir)
    found = end_leftovers(state_dir)
    if found:
        say(f"Ended what an earlier run left behind: {', '.join(found)}. Its sessions go on.")
    run_dir = Path(os.path.realpath(run_dir_of(state_dir)))
    prepare_run_dir(run_dir, options.multi_user)
    if options.prepare_only:
        port = options.port or DEFAULT_PORT
    else:
        held.listen(run_dir, options.multi_user, sockets(options))
        port = listen_in_public(options, last, held) if own_proxy(options) else 0
    deployment = build(state_dir, options, Settled(str(limits_path), ledger, run_dir, port), last)
    deployment.save()
    if not proxy.script_path(state_dir).exists():
        say("Installing the proxy (once) …")
    proxy.install(state_dir)
    return deployment


def check_root(multi_user: bool) -> None:
    """Raise UpError when a deployment for several accounts is not root's, or others could change what root runs."""
    if not multi_user:
        return
    if os.geteuid() != 0:
        raise UpError("--multi-user needs root, to start sessions as other accounts: use sudo, or leave it out")
    for finding in import_path_findings(places_of_python(), frozenset({0})):
        if finding.level == FAIL:
            raise UpError(f"{finding.detail}: {finding.advice}")


def check_hub(options: Namespace) -> None:
    """Raise UpError for what does not go together with a hub that is there already, or only with one."""
    if not options.for_hub:
        if options.account_prefix:
            raise UpError("--account-prefix is about a hub that is there already: give --for-hub URL too")
        return
    for name, url in (("--for-hub", options.for_hub), ("--public-url", options.public_url or options.for_hub)):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            example = "http://127.0.0.1:8081/" if name == "--for-hub" else "https://hub.lab.example/"
            raise UpError(f"{name} is {url!r}: it must be an address such as {example}")
    if options.base_url is not None or options.people:
        raise UpError("--base-url and --people are about a hub of timeshare's own: leave them out beside --for-hub")


def own_proxy(options: Namespace) -> bool:
    """Whether a proxy is started. A hub that is there already has its own, unless a port is named for another one."""
    return not options.for_hub or options.port is not None


def sockets(options: Namespace) -> list[str]:
    """Return the names of the unix sockets that something of this deployment listens on."""
    hub = [] if options.for_hub else [HUB]
    return [*hub, *([PROXY_API] if own_proxy(options) else []), SERVICE, AGENT]


def own_limits(state_dir: Path) -> Path:
    """The deployment's own limits file, made from the one that comes along when there is none yet."""
    path = state_dir / "limits.yaml"
    if not path.exists():
        draft = path.with_name(".limits.yaml.new")
        draft.write_text((CONFIG / "limits.yaml").read_text())
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
        for device in inventory.devices:
            if device.cordoned:
                say(f"GPU {device.uuid} is out of service: {device.cordoned}")
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
        return ports.handed_on(given, options.port)
    port = options.port
    if port is None and last is not None:
        port = urlsplit(last.public_url).port or DEFAULT_PORT
    elif port is None:
        port = DEFAULT_PORT
        # A web server in front, set up before, leads to the usual one.
        if not options.public_url and not ports.port_is_free(options.ip, port):
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
    """The deployment of this start. All tokens are new, unless a hub that goes on knows them; what people and running
    sessions know is kept."""
    at = addresses(options, settled)
    run_dir, base = settled.run_dir, urlsplit(at.public).path
    people = names(options.people) or (getpass.getuser(),)
    alone = not options.multi_user and not options.for_hub
    made = Deployment(
        state_dir=str(state_dir),
        public_url=at.public,
        proxy_api_url=unix_url(socket_file(run_dir, PROXY_API)) if own_proxy(options) else "",
        hub_url=at.hub,
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
        subdomain_host=_subdomains(options.subdomains, at.public, at.front),
        front_url=at.front,
        web_servers=believed(options.web_server, options.ip),
        multi_user=options.multi_user,
        password=secrets.token_urlsafe(12) if alone else "",
        people=people if alone else (),
        admins=names(options.admins) or (people if alone and len(people) == 1 else ()),
        own_hub=not options.for_hub,
        own_proxy=own_proxy(options),
        account_prefix=options.account_prefix,
    )
    return kept(made, last)


@dataclass(frozen=True)
class Addresses:
    """``public``: what people open, unless it is ``front``, that of a web server; ``hub``: where the hub listens. All
    with the base path."""

    public: str
    hub: str
    front: str = ""


def addresses(options: Namespace, settled: Settled) -> Addresses:
    """Return them as the options say."""
    if options.for_hub:
        base = base_path(urlsplit(options.for_hub).path)
        public = options.public_url or f"http://127.0.0.1:{DEFAULT_PORT}"
        hub = urlsplit(options.for_hub)
        return Addresses(urlsplit(public)._replace(path=base).geturl(), hub._replace(path=base).geturl())
    base, front = front_of(options.public_url, options.base_url)
    host = f"[{options.ip}]" if ":" in options.ip else options.ip
    return Addresses(f"http://{host}:{settled.port}{base}", unix_url(socket_file(settled.run_dir, HUB), base), front)


def kept(made: Deployment, last: Deployment | None) -> Deployment:
    """Return ``made`` with what must outlive a restart. A hub that is not ours is not started again with us, and keeps
    the tokens that it was told."""
    if last is None:
        return made
    if not made.own_hub and not last.own_hub:
        known = ("proxy_token", "service_token", "admin_token", "starter_token")
        made = replace(made, **{name: getattr(last, name) for name in known})
    return replace(made, password=last.password) if last.password and made.password else made


def _subdomains(named: str, listens: str, front: str) -> str:
    try:
        host = host_of(named, front or listens)
    except ValueError as error:
        raise UpError(str(error)) from None
    check_same_host(front, host)
    return host


def names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
