"""Parking on a real GPU: what a process holds leaves it, others use the memory, and it comes back as it was. Without a
GPU, or a driver that can do it, everything here is skipped and says so."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nodes import Node, eventually, gpus_here, running_node

from timeshare.reservations.agent.client import AgentError
from timeshare.reservations.agent.hostmemory import HostMemory
from timeshare.reservations.devices.checkpoint import CudaCheckpointer
from timeshare.reservations.devices.nvml import NvmlSource

KEEPER = Path(__file__).with_name("cuda_keeper.py")
PROGRAM = Path(__file__).with_name("cuda_program.py")
FOUND = gpus_here()
CANNOT = CudaCheckpointer().available() if FOUND.devices else ""
FIRST = FOUND.devices[0] if FOUND.devices else None
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not FOUND.devices, reason=f"needs a real NVIDIA GPU: {FOUND.note}"),
    pytest.mark.skipif(bool(CANNOT), reason=f"this driver cannot checkpoint processes: {CANNOT}"),
    pytest.mark.skipif(bool(FIRST and FIRST.partitioned), reason="the GPU is partitioned (MIG): it cannot be parked"),
]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running_node(tmp_path, simulate="") as found:
        if not found.ask("hello")["can_exchange"]:
            pytest.skip("the device filter of this machine is fixed when a session starts")
        yield found


def part(memory_mib: int) -> dict[str, object]:
    assert FIRST is not None
    return {"device_uuid": FIRST.uuid, "instance_uuid": "", "memory_mib": memory_mib, "compute": 100, "whole": False}


def free_mib() -> int:
    assert FIRST is not None
    source = NvmlSource()
    try:
        return source.free_mib()[FIRST.uuid]
    finally:
        source.close()


def room_for(mib: int) -> None:
    """Skips the test where that much does not fit on the GPU twice in turn, or in this machine's memory once."""
    on_gpu, here = free_mib(), HostMemory().available_mib() or 0
    if on_gpu < mib * 1.05 + 2048 or here < mib + 6144:
        pytest.skip(f"{mib} MiB do not fit: {on_gpu} MiB of GPU memory and {here} MiB of memory are free")


class Keeper:
    """A session with a process that holds ``mib`` of GPU memory, and can tell what is in it."""

    def __init__(self, node: Node, mib: int, folder: Path) -> None:
        folder.mkdir()
        self.node, self.mib, self.folder = node, mib, folder
        self.share = [part(mib + 2048)]
        log = str(folder / "log")
        argv = (sys.executable, str(KEEPER), str(mib), str(folder))
        self.id = node.launch(*argv, share=self.share, log_path=log, cwd=str(folder))
        self.told: dict[str, Any] = eventually(self._ready, 240)
        self.asked = 0

    def _ready(self) -> Any:
        place = self.folder / "ready"
        if not place.exists():
            assert self.node.state(self.id) != "exited", (self.folder / "log").read_text()
            return None
        return json.loads(place.read_text())

    def park(self, pool: int = 1 << 20) -> float:
        """Seconds."""
        began = time.monotonic()
        asked = {"reservation_id": self.id, "generation": 1, "save_grace_s": 5, "term_grace_s": 5}

        def done() -> bool:
            told = self.node.ask("release", **asked, park=True, park_memory_mib=pool)
            return bool(told["released"] and told["kept_mib"] >= self.mib)

        eventually(done, 300)
        return time.monotonic() - began

    def resume(self) -> float:
        began = time.monotonic()
        asked = {"reservation_id": self.id, "generation": 1, "share": self.share}
        eventually(lambda: self.node.ask("resume", **asked)["resumed"], 300)
        assert [e for e in self.node.ask("events", after=0) if e["kind"] == "parking"] == []
        return time.monotonic() - began

    def ask(self) -> Path:
        """Has it read all that it holds; where the answer will be."""
        (self.folder / f"ask.{self.asked}").touch()
        self.asked += 1
        return self.folder / f"hash.{self.asked - 1}"

    def unchanged(self) -> bool:
        place = self.ask()
        eventually(place.exists, 240)
        return place.read_text() == self.told["hash"]

    def beat(self) -> int:
        return int((self.folder / "beat").read_text())


