"""A whole deployment for several accounts, seen by one of them that wants in: its ports, sockets and tokens, while its
parts are killed and started again."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from accounts import Machine
from conftest import FULL_STRESS
from hubs import command
from nodes import eventually

from timeshare.notebooks.transport import ask
from timeshare.reservations.agent.client import AgentClient, AgentUnreachable

pytestmark = [
    pytest.mark.hub,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a deployment for several accounts, and one that attacks"),
]
NOBODY = pwd.getpwnam("nobody").pw_uid
KILLS = 50 if FULL_STRESS else 3
SECONDS = 600 if FULL_STRESS else 0
COMPONENTS = ("proxy", "hub", "service", "agent", "culler", "starter")
PLANTED = ("tornado", "jupyterhub", "sitecustomize", "usercustomize", "runpy", "json", "sqlalchemy", "timeshare")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of another account with modules by the names of those that timeshare imports."""
    folder = tmp_path_factory.mktemp("hostile")
    for name in PLANTED:
        (folder / f"{name}.py").write_text(f"open({str(folder / 'imported')!r}, 'a').write({name!r} + chr(10))\n")
    (folder / "jupyterhub_config.py").write_text(f"open({str(folder / 'imported')!r}, 'a').write('config')\n")
    for path in [folder, *folder.iterdir()]:
        os.chown(path, NOBODY, -1)
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, hostile: Path) -> Iterator[Machine]:
    """Started by root in that folder."""
    made = Machine(tmp_path_factory.mktemp("held"), command(), "--simulate", "a100-40gb:1")
    made.cwd = hostile
    try:
        made.start()
        yield made
    finally:
        made.close()


def test_nothing_is_imported_from_the_folder_in_which_root_starts_it(hub: Machine, hostile: Path) -> None:
    assert set(hub.components()) == set(COMPONENTS)
    assert not (hostile / "imported").exists(), (hostile / "imported").read_text()
    assert {os.readlink(f"/proc/{pid}/cwd") for pid in hub.components().values()} == {"/"}


def listened_to(pid: int) -> set[tuple[str, int]]:
    """Address and port of every TCP socket on which a process listens."""
    own = {os.readlink(place) for place in Path(f"/proc/{pid}/fd").iterdir() if place.exists() or place.is_symlink()}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return {
        (row[1].split(":")[0], int(row[1].split(":")[1], 16))
        for row in rows
        if row[3] == "0A" and f"socket:[{row[9]}]" in own
    }


def test_it_listens_on_no_port_but_the_public_one(hub: Machine) -> None:
    assert hub.process is not None
    found = {name: listened_to(pid) for name, pid in {**hub.components(), "up": hub.process.pid}.items()}
    public = {("0100007F", urlsplit(hub.url).port)}
    assert found == {**{name: set() for name in COMPONENTS}, "proxy": public, "up": public}


def test_who_can_log_in_is_warned_of_a_port_that_anybody_can_take(hub: Machine) -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    assert f"can listen on port {urlsplit(hub.url).port} and collect the passwords" in hub.said(), first


@dataclass
class Asker:
    """Asks the same again and again. ``again``: how often an answer took a second try; ``failed``: even that failed."""

    name: str
    question: Callable[[], bool]
    asked: int = 0
    again: int = 0
    failed: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(0.02):
            began = time.monotonic()
            self.asked += 1
            if self._said():
                self.again += 1
                if why := self._said():
                    self.failed.append(why)
            self.slowest = max(self.slowest, time.monotonic() - began)

    def _said(self) -> str:
        try:
            return "" if self.question() else "a wrong answer"
        except (OSError, ValueError, requests.RequestException, AgentUnreachable) as error:
            return repr(error)


def askers(hub: Machine) -> list[Asker]:
    told = hub.deployment
    token = {"Authorization": f"Bearer {told.admin_token}"}
    agent = AgentClient(Path(told.agent_socket))
    by_socket = f"{told.service_url}/api/v1/devices"

    def by_the_public_port(path: str) -> Callable[[], bool]:
        return lambda: requests.get(f"{hub.url}{path}", headers=token, timeout=120).status_code == 200

    return [
        Asker("hub, by the public port", by_the_public_port("hub/health")),
        Asker("service, by the public port", by_the_public_port("services/timeshare/api/v1/devices")),
        Asker("service, by its socket", lambda: "devices" in ask(by_socket, "GET", token, None, 120)),
        Asker("hub, by its socket", lambda: "version" in ask(f"{told.hub_api_url}/", "GET", {}, None, 120)),
        Asker("agent", lambda: bool(asyncio.run(agent.call("hello")))),
    ]


