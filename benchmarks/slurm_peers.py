"""What timeshare on Slurm is measured beside, on the same cluster and as the same account: a plain JupyterHub with
batchspawner's MultiSlurmSpawner, and submitit's Slurm executor.

batchspawner 1.3.0 runs with JupyterHub 6 as released, if its configuration imports it (so the hub gets the address at
which servers tell their ports), names ``batchspawner-singleuser`` by its path, and says where nodes are reached that
have no host names of their own (``daemon_resolver``).
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from start import Person, peer

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from nodes import eventually
from slurm_cluster import Cluster

from timeshare.spawners.base import JUPYTER

USER = "tsalice"
PASSWORD = "a-long-password"
BIN = Path(sys.executable).parent
BATCHSPAWNER = """
import batchspawner
c.JupyterHub.spawner_class = batchspawner.MultiSlurmSpawner
c.JupyterHub.hub_connect_ip = "127.0.0.1"
c.JupyterHub.allow_named_servers = True
c.Spawner.args = []
c.Spawner.environment = {environment}
c.MultiSlurmSpawner.batchspawner_singleuser_cmd = {singleuser!r}
c.MultiSlurmSpawner.daemon_resolver = {nodes}
c.MultiSlurmSpawner.exec_prefix = "runuser -u {{username}} --"  # as timeshare; its default is sudo
c.MultiSlurmSpawner.req_partition = "gpu"
c.MultiSlurmSpawner.req_runtime = "01:00:00"
"""
SUBMITIT = """
import json, sys, time
import submitit
from submitit.helpers import as_completed

def work(n=0):
    print("first", "output", flush=True)
    return n

executor = submitit.AutoExecutor(folder=sys.argv[1], cluster="slurm")
executor.update_parameters(slurm_partition="gpu", slurm_gres=sys.argv[2], timeout_min=10)
for line in sys.stdin:
    began = time.perf_counter()
    {what}
    print(json.dumps(found), flush=True)
"""
ONE = """job = executor.submit(work, 42)
    log = job.paths.stdout
    while not (log.exists() and "first output" in log.read_text()):
        time.sleep(0.01)
    found = {"first": time.perf_counter() - began}
    assert job.result() == 42
    found["result"] = time.perf_counter() - began"""


@contextlib.contextmanager
def batchspawner(folder: Path, cluster: Cluster, more: str = "", path: str = "") -> Iterator[str]:
    """A plain hub with it; yields its address. Its servers load the extensions that timeshare's load. ``more``: at the
    end of its configuration. ``path``: folders of commands."""
    folder.mkdir()
    conf = cluster.env["SLURM_CONF"]
    extensions = dict.fromkeys(("JUPYTER_PATH", "JUPYTER_CONFIG_PATH"), str(JUPYTER))
    config = BATCHSPAWNER.format(
        environment={"SLURM_CONF": conf, "TIMESHARE_RESERVATION_ID": "", **extensions},
        singleuser=str(BIN / "batchspawner-singleuser"),
        nodes={node.name: "127.0.0.1" for node in cluster.nodes},
    )
    try:
        with peer(folder, config + more, SLURM_CONF=conf, PATH=path or os.environ["PATH"]) as url:
            yield url
    finally:
        for log in Path(pwd.getpwnam(USER).pw_dir).glob("jupyterhub_slurmspawner_*.log"):
            log.unlink()


@dataclass(frozen=True)
class Servers:
    """Many of hers, by name, at a hub. ``token``: for its API."""

    url: str
    token: str
    options: dict[str, Any] = field(default_factory=dict)

    def begin_all(self, first: int, end: int) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self.begin, (f"s{number}" for number in range(first, end))))

    def begin(self, name: str) -> None:
        answer = self._ask("POST", f"/servers/{name}", json={"user_options": self.options})
        assert answer.status_code in (201, 202), (answer.status_code, answer.text)

    def wait_ready(self, count: int) -> None:
        eventually(lambda: self.ready() == count, 600)

    def ready(self) -> int:
        return sum(bool(server["ready"]) for server in self._ask("GET", "").json()["servers"].values())

    def _ask(self, method: str, path: str, **more: Any) -> requests.Response:
        headers = {"Authorization": f"token {self.token}"}
        return requests.request(method, f"{self.url}hub/api/users/{USER}{path}", headers=headers, timeout=300, **more)


def servers_of(url: str) -> Servers:
    """At a plain hub."""
    return Servers(url, Person(url, USER, PASSWORD, {}).new_token())


class Submitit:
    """A program of hers that does something (``what``) with submitit each time that it is asked to."""

    def __init__(self, cluster: Cluster, what: str, gres: str, path: str = "") -> None:
        cluster.run("true", user=USER)  # makes her folder
        home = pwd.getpwnam(USER).pw_dir
        env = {**cluster.env, "HOME": home, "USER": USER, "LOGNAME": USER}
        env["PATH"] = f"{path}:{env['PATH']}" if path else env["PATH"]
        program = SUBMITIT.replace("{what}", what)
        words = ["runuser", "-u", USER, "--", sys.executable, "-c", program]
        self._process = subprocess.Popen(
            [*words, str(cluster.work(USER) / f"submitit-{os.urandom(3).hex()}"), gres],
            env=env,
            cwd=cluster.work(USER),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self) -> Any:
        """What it found."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
