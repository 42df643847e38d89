"""What a session's own server sees: programs beside the kernels, kernels, input. And what it tells Lab."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from databases import free_port
from nodes import eventually

from timeshare.notebooks.server.programs import TICKS_A_SECOND, Look, Program, beside, works
from timeshare.notebooks.server.watcher import Kernels

SERVER = 10
MINUTE = 60.0


def program(
    pid: int, parent: int, name: str = "python", cpu: float = 0.0, moved: int | None = 0, **more: Any
) -> Program:
    """``cpu``: seconds used so far."""
    return Program(pid, parent, name, more.pop("began", 1), round(cpu * TICKS_A_SECOND), moved, **more)


def look(at: float, *programs: Program) -> Look:
    return Look(at, {p.pid: p for p in (program(SERVER, 1, "jupyter"), *programs)})


SHELL = program(20, SERVER, "bash")
BEFORE = look(0, SHELL, program(21, 20))


@pytest.mark.parametrize(
    ("what", "after", "expected"),
    [
        ("a training in a terminal", program(21, 20, cpu=30), True),
        ("a download that hardly needs the CPU", program(21, 20, "wget", cpu=0.1, moved=50_000_000), True),
        ("one that waits", program(21, 20, cpu=0.01), False),
        ("an editor that is open", program(21, 20, "vim", cpu=5), False),
        ("a monitor that draws", program(21, 20, "htop", cpu=5), False),
        ("one whose traffic cannot be read", program(21, 20, moved=None), None),
        ("one with nohup, whose shell is gone", program(30, 1, cpu=20), True),
        ("one that got the number of another", program(21, 20, cpu=2, began=2), True),
        ("a kernel", program(40, SERVER, cpu=50, kernel=True), False),
        ("a helper of the server itself", program(50, SERVER, "node", cpu=5), False),
    ],
)
def test_beside_the_kernels_works(what: str, after: Program, expected: bool | None) -> None:
    assert works(BEFORE, look(MINUTE, SHELL, after), SERVER) is expected


def test_what_a_kernel_starts_belongs_to_it() -> None:
    kernel, worker = program(40, SERVER, kernel=True), program(41, 40, cpu=30)
    assert set(beside(look(0, kernel, worker, SHELL, program(21, 20)).programs, SERVER)) == {21}


def test_without_time_between_two_looks_nobody_can_say() -> None:
    assert works(BEFORE, look(0, SHELL), SERVER) is None


def test_a_kernel_is_busy_since_it_was_first_seen_busy() -> None:
    kernels = Kernels()
    assert kernels.look({"a": "idle", "b": "starting"}, 0) is False
    assert kernels.busy_s(0) == 0
    assert kernels.look({"a": "busy", "b": "idle"}, 10) is True
    assert kernels.look({"a": "busy", "b": "busy"}, 30) is True
    assert kernels.busy_s(40) == pytest.approx(30, abs=0.01)
    assert kernels.look({"a": "idle", "b": "busy"}, 50) is False
    assert kernels.busy_s(50) == pytest.approx(20, abs=0.01)
    kernels.look({}, 60)
    assert kernels.busy_s(60) == 0


class Server:
    """A real Jupyter server with the extension, as a session has it; its reports go to ``heard``."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.url, self.token = f"http://127.0.0.1:{free_port()}", "secret"
        jupyter = Path(__file__).parent.parent / "notebooks" / "jupyter"
        self.log = folder / "server.log"
        env = {**os.environ, "JUPYTER_CONFIG_PATH": str(jupyter), "JUPYTER_PATH": str(jupyter), "HOME": str(folder)}
        env.pop("PYTEST_CURRENT_TEST", None)
        words = [f"--port={self.url.rpartition(':')[2]}", f"--IdentityProvider.token={self.token}", "--allow-root"]
        words += ["--no-browser", f"--ServerApp.root_dir={folder}", "--ServerApp.open_browser=False"]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyter_server", *words], env={**env, **environment}, stdout=log, stderr=log
            )
        eventually(self._answers, 60)

    def _answers(self) -> bool:
        try:
            return self.ask("GET", "api/status").ok
        except requests.ConnectionError:
            assert self.process.poll() is None, self.log.read_text()
            return False

    def ask(self, method: str, path: str, **more: Any) -> requests.Response:
        headers = {"Authorization": f"token {self.token}"}
        return requests.request(method, f"{self.url}/{path}", headers=headers, timeout=30, **more)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    names = ("TIMESHARE_RESERVATION_ID", "TIMESHARE_SERVICE_URL", "TIMESHARE_ACTIVITY_KEY")
    server = Server(tmp_path_factory.mktemp("outside"), **dict.fromkeys(names, ""))
    yield server
    server.close()


def test_outside_of_a_session_it_is_loaded_and_does_nothing(outside: Server) -> None:
    told = outside.ask("GET", "timeshare/status").json()
    assert (told["here"], told["reservation"], told["jobs"]) == (False, None, [])
    assert outside.ask("POST", "timeshare/input", json={}).json() == {}
    refused = outside.ask("POST", "timeshare/extend", json={"seconds": 60})
    assert (refused.status_code, refused.json()) == (409, {"message": "this is not a session of timeshare"})


def test_nobody_else_may_ask(outside: Server) -> None:
    for method, path in (("GET", "status"), ("POST", "extend"), ("GET", "jobs/x/log")):
        answer = requests.request(method, f"{outside.url}/timeshare/{path}", json={}, timeout=30)
        assert answer.status_code == 403, path


def test_lab_knows_the_extension(outside: Server) -> None:
    jupyter = Path(__file__).parent.parent / "notebooks" / "jupyter"
    told = subprocess.run(
        [sys.executable, "-m", "jupyter", "labextension", "list"],
        env={**os.environ, "JUPYTER_PATH": str(jupyter)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "timeshare v0.1.0" in told.stdout + told.stderr
    assert "enabled" in next(line for line in (told.stdout + told.stderr).splitlines() if "timeshare v" in line)
    assert json.loads((jupyter / "labextensions" / "timeshare" / "package.json").read_text())["name"] == "timeshare"


def test_work_is_told_to_jupyterhub_and_idleness_is_not(tmp_path: Path) -> None:
    session = {
        "TIMESHARE_RESERVATION_ID": "00000000-0000-0000-0000-000000000001",
        "TIMESHARE_SERVICE_URL": f"http://127.0.0.1:{free_port()}",  # nobody answers there: reports are tried again
        "TIMESHARE_ACTIVITY_KEY": "key",
        "TIMESHARE_GENERATION": "1",
        "JUPYTERHUB_API_TOKEN": "token",
    }
    server = Server(tmp_path, **session)
    try:

        def last_activity() -> str:
            return str(server.ask("GET", "api/status").json()["last_activity"])

        def still() -> bool:
            before = last_activity()
            time.sleep(5)
            return last_activity() == before

        eventually(still, 60)
        server.ask("POST", "api/terminals", json={"cwd": str(tmp_path)})
        time.sleep(3)
        burner = [sys.executable, "-c", "import time\nuntil = time.time() + 90\nwhile time.time() < until: pass"]
        process = subprocess.Popen(burner, env={**os.environ, **session})  # as nohup leaves it: with the session's mark
        try:
            eventually(lambda: not still(), 60)
        finally:
            process.kill()
            process.wait()
        assert server.ask("GET", "timeshare/status").json()["silent"].startswith("the reservations service does not")
        log = server.log.read_text()
        assert log.count("activity could not be reported") == 1
        assert "Traceback" not in log
    finally:
        server.close()
