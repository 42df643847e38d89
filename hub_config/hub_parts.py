"""What timeshare adds to a hub's configuration: sessions, rights, pages. The same for the hub that ``timeshare up``
starts and for one that is there already (``adopt``). Lists and roles of the site stay; nothing is taken away."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.handlers import default_handlers
from jupyterhub.handlers.base import BaseHandler, PrefixRedirectHandler
from traitlets.config import Config
from traitlets.config.loader import LazyConfigValue

from ..reservations.client import ServiceClient
from ..reservations.deployment import Deployment
from ..reservations.service.auth import ADMIN_SCOPE, READ_SCOPE, USE_SCOPE
from ..reservations.service.bounds import ServiceBounds, read_bounds
from ..reservations.service.crowd import Crowd
from ..spawners.desk import Desk
from ..spawners.pages import ForScripts
from ..spawners.relay import fill_in_forms, handlers
from .front import secured
from .hub_storage import outlive_full_disk
from .origins import HEADERS, XSRF_COOKIE, keep_scripts_out
from .pressure import take_turns

TEMPLATES = Path(__file__).parent / "templates"
SCOPES = {
    USE_SCOPE: {"description": "Ask for shares of GPUs, and see and end one's own"},
    READ_SCOPE: {"description": "See everybody's reservations, limits and use, and change nothing"},
    ADMIN_SCOPE: {"description": "See and end everybody's reservations, and take devices out of service"},
}
START_S = 120


def add_timeshare(c: Config, deployment: Deployment, singleuser: str = "") -> None:
    """Add all of it to ``c``. ``singleuser``: the program of a session; default: the one beside this Python."""
    bounds = read_bounds(Path(deployment.state_dir))
    add_sessions(c, deployment, singleuser)
    add_rights(c, deployment)
    add_pages(c, deployment, bounds)


def add_sessions(c: Config, deployment: Deployment, singleuser: str = "") -> None:
    """Add the spawner. What the site says of spawners stays, but for their class."""
    logs = Path(deployment.state_dir) / "logs" / "sessions"
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    c.JupyterHub.spawner_class = "timeshare-local" if deployment.local else "timeshare-slurm"
    c.GpuSpawner.service_url = deployment.service_url
    c.GpuSpawner.service_token = deployment.admin_token
    c.GpuSpawner.multi_user = deployment.multi_user
    c.LocalGpuSpawner.account_prefix = deployment.account_prefix
    c.LocalGpuSpawner.agent_socket = deployment.agent_socket
    c.LocalGpuSpawner.log_dir = str(logs)
    c.LocalGpuSpawner.run_dir = deployment.run_dir
    if singleuser:
        c.Spawner.cmd = [singleuser]
    defaults(
        c.Spawner,
        cmd=[str(Path(sys.executable).parent / "timeshare-singleuser")],
        default_url="/lab",
        poll_interval=3,
        start_timeout=START_S,
        http_timeout=START_S,
        consecutive_failure_limit=0,
    )
    if os.geteuid() == 0 and not deployment.multi_user:
        c.Spawner.args = list(dict.fromkeys([*listed(c.Spawner, "args"), "--allow-root"]))
    # After a crash the hub serves at once; a session that was starting just then is looked after meanwhile.
    defaults(c.JupyterHub, init_spawners_timeout=1, cleanup_servers=False)


def add_rights(c: Config, deployment: Deployment) -> None:
    """Add the services, the scopes and the roles, with no more than each needs."""
    services: list[Mapping[str, Any]] = [
        {"name": "timeshare", "api_token": deployment.service_token, "display": False},
        {"name": "timeshare-starter", "api_token": deployment.starter_token},
    ]
    c.JupyterHub.services = [*listed(c.JupyterHub, "services"), *services]
    c.JupyterHub.custom_scopes = {**mapped(c.JupyterHub, "custom_scopes"), **SCOPES}
    theirs, ours = listed(c.JupyterHub, "load_roles"), roles(deployment)
    if "extra_user_scopes" in c.JupyterHub and not any(role["name"] == "user" for role in theirs):
        # It adds to the role that JupyterHub has for everybody, and is ignored beside a role of that name.
        c.JupyterHub.extra_user_scopes = [*listed(c.JupyterHub, "extra_user_scopes"), USE_SCOPE]
        ours = [role for role in ours if role["name"] != "user"]
    if (
        c.Authenticator.get("manage_roles", False) is True
    ):  # then JupyterHub lets no role of the configuration name users
        ours = [{key: value for key, value in role.items() if key != "users"} for role in ours]
    c.JupyterHub.load_roles = merged_roles(theirs, ours)


def roles(deployment: Deployment) -> list[dict[str, Any]]:
    """Return who may ask the reservations service, and its processes the hub, for what."""
    starter = ["start:servers", "proxy"] if deployment.own_proxy else ["start:servers"]
    return [
        {"name": "user", "scopes": ["self", USE_SCOPE]},
        {"name": "server", "scopes": ["users:activity!user", "access:servers!server", USE_SCOPE]},
        {"name": "timeshare-groups", "scopes": ["read:users:groups", "read:users:name"], "services": ["timeshare"]},
        {"name": "timeshare-starter", "scopes": starter, "services": ["timeshare-starter"]},
        {
            "name": "timeshare-operator",
            "description": "Sees what timeshare does, changes nothing",
            "scopes": [READ_SCOPE],
        },
        {
            "name": "timeshare-admin",
            "description": "Administers timeshare",
            "scopes": [ADMIN_SCOPE],
            "users": sorted(deployment.admins),
        },
    ]


def merged_roles(theirs: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return both: JupyterHub takes a role of one name once, so what is ours is added to theirs of that name."""
    found = {role["name"]: dict(role) for role in theirs}
    for role in ours:
        known = found.get(role["name"])
        if known is None:
            found[role["name"]] = dict(role)
        elif "scopes" in known:
            added = (scope for scope in role["scopes"] if scope in SCOPES)
            known["scopes"] = list(dict.fromkeys([*known["scopes"], *added]))
        else:
            known["scopes"] = list(role["scopes"])
    return list(found.values())


