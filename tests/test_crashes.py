"""The crash harness: hub, service and agent are killed with SIGKILL at random moments while sessions start, wait, run
and end; after every kill the books are audited against what really runs.

What must hold: no device is granted twice, no process or holding leaks past a reconcile, no live session is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import FULL_STRESS
from hubs import PEOPLE, Hub, User, running_hub
from nodes import all_marked, eventually, marked
from plain_jobs import job_body

from timeshare.reservations.agent.client import AgentClient, AgentError, AgentUnreachable

pytestmark = [pytest.mark.stress, pytest.mark.hub, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("KILLS", "500" if FULL_STRESS else "12"))
RESERVATIONS = 500 if FULL_STRESS else 100
VICTIMS = ("hub", "service", "agent")
SETTLE_S = 15.0
LIMITS = (
    "{defaults: {sessions: {at_once: 600}}, start_within: 12h, requests_waiting: 5000, "
    "stop: {save_grace: 1s, term_grace: 1s}}"
)
SEED = int(os.environ.get("SEED", "20261123"))


class Chaos:
    """People who start, queue and stop sessions all the time, in threads of their own."""

    def __init__(self, hub: Hub, rng: random.Random) -> None:
        self.hub, self.rng = hub, rng
        self.stopping: set[str] = set()
        """Reservations that somebody asked to end: they may be gone."""
        self._pool = ThreadPoolExecutor(8)
        self._users: dict[str, User] = {}

    def user(self, name: str) -> User:
        if name not in self._users:
            self._users[name] = self.hub.login(name)
        return self._users[name]

    def act(self) -> None:
        """One random deed. Refusals and broken connections are part of life during crashes."""
        name, server = self.rng.choice(PEOPLE), f"s{self.rng.randrange(3)}"
        deed = self.rng.choice(["start", "start", "queue", "stop"])
        self._pool.submit(self._do, deed, name, server)

    def _do(self, deed: str, name: str, server: str) -> None:
        with contextlib.suppress(requests.RequestException, AssertionError, StopIteration, KeyError, ValueError):
            if deed == "start":
                self.user(name).start(server, memory_gib=2, time_limit_s=3600)
            elif deed == "queue":
                wish = {"share": {"gpus": 1, "model": "t4"}, "owner": name, "server_name": server}
                self.hub.service("POST", "reservations", json=wish)
            else:
                mine = [r for r in self.hub.everybodys() if (r["owner"], r["server_name"]) == (name, server)]
                for reservation in mine:
                    if reservation["state"] != "ended":
                        self.stopping.add(reservation["id"])
                        self.hub.service("POST", f"reservations/{reservation['id']}/end", json={})

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class Books:
    """The ledger's file, read from outside."""

    def __init__(self, hub: Hub) -> None:
        self.path = hub.state_dir / "ledger.sqlite"

    def read(self, query: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=20)) as connection:
            return connection.execute(query).fetchall()

    def states(self) -> dict[str, tuple[str, int]]:
        return {row[0]: (row[1], row[2]) for row in self.read("select id, state, generation from reservations")}

    def active(self) -> set[str]:
        return {row[0] for row in self.read("select id from reservations where state = 'active'")}

    def double_grants(self, sizes: dict[str, int]) -> list[str]:
        found = []
        query = "select device_uuid, sum(memory_mib), count(*), max(whole) from holdings group by device_uuid"
        for device, memory, holders, whole in self.read(query):
            if memory > sizes[device] or (whole and holders > 1):
                found.append(f"{device}: {memory} MiB of {sizes[device]} by {holders}")
        return found

    def leaked_holdings(self) -> list[str]:
        query = (
            "select h.reservation_id from holdings h join reservations r on r.id = h.reservation_id "
            "where r.state in ('queued', 'ended')"
        )
        return [row[0] for row in self.read(query)]


def processes() -> dict[str, set[int]]:
    """Living processes by reservation."""
    return {name: set(pids) for name, pids in all_marked().items()}


def leaks(books: Books, ours: set[str]) -> list[str]:
    """Processes of reservations that have ended or never began, and reservations that run and have no process."""
    running, states = processes(), books.states()
    strays = [
        f"{name} is {states[name][0]} and runs"
        for name in running
        if name in states and name in ours and states[name][0] in ("queued", "granted", "ended")
    ]
    ghosts = [
        f"{name} is active and has no process"
        for name, (state, _) in states.items()
        if state == "active" and name not in running
    ]
    return strays + ghosts


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    (tmp_path / "limits.yaml").write_text(LIMITS)
    server = Path(__file__).with_name("tiny_server.py")
    (tmp_path / "jupyterhub_site.py").write_text(
        f"c.Spawner.cmd = [{sys.executable!r}, {str(server)!r}]\nc.Spawner.args = []\n"
        "c.JupyterHub.named_server_limit_per_user = 0\nc.JupyterHub.concurrent_spawn_limit = 0\n"
    )
    options = ("--simulate", "a100-80gb:64,t4:2", "--limits", str(tmp_path / "limits.yaml"))
    with running_hub(tmp_path, *options) as found:
        yield found