def hog(node: Node, mib: int, tmp_path: Path) -> str:
    """Another session, which holds so much and checks what it holds."""
    log = tmp_path / f"hog{mib}.log"
    log.unlink(missing_ok=True)
    name = node.launch(sys.executable, str(PROGRAM), str(mib), str(log), share=[part(mib + 2048)])
    eventually(lambda: log.exists() and "checked 3" in log.read_text(), 120)
    assert "WRONG" not in log.read_text()
    return name


def end(node: Node, name: str) -> None:
    node.stop(name)
    eventually(lambda: node.state(name) == "exited", 60)


@pytest.mark.parametrize("gib", [1, 8, 40])
def test_what_a_process_holds_leaves_the_gpu_and_comes_back_as_it_was(node: Node, tmp_path: Path, gib: int) -> None:
    mib = gib * 1024
    room_for(mib)
    before = free_mib()
    keeper = Keeper(node, mib, tmp_path / "keeper")
    taken = free_mib()
    parked_s = keeper.park()
    assert free_mib() >= taken + mib
    other = hog(node, min(before, free_mib()) - 2048, tmp_path)  # all of it is there for somebody else
    end(node, other)
    eventually(lambda: free_mib() >= taken + mib, 30)
    resumed_s = keeper.resume()
    assert keeper.unchanged()
    size = mib * 1024 * 1024 / 1e9
    print(
        f"{gib} GiB: parked in {parked_s:.2f} s ({size / parked_s:.1f} GB/s), back in {resumed_s:.2f} s "
        f"({size / resumed_s:.1f} GB/s); a plain copy of pinned memory: {keeper.told['copy_gb_s']:.1f} GB/s"
    )
    again_s = keeper.park(), keeper.resume()  # the agent has attached to the driver by now
    print(f"{gib} GiB, once more: parked in {again_s[0]:.2f} s, back in {again_s[1]:.2f} s")
    assert keeper.unchanged()


def test_what_needs_no_gpu_goes_on_while_it_is_parked_and_cuda_calls_wait(node: Node, tmp_path: Path) -> None:
    room_for(1024)
    keeper = Keeper(node, 1024, tmp_path / "keeper")
    keeper.park()
    answer, beat = keeper.ask(), keeper.beat()
    eventually(lambda: keeper.beat() > beat + 10, 30)
    assert not answer.exists()
    keeper.resume()
    eventually(answer.exists, 60)
    assert answer.read_text() == keeper.told["hash"]


def test_with_too_little_memory_it_is_not_tried_and_later_it_works(node: Node, tmp_path: Path) -> None:
    room_for(4096)
    keeper = Keeper(node, 4096, tmp_path / "keeper")
    keeper.park()
    other = hog(node, free_mib() - 3072, tmp_path)
    with pytest.raises(AgentError, match="what was kept needs") as told:
        keeper.resume()
    assert told.value.reason == "not-yet"
    pid = int(node.session(keeper.id)["pid"])
    assert CudaCheckpointer().state(pid) == "checkpointed"
    end(node, other)
    eventually(lambda: free_mib() > 6144, 30)
    keeper.resume()
    assert keeper.unchanged()


def test_more_than_the_limits_allow_stays_on_the_gpu_untouched(node: Node, tmp_path: Path) -> None:
    room_for(1024)
    keeper = Keeper(node, 1024, tmp_path / "keeper")
    with pytest.raises(AgentError, match="set aside for it"):
        keeper.park(pool=512)
    assert CudaCheckpointer().state(int(node.session(keeper.id)["pid"])) == "running"
    assert keeper.unchanged()


@pytest.mark.parametrize("restored", [False, True], ids=["parked", "restored"])
def test_it_is_stopped_cleanly(node: Node, tmp_path: Path, restored: bool) -> None:
    """A restored process is checkpointed again before it is killed: one that is killed on the GPU may hang the host."""
    room_for(1024)
    before = free_mib()
    keeper = Keeper(node, 1024, tmp_path / "keeper")
    pid = int(node.session(keeper.id)["pid"])
    keeper.park()
    if restored:
        keeper.resume()
    end(node, keeper.id)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    eventually(lambda: free_mib() >= before - 256, 30)
    hog_ = hog(node, 1024, tmp_path)  # and the GPU works
    end(node, hog_)
