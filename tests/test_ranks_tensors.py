"""PyTorch's process groups in cells that run as several processes: they need nothing but the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed; it is too large to be a part of `make test`")

from slurm_cluster import Cluster
from works import Work
from works_slurm import ended, launching

pytestmark = pytest.mark.timeout(300)

SUM = """
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
mine = torch.full((3,), float(dist.get_rank() + 1)) * scale
dist.all_reduce(mine)
print(dist.get_rank(), mine.tolist())
dist.destroy_process_group()
"""
TRAIN = """
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
dist.init_process_group("gloo")
torch.manual_seed(dist.get_rank())
parallel = DistributedDataParallel(model)
optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
for step in range(3):
    optimizer.zero_grad()
    parallel(torch.randn(4, 2)).sum().backward()
    optimizer.step()
print(model.weight.tolist())
del parallel
dist.destroy_process_group()
"""


def test_ranks_of_this_machine_add_up(tmp_path: Path) -> None:
    work = Work(tmp_path, SUM, "scale = 10.0", "scale", launch="torchrun", processes=3)
    assert work.run()["state"] == "completed", work.status()
    assert work.text() == "0 [60.0, 60.0, 60.0]\n"
    assert work.results()[0]["mine"].tolist() == [60.0] * 3


def test_a_model_of_the_notebook_is_trained_by_all_ranks_and_comes_back(tmp_path: Path) -> None:
    notebook = "import torch\ntorch.manual_seed(0)\nmodel = torch.nn.Linear(2, 1)\nbefore = model.weight.tolist()"
    work = Work(tmp_path, TRAIN, notebook, "model", launch="torchrun", processes=2)
    assert work.run()["state"] == "completed", work.status()
    assert work.text(0) == work.text(1), "all have the same weights, from data of their own"
    assert work.results()[0]["model"].weight.tolist() == eval(work.text(0)) != work.main["before"]


def test_a_rank_that_fails_frees_those_that_wait_for_it(tmp_path: Path) -> None:
    cell = SUM.replace("dist.all_reduce", "assert dist.get_rank() != 1, 'on purpose'\ndist.all_reduce")
    work = Work(tmp_path, cell, "scale = 1.0", "scale", launch="torchrun", processes=3)
    assert work.start(10).wait(120) == 1
    assert work.status()["why"] == "rank 1: AssertionError: on purpose"


def test_a_stop_reaches_ranks_that_wait_for_one_another(tmp_path: Path) -> None:
    import signal

    from nodes import eventually

    wait = "print('waits', flush=True)\nif dist.get_rank() == 1:\n    import time; time.sleep(600)\ndist.all_reduce"
    work = Work(tmp_path, SUM.replace("dist.all_reduce", wait), "scale = 1.0", "scale", launch="torchrun", processes=2)
    process = work.start(15)
    eventually(lambda: "waits" in work.text(0) and "waits" in work.text(1), 90)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 1
    assert work.status()["state"] == "stopped"
    assert "mine" in work.results()[0]


@pytest.mark.slurm
def test_ranks_of_two_nodes_of_slurm_add_up(slurm: Cluster) -> None:
    with launching(slurm) as launch:
        work, job = launch(SUM, "scale = 10.0", "scale")
        ended(slurm, work, job, "COMPLETED")
        assert [work.text(rank) for rank in range(4)] == [f"{rank} [100.0, 100.0, 100.0]\n" for rank in range(4)]
