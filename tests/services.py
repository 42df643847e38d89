"""A real reservations service for the tests: its own process, with a real agent on simulated devices behind it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests
from databases import free_port
from nodes import Node, deployment, eventually

from timeshare.reservations.deployment import VARIABLE

ADMIN = "admin-token"


class Service:
    """``ask`` speaks to it; ``kill`` and ``start`` it at will."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.deployment = node.deployment
        self.url = f"{self.deployment.service_url}/api/v1"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait_for_agent: bool = True) -> None:
        env = {**os.environ, VARIABLE: str(self.deployment.path)}
        log = open(Path(self.deployment.state_dir) / "service.log", "ab")  # noqa: SIM115
        with log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "timeshare.reservations.service"], env=env, stdout=log, stderr=log
            )
        eventually(lambda: self.health() in (("ok", "degraded") if not wait_for_agent else ("ok",)), 60)

    def spawn(self) -> subprocess.Popen[bytes]:
        """Starts it as above where that is expected to fail; what it says is on its standard error."""
        env = {**os.environ, VARIABLE: str(self.deployment.path)}
        words = [sys.executable, "-m", "timeshare.reservations.service"]
        return subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def health(self) -> str:
        assert self.process is not None
        assert self.process.poll() is None, (Path(self.deployment.state_dir) / "service.log").read_text()[-3000:]
        with contextlib.suppress(requests.RequestException):
            return str(requests.get(f"{self.url}/health", timeout=10).json()["status"])
        return "down"

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait()

    def call(self, method: str, path: str, *, token: str = ADMIN, **more: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {token}", **more.pop("headers", {})}
        return requests.request(method, f"{self.url}/{path}", headers=headers, timeout=90, **more)

    def ask(self, method: str, path: str, **more: Any) -> Any:
        """The answer's body; fails when it is not a success."""
        answer = self.call(method, path, **more)
        assert answer.ok, (answer.status_code, answer.text)
        return answer.json()

    def create(self, owner: str = "ada", **fields: Any) -> Any:
        body = {"share": {"gpus": 1}, "owner": owner, **fields}
        return self.ask("POST", "reservations", json=body)

    def get(self, reservation_id: str) -> Any:
        return self.ask("GET", f"reservations/{reservation_id}")


@contextlib.contextmanager
def running_service(state_dir: Path, *, wait_for_agent: bool = True, **changes: Any) -> Iterator[Service]:
    values = {"service_url": f"http://127.0.0.1:{free_port()}/services/timeshare", **changes}
    node = Node(deployment(state_dir, **values))
    service = Service(node)
    try:
        node.start()
        service.start(wait_for_agent=wait_for_agent)
        yield service
    finally:
        service.close()
        node.close()
