"""A Slurm whose commands are slow, answer garbage or fail, whose controller is away, whose node dies: nothing is
concluded from silence, and nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import FULL_STRESS
from nodes import eventually
from slurm_cluster import Cluster
from slurm_hubs import SlurmAccount, SlurmHub, slurm_hub
from test_slurm_batch import jobs, python
from test_slurm_crashes import names, overlapping
from test_slurm_sessions import in_session

pytestmark = [
    pytest.mark.hub,
    pytest.mark.slurm,
    pytest.mark.stress,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not FULL_STRESS, reason="faults of a Slurm are waited out for minutes: `make stress` does"),
]
COMMANDS = ("sbatch", "squeue", "scancel", "sacct", "scontrol")
WRAPPER = """#!/bin/sh
mode=$(cat {mode})
case "$mode" in
slow) sleep 20;;
garbage) echo '{{"jobs": [{{"job_id": "x"'; exit 0;;
empty) exit 0;;
failing) echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2; exit 1;;
esac
exec /usr/bin/{command} "$@"
"""


class Faulty:
    """Slurm's commands, with a fault that is switched on and off."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mode = folder / "bin", folder / "mode"
        self.folder.mkdir(mode=0o755)
        folder.chmod(0o755)
        for command in COMMANDS:
            path = self.folder / command
            path.write_text(WRAPPER.format(mode=self.mode, command=command))
            path.chmod(0o755)
        self.set("well")

    def set(self, mode: str) -> None:
        draft = self.mode.with_suffix(".new")
        draft.write_text(mode)
        draft.chmod(0o644)
        draft.replace(self.mode)


@pytest.fixture(scope="module")
def faulty(slurm: Cluster) -> Faulty:
    folder = slurm.layout.folder / "faults"
    folder.mkdir(mode=0o755)
    return Faulty(folder)


@pytest.fixture(scope="module")
def hub(slurm: Cluster, faulty: Faulty, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmHub]:
    path = f"{faulty.folder}:/usr/sbin:/usr/bin:/sbin:/bin"
    with slurm_hub(tmp_path_factory.mktemp("slurm"), slurm, {"slurm": {}}, path=path, command_timeout=30) as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_left(hub: SlurmHub, faulty: Faulty) -> Iterator[None]:
    yield
    faulty.set("well")
    for reservation in hub.everybodys():
        if reservation["state"] != "ended":
            hub.service("POST", f"reservations/{reservation['id']}/end", json={})
    eventually(lambda: all(r["state"] == "ended" for r in hub.everybodys()), 120)
    eventually(lambda: str(hub.cluster.run("squeue", "-h").stdout) == "", 60)


def test_answers_that_mean_nothing_change_nothing(hub: SlurmHub, faulty: Faulty) -> None:
    alice = hub.account("tsalice")
    alice.start(gpus=1, model="p100", engine="slurm")
    eventually(alice.is_ready, 90)
    mine = alice.active()
    waiting = []
    for fault in ("garbage", "empty", "failing"):
        faulty.set(fault)
        waiting.append(alice.ask(gpus=1, model="v100"))
        time.sleep(6)
        assert alice.get(mine)["state"] == "active", fault
        assert [alice.get(one)["state"] for one in waiting] == ["queued"] * len(waiting), fault
    faulty.set("well")
    eventually(lambda: all(alice.get(one)["state"] in ("starting", "active") for one in waiting), 200)
    assert alice.get(mine)["state"] == "active"
    assert len(str(hub.cluster.run("squeue", "-h").stdout).splitlines()) == 4


def test_commands_that_take_twenty_seconds_only_make_it_slow(hub: SlurmHub, faulty: Faulty) -> None:
    faulty.set("slow")
    bob = hub.account("tsbob")
    asked = bob.ask(gpus=1, model="a100")
    eventually(lambda: bob.get(asked)["state"] == "active", 200)
    faulty.set("well")
    assert len(str(hub.cluster.run("squeue", "-h").stdout).splitlines()) == 1


