"""What only a real GPU can show. Without one everything here is skipped and says so."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes import Node, eventually, gpus_here, running_node

PROGRAM = Path(__file__).with_name("cuda_program.py")


FOUND = gpus_here()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not FOUND.devices, reason=f"needs a real NVIDIA GPU: {FOUND.note}"),
]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running_node(tmp_path, simulate="") as found:
        yield found


def part(memory_mib: int) -> dict[str, object]:
    uuid = FOUND.devices[0].uuid
    return {"device_uuid": uuid, "instance_uuid": "", "memory_mib": memory_mib, "compute": 100, "whole": False}


def smi(*fields: str) -> list[list[str]]:
    words = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    out = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return [[value.strip() for value in line.split(",")] for line in out.splitlines()]


def test_the_inventory_is_what_nvidia_smi_says() -> None:
    rows = smi("uuid", "memory.total", "memory.reserved", "compute_cap", "driver_version")
    assert [device.uuid for device in FOUND.devices] == [row[0] for row in rows]
    for device, (_, total, reserved, capability, driver) in zip(FOUND.devices, rows, strict=True):
        assert abs(device.memory_mib - (int(total) - int(reserved))) <= 2
        assert device.compute_capability == capability
        assert FOUND.driver == driver


def test_a_fraction_over_its_memory_is_stopped_and_its_neighbour_stays_correct(node: Node, tmp_path: Path) -> None:
    said, fine = tmp_path / "greedy.log", tmp_path / "neighbour.log"
    neighbour = node.launch(sys.executable, str(PROGRAM), "512", str(fine), share=[part(2048)])
    eventually(lambda: fine.exists() and "checked 3" in fine.read_text(), 60)
    greedy = node.launch(sys.executable, str(PROGRAM), "6000", str(said), share=[part(2048)])
    eventually(lambda: said.exists() and "allocated" in said.read_text(), 60)
    began = time.monotonic()
    eventually(lambda: node.state(greedy) == "exited", 30)
    print(f"stopped {time.monotonic() - began:.2f} s after its allocation")
    assert "GiB" in node.session(greedy)["message"]
    checks = fine.read_text().count("checked")
    eventually(lambda: fine.read_text().count("checked") > checks + 3, 30)
    assert "WRONG" not in fine.read_text()
    assert node.state(neighbour) == "running"


def sees(node: Node, tmp_path: Path, share: list[dict[str, object]]) -> list[str]:
    """The GPU device files that a session can open."""
    out = tmp_path / "seen"
    program = f"""
import glob, os
seen = []
for path in sorted(glob.glob("/dev/nvidia[0-9]*")):
    try:
        os.close(os.open(path, os.O_RDWR))
        seen.append(path)
    except OSError:
        pass
open({str(out)!r}, "w").write("\\n".join(seen))
"""
    name = node.launch(sys.executable, "-c", program, share=share)
    eventually(lambda: node.state(name) == "exited", 30)
    return out.read_text().split()


def test_a_session_that_holds_no_gpu_sees_none(node: Node, tmp_path: Path) -> None:
    if node.ask("hello")["device_filter"] is None:
        pytest.skip("nothing on this machine can hide device files: see `timeshare doctor`")
    assert sees(node, tmp_path, []) == []


def test_a_session_cannot_open_a_device_that_it_does_not_hold(node: Node, tmp_path: Path) -> None:
    if node.ask("hello")["device_filter"] is None:
        pytest.skip("nothing on this machine can hide device files: see `timeshare doctor`")
    assert sees(node, tmp_path, [part(1024)]) == [f"/dev/nvidia{FOUND.devices[0].minor}"]
