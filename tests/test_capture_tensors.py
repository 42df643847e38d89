"""PyTorch's tensors, models and optimizers as a snapshot has them."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed; it is too large to be a part of `make test`")

from batches import running_notebook  # noqa: E402

from timeshare.notebooks.capture import snapshot  # noqa: E402
from timeshare.notebooks.capture.snapshot import Written  # noqa: E402
from timeshare.notebooks.capture.store import Store  # noqa: E402

MODEL = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(600, 600)
        self.out = nn.Linear(600, 1)
        self.out.weight = nn.Parameter(self.hidden.weight[:1].detach().clone())
        self.register_buffer("scale", torch.ones(3))
    def forward(self, x):
        return self.out(torch.relu(self.hidden(x)))
net = Net()
opt = torch.optim.Adam(net.parameters(), lr=1e-2)
x, y = torch.randn(8, 600), torch.randn(8, 1)
def step():
    opt.zero_grad()
    loss = nn.functional.mse_loss(net(x), y)
    loss.backward()
    opt.step()
    return loss.item()
before = [step() for _ in range(2)]
"""


def round_trip(tmp_path: Path, **variables: Any) -> tuple[dict[str, Any], Written]:
    main: dict[str, Any] = {"__name__": "__main__", **variables}
    store = Store(tmp_path / "store")
    written = snapshot.write(variables, main, store)
    return snapshot.read(written.header, store, main), written


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16", "int64", "bool", "complex64", "uint8"])
def test_tensors_of_every_kind_arrive_equal(tmp_path: Path, dtype: str) -> None:
    tensor = (torch.arange(700_000) % 2).to(getattr(torch, dtype)).reshape(1000, 700)
    back, written = round_trip(tmp_path, whole=tensor, turned=tensor.t(), every=tensor[::2, ::3], none=tensor[:0])
    assert torch.equal(back["whole"], tensor)
    assert torch.equal(back["turned"], tensor.t())
    assert torch.equal(back["every"], tensor[::2, ::3])
    assert back["none"].shape == (0, 700)
    assert back["whole"].dtype == tensor.dtype
    assert back["turned"].stride() == tensor.t().stride()
    assert written.total < tensor.untyped_storage().nbytes() + 100_000, "their memory goes once"
    back["whole"].zero_()
    assert not back["turned"].any(), "what shared memory shares it again"


def test_large_tensors_go_beside_the_stream_and_once_for_all_snapshots(tmp_path: Path) -> None:
    tensor = torch.randn(1_000_000)
    _, first = round_trip(tmp_path, t=tensor)
    _, second = round_trip(tmp_path, t=tensor, more=[tensor])
    assert [size for _, size in first.header.buffers] == [4_000_000]
    assert second.new < 100_000


def test_a_small_view_does_not_take_its_large_storage_along(tmp_path: Path) -> None:
    large = torch.randn(4_000_000)
    back, written = round_trip(tmp_path, few=large[10:20])
    assert torch.equal(back["few"], large[10:20])
    assert written.total < 100_000


def test_a_model_and_its_optimizer_train_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    main: dict[str, Any] = {"__name__": "__main__"}
    torch.manual_seed(1)
    exec(compile(MODEL, "<notebook>", "exec"), main)
    names = ("Net", "net", "opt", "x", "y", "step", "torch", "nn")
    store = Store(tmp_path / "store")
    written = snapshot.write({name: main[name] for name in names}, main, store)
    there: dict[str, Any] = {"__name__": "__main__"}
    there.update(snapshot.read(written.header, store, there))
    assert there["opt"].param_groups[0]["params"][0] is next(there["net"].parameters()), "Adam has the model's own"
    assert all(p.requires_grad for p in there["net"].parameters())
    assert [main["step"]() for _ in range(3)] == [there["step"]() for _ in range(3)]


def test_gradients_and_parts_of_a_graph_say_what_they_need(tmp_path: Path) -> None:
    leaf = torch.ones(3, requires_grad=True)
    (leaf * 2).sum().backward()
    back, _ = round_trip(tmp_path, leaf=leaf, scaled=(leaf * 2).detach())
    assert back["leaf"].requires_grad
    assert torch.equal(back["scaled"], torch.full((3,), 2.0))


def test_a_tensor_of_a_gpu_arrives_on_the_cpu_where_there_is_none() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here; tests/gpu has the other direction")
    from timeshare.notebooks.capture.tensors import _untyped, _warn_once

    _warn_once.cache_clear()
    with pytest.warns(UserWarning, match="on the CPU here"):
        storage = _untyped(bytearray(b"\x00\x00\x80\x3f"), "cuda", 3)
    assert torch.empty(0).set_(storage).item() == 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _untyped(bytearray(4), "cuda", 3)


def test_the_runner_does_not_import_torch_by_itself() -> None:
    code = "import sys, timeshare.notebooks.capture.snapshot; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_job_trains_the_model_of_the_notebook(tmp_path: Path) -> None:
    with running_notebook(tmp_path) as notebook:
        torch.manual_seed(1)
        exec(compile(MODEL, "<notebook>", "exec"), notebook.main)
        kept, weights = notebook.main["net"], next(notebook.main["net"].parameters())
        cell = (
            "losses = [step() for _ in range(5)]\nshared = opt.param_groups[0]['params'][0] is next(net.parameters())"
        )
        job = notebook.hand(cell)
        here = [notebook.main["step"]() for _ in range(5)]
        result = job.result(120)
        assert result["losses"] == pytest.approx(here)
        assert result["shared"]
        notebook.main["net"].hidden.weight.data.zero_()
        assert job.bring(in_place=True)[0].startswith("back: ")
        assert notebook.main["net"] is kept
        assert next(kept.parameters()) is weights
        assert weights.any(), "the trained weights are in the model that was here"
