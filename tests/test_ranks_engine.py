"""Cells of several nodes from a person's terminal: a real hub, its service, a real Slurm, and back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from nodes import eventually
from slurm_cluster import Cluster
from slurm_hubs import SlurmHub, slurm_hub

pytestmark = [pytest.mark.hub, pytest.mark.slurm, pytest.mark.timeout(300)]

USER = "tsalice"
TWO_NODES = ("--engine", "slurm", "--nodes", "2", "--gpus", "1", "--launch", "torchrun", "--time", "10m")


@pytest.fixture(scope="module")
def hub(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmHub]:
    with slurm_hub(tmp_path_factory.mktemp("ranks"), slurm) as found:
        yield found


class Terminal:
    """Of a person who is logged in at the cluster."""

    def __init__(self, hub: SlurmHub) -> None:
        self._cluster = hub.cluster
        variables = {
            "TIMESHARE_SERVICE_URL": hub.deployment.service_url,
            "TIMESHARE_TOKEN": hub.account(USER).token,
            "TIMESHARE_DATA": str(hub.cluster.work(USER) / "data"),
        }
        self._env = [f"{name}={value}" for name, value in variables.items()]
        self._program = [sys.executable, "-c", "import sys; from timeshare.notebooks.batch.terminal import main; "]
        self._program[-1] += "sys.exit(main(sys.argv[1:]))"

    def batch(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self._cluster.run("env", *self._env, *self._program, *words, user=USER, check=False)

    def write(self, name: str, cell: str) -> str:
        self._cluster.run("tee", name, user=USER, input=cell)
        return name


@pytest.fixture
def terminal(hub: SlurmHub) -> Terminal:
    return Terminal(hub)


def test_a_cell_runs_on_two_nodes_of_slurm_and_says_where(hub: SlurmHub, terminal: Terminal) -> None:
    cell = "import os\nprint('rank', os.environ['RANK'], os.environ['SLURMD_NODENAME'])\nbest = 7"
    file = terminal.write("cell.py", cell)
    offered = terminal.batch("submit", file, *TWO_NODES, "--dry-run")
    assert "1 GPU on each of 2 nodes as 2 processes at Slurm, partition gpu for 10 min: starts now" in offered.stdout, (
        offered
    )
    done = terminal.batch("submit", file, *TWO_NODES)
    assert done.returncode == 0, done
    job = done.stdout.split(":")[0]
    eventually(lambda: "completed" in terminal.batch("status", job).stdout, 90)
    told = terminal.batch("status", job).stdout
    (reservation,) = hub.account(USER).reservations()
    assert reservation["share_text"] == "1 whole GPU on each of 2 nodes of slurm"
    number = reservation["external_job"]
    allocated = hub.cluster.job(number)["NodeList"]
    assert f"job {number}" in told
    first, second = (
        terminal.batch("logs", job).stdout.split(),
        terminal.batch("logs", job, "--rank", "1").stdout.split(),
    )
    assert (first[:2], second[:2]) == (["rank", "0"], ["rank", "1"])
    assert first[2] != second[2]
    assert first[2][:4] in allocated
    assert "best = 7" in terminal.batch("result", job).stdout
    assert f"job {number}" in terminal.batch("ls").stdout


def test_a_cancelled_job_of_two_nodes_keeps_its_last_outputs_and_leaves_nothing(
    hub: SlurmHub, terminal: Terminal
) -> None:
    cell = "import time\ntry:\n    print('here', flush=True)\n    time.sleep(600)\nfinally:\n    print('last words')"
    job = terminal.batch("submit", terminal.write("long.py", cell), *TWO_NODES).stdout.split(":")[0]
    eventually(lambda: "here" in terminal.batch("logs", job, "--rank", "1").stdout, 90)
    eventually(lambda: "running on p100, v100 (simulated), " in terminal.batch("status", job).stdout, 30)
    terminal.batch("cancel", job)
    eventually(lambda: "cancelled" in terminal.batch("status", job).stdout, 90)
    for rank in ("0", "1"):
        assert "last words" in terminal.batch("logs", job, "--rank", rank).stdout
    eventually(lambda: hub.cluster.run("squeue", "-h").stdout == "", 30)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--engine", "slurm", "--nodes", "9", "--gpus", "1"), "nodes is 9"),
        (("--engine", "slurm", "--nodes", "2", "--memory", "2"), "a part of one GPU"),
        (
            (
                "--engine",
                "nowhere",
            ),
            "engine is 'nowhere': must be one of the engines of this site: slurm",
        ),
    ],
)
def test_what_the_cluster_can_never_give_is_refused_in_its_words(
    terminal: Terminal, words: tuple[str, ...], told: str
) -> None:
    refused = terminal.batch("submit", terminal.write("cell.py", "1"), *words)
    assert refused.returncode == 2
    assert told in refused.stderr
