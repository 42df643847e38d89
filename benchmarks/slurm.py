"""timeshare on Slurm beside batchspawner, sbatch and submitit, on a real cluster of this machine (as root).

    python benchmarks/slurm.py [--starts 8] [--jobs 8] [--seconds 60] [--many 1000] [--only start,output,commands]

Four virtual nodes with simulated GPUs, one account, the same partition and GPU for all; everything takes turns, so that
whatever else happens on the machine happens to all.

*start*: from the request to a server that answers through the proxy: timeshare, and a plain JupyterHub with
batchspawner (as it is configured: ``slurm_peers.py``). Both run the same ``jupyterhub-singleuser`` with the same
extensions, and both submit by ``runuser``. What differs is theirs: batchspawner runs it by ``srun`` in a login
environment, timeshare below its job agent.

*output*: from handing a cell over in the notebook of a session (``%%gpu_batch``) to its first printed line in that
notebook, beside ``sbatch`` of a Python script to the first line in its output file, and submitit's executor to the same
and to the result.

*commands*: how often Slurm is asked, and for what: see ``slurm_commands.py``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import requests
import slurm_commands
import websocket
from batch import promise
from slurm_commands import Bench
from slurm_peers import ONE, PASSWORD, USER, Submitit, batchspawner
from start import Person

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from nodes import eventually
from slurm_cluster import Cluster, folder_for_tests, obstacle
from slurm_hubs import SlurmHub, password_of, slurm_hub

from timeshare.reservations.engines.pace import LEAST_S, LONGEST_S

GRES = "gpu:p100:1"
SHARE = {"engine": "slurm", "gpus": 1, "model": "p100"}
MOST_RATIO = 1.05
MOST_LATER_S = 1.5
CELL = "%%gpu_batch --engine slurm --gpus 1 --model p100\nprint('first', 'output', flush=True)"
SCRIPT = f"exec {sys.executable} -c \"print('first', 'output', flush=True)\""
FIRST = "first output"
Way = Callable[[], float]


def in_turns(ways: dict[str, Way], turns: int, rest: Callable[[], None]) -> dict[str, list[float]]:
    """Seconds of each; the first of each warms up and is not counted, and who goes first changes every turn. ``rest``
    is called between two."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            seconds = ways[name]()
            rest()
            if turn:
                times[name].append(seconds)
    return times


def show(times: dict[str, list[float]]) -> dict[str, float]:
    """Prints, and returns the medians."""
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, found in times.items():
        print(f"  {name:28} n={len(found)}  median {medians[name]:.2f} s  {min(found):.2f}-{max(found):.2f} s")
    return medians


# --- starts


class Starting(Person):
    """``start`` ends when her server answers through the proxy."""

    def start(self) -> float:
        began = time.perf_counter()
        answer = self._api("POST", "/server", json={"user_options": self.options})
        assert answer.status_code in (201, 202), (answer.status_code, answer.text)
        eventually(self._answers, 120)
        return time.perf_counter() - began

    def _answers(self) -> bool:
        answer = requests.get(f"{self.url}user/{self.name}/api", timeout=10, allow_redirects=False)
        return answer.status_code == 200 and "version" in answer.json()


def starts(hub: SlurmHub, peer_url: str, count: int) -> list[bool]:
    people = {
        "batchspawner": Starting(peer_url, USER, PASSWORD, {}),
        "timeshare": Starting(hub.url, USER, password_of(USER), SHARE),
    }
    print(f"From the request to a server that answers through the proxy, n={count} each, in turns", flush=True)
    print("  batchspawner asks for its job every 0.5 s (startup_poll_interval) and the hub every 30 s (poll_interval),")
    print(f"  timeshare's service every {LEAST_S:g} to {LONGEST_S:g} s for all jobs; job agents tell it what they do")
    ways: dict[str, Way] = {name: person.start for name, person in people.items()}

    def rest() -> None:
        for person in people.values():
            person.stop()
        eventually(lambda: not hub.cluster.run("squeue", "-h").stdout, 60)

    medians = show(in_turns(ways, count, rest))
    ratio = medians["timeshare"] / medians["batchspawner"]
    return [promise(f"timeshare / batchspawner {ratio:.3f}, at most {MOST_RATIO}", ratio <= MOST_RATIO)]


# --- first output


