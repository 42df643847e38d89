"""A whole real deployment for the tests, started by the command that people use."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from nodes import eventually, marked

from timeshare.hub_config import proxy
from timeshare.hub_config.run.leftovers import leftovers
from timeshare.reservations.deployment import FILE_NAME, Deployment, load_deployment
from timeshare.reservations.sockets import run_dir_of

ROOT = Path(__file__).parent.parent
PEOPLE = ("ada", "ben", "cleo", "dora")
LOG_LINES, OTHER_LINES = 25, 8
"""Of the service's log and of each other one, beside a failed test: a CI shows some 10,000 characters, and leaves out
the middle."""
WIDTH = 300
NOISE = ("Skipping XSRF check", "alembic.runtime.migration")


class Hub:
    """``timeshare up`` on simulated devices; ``start`` and ``end`` it at will."""

    def __init__(self, state_dir: Path, command: Path, *options: str) -> None:
        self.state_dir = state_dir
        self.command = command
        self.options = options or ("--simulate", "a100-40gb:2,t4:1")
        self.output = state_dir / "up.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.cwd, self.port = Path.cwd(), 0

    @property
    def deployment(self) -> Deployment:
        return load_deployment(self.state_dir / FILE_NAME)

    @property
    def url(self) -> str:
        return self.deployment.public_url

    def start(self) -> None:
        self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.command == command():
            proxy_is_there(self.state_dir)
        words = [self.command, "up", "--state", self.state_dir, "--port", str(self.port), *self.words()]
        with open(self.output, "wb") as log:
            self.process = subprocess.Popen(
                [*words, *self.options], stdout=log, stderr=log, env=self.environment(), cwd=self.cwd
            )
        eventually(self.is_ready, 180)

    def words(self) -> list[str]:
        return ["--people", ",".join(PEOPLE)]

    def environment(self) -> dict[str, str]:
        home = self.state_dir / "home"
        home.mkdir(exist_ok=True)
        return {**os.environ, "HOME": str(home), "TIMESHARE_SIMULATED_FAULTS": str(self.state_dir / "faults.json")}

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.said()
        return "Ready after" in self.said()

    def is_healthy(self) -> bool:
        """Hub and service answer, and the agent was heard of."""
        try:
            well = requests.get(f"{self.url}hub/health", timeout=5).status_code == 200
            return well and bool(self.service("GET", "health").json()["status"] == "ok")
        except requests.RequestException:
            return False

    def components(self) -> dict[str, int]:
        """What ``timeshare up`` keeps running, and its pid."""
        return {name: pid for pid, name in leftovers(self.state_dir).items()}

    def kill(self, component: str) -> None:
        """Until the supervisor has another in its place."""
        pid = self.components()[component]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: self.components().get(component) not in (None, pid), 30)

    def said(self) -> str:
        return self.output.read_text()

    def logs(self) -> str:
        """What became of the reservations, and the last lines of each log; the most telling first."""
        told = []
        with contextlib.suppress(requests.RequestException, ValueError, KeyError):
            told += [
                f"{r['id']} {r['owner']} {r['state']} {r['reason'] or ''} {r['detail']}"
                for r in self.service("GET", "reservations").json()["reservations"][:20]
            ]
        for path in sorted(self.state_dir.glob("logs/*.log"), key=lambda path: (path.stem != "service", path.name)):
            lines = [line[:WIDTH] for line in path.read_text().splitlines() if not any(word in line for word in NOISE)]
            told.append(f"== {path.name}")
            told += lines[-(LOG_LINES if path.stem == "service" else OTHER_LINES) :]
        return "\n".join(told)

    def end(self, number: signal.Signals = signal.SIGINT) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(60)

    def close(self) -> None:
        ids = [r["id"] for r in self.everybodys()]
        self.end()
        for reservation_id in ids:
            for pid in marked(reservation_id):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        shutil.rmtree(run_dir_of(self.state_dir.absolute()), ignore_errors=True)

    # --- as the deployment itself

    def service(self, method: str, path: str, **more: Any) -> requests.Response:
        # By its address and not by its name, which only browsers look up below localhost.
        host = urlsplit(self.deployment.address).netloc
        headers = {"Authorization": f"Bearer {self.deployment.admin_token}", "Host": host}
        url = f"{self.deployment.public_url}services/timeshare/api/v1/{path}"
        return requests.request(method, url, headers=headers, timeout=60, **more)

    def everybodys(self) -> list[dict[str, Any]]:
        try:
            return list(self.service("GET", "reservations?limit=500").json()["reservations"])
        except (requests.ConnectionError, ValueError, KeyError, FileNotFoundError):
            return []

    def end_all_sessions(self) -> None:
        """Until neither service nor hub knows one any more."""
        for reservation in self.everybodys():
            if reservation["state"] != "ended":
                self.service("POST", f"reservations/{reservation['id']}/end", json={})
        eventually(lambda: all(r["state"] == "ended" for r in self.everybodys()), 60)
        for name in PEOPLE:
            eventually(self.login(name).has_no_servers, 60)

    # --- as a person

    def new_session(self) -> requests.Session:
        """A browser's cookies."""
        return requests.Session()

    def login(self, name: str) -> User:
        return User(self, name)


