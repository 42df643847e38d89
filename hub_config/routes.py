"""The route to the reservations service, which the hub keeps in the proxy beside those of its own."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from jupyterhub.proxy import ConfigurableHTTPProxy
from traitlets import validate

from ..reservations.deployment import Deployment

PROXIES = ("ServiceRoutes", "ConfigurableHTTPProxy", "Proxy")
"""Names in a configuration under which a setting of the hub's proxy may stand, the nearest first."""


class ServiceRoutes(ConfigurableHTTPProxy):  # type: ignore[misc]  # jupyterhub has no types
    """The hub's client of the proxy, with ``extra_routes`` that may lead to unix sockets.

    JupyterHub (6.1) takes neither a service nor an extra route there: both are checked to begin with ``http://`` or
    ``https://``, though proxy and routes to servers know ``http+unix://``.
    """

    @validate("extra_routes")
    def _validate_extra_routes(self, proposal: Any) -> Any:
        return proposal.value


def service_route(deployment: Deployment) -> str:
    """Return where the proxy has the service, below the base path of the hub; with a host where people have their own
    (JupyterHub 6.1, ``Proxy.extra_routes``)."""
    parts = urlsplit(deployment.public_service_url)
    return f"{parts.hostname if deployment.subdomain_host else ''}{parts.path}/"


def service_target(deployment: Deployment) -> str:
    """Return where the proxy sends it: the address without the path, which requests have already."""
    parts = urlsplit(deployment.service_url)
    return f"{parts.scheme}://{parts.netloc}"


def use_own_proxy(c: Any, deployment: Deployment) -> None:
    """Have the hub keep its routes in the proxy that ``timeshare up`` runs."""
    add_service_route(c, deployment)
    c.ConfigurableHTTPProxy.should_start = False
    c.ConfigurableHTTPProxy.api_url = deployment.proxy_api_url
    c.ConfigurableHTTPProxy.auth_token = deployment.proxy_token
    c.JupyterHub.cleanup_proxy = False


def add_service_route(c: Any, deployment: Deployment) -> None:
    """Have the hub keep the route to the service beside its own, and those of the site."""
    theirs: dict[str, str] = next((c[name].extra_routes for name in PROXIES if "extra_routes" in c[name]), {})
    c.JupyterHub.proxy_class = ServiceRoutes
    c.ServiceRoutes.extra_routes = {**theirs, service_route(deployment): service_target(deployment)}
