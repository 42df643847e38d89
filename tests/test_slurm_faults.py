"""A Slurm whose commands are slow, answer garbage or fail: nothing is concluded from it, and nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import FULL_STRESS
from nodes import eventually
from slurm_cluster import Cluster
from slurm_hubs import SlurmHub, slurm_hub

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
