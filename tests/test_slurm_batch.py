"""Cells and sweeps as jobs of a real Slurm: a real hub, real accounts, real jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from conftest import FULL_STRESS
from hubs import command
from nodes import eventually
from slurm_cluster import Cluster
from slurm_hubs import SlurmAccount, SlurmHub, slurm_hub

pytestmark = [pytest.mark.hub, pytest.mark.slurm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def hub(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmHub]:
    with slurm_hub(tmp_path_factory.mktemp("slurm"), slurm) as found:
        yield found


@pytest.fixture
def alice(hub: SlurmHub) -> Iterator[SlurmAccount]:
    user = hub.account("tsalice")
    yield user
    for reservation in user.live():
        user.end(reservation)
    eventually(lambda: user.live() == [], 90)


def as_her(user: SlurmAccount, *argv: str) -> str:
    """What a command prints that runs as her in her home, with her token."""
    done = subprocess.run(
        ["runuser", "-u", user.name, "--", *argv],
        env={
            "PATH": os.environ["PATH"],
            "HOME": f"/home/{user.name}",
            "TIMESHARE_SERVICE_URL": user.hub.deployment.service_url,
            "TIMESHARE_TOKEN": user.token,
        },
        cwd=f"/home/{user.name}",
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python(user: SlurmAccount, program: str) -> str:
    """What ``program`` prints, run as her; ``submit`` and ``attach`` are there."""
    head = "from timeshare.notebooks import attach, submit\n"
    return as_her(user, sys.executable, "-c", head + textwrap.dedent(program))


def jobs(user: SlurmAccount) -> list[dict[str, Any]]:
    return [r for r in user.reservations() if r["job"] is not None]


def test_a_cell_runs_on_each_model_and_brings_everything_back(hub: SlurmHub, alice: SlurmAccount) -> None:
    for model in ("a100", "p100"):
        told = python(
            alice,
            f"""
            cell = "import os\\nprint('on', os.environ['SLURMD_NODENAME'])\\ny = 6 * 7"
            job = submit(cell, options="--engine slurm --gpus 1 --model {model}")
            print(job.result(180)["y"], job.tasks[0].text().strip())
            """,
        )
        assert told.strip() == f"42 on {hub.cluster.node(model).name}"


POINTS = 96 if FULL_STRESS else 12
AT_ONCE = 8
BROKEN = (3, 7, 11)
KILLS = 3 if FULL_STRESS else 1
SCAN = """
import os
if n in {broken} and not os.path.exists({fixed!r}):
    raise ValueError("broken")
