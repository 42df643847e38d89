"""What ``timeshare doctor`` finds of a hub that is there already: whether it answers, and knows timeshare."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from urllib.parse import urlsplit

from tornado.httpclient import HTTPClientError

from ..reservations.deployment import Deployment
from ..reservations.fetching import fetch
from .findings import FAIL, OK, WARN, Finding
from .run.ports import first_open_port

WHAT = "hub"
CONFIGURE = "let its configuration call adopt.configure (docs/existing_hub.md), and restart it"


def hub_findings(deployment: Deployment) -> Iterator[Finding]:
    """Yield what there is to say of the hub of ``deployment``; nothing where that is timeshare's own."""
    if deployment.own_hub:
        return
    yield _known(deployment)
    if found := _port(deployment):
        yield found


def _known(deployment: Deployment) -> Finding:
    """Whether the hub takes the token that it was to be told."""
    try:
        asyncio.run(_ask(deployment))
    except HTTPClientError as error:
        if error.code in (401, 403):
            return Finding(FAIL, WHAT, f"{deployment.hub_url} answers, and does not know timeshare", CONFIGURE)
        return Finding(FAIL, WHAT, f"{deployment.hub_url} answers with {error.code}", "see the log of the hub")
    except OSError as error:
        why = error.strerror or str(error) or type(error).__name__
        advice = "start it; or, if it listens elsewhere (JupyterHub.hub_ip, hub_port), name that by --for-hub"
        return Finding(WARN, WHAT, f"{deployment.hub_url} does not answer: {why}", advice)
    return Finding(OK, WHAT, f"{deployment.hub_url} answers, and knows timeshare")


async def _ask(deployment: Deployment) -> None:
    headers = {"Authorization": f"token {deployment.service_token}"}
    await fetch(f"{deployment.hub_api_url}/user", headers=headers, request_timeout=10)


def _port(deployment: Deployment) -> Finding | None:
    """Where several accounts share the machine, another one could listen in the place of a hub that is stopped."""
    port = urlsplit(deployment.hub_url).port or 80
    if not deployment.multi_user or port < first_open_port():
        return None
    detail = f"while the hub is stopped, any account of this machine can listen on port {port} and get tokens"
    return Finding(WARN, "hub's port", detail, "set JupyterHub.hub_port to one below 1024, and name it by --for-hub")
