"""The starter with a real service, and a hub that says what a test wants."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from nodes import eventually
from services import Service, running_service

from timeshare.reservations.client import ServiceClient
from timeshare.spawners import starter as starter_module
from timeshare.spawners.starter import OWN_START_S, RETRY_S, Hub, Proxy, Starter

FULL = "User ada already has the maximum of 5 named servers.  One must be deleted before a new server can be created"
PATIENCE_S = 600.0  # by clocks that are moved, besides the time that the test takes


@dataclass
class SaysOneThing:
    """What stands for the hub's API and the proxy's. ``asked``: paths, in order."""

    code: int = 400
    routes: dict[str, object] = field(default_factory=lambda: {"/": {}})
    asked: list[str] = field(default_factory=list)
    url: str = ""
    slow: str = ""
    go: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def hub() -> Iterator[SaysOneThing]:
    found = SaysOneThing()

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.asked.append(self.path)
            if self.path == found.slow:
                found.go.wait()
            self._say(found.code, {"message": FULL})

        def do_GET(self) -> None:
            self._say(200, found.routes)

        def _say(self, code: int, body: object) -> None:
            text = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing is logged."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found.url = f"http://127.0.0.1:{server.server_port}"
        yield found
        server.shutdown()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running_service(tmp_path) as found:
        yield found


def starter(service: Service, hub: SaysOneThing) -> Starter:
    client = ServiceClient(service.deployment.service_url, service.deployment.admin_token)
    return Starter(client, Hub(hub.url, "t"), Proxy(hub.url, "t"), patience_s=PATIENCE_S)


def at(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """The starter's clocks stand so much later."""

    class Later:
        @staticmethod
        def time() -> float:
            return time.time() + seconds

        @staticmethod
        def monotonic() -> float:
            return time.monotonic() + seconds

    monkeypatch.setattr(starter_module, "time", Later)


async def test_what_the_hub_keeps_refusing_to_start_gives_its_share_back_and_says_why(
    service: Service, hub: SaysOneThing, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = service.create(server_name="sixth")
    one = starter(service, hub)
    for late in (OWN_START_S, OWN_START_S + RETRY_S, OWN_START_S + PATIENCE_S - 60):
        at(monkeypatch, late)
        await one.step()
        assert service.get(made["id"])["state"] == "granted"
    at(monkeypatch, OWN_START_S + PATIENCE_S + RETRY_S)
    await one.step()
    assert hub.asked == ["/users/ada/servers/sixth"] * 4
    ended = eventually(lambda: (r := service.get(made["id"]))["state"] == "ended" and r)
    assert (ended["reason"], ended["detail"]) == ("failed", f"the hub does not start it: {FULL}")


@pytest.mark.parametrize("code", [429, 500, 503])
async def test_a_hub_that_is_busy_or_fails_is_asked_for_as_long_as_the_grant_lasts(
    service: Service, hub: SaysOneThing, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    hub.code = code
    made = service.create(server_name="sixth")
    one = starter(service, hub)
    for late in (OWN_START_S, 10 * PATIENCE_S, 20 * PATIENCE_S):
        at(monkeypatch, late)
        await one.step()
    assert len(hub.asked) == 3
    assert service.get(made["id"])["state"] == "granted"


async def test_servers_are_started_even_while_the_hub_does_not_restore_the_routes_of_the_proxy(
    service: Service, hub: SaysOneThing, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.routes = {}
    service.create(server_name="sixth")
    at(monkeypatch, OWN_START_S)
    await starter(service, hub).step()
    assert hub.asked == ["/proxy", "/users/ada/servers/sixth"]


async def test_a_start_that_takes_long_keeps_nobody_else_waiting(
    service: Service, hub: SaysOneThing, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.slow = "/users/ada/servers/sixth"
    one = starter(service, hub)
    for owner in ("ada", "ben"):
        service.create(owner, share={"cpu_only": True}, server_name="sixth")
        at(monkeypatch, OWN_START_S)
        await one.step()
    at(monkeypatch, OWN_START_S + RETRY_S)
    await one.step()
    assert hub.asked == [hub.slow, "/users/ben/servers/sixth", "/users/ben/servers/sixth"]
    hub.go.set()
    await asyncio.wait(one.under_way.values())
