"""Sessions on a real service and agent, whose activity the tests tell, and the real culler beside them."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
from nodes import eventually
from services import Service, running_service

from timeshare.reservations.deployment import VARIABLE

LIMITS = """
defaults:
  gpus: 8
  idle: {after: 6s, grace: 1s, warn: [3s], keep: 1h}
stop: {save_grace: 2s, term_grace: 1s}
"""
SLEEPER = (sys.executable, "-c", "import time\nwhile True: time.sleep(0.1)")
IDLE: dict[str, Any] = {"kernel_busy_s": 0, "terminal": False, "input_ago_s": 3600}


@dataclass
class Session:
    """A session with a process of its own. ``says``: what it reports once a second; None: it is silent."""

    server: Service
    id: str
    key: str
    says: dict[str, Any] | None = field(default_factory=lambda: dict(IDLE))

    def report(self, **changes: Any) -> requests.Response:
        body = {"generation": 1, **(self.says or IDLE), **changes}
        return self.server.call("POST", f"reservations/{self.id}/activity", token=self.key, json=body)

    def get(self) -> dict[str, Any]:
        return dict(self.server.get(self.id))

    def state(self) -> str:
        return str(self.get()["state"])

    def activity(self) -> dict[str, Any]:
        return dict(self.server.ask("GET", f"reservations/{self.id}/activity"))

    def do(self, what: str, **body: Any) -> requests.Response:
        return self.server.call("POST", f"reservations/{self.id}/{what}", json=body)

    def pid(self) -> int:
        return int(self.server.node.session(self.id)["pid"])

    def events(self) -> list[dict[str, Any]]:
        """What the ledger says happened to it."""
        rows = self._ledger("select state, detail from events where reservation_id = ? order by id")
        return [{"state": state, "detail": detail} for state, detail in rows]

    def decided(self) -> list[tuple[str, float]]:
        """What was decided about it, and when, as the ledger has it."""
        rows = self._ledger("select what, at from decisions where reservation_id = ? order by id")
        return [(what, float(at)) for what, at in rows]

    def _ledger(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(Path(self.server.deployment.state_dir) / "ledger.sqlite")) as ledger:
            return ledger.execute(query, (self.id,)).fetchall()

    def what(self) -> list[str]:
        """What was decided about it, in order."""
        return [decision["what"] for decision in reversed(self.activity()["decisions"])]


class Lab:
    """A service whose sessions report by themselves. ``faults``: what the simulated driver tells."""

    def __init__(self, server: Service) -> None:
        self.server = server
        self.sessions: list[Session] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._report, daemon=True)
        self._thread.start()

    def start(self, owner: str = "ada", argv: tuple[str, ...] = SLEEPER, **share: Any) -> Session:
        reservation = self.server.create(owner, share=share or {"gpus": 1}, server_name=f"s{len(self.sessions)}")
        begun = self.server.ask("POST", f"reservations/{reservation['id']}/starting", json={})
        parts = [
            {name: held[name] for name in ("device_uuid", "instance_uuid", "memory_mib", "compute", "whole")}
            for held in begun["placement"]
        ]
        self.server.node.launch(*argv, reservation_id=begun["id"], share=parts)
        body = {"generation": 1, "enforcement": "simulated"}
        self.server.ask("POST", f"reservations/{begun['id']}/active", json=body)
        session = Session(self.server, begun["id"], begun["activity_key"])
        self.sessions.append(session)
        return session

    def faults(self, **told: Any) -> None:
        self.server.node.driver_tells(**told)

    def _report(self) -> None:
        while not self._done.wait(1.0):
            for session in list(self.sessions):
                if session.says is not None:
                    with contextlib.suppress(requests.ConnectionError):
                        session.report()

    def close(self) -> None:
        self._done.set()
        self._thread.join()


class HubFront:
    """The health page of a hub, as the culler asks for it; it can be taken away. The hub itself is in other tests.
    ``refused_at``: when it was asked for last and was away, by the monotonic clock."""

    def __init__(self) -> None:
        front = self

        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = self.path == "/hub/health"
                if not front.healthy:
                    front.refused_at = time.monotonic()
                self.send_response(404 if not known else 200 if front.healthy else 503)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        self.healthy, self.refused_at = True, 0.0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class CullerProcess:
    """The real one. Its token is the deployment's own here: without a hub nobody else is known."""

    def __init__(self, server: Service) -> None:
        self.server = server
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        state = Path(self.server.deployment.state_dir)
        (state / "timeshare_culler.py").write_text("c.IdleCuller.period_s = 1.0\n")
        with open(state / "culler.log", "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "timeshare.idle_culler"],
                env={**os.environ, VARIABLE: str(self.server.deployment.path)},
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            # Told to stop before it had begun to listen for that, it ends by the signal itself.
            log = Path(self.server.deployment.state_dir) / "culler.log"
            assert self.process.wait(10) in (0, -signal.SIGTERM), log.read_text()


@dataclass
class Idle:
    """All of it together."""

    server: Service
    lab: Lab
    culler: CullerProcess
    front: HubFront


@contextlib.contextmanager
def idle_lab(state_dir: Path, limits: str = LIMITS, simulate: str = "a100-40gb:4") -> Iterator[Idle]:
    (state_dir / "limits.yaml").write_text(limits)
    front = HubFront()
    changes = {"hub_url": front.url, "culler_token": "culler-token", "limits_path": str(state_dir / "limits.yaml")}
    with running_service(state_dir, simulate=simulate, **changes) as server:
        lab, culler = Lab(server), CullerProcess(server)
        culler.start()
        try:
            yield Idle(server, lab, culler, front)
        finally:
            culler.close()
            lab.close()
            for session in lab.sessions:
                session.do("end")
            eventually(lambda: all(s.state() == "ended" for s in lab.sessions), 30)
            front.close()