class User:
    """A person who works through the hub's REST API and its forms, without a browser."""

    def __init__(self, hub: Hub, name: str) -> None:
        self.hub, self.name = hub, name
        self.session = hub.new_session()
        self.log_in()
        self.session.get(f"{hub.url}hub/home")
        self.token = self.api("POST", f"users/{name}/tokens", json={"expires_in": 3600}).json()["token"]

    def log_in(self) -> None:
        self.session.get(f"{self.hub.url}hub/login")
        form = {"username": self.name, "password": self.secret(), "_xsrf": self.xsrf()}
        done = self.session.post(f"{self.hub.url}hub/login", data=form, allow_redirects=False)
        assert done.status_code == 302, plain(done.text)[-500:]

    def secret(self) -> str:
        return self.hub.deployment.password

    def xsrf(self) -> str:
        return next(str(c.value) for c in self.session.cookies if c.name == "_xsrf" and c.path.endswith("/hub/"))

    def api(self, method: str, path: str, **more: Any) -> requests.Response:
        """The hub's REST API, with her cookies."""
        headers = {"X-XSRFToken": self.xsrf(), "Referer": f"{self.hub.url}hub/home"}
        return self.session.request(method, f"{self.hub.url}hub/api/{path}", headers=headers, timeout=150, **more)

    def form(self, path: str, **fields: str) -> requests.Response:
        """Sends a form of the hub's pages."""
        data = {"_xsrf": self.xsrf(), **fields}
        return self.session.post(f"{self.hub.url}hub/{path}", data=data, timeout=150, allow_redirects=False)

    def page(self, path: str) -> requests.Response:
        return self.session.get(f"{self.hub.url}hub/{path}", timeout=60)

    def service(self, method: str, path: str, **more: Any) -> requests.Response:
        """The reservations API, with her token."""
        headers = {"Authorization": f"Bearer {self.token}"}
        url = f"{self.hub.url}services/timeshare/api/v1/{path}"
        return requests.request(method, url, headers=headers, timeout=90, verify=self.session.verify, **more)

    def start(self, server: str = "", **options: Any) -> requests.Response:
        path = f"users/{self.name}/servers/{server}" if server else f"users/{self.name}/server"
        return self.api("POST", path, json={"user_options": options})

    def stop(self, server: str = "") -> None:
        path = f"users/{self.name}/servers/{server}" if server else f"users/{self.name}/server"
        self.api("DELETE", path)
        eventually(lambda: server not in self.servers(), 60)

    def servers(self) -> dict[str, Any]:
        return dict(self.api("GET", f"users/{self.name}").json()["servers"])

    def has_no_servers(self) -> bool:
        return not self.servers()

    def is_ready(self, server: str = "") -> bool:
        return bool(self.servers().get(server, {}).get("ready"))

    def reservations(self) -> list[dict[str, Any]]:
        return list(self.service("GET", "reservations").json()["reservations"])

    def live(self) -> list[dict[str, Any]]:
        return [r for r in self.reservations() if r["state"] != "ended"]

    def active(self) -> dict[str, Any]:
        """Her only session, once it runs and can be opened: hub and service hear of it one after the other."""
        eventually(lambda: [r["state"] for r in self.live()] == ["active"], 90)
        eventually(lambda: all(server["ready"] for server in self.servers().values()), 30)
        return self.live()[0]


def command() -> Path:
    return Path(sys.executable).parent / "timeshare"


def plain(html: str) -> str:
    """A page's words without its tags."""
    text = re.sub(r"<script.*?</script>|<style.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", text)


def proxy_is_there(state_dir: Path) -> None:
    """The proxy as `timeshare up` would install it, taken from one that these tests installed before."""
    shared = ROOT / "build" / "proxy-of-tests"
    shared.mkdir(parents=True, exist_ok=True)
    with open(shared / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        proxy.install(shared)
    if not (state_dir / "proxy").exists():
        shutil.copytree(shared / "proxy", state_dir / "proxy", symlinks=True)


@contextlib.contextmanager
def running_hub(state_dir: Path, *options: str) -> Iterator[Hub]:
    hub = Hub(state_dir, command(), *options)
    try:
        hub.start()
        yield hub
    finally:
        hub.close()
