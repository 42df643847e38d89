"""timeshare for a hub that is there already: what its own ``jupyterhub_config.py`` calls (docs/existing_hub.md).

    from timeshare.hub_config import adopt

    adopt.configure()

The hub's people, services, database and pages stay its own. Sessions become timeshare's, whose processes run beside the
hub: ``timeshare up --for-hub``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jupyterhub.app import JupyterHub
from traitlets.config import Config

from ..reservations.deployment import FILE_NAME, VARIABLE, Deployment, DeploymentError, load_deployment
from . import proxy
from .hub_parts import TEMPLATES, add_timeshare, listed
from .routes import add_service_route, use_own_proxy
from .run.folders import default_state_dir
from .run.hub import connect_safely

__all__ = ["configure", "conflicts"]
CULLERS = ("jupyterhub_idle_culler", "jupyterhub-idle-culler", "cull_idle_servers")
"""Words of the command of a service that stops idle servers by its own rules."""
SPAWNERS = ("timeshare-local", "timeshare-slurm")
STOCK_SPAWNERS = ("jupyterhub.spawner.LocalProcessSpawner", "localprocess")
STOCK_PROXIES = ("jupyterhub.proxy.ConfigurableHTTPProxy", "configurable-http-proxy")
ONLY_ONCE = ("home.html", "spawn.html", "spawn_pending.html")
"""Templates that timeshare has too where the site's would hide them."""


@dataclass(frozen=True)
class Choice:
    """What the admin's configuration says to ``configure``."""

    instead_of: str = ""
    keep_idle_culler: bool = False
    singleuser: str = ""


def configure(
    *, state: str = "", user_environment: str = "", instead_of: str = "", keep_idle_culler: bool = False
) -> None:
    """Add timeshare to the configuration of the hub that calls this, once all of it is read.

    ``state``: the state folder of timeshare; default: the one that `timeshare up` takes by default.
    ``user_environment``: the Python environment in which people's servers run, if it is not the hub's; it needs
    ``timeshare`` (without extras), ``jupyterhub`` and ``jupyterlab``. ``instead_of``: the name of the spawner class
    that is set and shall give way, such as ``UserCreatingSpawner``. ``keep_idle_culler``: leave a service that stops
    idle servers as it is, though it knows nothing of GPUs and warns nobody.

    Ends the hub's start, saying everything that cannot go together, and what would.
    """
    try:
        deployment = load_deployment(deployment_file(state))
    except DeploymentError as error:
        raise SystemExit(f"timeshare: {str(error).replace('timeshare up', 'timeshare up --for-hub')}") from None
    singleuser = str(Path(user_environment) / "bin" / "timeshare-singleuser") if user_environment else ""
    choice = Choice(instead_of, keep_idle_culler, singleuser)
    when_read(lambda whole: add(whole, deployment, choice))


def when_read(act: Callable[[Config], None]) -> None:
    """Call ``act`` with the whole configuration of the hub that is just reading it, before that is used.

    A file that another one loads (``load_subconfig``, as The Littlest JupyterHub does) sees nothing of what is set
    outside it, and no file what comes after it. JupyterHub (6.1) has no hook for that: what it has read
    (traitlets, ``Application.load_config_file``) it hands to ``update_config``. So do its commands, such as
    ``jupyterhub upgrade-db``.
    """
    use = JupyterHub.update_config

    def update_config(app: JupyterHub, whole: Config) -> None:
        JupyterHub.update_config = use
        act(whole)
        app.update_config(whole)

    JupyterHub.update_config = update_config


def add(c: Config, deployment: Deployment, choice: Choice) -> None:
    """Add timeshare to the whole configuration ``c``. Raises SystemExit with everything that stands against it."""
    if found := list(conflicts(c, deployment, choice)):
        lines = "\n".join(f"  - {text}" for text in found)
        raise SystemExit(f"timeshare does not go together with this configuration of the hub:\n{lines}")
    if (earlier := c.JupyterHub.get("spawner_class")) not in (None, *SPAWNERS):
        c.GpuSpawner.earlier_class = earlier
    _add_proxy(c, deployment)
    add_timeshare(c, deployment, choice.singleuser)
    connect_safely()


def deployment_file(state: str) -> Path:
    """Return where ``timeshare up`` writes what the hub needs to know."""
    if not state and VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    return (Path(state) if state else default_state_dir(os.geteuid() == 0)) / FILE_NAME


def conflicts(c: Config, deployment: Deployment, choice: Choice = Choice()) -> Iterator[str]:
    """Yield what in ``c`` cannot stay beside timeshare, each with what would work."""
    if deployment.own_hub:
        yield (
            f"{deployment.path} is of a timeshare that starts a hub of its own: name another folder by state=, and "
            "start that one with `timeshare up --for-hub URL`"
        )
    if deployment.multi_user and os.geteuid() != 0:
        yield "its sessions run as people's own accounts, and this hub does not run as root, which that needs"
    yield from _spawner(c, choice)
    yield from _services(c, choice)
    yield from _places(c, deployment)
    yield from _proxy(c, deployment)
    yield from _pages(c)
    if choice.singleuser and not os.access(choice.singleuser, os.X_OK):
        yield (
            f"{choice.singleuser} is not there: install timeshare (without extras) in the environment of people's "
            f"servers: {Path(choice.singleuser).parent}/pip install timeshare"
        )


