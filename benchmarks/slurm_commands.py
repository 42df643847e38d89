"""How often Slurm is asked by timeshare, batchspawner and submitit, and for what: commands are counted by programs of
their names, first in PATH, that note each call and become the real one.

With 1,000 jobs that wait for a GPU: timeshare's sessions (each handed over by itself) and its ``%%gpu_batch`` sweeps,
submitit's single jobs and its arrays, whose results somebody waits for (``as_completed``). Counted are the submission,
and then each minute. batchspawner asks for each server by itself; 1,000 spawners are too many for one small machine, so
it is measured with a few, waiting and running, and what 1,000 would come to is told as an extrapolation. timeshare's
sessions that run are measured with the same number. Servers that run here are tiny: they only answer.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from slurm_peers import USER, Servers, Submitit, batchspawner, servers_of

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from nodes import eventually
from slurm_cluster import Cluster
from slurm_hubs import SlurmAccount, SlurmHub, slurm_hub

COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAM = '#!/bin/sh\necho {name} >> {log}\nexec {real} "$@"\n'
GPU = {"engine": "slurm", "gpus": 1, "model": "p100"}
GRES = "gpu:p100:1"
SWEEP = 250
"""Jobs in one of our sweeps."""
LIMITS = """
stop: {save_grace: 3s, term_grace: 2s}
requests_waiting: 5000
defaults:
  sessions: {at_once: 5000}
  jobs: {at_once: 5000}
"""
SUBMIT = """
from timeshare.notebooks import submit
for n in range({sweeps}):
    submit("x = n", options="--engine slurm --gpus 1 --model p100 --sweep n=0:{size}")
"""
SINGLE = "jobs = [executor.submit(work, n) for n in range({count})]; found = len(jobs)"
ARRAY = "jobs = executor.map_array(work, range({count})); found = len(jobs)"
WAIT = """
    import threading
    threading.Thread(target=lambda: [job.result() for job in as_completed(jobs)], daemon=True).start()"""


class Counted:
    """``folder``: first in the PATH of whose commands are counted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._log = folder, folder / "log"
        folder.mkdir(mode=0o755)
        self._log.touch()
        self._log.chmod(0o666)  # people's own commands are noted too
        for name in COMMANDS:
            program = folder / name
            program.write_text(PROGRAM.format(name=name, log=self._log, real=shutil.which(name, path=PATH)))
            program.chmod(0o755)

    @property
    def path(self) -> str:
        return f"{self.folder}:{PATH}"

    def so_far(self) -> Counter[str]:
        return Counter(self._log.read_text().split())


def text_of(found: Counter[str], minutes: float = 1.0) -> str:
    each = ", ".join(f"{name} {count / minutes:.0f}" for name, count in sorted(found.items()))
    return f"{sum(found.values()) / minutes:8.1f}  ({each or 'none'})"


@dataclass(frozen=True)
class Bench:
    """``seconds``: of each window. ``count``: jobs that wait. ``waiting``, ``running``: servers of batchspawner, one
    scene after the other."""

    cluster: Cluster
    place: Path
    seconds: float
    count: int = 1000
    waiting: tuple[int, ...] = (5, 10, 20)
    running: tuple[int, ...] = (20, 40)

    def counted(self, name: str) -> Counted:
        return Counted(self.cluster.layout.folder / f"counted-{name}")

    def minutes(self, counted: Counted, what: str, times: int = 2) -> float:
        """Prints the rate of each of so many windows; the last one."""
        rate = 0.0
        for number in range(times):
            before = counted.so_far()
            time.sleep(self.seconds)
            found = counted.so_far() - before
            rate = sum(found.values()) * 60 / self.seconds
            window = f"minute {number + 1}" if times > 1 else "a minute"
            print(f"  {what + ', ' + window:48} {text_of(found, self.seconds / 60)}", flush=True)
        return rate

    def occupied(self) -> None:
        """All GPUs that are asked for here are taken."""
        job = self.cluster.submit("sleep 7200", "--gres=gpu:p100:4", "--time=120", user="tsbob")
        self.cluster.wait(job, "RUNNING")

    def wait_jobs(self, count: int) -> None:
        """Until Slurm has so many, tasks of arrays each."""
        eventually(lambda: len(self.cluster.run("squeue", "-h", "-r", "-o", "%i").stdout.split()) == count, 900)


def pairs(counts: Sequence[int]) -> list[tuple[int, int]]:
    """Of each and the one before."""
    return list(zip((0, *counts), counts, strict=False))


# --- timeshare