class Cells:
    """A kernel of a running session, as a notebook's page speaks to it."""

    def __init__(self, hub: SlurmHub) -> None:
        user = hub.account(USER)
        assert user.start(gpus=1, model="t4").ok
        eventually(user.is_ready, 120)
        self._stop = user.stop
        base, headers = f"{hub.url}user/{USER}/", {"Authorization": f"token {user.token}"}
        kernel = requests.post(f"{base}api/kernels", headers=headers, json={}, timeout=60).json()["id"]
        address = f"{base.replace('http', 'ws', 1)}api/kernels/{kernel}/channels"
        self._channel = websocket.create_connection(address, header=[f"Authorization: token {user.token}"], timeout=120)
        # Not among her own files, whatever lies there.
        self._send(f"import os; os.environ['TIMESHARE_DATA'] = {str(hub.cluster.work(USER) / 'data')!r}")

    def first_line(self) -> float:
        """Seconds until ``CELL`` shows its first line; returns when it has ended."""
        sent, began, seconds = self._send(CELL), time.perf_counter(), 0.0
        while True:
            message = json.loads(self._channel.recv())
            content = message.get("content", {})
            if message.get("parent_header", {}).get("msg_id") != sent:
                continue
            assert message["msg_type"] != "error", content
            if message["msg_type"] == "stream" and FIRST in content["text"]:
                seconds = time.perf_counter() - began
            if content.get("data", {}).get("text/plain", "").startswith("■"):
                assert seconds, content
                return seconds

    def _send(self, code: str) -> str:
        sent = uuid.uuid4().hex
        message = {
            "header": {
                "msg_id": sent,
                "msg_type": "execute_request",
                "username": "",
                "session": sent,
                "version": "5.3",
            },
            "parent_header": {},
            "metadata": {},
            "content": {"code": code, "silent": False, "store_history": True, "user_expressions": {}},
            "channel": "shell",
        }
        self._channel.send(json.dumps(message))
        return sent

    def close(self) -> None:
        self._channel.close()
        self._stop()


def sbatch(cluster: Cluster) -> float:
    began = time.perf_counter()
    job = cluster.submit(SCRIPT, "--partition=gpu", f"--gres={GRES}", "--time=10", user=USER)
    path = cluster.work(USER) / f"slurm-{job}.out"
    while not (path.exists() and FIRST in path.read_text()):
        time.sleep(0.01)
    return time.perf_counter() - began


def outputs(hub: SlurmHub, count: int) -> list[bool]:
    with ExitStack() as stack:
        cells, peer = Cells(hub), Submitit(hub.cluster, ONE, GRES)
        stack.callback(cells.close)
        stack.callback(peer.close)
        results: list[float] = []

        def submitit() -> float:
            found = peer.ask()
            results.append(found["result"])
            return float(found["first"])

        print(f"From handing over to the first line of output, n={count} each, in turns", flush=True)
        ways: dict[str, Way] = {
            "sbatch of a Python script": lambda: sbatch(hub.cluster),
            "submitit, its log": submitit,
            "timeshare, the notebook": cells.first_line,
        }
        times = in_turns(ways, count, lambda: eventually(lambda: not hub.cluster.run("squeue", "-h").stdout, 60))
    medians = show({**times, "submitit, the result": results[1:]})
    later = medians["timeshare, the notebook"] - medians["sbatch of a Python script"]
    return [promise(f"{later:.2f} s after a bare sbatch, at most {MOST_LATER_S} s", later <= MOST_LATER_S)]


# --- all


def main(argv: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--starts", type=int, default=8, help="starts of each; default 8")
    options.add_argument("--jobs", type=int, default=8, help="jobs of each to their first output; default 8")
    options.add_argument("--seconds", type=float, default=60, help="for which commands are counted; default 60")
    options.add_argument("--many", type=int, default=1000, help="jobs that wait meanwhile; default 1000")
    options.add_argument("--only", default="start,output,commands", help="parts, with commas between; default all")
    given = options.parse_args(argv)
    if reason := obstacle():
        sys.exit(f"no Slurm can be started here: {reason}")
    parts = given.only.split(",")
    kept: list[bool] = []
    with ExitStack() as stack:
        cluster = Cluster.start(stack.enter_context(folder_for_tests()))
        stack.callback(cluster.stop)
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (place / "ours").mkdir()
        with slurm_hub(place / "ours", cluster, {"slurm": {}}) as hub:
            if "start" in parts:
                more = f"c.MultiSlurmSpawner.req_gres = {GRES!r}\n"
                with batchspawner(place / "batchspawner", cluster, more) as url:
                    kept += starts(hub, url, given.starts)
            if "output" in parts:
                kept += outputs(hub, given.jobs)
        if "commands" in parts:
            slurm_commands.show(Bench(cluster, place, given.seconds, given.many))
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
