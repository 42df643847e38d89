"""What one look at everybody costs, ours beside jupyterhub-idle-culler, and what activity reports cost the service.

    python benchmarks/passes.py [--users 5000] [--running 500] [--passes 10] [--minutes 1]

A real JupyterHub with all users and running servers, and the real reservations service with a session for each server.
What they run on stands in: one small web server answers for all servers, and one simulated node for all GPUs. The two
cullers look in turns; their requests are counted, and CPU time of whoever looks and of whoever answers is taken.
Then sessions report what they do, 10,000 times a minute; the times of the answers are those that they see.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
from jupyterhub_idle_culler import cull_idle
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from timeshare.idle_culler.service import Culler
from timeshare.reservations.client import ServiceClient
from timeshare.reservations.clock import read_boot_id

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # the same helpers as the tests
from databases import free_port
from nodes import deployment, eventually
from services import Service

REPORTS_A_MINUTE = 10_000
TICK = os.sysconf("SC_CLK_TCK")
HUB_CONFIG = """
from jupyterhub.proxy import Proxy
from jupyterhub.spawner import Spawner

class Standing(Spawner):
    "Every server is the one that stands there already."
    async def start(self):
        return "http://127.0.0.1:{server}"
    async def poll(self):
        return None
    async def stop(self, now=False):
        pass

class Routes(Proxy):
    "Remembers routes; nobody comes through it."
    should_start = False
    routes = {{}}
    async def add_route(self, routespec, target, data):
        self.routes[routespec] = dict(routespec=routespec, target=target, data=data)
    async def delete_route(self, routespec):
        self.routes.pop(routespec, None)
    async def get_all_routes(self):
        return self.routes

c = get_config()
c.JupyterHub.bind_url = "http://127.0.0.1:{public}/"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{hub}/"
c.JupyterHub.db_url = "sqlite:///{folder}/hub.sqlite"
c.JupyterHub.cookie_secret_file = "{folder}/cookie"
c.JupyterHub.spawner_class = Standing
c.JupyterHub.proxy_class = Routes
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.concurrent_spawn_limit = 0
c.Spawner.poll_interval = 3600
c.JupyterHub.log_level = "WARN"
c.JupyterHub.services = [{{"name": "bench", "api_token": "{token}"}}]
c.JupyterHub.load_roles = [{{"name": "bench", "services": ["bench"], "scopes": [
    "admin:users", "admin:servers", "list:users", "read:users:activity", "read:servers", "delete:servers"]}}]
"""


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("X-JupyterHub-Version", "6.1.1")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""


class StandInNode:
    """The agent's socket, for GPUs that are not there. Half of the sessions are busy."""

    def __init__(self, path: Path, devices: int) -> None:
        self.running: dict[str, int] = {}
        self._path, self._devices = path, devices
        path.parent.mkdir(mode=0o700, parents=True)
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()

    async def _serve(self) -> None:
        server = await asyncio.start_unix_server(self._connected, str(self._path))
        await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = json.loads(await reader.readline())
        writer.write(json.dumps({"result": getattr(self, request["method"])()}).encode() + b"\n")
        await writer.drain()
        writer.close()

    def hello(self) -> dict[str, Any]:
        return {"boot_id": read_boot_id(), "device_filter": None, "can_exchange": True}

    def inventory(self) -> dict[str, Any]:
        device = {"model": "a100-40gb", "memory_mib": 40960, "instances": [], "simulated": True}
        devices = [{**device, "uuid": f"GPU-{n}", "order": n} for n in range(self._devices)]
        return {"devices": devices, "driver": "", "cuda": "", "simulated": True, "note": ""}

    def sessions(self) -> list[dict[str, Any]]:
        row = {"generation": 1, "state": "running", "exit_code": None, "message": ""}
        return [{**row, "reservation_id": name} for name in list(self.running)]

    def activity(self) -> list[dict[str, Any]]:
        rows = enumerate(list(self.running))
        return [
            {"reservation_id": name, "generation": 1, "gpu": 90.0 * (n % 2), "cpu": 1.0, "memory_mib": 0}
            for n, name in rows
        ]

    def events(self) -> list[Any]:
        return []


@dataclass
class Cost:
    """Of each look: seconds, requests, and CPU seconds of who looks and of hub and service."""

    seconds: list[float] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    client: list[float] = field(default_factory=list)
    servers: list[float] = field(default_factory=list)

    def row(self, name: str) -> str:
        m = statistics.median
        return (
            f"{name:24} {m(self.seconds):7.3f} s (at most {max(self.seconds):.3f}) {m(self.requests):8.0f} requests "
            f"{m(self.client):8.3f} s CPU looking {m(self.servers):8.3f} s CPU answering"
        )


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