def ours(bench: Bench, server: Path) -> None:
    counted = bench.counted("timeshare")
    state = bench.place / "commands"
    state.mkdir()
    site = f"c.Spawner.cmd = [{str(server)!r}]\nc.JupyterHub.named_server_limit_per_user = 0\n"
    (state / "jupyterhub_site.py").write_text(site)
    with slurm_hub(state, bench.cluster, {"slurm": {}}, LIMITS, path=counted.path) as hub:
        user = hub.account(USER)
        servers = Servers(hub.url, user.token, {"engine": "slurm", "cpu_only": True})
        for begin, count in pairs(bench.running):
            servers.begin_all(begin, count)
            servers.wait_ready(count)
            bench.minutes(counted, f"timeshare, {count} sessions run", 1)
        end_all(bench, hub)
        bench.occupied()
        before, began = counted.so_far(), time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: user.ask(**GPU), range(bench.count)))
        submitted(bench, counted, f"timeshare, {bench.count} sessions", before, began)
        bench.minutes(counted, f"timeshare, {bench.count} sessions wait")
        end_all(bench, hub)
        bench.occupied()
        before, began = counted.so_far(), time.monotonic()
        sweeps(bench, user)
        submitted(bench, counted, f"timeshare, {bench.count} jobs in {bench.count // SWEEP} sweeps", before, began)
        bench.minutes(counted, f"timeshare, {bench.count} jobs of sweeps wait")
        end_all(bench, hub)


def submitted(bench: Bench, counted: Counted, what: str, before: Counter[str], began: float) -> None:
    """Waits until Slurm has all of them, and one more that takes the GPUs."""
    bench.wait_jobs(bench.count + 1)
    seconds = time.monotonic() - began
    print(f"  {what + f', handed over in {seconds:.0f} s':48} {text_of(counted.so_far() - before)}", flush=True)


def end_all(bench: Bench, hub: SlurmHub) -> None:
    """Without a command of ours: Slurm itself ends them."""
    bench.cluster.clear()
    live = "reservations?state=queued,granted,starting,active,ending"
    eventually(lambda: not hub.service("GET", live).json()["reservations"], 300)


def sweeps(bench: Bench, user: SlurmAccount) -> None:
    """As she does it from a program of hers."""
    bench.cluster.run("true", user=USER)  # makes her folder
    home = f"/home/{USER}"
    env = {
        "PATH": PATH,
        "HOME": home,
        "TIMESHARE_SERVICE_URL": user.hub.deployment.service_url,
        "TIMESHARE_TOKEN": user.token,
        "TIMESHARE_DATA": str(bench.cluster.work(USER) / "data"),
    }
    program = SUBMIT.format(sweeps=bench.count // SWEEP, size=SWEEP)
    subprocess.run(["runuser", "-u", USER, "--", sys.executable, "-c", program], env=env, cwd=home, check=True)


# --- the others


def theirs(bench: Bench, server: Path) -> None:
    counted = bench.counted("batchspawner")
    for scene, counts, gres in (("run", bench.running, ""), ("wait", bench.waiting, GRES)):
        if scene == "wait":
            bench.occupied()
        more = f"c.MultiSlurmSpawner.req_gres = {gres!r}\nc.Spawner.start_timeout = 3600\n"
        if scene == "run":
            more += f"c.Spawner.cmd = [{str(server)!r}]\n"
        rates = []
        with batchspawner(bench.place / scene, bench.cluster, more, counted.path) as url:
            servers = servers_of(url)
            for begin, count in pairs(counts):
                servers.begin_all(begin, count)
                if scene == "run":
                    servers.wait_ready(count)
                else:
                    bench.wait_jobs(count + 1)  # and the one that takes the GPUs
                rates.append(bench.minutes(counted, f"batchspawner, {count} servers {scene}", 1))
        each = [rate / count for rate, count in zip(rates, counts, strict=True)]
        print(f"    a server: {', '.join(f'{one:.1f}' for one in each)} a minute", flush=True)
        print(f"    EXTRAPOLATED, not measured: {bench.count} that {scene}: {bench.count * each[-1]:.0f} a minute")
        bench.cluster.clear()


def submitit(bench: Bench) -> None:
    counted = bench.counted("submitit")
    for name, what in (("single jobs", SINGLE), ("jobs of an array", ARRAY)):
        bench.occupied()
        before, began = counted.so_far(), time.monotonic()
        peer = Submitit(bench.cluster, what.format(count=bench.count) + WAIT, GRES, counted.path)
        peer.ask()
        submitted(bench, counted, f"submitit, {bench.count} {name}", before, began)
        bench.minutes(counted, f"submitit, {bench.count} {name} wait")
        peer.close()
        bench.cluster.clear()


def show(bench: Bench) -> None:
    """All of it."""
    print("Commands of Slurm a minute, by name")
    server = tiny_server(bench.cluster)
    ours(bench, server)
    submitit(bench)
    theirs(bench, server)


def tiny_server(cluster: Cluster) -> Path:
    """As a program that everybody may run."""
    program = cluster.layout.folder / "tiny_server"
    text = (Path(__file__).parent.parent / "tests" / "tiny_server.py").read_text()
    program.write_text(f"#!{sys.executable}\n{text}")
    program.chmod(0o755)
    return program
