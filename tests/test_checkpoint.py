"""The driver's side of parking: NVIDIA's own library over a stand-in for the driver, and words for what is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from nodes import gpus_here

from timeshare.reservations.devices.simulated import SimulatedSource
from timeshare.reservations.devices.simulated_checkpoint import SimulatedCheckpointer

SOURCE = Path(__file__).with_name("fake_driver.c")
HEAD = """
import json, sys
from timeshare.reservations.devices.checkpoint import CheckpointError, CudaCheckpointer
driver = CudaCheckpointer()
def told(act, *arguments):
    try:
        return act(*arguments)
    except CheckpointError as error:
        return str(error)
"""
OLD, NEW = "GPU-01000000-0000-0000-0000-0000000000a1", "GPU-02000000-0000-0000-0000-0000000000a2"


def run(program: str, **env: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", HEAD + program], capture_output=True, text=True, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def driver(tmp_path: Path) -> dict[str, str]:
    """The environment in which the stand-in is the driver."""
    pytest.importorskip("cuda.core", reason="cuda-core is not installed")
    compiler = shutil.which("cc")
    if compiler is None or gpus_here().devices:
        pytest.skip("no C compiler is here for the stand-in, or a real driver is")
    library = tmp_path / "libcuda.so.1"
    words = [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", str(SOURCE), "-o", str(library), "-ldl"]
    subprocess.run(words, check=True)
    return {"LD_LIBRARY_PATH": str(tmp_path), "FAKE_DRIVER_LOG": str(tmp_path / "log")}


def calls(driver: dict[str, str]) -> list[str]:
    return Path(driver["FAKE_DRIVER_LOG"]).read_text().splitlines()


def test_each_step_reaches_the_driver_with_what_it_needs(driver: dict[str, str]) -> None:
    program = f"""
seen = [driver.available(), driver.state(5)]
for act, *more in ((driver.lock, 2.5), (driver.checkpoint,), (driver.restore, {{{OLD!r}: {NEW!r}}}), (driver.unlock,)):
    act(5, *more)
    seen.append(driver.state(5))
driver.lock(5, 0)
driver.checkpoint(5)
driver.restore(5, {{}})
print(json.dumps(seen))
"""
    assert run(program, **driver) == ["", "running", "locked", "checkpointed", "locked", "running"]
    assert calls(driver) == [
        "lock 5 timeout 2500",
        "checkpoint 5",
        "restore 5 pairs 1 01a1>02a2",
        "unlock 5",
        "lock 5 timeout 1",  # 0 would wait for ever
        "checkpoint 5",
        "restore 5 pairs 0",
    ]


def test_what_the_driver_refuses_is_told_with_process_and_step(driver: dict[str, str]) -> None:
    program = """
print(json.dumps([told(driver.lock, 666, 1), told(driver.checkpoint, 5), told(driver.state, 667)]))
"""
    busy, state, unknown = run(program, **driver)
    assert busy.startswith("process 666: lock: ")
    assert "CUDA_ERROR_NOT_READY" in busy
    assert state.startswith("process 5: checkpoint: ")
    assert unknown.startswith("process 667: its state: ")


def test_an_old_driver_is_named_with_what_would_do(driver: dict[str, str]) -> None:
    said = run(
        "print(json.dumps([driver.available(), told(driver.lock, 5, 1)]))", **driver, FAKE_DRIVER_VERSION="12040"
    )
    assert said == ["the NVIDIA driver speaks CUDA 12.4: it must be 12.8 (R570) or later"] * 2
    assert not Path(driver["FAKE_DRIVER_LOG"]).exists()


def test_without_the_package_it_is_named(tmp_path: Path) -> None:
    said = run("sys.modules['cuda'] = None\nprint(json.dumps([driver.available(), told(driver.lock, 5, 1)]))")
    assert said[0] == said[1]
    assert said[0].startswith("the package cuda-core is not installed")
    assert "pip install 'timeshare[park]'" in said[0]


def test_without_a_driver_that_is_said() -> None:
    pytest.importorskip("cuda.core", reason="cuda-core is not installed")
    if gpus_here().devices:
        pytest.skip("there is a driver here")
    assert run("print(json.dumps(driver.available()))") == "no NVIDIA driver was found"


def test_the_simulated_driver_wants_steps_in_order_and_a_whole_map(tmp_path: Path) -> None:
    from timeshare.reservations.devices.checkpoint import CheckpointError

    faults = tmp_path / "faults.json"
    pid = os.getpid()
    faults.write_text(json.dumps({"processes": [{"pid": pid, "device": "GPU-simulated-0000", "memory_mib": 100}]}))
    source = SimulatedSource("t4:2", faults)
    driver = SimulatedCheckpointer(source)
    for act in (driver.checkpoint, driver.unlock, lambda pid: driver.restore(pid, {})):
        with pytest.raises(CheckpointError, match="it is running"):
            act(pid)
    driver.lock(pid, 1)
    driver.checkpoint(pid)
    assert source.processes() == ()
    assert source.free_mib() == {"GPU-simulated-0000": 16384, "GPU-simulated-0001": 16384}
    with pytest.raises(CheckpointError, match="must name each GPU of the machine once"):
        driver.restore(pid, {"GPU-simulated-0000": "GPU-simulated-0001"})
    there = {"GPU-simulated-0000": "GPU-simulated-0001", "GPU-simulated-0001": "GPU-simulated-0000"}
    driver.restore(pid, there)
    assert [process.device_uuid for process in source.processes()] == ["GPU-simulated-0001"]
    driver.checkpoint(pid)
    driver.restore(pid, there)  # from where it is now
    assert [process.device_uuid for process in source.processes()] == ["GPU-simulated-0000"]
    with pytest.raises(CheckpointError, match="there is no such process"):
        driver.state(2**22 + 1)