square = n * n
"""


def tasks_of(hub: SlurmHub, array: str) -> list[tuple[str, int, datetime, datetime]]:
    """Of all tasks that Slurm has accounted for to their end under the name: array, index, start and end."""
    fields = ("--format=JobID,JobName,Start,End", "-S", "now-1days")
    rows = [line.split("|") for line in hub.cluster.run("sacct", "-a", "-X", "-n", "-P", *fields).stdout.splitlines()]
    ended = [row for row in rows if array in row[1] and not {"Unknown", "None"}.intersection(row)]
    found = [(*number.split("_"), begin, end) for number, _, begin, end in ended]
    return [(job, int(n), datetime.fromisoformat(begin), datetime.fromisoformat(end)) for job, n, begin, end in found]


@pytest.mark.stress
@pytest.mark.timeout(1200)
def test_a_sweep_is_one_array_within_its_bound_and_a_rerun_mends_what_failed(
    hub: SlurmHub, alice: SlurmAccount
) -> None:
    fixed = alice.own_path("fixed")
    cell = SCAN.format(broken=BROKEN, fixed=str(fixed))
    options = f"--engine slurm --gpus 1 --sweep n=0:{POINTS} --parallel {AT_ONCE}"
    told = python(alice, f"job = submit({cell!r}, options={options!r})\njob.wait(800)\nprint(job.id, job.state)")
    job_id, state = told.strip().split(maxsplit=1)
    assert state == f"{POINTS - 3} completed, 3 failed"
    rows = as_her(alice, str(command()), "batch", "status", job_id).splitlines()[1:]
    assert [row.split()[:3] for row in rows if " failed " in row] == [[f"{n:03d}", "failed", f"n={n}"] for n in BROKEN]
    (array,) = {r["job"]["array"] for r in jobs(alice) if job_id in r["job"]["folder"]}
    eventually(lambda: len(ended := tasks_of(hub, array)) == POINTS and ended, 60)
    tasks = tasks_of(hub, array)
    assert len({number for number, *_ in tasks}) == 1, "one array, from one sbatch"
    assert sorted(index for _, index, *_ in tasks) == list(range(POINTS))
    assert max(sum(b <= begin < e for *_, b, e in tasks) for *_, begin, _ in tasks) <= AT_ONCE

    fixed.touch()
    as_her(alice, str(command()), "batch", "rerun", job_id, "--failed")
    squares = "print(*(one['square'] for one in job.result(300)))"
    told = python(alice, f"job = attach({job_id!r})\njob.wait(300)\nprint(job.state)\n{squares}")
    assert told.splitlines() == [f"{POINTS} completed", " ".join(str(n * n) for n in range(POINTS))]
    fixed.unlink()


def test_a_cancelled_job_keeps_its_last_words(hub: SlurmHub, alice: SlurmAccount) -> None:
    told = python(
        alice,
        """
        import time
        cell = "import time\\nn = 0\\nwhile True:\\n    print(n, flush=True)\\n    n += 1\\n    time.sleep(.2)"
        job = submit(cell, options="--engine slurm --gpus 1 --model p100")
        while "5\\n" not in job.tasks[0].text():
            time.sleep(.2)
        job.cancel()
        job.wait(120)
        print(job.state, len(job.tasks[0].text().split()) > 5)
        """,
    )
    assert told.strip() == "cancelled True"
    eventually(lambda: str(hub.cluster.run("squeue", "-h").stdout) == "", 60)


def test_a_job_that_slurm_takes_back_waits_and_runs_again(hub: SlurmHub, alice: SlurmAccount) -> None:
    flag = alice.own_path("go-on")
    waits = f"import os, time\nwhile not os.path.exists({str(flag)!r}):\n    time.sleep(.2)\ndone = 1"
    python(alice, f"submit({waits!r}, options='--engine slurm --gpus 1 --model p100')")
    mine = jobs(alice)[0]
    eventually(lambda: alice.get(mine)["state"] == "active", 60)
    hub.cluster.run("scontrol", "requeue", alice.get(mine)["external_job"])
    eventually(lambda: alice.get(mine)["requeues"] == 1, 90)
    eventually(lambda: (alice.get(mine)["state"], alice.get(mine)["generation"]) == ("active", 2), 180)
    flag.touch()
    eventually(lambda: alice.get(mine)["state"] == "ended", 90)
    assert alice.get(mine)["reason"] == "completed"
    flag.unlink()


def test_a_service_that_is_killed_while_it_hands_over_starts_nothing_twice(hub: SlurmHub, alice: SlurmAccount) -> None:
    for _ in range(KILLS):
        python(alice, "submit('import time; time.sleep(3); x = 1', options='--engine slurm --gpus 1 --model p100')")
        hub.kill("service")
        eventually(lambda: hub.is_healthy() and hub.is_seen(), 60)  # until Slurm has answered, nothing is handed over
    eventually(lambda: all(r["state"] == "ended" for r in jobs(alice)[:KILLS]), 300)
    found = jobs(alice)[:KILLS]
    assert [r["reason"] for r in found] == ["completed"] * KILLS
    for reservation in found:
        assert hub.cluster.accounted(reservation["external_job"], "State") == ["COMPLETED"]

    def accounted() -> list[str]:
        words = ("sacct", "-X", "-n", "-P", "--format=JobName,State", "-S", "now-10minutes")
        told = str(hub.cluster.run(*words).stdout).splitlines()
        return [line for line in told if any(r["job"]["array"] in line for r in found)]

    # slurmdbd may answer with nothing while it takes in what others ended.
    mine = eventually(lambda: len(told := accounted()) >= KILLS and told, 60)
    assert len(mine) == KILLS, mine
    assert all(line.endswith("COMPLETED") for line in mine), mine


def test_a_job_that_began_and_ended_unseen_is_charged_for_when_it_ran(hub: SlurmHub, alice: SlurmAccount) -> None:
    taken = hub.cluster.submit("sleep 600", f"--nodelist={hub.cluster.node('p100').name}", "--exclusive", user="tsbob")
    hub.cluster.wait(taken, "RUNNING")
    python(alice, "submit('import time; time.sleep(5)', options='--engine slurm --gpus 1 --model p100')")
    new = jobs(alice)[0]
    mine = eventually(lambda: (told := alice.get(new))["external_job"] and told, 60)
    pid = hub.components()["service"]
    os.kill(pid, signal.SIGSTOP)
    try:
        hub.cluster.run("scancel", taken)
        hub.cluster.wait(mine["external_job"], "COMPLETED", seconds=120)
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(hub.is_healthy, 60)
    eventually(lambda: alice.get(mine)["state"] == "ended", 60)
    told = alice.get(mine)
    assert (told["reason"], told["generation"]) == ("completed", 1)
    (elapsed,) = hub.cluster.accounted(mine["external_job"], "ElapsedRaw")
    held = (datetime.fromisoformat(told["ended_at"]) - datetime.fromisoformat(told["granted_at"])).total_seconds()
    assert held == pytest.approx(float(elapsed), abs=1)
