"""``python -m timeshare.spawners.starter``: starts the servers whose turn has come.

A person waits in the service's queue, not in the hub. When her reservation is granted this process asks the hub to
start the server. It also finishes starts that a crash of the hub cut off, and has the routes of a restarted proxy
restored. It keeps nothing: what it needs to know it asks again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote

from tornado.httpclient import HTTPClientError

from ..reservations.client import Json, ServiceClient, ServiceUnreachable
from ..reservations.deployment import DeploymentError, current_deployment
from ..reservations.errors import PublicError
from ..reservations.fetching import fetch
from ..reservations.text import log_lines

log = logging.getLogger("timeshare.starter")
PERIOD_S = 1.0
OWN_START_S = 5.0
"""A grant without a wait is started by the page that asked for it; after this long it was not."""
RETRY_S = 5.0
ANSWER_S = 1.0
"""How long starts are waited for before the next look: one takes as long as its owner's account makes it take."""
REFUSED_S = 150.0
"""What the hub refuses to start for longer than the end of an older server may take will not start: somebody has to do
something first, and nobody is told while the share is held."""
LATER = (408, 429)
"""By which it says that it is busy."""


class HubUnreachable(Exception):
    """The hub did not answer."""


class HubRefused(Exception):
    """The hub will not do it as things are; the text is its own."""


@dataclass(frozen=True)
class Hub:
    """The hub's REST API. ``token`` may start servers and read their state."""

    url: str
    token: str

    async def restore_routes(self) -> None:
        """Asks the hub to tell the proxy all routes again. If it will not, servers are to be started all the same."""
        try:
            answer = await self._ask("POST", "proxy", {})
        except HubRefused as refusal:
            answer = str(refusal)
        log.info("the proxy had lost its routes: %s", answer or "restored")

    async def start(self, reservation: Json) -> str:
        """What the hub said, in words; empty when the start began. Raises HubRefused."""
        body = {"user_options": {"reservation_id": reservation["id"], **reservation["share"]}}
        return await self._ask("POST", self._server(reservation), body)

    def _server(self, reservation: Json) -> str:
        user, name = (quote(reservation[key], safe="") for key in ("owner", "server_name"))
        return f"users/{user}/servers/{name}" if name else f"users/{user}/server"

    async def _ask(self, method: str, path: str, body: Json) -> str:
        headers = {"Authorization": f"token {self.token}", "Content-Type": "application/json"}
        try:
            await fetch(
                f"{self.url.rstrip('/')}/{path}",
                method=method,
                headers=headers,
                body=json.dumps(body),
                request_timeout=60,
            )
        except HTTPClientError as error:
            if error.code in (502, 503, 599):
                raise HubUnreachable(str(error)) from None
            if 400 <= error.code < 500 and error.code not in LATER:
                raise HubRefused(_message(error)) from None
            return _message(error)
        except OSError as error:
            raise HubUnreachable(str(error)) from None
        return ""


def _message(error: HTTPClientError) -> str:
    try:
        return str(json.loads(error.response.body)["message"]) if error.response else str(error)
    except (ValueError, KeyError, TypeError):
        return str(error)


def due(reservation: Json, now: float) -> bool:
    """Whether its server must be started from here. ``now``: seconds since the epoch."""
    if reservation["kind"] != "session" or reservation["state"] not in ("granted", "starting"):
        return False
    granted, submitted = (_seconds(reservation[key]) for key in ("granted_at", "submitted_at"))
    if reservation["state"] == "granted" and granted - submitted >= 1:
        return True
    return now - granted >= OWN_START_S


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


@dataclass(frozen=True)
class Proxy:
    """The REST API of configurable-http-proxy, which forgets its routes when it is started again."""

    url: str
    token: str

    async def is_empty(self) -> bool:
        """True when it answers and knows no route at all. One that is the hub's own (no ``url``) is its business."""
        if not self.url:
            return False
        headers = {"Authorization": f"token {self.token}"}
        try:
            answer = await fetch(f"{self.url}/api/routes", headers=headers, request_timeout=5)
        except (HTTPClientError, OSError):
            return False
        return bool(json.loads(answer.body) == {})


@dataclass
class Starter:
    """``tried``: when each reservation was tried last, ``refused``: since when the hub refuses it (monotonic seconds).
    ``patience_s``: so long, and it is given up."""

    service: ServiceClient
    hub: Hub
    proxy: Proxy
    patience_s: float = REFUSED_S
    tried: dict[str, float] = field(default_factory=dict)
    refused: dict[str, float] = field(default_factory=dict)
    under_way: dict[str, asyncio.Task[None]] = field(default_factory=dict)

    async def step(self) -> None:
        """One look at proxy and ledger, and what follows from it."""
        if await self.proxy.is_empty():
            await self.hub.restore_routes()
        waiting = await self.service.list(states="granted,starting", limit=500, kind="session")
        now = time.monotonic()
        ids = {r["id"] for r in waiting}
        self.tried = {name: at for name, at in self.tried.items() if name in ids}
        self.refused = {name: at for name, at in self.refused.items() if name in ids}
        self.under_way = {name: task for name, task in self.under_way.items() if not task.done()}
        chosen = [r for r in waiting if due(r, time.time()) and now - self.tried.get(r["id"], -RETRY_S) >= RETRY_S]
        begun = []
        for reservation in chosen:
            if reservation["id"] not in self.under_way:
                self.tried[reservation["id"]] = now
                begun.append(asyncio.create_task(self._begin(reservation)))
                self.under_way[reservation["id"]] = begun[-1]
        if begun:
            await asyncio.wait(begun, timeout=ANSWER_S)

    async def _begin(self, reservation: Json) -> None:
        try:
            await self._start(reservation)
        except (ServiceUnreachable, PublicError) as error:
            log.warning("%s: %s", reservation["id"], error)

    async def _start(self, reservation: Json) -> None:
        name = f"{reservation['owner']}/{reservation['server_name']}"
        try:
            answer = await self.hub.start(reservation)
        except HubUnreachable as error:
            log.warning("%s waits for its start: the hub does not answer (%s)", name, error)
            return
        except HubRefused as refusal:
            # Of a server that is pending or runs, too: asking once too often is harmless.
            log.info("%s (%s): refused: %s", name, reservation["id"], refusal)
            await self._refused(reservation, str(refusal))
            return
        self.refused.pop(reservation["id"], None)
        log.info("%s (%s): %s", name, reservation["id"], answer or "started")

    async def _refused(self, reservation: Json, why: str) -> None:
        now = time.monotonic()
        since = self.refused.setdefault(reservation["id"], now)
        if reservation["state"] == "granted" and now - since >= self.patience_s:
            await self.service.end(reservation["id"], "failed", f"the hub does not start it: {why}")


async def run(starter: Starter) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    while not stop.is_set():
        try:
            await starter.step()
        except (ServiceUnreachable, HubUnreachable, PublicError) as error:
            log.warning("%s", error)
        try:
            await asyncio.wait_for(stop.wait(), PERIOD_S)
        except asyncio.TimeoutError:
            continue


def main() -> None:
    log_lines()
    try:
        deployment = current_deployment()
    except DeploymentError as error:
        sys.exit(f"timeshare starter: {error}")
    service = ServiceClient(deployment.service_url, deployment.admin_token)
    hub = Hub(deployment.hub_api_url, deployment.starter_token)
    asyncio.run(run(Starter(service, hub, Proxy(deployment.proxy_api_url, deployment.proxy_token))))


if __name__ == "__main__":
    main()
