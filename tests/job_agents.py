"""Real job agents for the tests: what a batch system would start on a compute node, started here as plain processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
from nodes import eventually, marked
from services import Service

from timeshare.reservations.deployment import Deployment
from timeshare.reservations.jobagent.setting import KEY
from timeshare.reservations.jobagent.talk import SOCKET_HERE
from timeshare.reservations.service.__main__ import settings_of
from timeshare.reservations.service.auth import jobagent_key

TINY = (sys.executable, str(Path(__file__).parent / "tiny_server.py"), f"--ServerApp.sock={SOCKET_HERE}")


def jobagent_environment(deployment: Deployment, reservation_id: str, **changes: str) -> dict[str, str]:
    """What the script and the batch system set."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "TIMESHARE_SERVICE_URL": deployment.service_url,
        "TIMESHARE_RESERVATION_ID": reservation_id,
        "TIMESHARE_ATTEMPT": "1",
        KEY: jobagent_key(settings_of(deployment), reservation_id),
        "TIMESHARE_SHARE_SHAPE": "whole",
        "TIMESHARE_SHARE_TEXT": "1 whole a100-40gb",
        "TIMESHARE_SHARE_MEMORY_MIB": "40960",
        "TIMESHARE_SHARE_SIMULATED": "1",
        "SLURM_JOB_ID": "100",
        "SLURM_JOB_GPUS": "0",
        "CUDA_VISIBLE_DEVICES": "0",
        "SLURMD_NODENAME": "a1",
        **changes,
    }


class Job:
    """A job agent as a process."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.reservation_id = env.get("TIMESHARE_RESERVATION_ID", "")
        self.log_path = folder / f"job-{env.get('SLURM_JOB_ID')}-{env.get('SLURM_RESTART_COUNT', 0)}.out"
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "timeshare.reservations.jobagent"], env=env, stdout=log, stderr=log
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def server_pids(self) -> list[int]:
        """What runs of the server and below it."""
        return [pid for pid in marked(self.reservation_id) if pid != self.process.pid]

    def exit_code(self, seconds: float = 30) -> int:
        return self.process.wait(seconds)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def jobs(folder: Path) -> Iterator[list[Job]]:
    """Whatever is put into the list is ended at the end."""
    started: list[Job] = []
    try:
        yield started
    finally:
        left = [pid for job in started for pid in job.server_pids()]
        for job in started:
            job.close()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def begun(service: Service, **share: Any) -> str:
    """A reservation whose first start has begun; its id."""
    reservation = service.create(owner=uuid.uuid4().hex[:8], share=share or {"gpus": 1})
    service.ask("POST", f"reservations/{reservation['id']}/starting", json={})
    return str(reservation["id"])


def an_order(generation: int = 1, argv: tuple[str, ...] = TINY, **changes: Any) -> dict[str, Any]:
    return {"generation": generation, "argv": list(argv), "env": {}, "wait_s": 30, **changes}


class Relay:
    """Between agents and the service: what it gets it passes on; ``lose`` answers get lost on the way back."""

    def __init__(self, service_url: str) -> None:
        self.lose = 0
        self.lost = 0
        relay = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name: self.headers[name] for name in ("Authorization", "Content-Type")}
                answer = requests.post(service_url + self.path, data=body, headers=headers, timeout=60)
                if b'"run"' in answer.content and relay.lost < relay.lose:
                    relay.lost += 1
                    self.close_connection = True
                    return
                with contextlib.suppress(OSError):
                    self.send_response(answer.status_code)
                    self.send_header("Content-Length", str(len(answer.content)))
                    self.end_headers()
                    self.wfile.write(answer.content)

            def log_message(self, format: str, *arguments: object) -> None:
                """Nothing is logged."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def answers(address: str, port: int) -> str:
    """What the server there says."""

    def asked() -> str:
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"http://{address}:{port}/", timeout=10).text
        return ""

    return eventually(asked)