def _spawner(c: Config, choice: Choice) -> Iterator[str]:
    name = _class_name(c.JupyterHub.get("spawner_class", SPAWNERS[0]))
    if name not in (*SPAWNERS, *STOCK_SPAWNERS) and choice.instead_of not in (name, name.rpartition(".")[2]):
        yield (
            f"JupyterHub.spawner_class is {name}, and a server has one spawner: if timeshare's shall take its place, "
            f"say so: configure(..., instead_of={name.rpartition('.')[2]!r})"
        )
    if "options_form" in c.Spawner:
        yield "Spawner.options_form is set: timeshare's form, which shows what is free, takes its place; remove it"
    if c.JupyterHub.get("cleanup_servers", False):
        yield "JupyterHub.cleanup_servers is True: each restart of the hub would end all sessions; remove it"
    if c.JupyterHub.get("internal_ssl", False):
        yield "JupyterHub.internal_ssl is True: sessions listen on unix sockets, which carry no TLS; remove it"


def _services(c: Config, choice: Choice) -> Iterator[str]:
    for service in listed(c.JupyterHub, "services"):
        name = str(service.get("name", ""))
        if name in ("timeshare", "timeshare-starter"):
            yield f"JupyterHub.services has a service {name!r} already: call configure once, and name yours otherwise"
        if is_culler(service) and not choice.keep_idle_culler:
            yield (
                f"the service {name!r} stops idle servers by its own rules, beside timeshare's, which sees GPUs and "
                "warns first: remove it (The Littlest JupyterHub: `tljh-config set services.cull.enabled false`), and "
                "set `idle` in limits.yaml; or, to have both, configure(..., keep_idle_culler=True)"
            )


def is_culler(service: Mapping[str, Any]) -> bool:
    """Whether ``service`` of a hub is jupyterhub-idle-culler, or the script that came before it."""
    command = service.get("command") or ()
    words = [command] if isinstance(command, str) else [str(word) for word in command]
    return any(culler in word for word in words for culler in CULLERS)


def _places(c: Config, deployment: Deployment) -> Iterator[str]:
    base, own = _path(str(c.JupyterHub.get("base_url", "/"))), _path(urlsplit(deployment.hub_url).path)
    if "base_url" not in c.JupyterHub and "bind_url" in c.JupyterHub:
        base = _path(urlsplit(str(c.JupyterHub.bind_url)).path)
    if base != own:
        yield f"the hub is below {base}, and timeshare was told {own}: start it with --for-hub http://ADDRESS:PORT{base}"
    host = str(c.JupyterHub.get("subdomain_host", ""))
    if host != deployment.subdomain_host:
        known, wanted = deployment.subdomain_host or "none", f"--subdomains {host}" if host else "no --subdomains"
        yield f"JupyterHub.subdomain_host is {host!r}, and timeshare was told {known}: start it with {wanted}"


def _proxy(c: Config, deployment: Deployment) -> Iterator[str]:
    if deployment.own_proxy:
        return
    own = "have yours pass everything on to timeshare's own: start it with `timeshare up --for-hub URL --port PORT`"
    name = _class_name(c.JupyterHub.get("proxy_class", STOCK_PROXIES[0]))
    if name not in STOCK_PROXIES:
        yield f"JupyterHub.proxy_class is {name}, which does not reach servers on unix sockets: {own}"
        return
    section = c.ConfigurableHTTPProxy
    if section.get("should_start", True) is False:
        yield f"ConfigurableHTTPProxy.should_start is False: a proxy that you start follows links of people: {own}"
    if "command" in section:
        yield f"ConfigurableHTTPProxy.command is set, and the proxy must follow no links of people: remove it, or {own}"


def _pages(c: Config) -> Iterator[str]:
    for folder in map(Path, listed(c.JupyterHub, "template_paths")):
        for name in ONLY_ONCE:
            if (TEMPLATES / name).exists() and (folder / name).exists():
                yield f"{folder / name} would hide timeshare's page of that name: rename it, or move it away"


def _add_proxy(c: Config, deployment: Deployment) -> None:
    """Sessions listen on unix sockets. The proxy that the hub starts reaches them; any other passes on to ours."""
    if deployment.own_proxy:
        use_own_proxy(c, deployment)
        return
    add_service_route(c, deployment)
    c.ConfigurableHTTPProxy.command = proxy.of_hub(deployment)


def _class_name(value: Any) -> str:
    return value if isinstance(value, str) else f"{value.__module__}.{value.__qualname__}"


def _path(path: str) -> str:
    return f"/{path.strip('/')}/" if path.strip("/") else "/"
