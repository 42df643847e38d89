"""Jobs on a real GPU, with PyTorch: tensors that leave a GPU and come back to one, or to a machine without."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from batches import Notebook, running_notebook
from nodes import eventually, gpus_here

FOUND = gpus_here()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not FOUND.devices, reason=f"needs a real NVIDIA GPU: {FOUND.note}"),
]
MODEL = """
import torch
from torch import nn
torch.manual_seed(1)
net = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 1)).cuda()
opt = torch.optim.Adam(net.parameters(), lr=1e-3)
x, y = torch.randn(64, 512, device="cuda"), torch.randn(64, 1, device="cuda")
def step():
    opt.zero_grad()
    loss = nn.functional.mse_loss(net(x), y)
    loss.backward()
    opt.step()
    return loss.item()
"""
WITHOUT_A_GPU = """
import sys
from pathlib import Path
from timeshare.notebooks.capture.snapshot import Header, read
from timeshare.notebooks.capture.store import Store
main = {"__name__": "__main__"}
found = read(Header.from_json(sys.argv[1]), Store(Path(sys.argv[2])), main)
weight = found["net"][0].weight
print(weight.device, weight.sum().item(), found["opt"].param_groups[0]["lr"])
"""


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    with running_notebook(tmp_path, simulate="") as found:
        yield found


def test_a_model_with_its_optimizer_trains_in_a_job_and_comes_back(notebook: Notebook) -> None:
    notebook.run(MODEL)
    job = notebook.hand("losses = [step() for _ in range(5)]\nwhere = str(x.device)", "--memory 8")
    here = [notebook.main["step"]() for _ in range(5)]
    result = job.result(180)
    assert result["where"] == "cuda:0"
    assert result["losses"] == pytest.approx(here, rel=1e-3)
    assert result["opt"].param_groups[0]["params"][0] is next(result["net"].parameters())
    assert next(result["net"].parameters()).device.type == "cuda"


def test_what_comes_from_a_gpu_is_loaded_on_the_cpu_of_a_machine_without(notebook: Notebook, tmp_path: Path) -> None:
    from timeshare.notebooks.capture import snapshot

    notebook.run(MODEL)
    main = notebook.main
    written = snapshot.write({"net": main["net"], "opt": main["opt"]}, main, notebook.places.store)
    store = str(notebook.places.store.folder)
    words = [sys.executable, "-W", "ignore", "-c", WITHOUT_A_GPU, written.header.to_json(), store]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    device, total, rate = done.stdout.split()
    assert (device, float(rate)) == ("cpu", 1e-3)
    assert float(total) == pytest.approx(main["net"][0].weight.sum().item(), rel=1e-3)


def test_two_jobs_with_parts_of_one_gpu_train_at_once_within_their_memory(notebook: Notebook) -> None:
    cell = """
import os, time, torch
limit = int(os.environ["TIMESHARE_MEMORY_MIB"]) * 2**20
a = torch.randn(4096, 4096, device="cuda")
print("on", flush=True)
until = time.time() + 8
while time.time() < until:
    a = torch.tanh(a @ a)
    torch.cuda.synchronize()
peak, kept = torch.cuda.max_memory_reserved(), bool(torch.isfinite(a).all())
"""
    jobs = [notebook.hand(cell, "--memory 8") for _ in range(2)]
    eventually(lambda: all("on" in job.tasks[0].text() for job in jobs), 60)
    assert [job.state for job in jobs] == ["running", "running"]
    for job in jobs:
        result = job.result(120)
        assert result["kept"]
        assert result["peak"] < result["limit"] == 8 * 2**30
