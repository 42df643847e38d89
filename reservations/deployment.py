"""Where the parts of one deployment find each other: a private file that ``timeshare up`` writes and they all read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from urllib.parse import urlsplit

VARIABLE = "TIMESHARE_DEPLOYMENT"
"""Environment variable with the path of the deployment file."""
FILE_NAME = "deployment.json"


class DeploymentError(Exception):
    """The deployment file is missing or wrong; the text says what to do."""


@dataclass(frozen=True)
class Deployment:
    """One installation on one machine. All servers but the proxy's public side listen on unix sockets (``sockets``).

    ``state_dir``: everything that must survive a restart. ``public_url``: what people open in the browser, with the
    base path. ``hub_url``: the hub behind the proxy, with the base path; ``hub_api_url``: its REST API.
    ``service_url``: the reservations service, with its prefix. ``signing_key``: what keys of sessions, job agents and
    names of jobs are derived from; it is the same for the deployment's whole life, and sent to nobody. All tokens are
    new at each start of one with a hub of its own. ``admin_token``: may act for any user at the service;
    ``service_token`` and ``starter_token``: the hub's API tokens of service and starter. ``culler_token``: of the
    idle culler at the service; it may read what sessions do, and judge them, and nothing else. ``simulate``: the
    devices to simulate, such as ``a100-40gb:2,t4:1``; empty for the machine's own. ``multi_user``: sessions run as
    the users' own accounts, logins go through PAM; otherwise everything runs as the invoking user. ``password``: the
    login of a one-person deployment. ``people``: who may log in to a one-person deployment. ``admins``: who
    administers timeshare. ``local``: whether sessions and batch may run on this machine itself. ``run_dir``: the
    folder of the deployment's sockets, which nobody else may write to (see ``sockets``). ``subdomain_host``: below
    whose host each person's server has one of its own, such as ``https://hub.lab.example``; empty: all share one.
    ``own_hub``: JupyterHub is a part of it; otherwise it serves one that is somebody else's, at ``hub_url``, and the
    tokens stay the same over its restarts. ``own_proxy``: so is the proxy. ``account_prefix``: what stands before a
    person's name in that of their account, such as ``jupyter-``.
    ``front_url``: what people open where a web server stands in front, with the base path; empty: no other address
    than ``public_url``. ``web_servers``: from which addresses what is forwarded is believed to say who asks.
    """

    state_dir: str
    public_url: str
    proxy_api_url: str
    hub_url: str
    service_url: str
    agent_socket: str
    ledger_url: str
    limits_path: str
    proxy_token: str
    service_token: str
    admin_token: str
    starter_token: str
    signing_key: str
    culler_token: str = ""
    simulate: str = ""
    multi_user: bool = False
    password: str = ""
    people: tuple[str, ...] = ()
    admins: tuple[str, ...] = ()
    local: bool = True
    run_dir: str = ""
    subdomain_host: str = ""
    own_hub: bool = True
    own_proxy: bool = True
    account_prefix: str = ""
    front_url: str = ""
    web_servers: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return Path(self.state_dir) / FILE_NAME

    @property
    def hub_api_url(self) -> str:
        return self.hub_url.rstrip("/") + "/hub/api"

    @property
    def address(self) -> str:
        """What people open, with the base path."""
        if self.subdomain_host:
            return f"{self.subdomain_host}{urlsplit(self.public_url).path}"
        return self.front_url or self.public_url

    @property
    def encrypted(self) -> bool:
        """Whether browsers reach it by TLS, and so may send its cookies by nothing else."""
        return self.address.startswith("https://")

    @property
    def public_hub_api_url(self) -> str:
        """As another machine reaches it."""
        return self.address.rstrip("/") + "/hub/api"

    @property
    def public_service_url(self) -> str:
        """As another machine reaches it."""
        return self.address.rstrip("/") + "/services/timeshare"

    def save(self) -> None:
        """Writes the file, readable by its owner only, at once or not at all."""
        draft = self.path.with_suffix(".new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(self), file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)


def load_deployment(path: Path) -> Deployment:
    """The deployment in ``path``. Raises DeploymentError."""
    try:
        data = json.loads(path.read_text())
        known = {field.name for field in fields(Deployment)}
        values = {name: value for name, value in data.items() if name in known}
        if "signing_key" not in values:  # before there was one, the admin's token was it, and sessions have its keys
            values["signing_key"] = values["admin_token"]
        for name in ("people", "admins", "web_servers"):
            values[name] = tuple(values.get(name, ()))
        return Deployment(**values)
    except FileNotFoundError:
        raise DeploymentError(f"{path} does not exist: is timeshare started? Start it with `timeshare up`") from None
    except PermissionError:
        raise DeploymentError(
            f"{path} may be read only by the account that runs timeshare there: run this as that account, "
            "such as with sudo"
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DeploymentError(f"{path} cannot be read ({error}): stop timeshare and start it again") from None


def current_deployment(environment: Mapping[str, str] = os.environ) -> Deployment:
    """The deployment that this process belongs to. Raises DeploymentError."""
    if VARIABLE not in environment:
        raise DeploymentError(f"{VARIABLE} is not set: it names the deployment file that `timeshare up` writes")
    return load_deployment(Path(environment[VARIABLE]))