@contextmanager
def asking(hub: Machine) -> Iterator[list[Asker]]:
    """People's requests, in threads of their own."""
    found, stop = askers(hub), threading.Event()
    threads = [threading.Thread(target=asker.run, args=(stop,)) for asker in found]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextmanager
def attacked(hub: Machine, seen: list[str]) -> Iterator[None]:
    """Another account tries all that it can with the deployment's sockets; what succeeded is in ``seen`` afterwards."""
    public = urlsplit(hub.url)
    script = Path(__file__).with_name("socket_attack.py").read_text()
    where = [hub.deployment.run_dir, str(public.hostname), str(public.port)]
    words = ["/usr/bin/python3", "-I", "-c", script, *where]
    attacker = subprocess.Popen(words, user=NOBODY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")
    try:
        yield
    finally:
        seen += attacker.communicate("")[0].splitlines()


@pytest.mark.stress
def test_while_components_die_nobody_else_is_spoken_to_and_nobodys_request_fails(
    hub: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    eventually(hub.is_healthy, 60)
    seen: list[str] = []
    began, kills = time.monotonic(), 0
    with ExitStack() as stack:
        found = stack.enter_context(asking(hub))
        stack.enter_context(attacked(hub, seen))
        while kills < KILLS * len(COMPONENTS) or time.monotonic() - began < SECONDS:
            hub.kill(COMPONENTS[kills % len(COMPONENTS)])
            eventually(hub.is_healthy, 120)
            kills += 1
    with capsys.disabled():
        print(f"\n{kills} kills in {time.monotonic() - began:.0f} s; the other account: {seen}")
        for asker in found:
            print(f"{asker.name}: {asker.asked} asked, {asker.again} twice, slowest {asker.slowest:.1f} s")
    assert {asker.name: asker.failed for asker in found} == {asker.name: [] for asker in found}
    assert seen[:-1] == ["reached hub", "reached service"]
    assert int(seen[-1].split()[0]) > kills, "the other account hardly got to try"


def answers(hub: Machine, url: str, token: str) -> int:
    """The status for a token, asked over the sockets."""
    try:
        ask(url, "GET", {"Authorization": f"token {token}"}, None, 30)
    except OSError as error:
        return int(getattr(error, "code", 0))
    return 200


def places(hub: Machine) -> dict[str, str]:
    """Where each token of the deployment is good for something."""
    told = hub.deployment
    return {
        "admin_token": f"{told.service_url}/api/v1/devices",
        "culler_token": f"{told.service_url}/api/v1/activity",
        "service_token": f"{told.hub_api_url}/user",
        "starter_token": f"{told.hub_api_url}/user",
        "proxy_token": f"{told.proxy_api_url}/api/routes",
    }


def test_tokens_of_an_earlier_start_are_refused(hub: Machine) -> None:
    before = {name: getattr(hub.deployment, name) for name in places(hub)}
    assert {answers(hub, url, before[name]) for name, url in places(hub).items()} == {200}
    hub.end(signal.SIGTERM)
    hub.start()
    after = {name: getattr(hub.deployment, name) for name in places(hub)}
    assert {answers(hub, url, after[name]) for name, url in places(hub).items()} == {200}
    refused = {name: answers(hub, url, before[name]) for name, url in places(hub).items()}
    assert refused == {
        "admin_token": 401,
        "culler_token": 401,
        "service_token": 403,
        "starter_token": 403,
        "proxy_token": 403,
    }


def test_a_proxy_that_is_started_again_knows_its_routes_at_once(hub: Machine) -> None:
    """They were lost until the hub was asked for them: everybody's requests met 404 meanwhile."""
    eventually(hub.is_healthy, 60)
    hub.kill("proxy")
    assert requests.get(f"{hub.url}hub/health", timeout=60).status_code == 200
    headers = {"Authorization": f"token {hub.deployment.proxy_token}"}
    assert set(ask(f"{hub.deployment.proxy_api_url}/api/routes", "GET", headers)) == {"/", "/services/timeshare"}
    kept = Path(hub.deployment.state_dir) / "proxy" / "routes.json"
    assert set(json.loads(kept.read_text())) == {"/", "/services/timeshare"}


def test_after_a_killed_up_the_next_one_holds_the_same_port_and_sockets(hub: Machine) -> None:
    url, pids = hub.url, set(hub.components().values())
    assert hub.process is not None
    hub.process.kill()
    hub.process.wait()
    assert set(hub.components().values()) == pids, "nobody's work ends with it"
    assert requests.get(f"{url}hub/health", timeout=60).status_code == 200
    hub.port = urlsplit(url).port or 0
    hub.start()
    assert "Ended what an earlier run left behind: agent, culler, hub, proxy, service, starter" in hub.said()
    assert hub.url == url
    assert not pids & set(hub.components().values())
