"""Cells that run as several processes on the nodes of a real Slurm."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes import eventually
from slurm_cluster import Cluster
from works import Work
from works_slurm import USER, Launch, ended, launching

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]


@pytest.fixture
def launch(slurm: Cluster) -> Iterator[Launch]:
    with launching(slurm) as launched:
        yield launched


def test_every_gpu_of_every_node_has_a_rank_with_all_gpus_of_its_node(slurm: Cluster, launch: Launch) -> None:
    cell = """
import os
names = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "CUDA_VISIBLE_DEVICES")
print(*(os.environ[name] for name in names), os.environ["SLURMD_NODENAME"], os.environ["MASTER_ADDR"])
for step in range(3):
    print("step", step, x)
"""
    work, job = launch(cell, "x = 5", "x")
    told = ended(slurm, work, job, "COMPLETED")
    first, *rest = work.text().splitlines()
    assert rest == ["step 0 5", "step 1 5", "step 2 5"]
    nodes = set()
    for rank in range(4):
        *numbers, devices, node, address = work.text(rank).splitlines()[0].split()
        assert numbers == [str(n) for n in (rank, rank % 2, rank // 2, 4, 2)]
        assert devices == "0,1"
        assert address == "127.0.0.1", "what Slurm has for a node whose name nobody knows"
        nodes.add((rank // 2, node))
    assert len(nodes) == 2, nodes
    assert first.split()[-2] == told["BatchHost"]


def test_a_rank_on_another_node_that_fails_is_named_with_its_node(slurm: Cluster, launch: Launch) -> None:
    go = slurm.work(USER) / f"go-{secrets.token_hex(4)}"
    cell = "import os, time\nprint('began', flush=True)\n"
    cell += f"while os.environ['RANK'] != '3' or not os.path.exists({str(go)!r}):\n    time.sleep(.1)\n"
    work, job = launch(cell + "raise ValueError('on purpose')")
    eventually(lambda: all(work.text(rank) == "began\n" for rank in range(4)), 90)
    go.touch()  # before all had begun, those that had not would be ended without a word
    assert ended(slurm, work, job, "FAILED")["ExitCode"] == "1:0"
    assert work.status()["state"] == "failed"
    second = slurm.node("v100").name
    assert work.status()["why"] == f"rank 3 on {second}: ValueError: on purpose"
    assert work.errors() == ["ValueError: on purpose"]
    assert [work.text(rank).splitlines()[0] for rank in range(4)] == ["began"] * 4
    assert work.errors(1) == work.errors(2) == ["KeyboardInterrupt: "]
    go.unlink()


def test_a_cancelled_job_ends_all_ranks_with_their_last_outputs(slurm: Cluster, launch: Launch) -> None:
    cell = "import time\nstep = 0\ntry:\n    while True:\n        step += 1\n        print(step, flush=True)\n"
    cell += "        time.sleep(.1)\nfinally:\n    print('last words', flush=True)"
    work, job = launch(cell)
    eventually(lambda: all("3\n" in work.text(rank) for rank in range(4)), 90)
    slurm.run("scancel", "--signal=INT", "-b", job, user=USER)
    ended(slurm, work, job, "FAILED")
    assert (work.status()["state"], work.status()["why"]) == ("stopped", "KeyboardInterrupt")
    assert all("last words" in work.text(rank) for rank in range(4))
    assert work.results()[0]["step"] >= 3
    eventually(lambda: left_of(work) == [], 60)


def test_a_runner_that_is_killed_leaves_nothing_on_any_node(slurm: Cluster, launch: Launch) -> None:
    work, job = launch("import time\nprint('here', flush=True)\ntime.sleep(600)")
    eventually(lambda: all("here" in work.text(rank) for rank in range(4)), 90)
    slurm.run("scancel", "--signal=KILL", "-b", job)
    slurm.wait(job, "FAILED", "CANCELLED", seconds=60)
    eventually(lambda: left_of(work) == [], 60)


def test_a_rank_process_that_is_killed_is_told_in_the_words_of_srun(slurm: Cluster, launch: Launch) -> None:
    work, job = launch("import os, time\nprint(os.getppid(), flush=True)\ntime.sleep(600)")
    eventually(lambda: all(work.text(rank) for rank in range(4)), 90)
    os.kill(int(work.text(2)), 9)
    ended(slurm, work, job, "FAILED")
    assert work.status()["state"] == "crashed"
    assert "it is gone without a word; srun says:" in work.status()["why"]
    assert "task 2: Killed" in work.status()["why"]


def left_of(work: Work) -> list[str]:
    """Command lines that name its folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(work.folder.path).encode() in path.read_bytes():
                found.append(path.read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found
