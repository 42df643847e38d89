"""A real node agent for the tests, and sessions to run on it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from timeshare.reservations.agent.cgroups import sweep
from timeshare.reservations.agent.client import AgentClient, AgentUnreachable
from timeshare.reservations.deployment import VARIABLE, Deployment
from timeshare.reservations.devices.model import Inventory
from timeshare.reservations.devices.nvml import NvmlSource

T = TypeVar("T")
MARK = b"TIMESHARE_RESERVATION_ID="


def deployment(state_dir: Path, **changes: Any) -> Deployment:
    """A deployment file in ``state_dir``, with one simulated device unless told otherwise."""
    values: dict[str, Any] = {
        "state_dir": str(state_dir),
        "public_url": "http://127.0.0.1:1/",
        "proxy_api_url": "http://127.0.0.1:1",
        "hub_url": "http://127.0.0.1:1",
        "service_url": "http://127.0.0.1:1/services/timeshare",
        "agent_socket": str(state_dir / "run" / "agent.sock"),
        "ledger_url": f"sqlite:///{state_dir}/ledger.sqlite",
        "limits_path": "",
        "proxy_token": "proxy-token",
        "service_token": "service-token",
        "admin_token": "admin-token",
        "starter_token": "starter-token",
        "signing_key": "signing-key",
        "simulate": "a100-40gb:1",
        **changes,
    }
    made = Deployment(**values)
    made.save()
    return made


def eventually(question: Callable[[], T], seconds: float = 15.0) -> T:
    """The first true answer; fails when there is none in ``seconds``. Asks less and less often, soon four times a
    second: the service refuses people who ask more often for minutes, and other tests need the processors."""
    begun = time.monotonic()
    while not (answer := question()):
        waited = time.monotonic() - begun
        assert waited < seconds, f"never became true in {seconds:g} s: {question.__name__}"
        time.sleep(min(0.25, 0.02 + waited / 20))
    return answer


def driver_tells(faults: Path, **told: Any) -> None:
    """What the simulated driver is to say from now on, by its file of ``faults``; never half of it."""
    draft = faults.with_suffix(".new")
    draft.write_text(json.dumps(told))
    draft.replace(faults)


@contextlib.contextmanager
def spawned(argv: list[str], **how: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process for the time of a test."""
    process = subprocess.Popen(argv, **how)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


class Node:
    """A running agent; ``kill`` and ``start`` it at will. Whatever its sessions left is ended at the end."""

    def __init__(self, where: Deployment) -> None:
        self.deployment = where
        self.process: subprocess.Popen[bytes] | None = None
        self.faults = Path(where.state_dir) / "faults.json"
        self.ids: list[str] = []

    def start(self) -> None:
        self.spawn()
        eventually(self.answers, 60)

    def spawn(self) -> None:
        """Begins to start, without waiting until it answers."""
        env = {**os.environ, VARIABLE: str(self.deployment.path), "TIMESHARE_SIMULATED_FAULTS": str(self.faults)}
        log = open(Path(self.deployment.state_dir) / "agent.log", "ab")  # noqa: SIM115
        with log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "timeshare.reservations.agent"], env=env, stdout=log, stderr=log
            )

    def driver_tells(self, **told: Any) -> None:
        driver_tells(self.faults, **told)

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (Path(self.deployment.state_dir) / "agent.log").read_text()[-2000:]
        with contextlib.suppress(AgentUnreachable):
            return bool(self.ask("hello"))
        return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def ask(self, method: str, **params: Any) -> Any:
        return asyncio.run(AgentClient(Path(self.deployment.agent_socket)).call(method, **params))

    def launch(self, *argv: str, reservation_id: str = "", generation: int = 1, **more: Any) -> str:
        """Starts ``argv`` as a session; its reservation's id."""
        name = reservation_id or str(uuid.uuid4())
        self.ids.append(name)
        self.ask("launch", **order(name, list(argv), generation=generation, **more))
        return name

    def session(self, reservation_id: str, generation: int = 1) -> dict[str, Any]:
        return next(
            session
            for session in self.ask("sessions")
            if (session["reservation_id"], session["generation"]) == (reservation_id, generation)
        )

    def state(self, reservation_id: str, generation: int = 1) -> str:
        return str(self.session(reservation_id, generation)["state"])

    def stop(self, reservation_id: str, interrupt: bool = False, save: float = 0, term: float = 0.5) -> str:
        told = self.ask(
            "stop", reservation_id=reservation_id, interrupt=interrupt, save_grace_s=save, term_grace_s=term
        )
        return str(told["state"])

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
        left = all_marked()
        for pid in (pid for reservation_id in self.ids for pid in left.get(reservation_id, ())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        sweep(Path(self.deployment.state_dir) / "agent", ())


def marked(reservation_id: str) -> list[int]:
    """Every living process that carries the reservation's mark, the launcher too."""
    return all_marked().get(reservation_id, [])


def core(reservation_id: str) -> list[int]:
    """Launcher and server, its two oldest processes; what the server runs for a moment comes and goes."""
    return sorted(marked(reservation_id), key=started)[:2]


def started(pid: int) -> int:
    """When it began, in ticks; pids themselves start again at some time."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return sys.maxsize


def all_marked() -> dict[str, list[int]]:
    """The living processes of every reservation, in one pass."""
    found: dict[str, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                dead = b") Z " in (entry / "stat").read_bytes()
                variables = (entry / "environ").read_bytes().split(b"\0")
                marks = [v[len(MARK) :].decode(errors="replace") for v in variables if v.startswith(MARK)]
                if marks and not dead:
                    found.setdefault(marks[0], []).append(int(entry.name))
    return found


def kept_from_others() -> str:
    """Why other accounts cannot use the Python that runs the tests; empty: they can."""
    for needed in (Path(sys.executable).parent, Path(sys.executable).resolve()):
        if not all(folder.stat().st_mode & stat.S_IXOTH for folder in [needed, *needed.parents]):
            return f"other accounts cannot use {needed}: install in a folder that all can read"
    return ""


def order(reservation_id: str, argv: list[str], **changes: Any) -> dict[str, Any]:
    return {
        "reservation_id": reservation_id,
        "generation": 1,
        "owner": "ada",
        "user": None,
        "argv": argv,
        "env": {"PATH": os.environ["PATH"]},
        "cwd": "/",
        "log_path": None,
        "share": [part()],
        "share_text": "10 GiB of one a100-40gb",
        "ends_at": "2030-01-01T00:00:00Z",
        **changes,
    }


def part(memory_mib: int = 10240, whole: bool = False, device_uuid: str = "GPU-simulated-0000") -> dict[str, Any]:
    return {
        "device_uuid": device_uuid,
        "instance_uuid": "",
        "memory_mib": memory_mib,
        "compute": 250,
        "whole": whole,
    }


@contextlib.contextmanager
def running_node(state_dir: Path, **changes: Any) -> Iterator[Node]:
    node = Node(deployment(state_dir, **changes))
    try:
        node.start()
        yield node
    finally:
        node.close()


def gpus_here() -> Inventory:
    """The real ones of this machine; without any, the reason."""
    source = NvmlSource()
    try:
        return source.inventory()
    finally:
        source.close()
