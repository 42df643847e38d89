"""A hub whose own machine runs nothing: all sessions and batch are at Slurm."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hubs import command
from nodes import eventually
from plain_jobs import job_body
from pools import Lab
from slurm_cluster import Cluster
from slurm_hubs import SlurmHub, slurm_hub
from test_external import Engine

from timeshare.reservations.deployment import DeploymentError
from timeshare.reservations.errors import PublicError
from timeshare.reservations.kind import Kind
from timeshare.reservations.opening import close_local
from timeshare.reservations.reservation import Reason, State


@pytest.fixture(scope="module")
def hub(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmHub]:
    with slurm_hub(tmp_path_factory.mktemp("only"), slurm, {"slurm": {"title": "The cluster"}}, local=False) as found:
        yield found


@pytest.mark.hub
@pytest.mark.slurm
@pytest.mark.timeout(300)
def test_nothing_of_the_hubs_machine_runs_or_is_offered_and_sessions_start_at_slurm(hub: SlurmHub) -> None:
    assert "agent" not in hub.components()
    assert hub.is_healthy()
    told = hub.service("GET", "offers?owner=tsalice").json()
    assert {offer["engine"] for offer in told["offers"]} == {"slurm"}
    assert told["note"] == ""
    alice = hub.account("tsalice")
    assert "This machine" not in alice.page("spawn/tsalice").text
    job = {key: value for key, value in job_body(hub.state_dir, "tsalice", {"gpus": 1}).items() if key != "owner"}
    session = {"share": {"gpus": 1}, "server_name": "here"}
    for path, body in (("reservations", session), ("jobs", job)):
        refused = alice.service("POST", path, json={**body, "time_limit_s": 600})
        assert (refused.status_code, refused.json()["error"]["reason"]) == (422, "no-engine"), refused.text
        assert refused.json()["error"]["message"].endswith("name one of slurm")
    assert alice.start(gpus=1, model="a100", engine="slurm").status_code in (201, 202)
    eventually(alice.is_ready, 90)
    assert alice.active()["external_node"] == hub.cluster.node("a100").name
    alice.stop()


def test_what_waits_for_the_machine_is_refused_when_nothing_may_run_on_it_any_more(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {}, "t4")
    lab.pool.engines["slurm"] = Engine()
    lab.pool.pause()
    waiting = [lab.ask("ada"), lab.batch("ben")]
    close_local(lab.pool)
    for reservation in waiting:
        ended = lab.pool.get(reservation.id)
        assert (ended.state, ended.reason) == (State.ENDED, Reason.REFUSED)
    with pytest.raises(PublicError, match="name one of slurm"):
        lab.ask("ada")
    assert lab.ask("ada", Kind.SESSION, 3600, gpus=1, engine="slurm").state is State.QUEUED


def test_while_something_runs_on_the_machine_it_cannot_be_closed(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {}, "t4")
    lab.run(lab.ask("ada"))
    with pytest.raises(DeploymentError, match="start once without --no-local"):
        close_local(lab.pool)


@pytest.mark.parametrize(
    ("words", "says"),
    [((), "--no-local needs a Slurm"), (("--simulate", "t4:1"), "--simulate is about GPUs of this machine")],
)
def test_without_a_slurm_nothing_could_run_at_all(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    argv = [command(), "up", "--state", str(tmp_path), "--no-local", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, says in done.stderr) == (1, True), done.stderr