AWAY_S = 60.0
THERE = Path("/home/tsalice")
CELL = "import os, time\nwhile not os.path.exists({flag!r}):\n    time.sleep(.2)\nx = 6 * 7"


def batch(user: SlurmAccount, flag: Path, model: str) -> dict[str, Any]:
    """A job that runs until the flag is there."""
    python(user, f"submit({CELL.format(flag=str(flag))!r}, options='--engine slurm --gpus 1 --model {model}')")
    return jobs(user)[0]


@pytest.fixture
def full(slurm: Cluster) -> Iterator[str]:
    """A job of somebody else's on all a100."""
    job = slurm.submit("sleep 900", "--gres=gpu:a100:4", "--time=20", user="tsbob")
    slurm.wait(job, "RUNNING")
    yield job
    slurm.run("scancel", job)


@pytest.mark.parametrize("crash", [False, True], ids=["stopped in order", "killed"])
def test_a_controller_that_is_away_for_a_minute_loses_nothing_and_ends_nothing(
    hub: SlurmHub, slurm: Cluster, full: str, crash: bool
) -> None:
    alice = hub.account("tsalice")
    flag = alice.own_path("go-on")
    alice.start(gpus=1, model="p100", engine="slurm")
    eventually(alice.is_ready, 120)
    session, ends_meanwhile = alice.active(), batch(alice, flag, "p100")
    waits, waits_too = alice.ask(gpus=1, model="a100"), batch(alice, THERE, "a100")
    before = [session, ends_meanwhile, waits, waits_too]
    states = ["active", "active", "queued", "queued"]
    eventually(lambda: [alice.get(one)["state"] for one in before] == states, 60)
    eventually(lambda: all(alice.get(one)["external_job"] for one in before), 60)
    numbers = [alice.get(one)["external_job"] for one in before]
    slurm.wait_saved()
    (slurm.kill_ctl if crash else slurm.stop_ctl)()
    try:
        until = time.monotonic() + AWAY_S
        asked_meanwhile = alice.ask(gpus=1, model="v100")
        flag.touch()
        while time.monotonic() < until:
            assert [alice.get(one)["state"] for one in before] == states
            assert [alice.get(one)["external_job"] for one in before] == numbers
            assert alice.get(asked_meanwhile)["state"] == "queued"
            time.sleep(2)
        assert in_session(alice, "print(6 * 7)") == "42\n"
        assert "has not answered for" in alice.page(f"timeshare/wait/{waits['id']}").text
        assert "(as of " in alice.page("spawn/tsalice/another").text
    finally:
        slurm.start_ctl()
    eventually(lambda: alice.get(ends_meanwhile)["state"] == "ended", 120)
    eventually(lambda: alice.get(asked_meanwhile)["state"] == "active", 200)
    slurm.run("scancel", full)
    eventually(lambda: alice.get(waits)["state"] == "active", 120)
    eventually(lambda: alice.get(waits_too)["state"] == "ended", 120)
    assert "has not answered" not in alice.page(f"timeshare/wait/{waits['id']}").text
    assert [alice.get(one)["external_job"] for one in before] == numbers
    # Not each has to be seen running: a job may begin and end between two looks.
    assert all(alice.get(one)["generation"] <= 1 for one in (*before, asked_meanwhile)), "nothing was started twice"
    assert [alice.get(one)["reason"] for one in (ends_meanwhile, waits_too)] == ["completed"] * 2
    assert in_session(alice, "print(6 * 7)") == "42\n"
    assert len(names(hub)) == 3, "the three sessions, each once"
    assert overlapping(hub) == []
    flag.unlink()


def test_a_node_that_dies_takes_its_session_along_and_says_so(hub: SlurmHub, slurm: Cluster) -> None:
    alice = hub.account("tsalice")
    alice.start(gpus=1, model="p100", engine="slurm")
    eventually(alice.is_ready, 90)
    mine = alice.active()
    slurm.fail_node(mine["external_node"])
    try:
        eventually(lambda: alice.get(mine)["state"] == "ended", 200)
        assert alice.get(mine)["reason"] in ("lost", "failed")
    finally:
        slurm.start_node(mine["external_node"])
        slurm.complete()
