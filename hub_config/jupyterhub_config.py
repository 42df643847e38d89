"""The hub's configuration. Everything that differs between deployments comes from the deployment file, which
`timeshare up` writes; put what is your site's own into ``<state>/jupyterhub_site.py``, which is read last."""

import os
import sys
from pathlib import Path

from jupyterhub.apihandlers.base import APIHandler
from jupyterhub.handlers import default_handlers
from jupyterhub.handlers.base import BaseHandler, PrefixRedirectHandler

from timeshare.hub_config.authenticators import SystemGroupsAuthenticator
from timeshare.hub_config.front import secured
from timeshare.hub_config.origins import HEADERS, XSRF_COOKIE, keep_scripts_out
from timeshare.hub_config.pressure import take_turns
from timeshare.hub_config.routes import ServiceRoutes, service_route, service_target
from timeshare.reservations.client import ServiceClient
from timeshare.reservations.deployment import current_deployment
from timeshare.reservations.service.auth import ADMIN_SCOPE, READ_SCOPE, USE_SCOPE
from timeshare.reservations.service.bounds import read_bounds
from timeshare.reservations.service.crowd import Crowd
from timeshare.spawners.desk import Desk
from timeshare.spawners.pages import ForScripts
from timeshare.spawners.relay import fill_in_forms, handlers

c = get_config()  # type: ignore[name-defined]  # noqa: F821
HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
deployment = current_deployment()
state = Path(deployment.state_dir)
logs = state / "logs" / "sessions"
logs.mkdir(mode=0o700, parents=True, exist_ok=True)

# --- where things are
c.JupyterHub.bind_url = deployment.public_url
if deployment.address != deployment.public_url:
    c.JupyterHub.public_url = deployment.address
c.JupyterHub.hub_bind_url = deployment.hub_url
c.JupyterHub.hub_connect_url = deployment.hub_url
c.JupyterHub.db_url = f"sqlite:///{state}/hub.sqlite"
c.JupyterHub.cookie_secret_file = str(state / "hub_cookie_secret")
c.JupyterHub.pid_file = ""

# The proxy is a process of its own, so that a crash of the hub interrupts nobody's work.
c.JupyterHub.proxy_class = ServiceRoutes
c.ServiceRoutes.extra_routes = {service_route(deployment): service_target(deployment)}
c.ConfigurableHTTPProxy.should_start = False
c.ConfigurableHTTPProxy.api_url = deployment.proxy_api_url
c.ConfigurableHTTPProxy.auth_token = deployment.proxy_token
c.JupyterHub.cleanup_servers = False
c.JupyterHub.cleanup_proxy = False

# --- sessions
bounds = read_bounds(state)
desk = Desk(ServiceClient(deployment.service_url, deployment.admin_token), bounds.streams_each)
c.JupyterHub.spawner_class = "timeshare-local" if deployment.local else "timeshare-slurm"
c.GpuSpawner.service_url = deployment.service_url
c.GpuSpawner.service_token = deployment.admin_token
c.LocalGpuSpawner.agent_socket = deployment.agent_socket
c.GpuSpawner.multi_user = deployment.multi_user
c.LocalGpuSpawner.log_dir = str(logs)
c.LocalGpuSpawner.run_dir = deployment.run_dir
c.Spawner.cmd = [str(BIN / "timeshare-singleuser")]
c.Spawner.default_url = "/lab"
c.Spawner.poll_interval = 3
c.Spawner.start_timeout = 120
c.Spawner.http_timeout = 120
c.Spawner.consecutive_failure_limit = 0
if deployment.multi_user and os.geteuid() != 0:
    raise SystemExit("a multi-user deployment needs root: it starts sessions as other accounts")
if os.geteuid() == 0 and not deployment.multi_user:
    c.Spawner.args = ["--allow-root"]
c.JupyterHub.allow_named_servers = True
c.JupyterHub.named_server_limit_per_user = 5
c.JupyterHub.implicit_spawn_seconds = 0
# After a crash the hub serves at once; a session that was starting just then is looked after meanwhile.
c.JupyterHub.init_spawners_timeout = 1

# --- people
if deployment.multi_user:
    c.JupyterHub.authenticator_class = SystemGroupsAuthenticator
    c.Authenticator.allow_all = True
    c.Authenticator.admin_users = set(deployment.admins)
    c.LocalAuthenticator.create_system_users = False
else:
    c.JupyterHub.authenticator_class = "shared-password"
    c.SharedPasswordAuthenticator.user_password = deployment.password
    c.Authenticator.allowed_users = set(deployment.people)

# --- who may ask the reservations service for what
c.JupyterHub.services = [
    {"name": "timeshare", "api_token": deployment.service_token, "display": False},
    {"name": "timeshare-starter", "api_token": deployment.starter_token},
]
c.JupyterHub.custom_scopes = {
    USE_SCOPE: {"description": "Ask for shares of GPUs, and see and end one's own"},
    READ_SCOPE: {"description": "See everybody's reservations, limits and use, and change nothing"},
    ADMIN_SCOPE: {"description": "See and end everybody's reservations, and take devices out of service"},
}
c.JupyterHub.load_roles = [
    {"name": "user", "scopes": ["self", USE_SCOPE]},
    {"name": "server", "scopes": ["users:activity!user", "access:servers!server", USE_SCOPE]},
    {"name": "timeshare-groups", "scopes": ["read:users:groups", "read:users:name"], "services": ["timeshare"]},
    {"name": "timeshare-starter", "scopes": ["start:servers", "proxy"], "services": ["timeshare-starter"]},
    {"name": "timeshare-operator", "description": "Sees what timeshare does, changes nothing", "scopes": [READ_SCOPE]},
    {
        "name": "timeshare-admin",
        "description": "Administers timeshare",
        "scopes": [ADMIN_SCOPE],
        "users": sorted(deployment.admins),
    },
]

# --- pages
c.JupyterHub.template_paths = [str(HERE / "templates")]
c.JupyterHub.template_vars = {"timeshare": desk, "timeshare_simulated": bool(deployment.simulate)}
c.JupyterHub.extra_handlers = handlers(desk)
fill_in_forms(default_handlers)

# --- what keeps pages of people's servers away from the hub's
c.JupyterHub.subdomain_host = deployment.subdomain_host
c.JupyterHub.tornado_settings = {
    "headers": HEADERS,
    "xsrf_cookie_kwargs": secured(XSRF_COOKIE, deployment),
    "cookie_options": secured({}, deployment),  # also of people's servers
}
keep_scripts_out(BaseHandler, (APIHandler, PrefixRedirectHandler, ForScripts))
take_turns(BaseHandler, Crowd(bounds))

site = state / "jupyterhub_site.py"
if site.exists():
    load_subconfig(str(site))  # type: ignore[name-defined]  # noqa: F821