def add_pages(c: Config, deployment: Deployment, bounds: ServiceBounds) -> None:
    """Add pages, templates and handlers, and what keeps pages of people's servers away from the hub's."""
    desk = Desk(ServiceClient(deployment.service_url, deployment.admin_token), bounds.streams_each)
    # The site's come first: what it changed of the hub's pages stays changed.
    c.JupyterHub.template_paths = [*listed(c.JupyterHub, "template_paths"), str(TEMPLATES)]
    own = {"timeshare": desk, "timeshare_simulated": bool(deployment.simulate)}
    c.JupyterHub.template_vars = {**mapped(c.JupyterHub, "template_vars"), **own}
    c.JupyterHub.extra_handlers = [*listed(c.JupyterHub, "extra_handlers"), *handlers(desk)]
    fill_in_forms(default_handlers)
    settings = mapped(c.JupyterHub, "tornado_settings")
    headers = {**HEADERS, **settings.get("headers", {})}
    cookie = {**settings.get("xsrf_cookie_kwargs", {}), **XSRF_COOKIE}
    settings = {**settings, "headers": headers, "xsrf_cookie_kwargs": cookie}
    if deployment.own_hub:  # a site's own hub knows how people come to it
        settings["xsrf_cookie_kwargs"] = secured(cookie, deployment)
        settings["cookie_options"] = secured(settings.get("cookie_options", {}), deployment)  # also of people's servers
    c.JupyterHub.tornado_settings = settings
    keep_scripts_out(BaseHandler, (APIHandler, PrefixRedirectHandler, ForScripts))
    outlive_full_disk(BaseHandler)
    take_turns(BaseHandler, Crowd(bounds))


def defaults(section: Config, **values: Any) -> None:
    """Set what the site has not."""
    for name, value in values.items():
        if name not in section:
            section[name] = value


def listed(section: Config, name: str) -> list[Any]:
    """Return the list that the site has set so far, or added to (``c.JupyterHub.services.append``)."""
    return list(_value(section, name, []))


def mapped(section: Config, name: str) -> dict[Any, Any]:
    """Return the same of a dict."""
    return dict(_value(section, name, {}))


def _value(section: Config, name: str, nothing: Iterable[Any]) -> Any:
    if name not in section:
        return nothing
    value = section[name]
    return value.get_value(nothing) if isinstance(value, LazyConfigValue) else value
