"""From the start button to a server that is ready: timeshare beside JupyterHub's own SimpleLocalProcessSpawner.

    python benchmarks/start.py [--starts 20] [--beside EARLIER/.venv/bin/timeshare]

Two hubs run on this machine, each with the same proxy, the same single-user server and one user. They take turns, so
that whatever else happens on the machine happens to both. A start is timed from the request to the hub's answer that
the server is ready, over the REST API that the button uses. Printed: median and spread of both, and the ratio.
``--beside``: the command of another checkout of timeshare, which takes turns with the two.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import requests

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from databases import free_port
from hubs import Hub, command
from nodes import eventually

from timeshare.hub_config import proxy

PEER = """
import os
c = get_config()
c.JupyterHub.bind_url = os.environ["PEER_URL"]
c.JupyterHub.hub_bind_url = os.environ["PEER_HUB"]
c.JupyterHub.db_url = "sqlite:///" + os.environ["PEER_STATE"] + "/hub.sqlite"
c.JupyterHub.cookie_secret_file = os.environ["PEER_STATE"] + "/cookie_secret"
c.ConfigurableHTTPProxy.command = [os.environ["PEER_NODE"], os.environ["PEER_PROXY"]]
c.ConfigurableHTTPProxy.api_url = os.environ["PEER_API"]
c.ConfigurableHTTPProxy.pid_file = os.environ["PEER_STATE"] + "/proxy.pid"
c.JupyterHub.spawner_class = "simple"
c.Spawner.cmd = [os.environ["PEER_SERVER"]]
c.Spawner.args = ["--allow-root"]
c.Spawner.default_url = "/lab"
c.Spawner.environment = {"HOME": os.environ["HOME"]}
c.JupyterHub.authenticator_class = "shared-password"
c.SharedPasswordAuthenticator.user_password = "a-long-password"
c.Authenticator.allow_all = True
"""


SHARE: dict[str, object] = {"memory_gib": 10}


class Person:
    """A logged-in user of one hub."""

    def __init__(self, url: str, name: str, password: str, options: dict[str, object]) -> None:
        self.url, self.name, self.options = url, name, options
        self.session = requests.Session()
        self.session.get(f"{url}hub/login")
        form = {"username": name, "password": password, "_xsrf": self._xsrf()}
        assert self.session.post(f"{url}hub/login", data=form, allow_redirects=False).status_code == 302
        self.session.get(f"{url}hub/token")

    def _xsrf(self) -> str:
        return next(str(c.value) for c in self.session.cookies if c.name == "_xsrf" and c.path.endswith("/hub/"))

    def _api(self, method: str, path: str, **more: object) -> requests.Response:
        headers = {"X-XSRFToken": self._xsrf(), "Referer": f"{self.url}hub/home"}
        url = f"{self.url}hub/api/users/{self.name}{path}"
        return self.session.request(method, url, headers=headers, timeout=120, **more)  # type: ignore[arg-type]

    def start(self) -> float:
        """Seconds until the hub says that the server is ready."""
        began = time.perf_counter()
        answer = self._api("POST", "/server", json={"user_options": self.options})
        assert answer.status_code in (201, 202), (self.url, answer.status_code, answer.text)
        if answer.status_code == 202:  # it takes longer than a hub lets people wait for an answer
            eventually(lambda: self._api("GET", "").json()["servers"][""]["ready"], 120)
        return time.perf_counter() - began

    def new_token(self) -> str:
        """For the hub's API, for a day."""
        return str(self._api("POST", "/tokens", json={"expires_in": 86400}).json()["token"])

    def stop(self) -> None:
        self._api("DELETE", "/server")
        eventually(lambda: not self._api("GET", "").json()["servers"], 60)


@contextlib.contextmanager
def peer(state: Path, more: str = "", **environment: str) -> Iterator[str]:
    """A plain JupyterHub with SimpleLocalProcessSpawner, or what ``more`` says at the end of its configuration; yields
    its address. ``environment``: more of the hub's own."""
    url = f"http://127.0.0.1:{free_port()}/"
    (state / "config.py").write_text(PEER + more)
    proxy.install(state)
    env = {
        **os.environ,
        "PEER_URL": url,
        "PEER_HUB": f"http://127.0.0.1:{free_port()}",
        "PEER_API": f"http://127.0.0.1:{free_port()}",
        "PEER_STATE": str(state),
        "PEER_NODE": str(proxy.node_path()),
        "PEER_PROXY": str(proxy.script_path(state)),
        "PEER_SERVER": str(Path(sys.executable).parent / "jupyterhub-singleuser"),
        "HOME": str(state),
        **environment,
    }
    with open(state / "hub.log", "wb") as log:
        words = [sys.executable, "-m", "jupyterhub", "-f", str(state / "config.py")]
        process = subprocess.Popen(words, env=env, stdout=log, stderr=log, cwd=state)
    try:
        eventually(lambda: answers(url), 60)
        yield url
    finally:
        process.terminate()
        process.wait(60)


@contextlib.contextmanager
def earlier(state: Path, command: Path) -> Iterator[Person]:
    """Ada on a deployment of another checkout, of which nothing is known but its file and what it prints."""
    state.mkdir(mode=0o700)
    log, home = state / "up.log", state / "home"
    home.mkdir()
    words = [command, "up", "--state", state, "--port", "0", "--people", "ada", "--simulate", "a100-40gb:1"]
    with open(log, "wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output, env={**os.environ, "HOME": str(home)})
    try:
        eventually(lambda: "Ready after" in log.read_text(), 180)
        told = json.loads((state / "deployment.json").read_text())
        yield Person(told["public_url"], "ada", told["password"], SHARE)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def answers(url: str) -> bool:
    with contextlib.suppress(requests.ConnectionError):
        return requests.get(f"{url}hub/health", timeout=5).status_code == 200
    return False


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--starts", type=int, default=20, help="starts of each; default 20")
    options.add_argument("--beside", type=Path, help="the `timeshare` command of another checkout; default: none")
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        folder = Path(place)
        (folder / "peer").mkdir()
        hub = Hub(folder / "ours", command(), "--simulate", "a100-40gb:1")
        hub.start()
        try:
            with peer(folder / "peer") as url:
                people = {
                    "SimpleLocalProcessSpawner": Person(url, "ada", "a-long-password", {}),
                    "timeshare": Person(hub.url, "ada", hub.deployment.password, SHARE),
                }
                if chosen.beside:
                    people["timeshare beside"] = stack.enter_context(earlier(folder / "beside", chosen.beside))
                report(in_turns(people, chosen.starts))
        finally:
            hub.close()


def in_turns(people: dict[str, Person], starts: int) -> dict[str, list[float]]:
    """Start times of each; the first of each warms up and is not counted, and who goes first changes every turn."""
    times: dict[str, list[float]] = {name: [] for name in people}
    for turn in range(starts + 1):
        for name in sorted(people, reverse=bool(turn % 2)):
            seconds = people[name].start()
            people[name].stop()
            if turn:
                times[name].append(seconds)
    return times


def report(times: dict[str, list[float]]) -> None:
    for name, found in times.items():
        middle, mean = statistics.median(found), statistics.mean(found)
        print(f"{name:28} n={len(found)}  median {middle:.2f} s  mean {mean:.2f} s  {min(found):.2f}-{max(found):.2f}")
    ours = times.pop("timeshare")
    for name, theirs in times.items():
        ratios = [kind(ours) / kind(theirs) for kind in (statistics.median, statistics.mean)]
        print(f"timeshare / {name}: {ratios[0]:.3f} (medians), {ratios[1]:.3f} (means)")


if __name__ == "__main__":
    main()