async def measured(look: Callable[[], Awaitable[Any]], cost: Cost, pids: list[int]) -> None:
    counted = 0
    fetch = AsyncHTTPClient.fetch

    def counting(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal counted
        counted += 1
        return fetch(self, *arguments, **options)

    AsyncHTTPClient.fetch = counting  # type: ignore[method-assign]
    servers, own, began = sum(map(cpu, pids)), time.process_time(), time.perf_counter()
    try:
        await look()
    finally:
        AsyncHTTPClient.fetch = fetch  # type: ignore[method-assign]
    cost.seconds.append(time.perf_counter() - began)
    cost.client.append(time.process_time() - own)
    cost.requests.append(counted)
    await asyncio.sleep(0.2)
    cost.servers.append(sum(map(cpu, pids)) - servers)


class Bench:
    def __init__(self, folder: Path, users: int, running: int) -> None:
        self.users, self.running, self.folder = users, running, folder
        self.token = secrets.token_hex(16)
        self.hub_url = f"http://127.0.0.1:{free_port()}/"
        web = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=web.serve_forever, daemon=True).start()
        ports = {"server": web.server_address[1], "public": free_port(), "hub": self.hub_url.split(":")[2].strip("/")}
        (folder / "hub.py").write_text(HUB_CONFIG.format(folder=folder, token=self.token, **ports))
        self.keys: dict[str, str] = {}

    def start(self) -> None:
        with open(self.folder / "hub.log", "wb") as log:
            words = [sys.executable, "-m", "jupyterhub", "-f", str(self.folder / "hub.py")]
            self.hub = subprocess.Popen(words, stdout=log, stderr=log, cwd=self.folder)
        (self.folder / "limits.yaml").write_text("defaults: {idle: {after: 1h}}\nrequests_waiting: 5000\n")
        made = deployment(
            self.folder,
            service_url=f"http://127.0.0.1:{free_port()}/services/timeshare",
            limits_path=str(self.folder / "limits.yaml"),
            hub_url=self.hub_url,
            culler_token="culler-token",
        )
        self.node = StandInNode(Path(made.agent_socket), self.running)

        class Known:
            deployment = made

        self.service = Service(Known())  # type: ignore[arg-type]
        self.service.start()

    async def fill(self) -> None:
        client = SimpleAsyncHTTPClient(force_instance=True, max_clients=20)
        headers = {"Authorization": f"token {self.token}", "Content-Type": "application/json"}

        async def hub(path: str, body: Any = None) -> None:
            address = f"{self.hub_url}hub/api/{path}"
            await client.fetch(
                HTTPRequest(address, "POST", headers, json.dumps(body or {}), request_timeout=300, connect_timeout=300)
            )

        names = [f"user{n}" for n in range(self.users)]
        for begin in range(0, self.users, 500):
            await hub("users", {"usernames": names[begin : begin + 500]})
        await asyncio.gather(*(hub(f"users/{name}/server") for name in names[: self.running]))
        for name in names[: self.running]:
            self._session(name)

    def _session(self, owner: str) -> None:
        made = self.service.create(owner)
        begun = self.service.ask("POST", f"reservations/{made['id']}/starting", json={})
        self.node.running[made["id"]] = 1
        self.service.ask(
            "POST", f"reservations/{made['id']}/active", json={"generation": 1, "enforcement": "simulated"}
        )
        self.keys[made["id"]] = begun["activity_key"]

    async def passes(self, count: int) -> tuple[Cost, Cost]:
        ours, theirs = Cost(), Cost()
        culler = Culler(ServiceClient(self.service.deployment.service_url, "culler-token"), f"{self.hub_url}hub/health")
        assert self.service.process is not None
        pids = [self.hub.pid, self.service.process.pid]
        quiet = logging.getLogger("stock")
        quiet.setLevel(logging.ERROR)

        async def stock() -> None:
            await cull_idle(f"{self.hub_url}hub/api", self.token, 86400, quiet)

        for _ in range(count):
            await measured(culler.look, ours, pids)
            await measured(stock, theirs, pids)
        return ours, theirs

    async def report(self, minutes: float) -> list[float]:
        """Seconds of each answer."""
        client = SimpleAsyncHTTPClient(force_instance=True, max_clients=200)
        body = json.dumps({"generation": 1, "kernel_busy_s": 0, "terminal": False, "input_ago_s": 60})
        times: list[float] = []

        async def one(name: str) -> None:
            headers = {"Authorization": f"Bearer {self.keys[name]}", "Content-Type": "application/json"}
            began = time.perf_counter()
            await client.fetch(HTTPRequest(f"{self.service.url}/reservations/{name}/activity", "POST", headers, body))
            times.append(time.perf_counter() - began)

        names, wait = list(self.keys), 60 / REPORTS_A_MINUTE
        tasks, began = [], time.perf_counter()
        for number in range(round(minutes * REPORTS_A_MINUTE)):
            tasks.append(asyncio.create_task(one(names[number % len(names)])))
            await asyncio.sleep(max(0.0, began + (number + 1) * wait - time.perf_counter()))
        await asyncio.gather(*tasks)
        return times

    def close(self) -> None:
        self.service.close()
        self.hub.terminate()
        self.hub.wait(60)


async def run(bench: Bench, passes: int, minutes: float) -> None:
    def hub_answers() -> bool:
        try:
            return requests.get(f"{bench.hub_url}hub/health", timeout=5).ok
        except requests.ConnectionError:
            return False

    await asyncio.to_thread(eventually, hub_answers, 60)
    began = time.perf_counter()
    await bench.fill()
    made = time.perf_counter() - began
    print(f"{bench.users} users, {bench.running} running servers and sessions (made in {made:.0f} s)")
    reports = await bench.report(minutes)
    ours, theirs = await bench.passes(passes)
    print(f"One look, median of {passes}, in turns:")
    print(ours.row("timeshare"))
    print(theirs.row("jupyterhub-idle-culler"))
    m = statistics.median
    print(f"ours in {m(ours.seconds) / m(theirs.seconds):.2f} of their time")
    cuts = statistics.quantiles(reports, n=100)
    print(
        f"{len(reports)} reports in {minutes:g} min: median {1e3 * cuts[49]:.1f} ms, p99 {1e3 * cuts[98]:.1f} ms, "
        f"at most {1e3 * max(reports):.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--users", type=int, default=5000)
    parser.add_argument("--running", type=int, default=500)
    parser.add_argument("--passes", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=1.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), given.users, given.running)
        bench.start()
        try:
            asyncio.run(run(bench, given.passes, given.minutes))
        finally:
            bench.close()


if __name__ == "__main__":
    main()
