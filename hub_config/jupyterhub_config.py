"""The hub's configuration. Everything that differs between deployments comes from the deployment file, which
`timeshare up` writes; put what is your site's own into ``<state>/jupyterhub_site.py``, which is read last."""

import os
from pathlib import Path

from timeshare.hub_config.authenticators import SystemGroupsAuthenticator
from timeshare.hub_config.hub_parts import add_timeshare
from timeshare.hub_config.routes import use_own_proxy
from timeshare.reservations.deployment import current_deployment

c = get_config()  # type: ignore[name-defined]  # noqa: F821
deployment = current_deployment()
state = Path(deployment.state_dir)
if deployment.multi_user and os.geteuid() != 0:
    raise SystemExit("a multi-user deployment needs root: it starts sessions as other accounts")

# --- where things are
c.JupyterHub.bind_url = deployment.public_url
if deployment.address != deployment.public_url:
    c.JupyterHub.public_url = deployment.address
c.JupyterHub.hub_bind_url = deployment.hub_url
c.JupyterHub.hub_connect_url = deployment.hub_url
c.JupyterHub.db_url = f"sqlite:///{state}/hub.sqlite"
c.JupyterHub.cookie_secret_file = str(state / "hub_cookie_secret")
c.JupyterHub.pid_file = ""
c.JupyterHub.subdomain_host = deployment.subdomain_host

# The proxy is a process of its own, so that a crash of the hub interrupts nobody's work.
use_own_proxy(c, deployment)

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

# --- sessions, rights and pages, as an existing hub gets them too
c.JupyterHub.allow_named_servers = True
c.JupyterHub.named_server_limit_per_user = 5
c.JupyterHub.implicit_spawn_seconds = 0
add_timeshare(c, deployment)

site = state / "jupyterhub_site.py"
if site.exists():
    load_subconfig(str(site))  # type: ignore[name-defined]  # noqa: F821