def kill(hub: Hub, component: str) -> bool:
    pid = hub.components().get(component)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    return pid is not None


def answers(hub: Hub) -> bool:
    """Hub, service and agent all answer."""
    try:
        asyncio.run(AgentClient(Path(hub.deployment.agent_socket)).call("hello"))
    except (AgentUnreachable, AgentError):
        return False
    return hub.is_healthy()


def wait_until_healthy(hub: Hub) -> float:
    began = time.monotonic()
    while not answers(hub):
        assert time.monotonic() - began < 60, hub.logs()
        time.sleep(0.05)
    return time.monotonic() - began


def fill(hub: Hub) -> None:
    """Sweeps of which one point runs and the others stay: the ledger is not small."""
    for number in range(RESERVATIONS // 100):
        body = job_body(hub.state_dir, f"filler{number}", {"memory_gib": 4, "model": "a100-80gb"}, tasks=100)
        assert hub.service("POST", "jobs", json={**body, "max_parallel": 1}).status_code == 201


def test_no_kill_grants_twice_leaks_or_loses_a_session(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(SEED)
    books, chaos = Books(hub), Chaos(hub, rng)
    devices = hub.service("GET", "devices").json()["devices"]
    sizes = {device["uuid"]: device["memory_mib"] for device in devices}
    fill(hub)
    recoveries: dict[str, list[float]] = {}
    lost, double, leaked, second_kills = [], [], [], 0
    try:
        for number in range(KILLS):
            for _ in range(rng.randrange(1, 4)):
                chaos.act()
            time.sleep(rng.random() * 0.8)
            before, pids = books.active(), processes()
            victim = rng.choice(VICTIMS)
            eventually(lambda victim=victim: kill(hub, victim), 30)  # type: ignore[misc]
            if rng.random() < 0.1:
                time.sleep(rng.random() * 1.5)
                second_kills += kill(hub, rng.choice(VICTIMS))
            recoveries.setdefault(victim, []).append(wait_until_healthy(hub))
            states, still = books.states(), processes()  # before it is asked who was stopped meanwhile
            double += books.double_grants(sizes)
            leaked += books.leaked_holdings()
            for name in before - chaos.stopping:
                alive = pids.get(name, set()) & still.get(name, set())
                if states[name][0] != "active" or not alive:
                    lost.append(f"kill {number}: {name} is {states[name]}")
            if number % 10 == 9 or number == KILLS - 1:
                leaked += settled_leaks(books)
            if FULL_STRESS and number % 50 == 49:
                with capsys.disabled():
                    print(f"\n{number + 1} kills, {len(books.active())} sessions run, {len(lost)} lost", flush=True)
    finally:
        chaos.close()
    with capsys.disabled():
        print(
            f"\n{KILLS} kills and {second_kills} during recovery, {len(states)} reservations: "
            f"{len(double)} double grants, {len(leaked)} leaks, {len(lost)} sessions lost"
        )
        for victim, seconds in [("all", list(chain(*recoveries.values()))), *recoveries.items()]:
            print(f"serving again after a kill of {victim}: {summary(seconds)}")
    assert (double, leaked, lost) == ([], [], [])
    assert len(states) > RESERVATIONS + KILLS // 4, "hardly any session was started"


def summary(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    late = ordered[int(0.95 * len(ordered))]
    return f"median {statistics.median(ordered):.2f} s, 95 % within {late:.2f} s, at most {ordered[-1]:.2f} s"


def settled_leaks(books: Books) -> list[str]:
    """What is still wrong when the reconcile had its time."""
    until = time.monotonic() + SETTLE_S
    while time.monotonic() < until:
        ours = set(books.states())
        found = leaks(books, ours)
        if not found:
            return []
        threading.Event().wait(0.5)
    return found


def test_marked_processes_are_seen(hub: Hub) -> None:
    """The audit itself can fail: a session that runs is seen by it."""
    ada = hub.login("ada")
    ada.start("s1", memory_gib=2)
    (mine,) = [r for r in ada.reservations() if r["state"] != "ended"]
    assert marked(mine["id"])
    assert mine["id"] in processes()
