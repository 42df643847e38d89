"""What can happen between a hub and its batch system: the scenarios of batchspawner's own tests, and what is near them,
each with our hub, service and spawner, and with Slurm's commands as a test says (``fake_slurm``). Jobs that begin are
real.

Of batchspawner's scenarios these have nothing to match here (docs/slurm.md says why timeshare does not build on it):

- Torque, PBS, Moab, Grid Engine, HTCondor, LSF: timeshare speaks with Slurm only, in its JSON, so there are no patterns
  of states to set either.
- Templates of scripts and commands, with a prologue, an epilogue and free options: nothing that a site or a person
  types is filled into a script, and Slurm has hooks of its own for the rest. Which commands run instead is in a table
  of docs/slurm.md, and the first test here holds us to it.
- A start that waits for the queue inside the hub: people wait on a page, and the hub starts a server once its job has
  begun.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import pytest
import requests
from conftest import FULL_STRESS
from fake_slurm import FakeSlurm, Job
from nodes import eventually, kept_from_others, marked
from slurm_hubs import SlurmAccount, SlurmHub, slurm_hub

from timeshare.notebooks.transport import ask

pytestmark = [
    pytest.mark.hub,
    pytest.mark.stress,
    pytest.mark.skipif(not FULL_STRESS, reason="takes two minutes and more: make stress runs it"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: jobs run as other accounts"),
]
SITE = """
c.Spawner.cmd = [{python!r}, {server!r}]
c.Spawner.args = []
c.Spawner.environment = {{"ABCDE": "of the site"}}
c.Spawner.env_keep = ["KEPT"]
c.GpuSpawner.reach_wait = 2
"""
POOLS = {
    "slurm": {"ports": "21000-21999"},
    "full": {"account": "lab", "qos": "interactive", "reservation": "school", "cpus": 4, "memory_gib": 10.0},
}
SILENCE = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
NOTHING_MEANT = {
    "it does not come back": {"after_s": 60.0},
    "it prints half an answer": {"out": '{"jobs": [{"job_id": 1'},
}


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeSlurm]:
    if reason := kept_from_others():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="timeshare-fake-slurm-") as folder:
        yield FakeSlurm.start(Path(folder))


@pytest.fixture(scope="module")
def hub(fake: FakeSlurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmHub]:
    state = tmp_path_factory.mktemp("slurm")
    server = shutil.copy(Path(__file__).with_name("tiny_server.py"), fake.folder)
    (state / "jupyterhub_site.py").write_text(SITE.format(python=sys.executable, server=str(server)))
    os.environ["KEPT"], os.environ["NOT_KEPT"] = "of the hub", "a secret of the hub"
    try:
        traits = {"gpus": {}, "fraction": "", "path": fake.path, "command_timeout": 4}
        with slurm_hub(state, fake, POOLS, more=("--keep-env", "KEPT"), **traits) as found:
            yield found
    finally:
        del os.environ["KEPT"], os.environ["NOT_KEPT"]


@pytest.fixture(scope="module", autouse=True)
def never_heard_of(hub: SlurmHub, fake: FakeSlurm) -> list[dict[str, Any]]:
    """Sessions of whose submission nobody knows what became of it; the last test sees what did."""
    asked = []
    for answer in ({}, {"out": "what is this?"}, {"err": SILENCE, "code": 1}):
        fake.says("sbatch", times=1, **answer)  # type: ignore[arg-type]
        asked.append(hub.account("tsbob").ask(gpus=1))
        eventually(lambda: fake.has_said("sbatch"), 60)
    return asked


@pytest.fixture(scope="module", autouse=True)
def waits_all_along(hub: SlurmHub, fake: FakeSlurm) -> Iterator[None]:
    """Somebody whose turn does not come, whatever else happens here: he keeps his place, in one job. At the end nothing
    is left of anybody."""
    bob = hub.account("tsbob")
    asked = bob.ask(gpus=1)
    job = fake.job_of(asked)
    yield
    assert (bob.get(asked)["state"], bob.get(asked)["external_job"]) == ("queued", str(job["id"]))
    assert [one["id"] for one in fake.jobs_of(asked)] == [job["id"]]
    for one in bob.live():
        bob.end(one)
    eventually(lambda: all(one["state"] == "ended" for one in hub.everybodys()), 60)
    eventually(lambda: not [one for one in fake.jobs() if fake.lives(one)], 60)


@pytest.fixture
def alice(hub: SlurmHub, fake: FakeSlurm) -> Iterator[SlurmAccount]:
    user = hub.account("tsalice")
    yield user
    fake.well()
    for reservation in user.live():
        user.end(reservation)


def begun(alice: SlurmAccount, fake: FakeSlurm, count: int) -> list[tuple[dict[str, Any], Job]]:
    """So many sessions that run, with their jobs."""
    asked = [alice.ask(gpus=1) for _ in range(count)]
    jobs = [fake.job_of(one) for one in asked]
    for job in jobs:
        fake.begin(job)
    eventually(lambda: [alice.get(one)["state"] for one in asked] == ["active"] * count, 90)
    return list(zip(asked, jobs, strict=True))


def at_its_server(alice: SlurmAccount, reservation: dict[str, Any]) -> str:
    """What the server of a session answers, through the proxy."""
    address = f"{alice.hub.url}user/{alice.name}/{reservation['server_name']}/"
    return requests.get(address, headers={"Authorization": f"Bearer {alice.token}"}, timeout=30).text


def where(alice: SlurmAccount, reservation: dict[str, Any]) -> SplitResult:
    """Where the proxy sends what is for the server of a session."""
    told = alice.hub.deployment
    headers = {"Authorization": f"token {told.proxy_token}"}
    routes = ask(f"{told.proxy_api_url}/api/routes", "GET", headers)
    return urlsplit(routes[f"/user/{alice.name}/{reservation['server_name']}"]["target"])


def over(alice: SlurmAccount, reservation: dict[str, Any]) -> tuple[str, str]:
    """Why it ended, once it has, and the hub has noticed."""
    eventually(lambda: alice.get(reservation)["state"] == "ended", 60)
    eventually(lambda: reservation["server_name"] not in alice.servers(), 60)
    ended = alice.get(reservation)
    return ended["reason"], ended["detail"]


# --- pending, running, over


def test_a_session_waits_runs_where_slurm_says_and_leaves_nothing_when_it_is_stopped(
    alice: SlurmAccount, fake: FakeSlurm
) -> None:
    before = len(fake.calls())
    asked = alice.ask(gpus=1)
    job = fake.job_of(asked)
    eventually(lambda: alice.get(asked)["why_waiting"] == "others are before it in the queue", 60)
    fake.begin(job, "a2")
    eventually(lambda: alice.is_ready(asked["server_name"]), 60)
    mine = alice.get(asked)
    assert (mine["external_job"], mine["external_node"]) == (str(job["id"]), "a2")
    assert at_its_server(alice, asked) == asked["id"]
    fake.asked_again()
    assert alice.get(asked)["state"] == "active"
    alice.stop(asked["server_name"])
    assert over(alice, asked) == ("cancelled", "stopped by its owner")
    assert not fake.lives(job)
    assert marked(asked["id"]) == []
    calls = [(call["command"], call["user"]) for call in fake.calls()[before:]]
    assert calls.count(("sbatch", "tsalice")) == 1
    assert {command for command, user in calls if user == "tsalice"} <= {"sbatch", "scancel"}
    assert {command for command, user in calls if user == "root"} <= {"squeue", "sacct", "scontrol"}


def test_what_the_site_and_the_share_ask_of_slurm_is_in_the_submission_and_no_token_is(
    alice: SlurmAccount, fake: FakeSlurm
) -> None:
    asked = alice.ask(gpus=2, model="a100", engine="full")
    job = fake.job_of(asked)
    argv = next(call["argv"] for call in fake.calls("sbatch") if f"--job-name={job['name']}" in call["argv"])
    wanted = ["--account=lab", "--qos=interactive", "--reservation=school", "--gres=gpu:a100:2", "--time=61"]
    assert set(argv) >= {*wanted, "--partition=gpu", "--cpus-per-task=8", "--mem=20480M", "--export=NIL"}
    assert "-m timeshare.reservations.jobagent" in job["script"]
    told = alice.hub.deployment
    own = (told.admin_token, told.service_token, told.starter_token, told.culler_token, told.proxy_token)
    for secret in (*own, told.signing_key, alice.token):
        assert secret not in job["script"] + " ".join(argv)


def test_the_server_has_the_variables_that_the_site_keeps_and_no_others_of_the_hub(
    alice: SlurmAccount, fake: FakeSlurm
) -> None:
    ((asked, job),) = begun(alice, fake, 1)
    (server,) = [pid for pid in marked(asked["id"]) if pid != fake.now(job)["pid"]]
    variables = Path(f"/proc/{server}/environ").read_text().split("\0")
    assert {"ABCDE=of the site", "KEPT=of the hub", f"SLURM_JOB_ID={job['id']}"} <= set(variables)
    assert "NOT_KEPT" not in {line.partition("=")[0] for line in variables}


def test_the_hub_hears_from_the_node_on_which_port_its_server_listens(alice: SlurmAccount, fake: FakeSlurm) -> None:
    first, second = (asked for asked, _ in begun(alice, fake, 2))
    ports = {where(alice, one).port for one in (first, second)}
    assert len(ports) == 2
    assert ports <= set(range(21000, 22000))
    assert (at_its_server(alice, first), at_its_server(alice, second)) == (first["id"], second["id"])


# --- submissions that fail


def test_a_submission_that_is_refused_says_why_and_leaves_nothing(alice: SlurmAccount, fake: FakeSlurm) -> None:
    fake.says("sbatch", err="sbatch: error: Batch job submission failed: Invalid qos specification", code=1)
    begins = alice.start(gpus=1, model="a100", engine="slurm")
    assert begins.status_code == 409
    assert "you may not use the QOS that this cluster is configured with" in begins.json()["message"]
    assert "" not in alice.servers()
    assert "" not in [reservation["server_name"] for reservation in alice.live()]
    fake.well()
    ((again, _),) = begun(alice, fake, 1)
    assert at_its_server(alice, again) == again["id"]


def test_a_submission_whose_answer_is_lost_is_found_by_its_name_and_not_made_again(
    alice: SlurmAccount, fake: FakeSlurm
) -> None:
    fake.says("sbatch", err=SILENCE, code=1, done=True)
    asked = alice.ask(gpus=1)
    job = fake.job_of(asked)
    eventually(lambda: alice.get(asked)["external_job"] == str(job["id"]), 60)
    fake.begin(job)
    eventually(lambda: alice.get(asked)["state"] == "active", 60)
    assert len(fake.jobs_of(asked)) == 1


def test_twenty_submissions_at_once_through_a_controller_that_hardly_answers_are_twenty_jobs(
    alice: SlurmAccount, fake: FakeSlurm
) -> None:
    fake.says("sbatch", err=SILENCE, code=1, done=True, times=10)
    asked = [alice.ask(gpus=1) for _ in range(20)]
    eventually(lambda: all(alice.get(one)["external_job"] for one in asked), 60)
    assert [len(fake.jobs_of(one)) for one in asked] == [1] * 20
    for one in asked:
        alice.end(one)
    eventually(lambda: [alice.get(one)["state"] for one in asked] == ["ended"] * 20, 60)


# --- answers about jobs


def test_answers_about_jobs_that_mean_nothing_change_nothing(alice: SlurmAccount, fake: FakeSlurm) -> None:
    ((running, job),) = begun(alice, fake, 1)
    waiting = alice.ask(gpus=1)
    waits = fake.job_of(waiting)
    eventually(lambda: alice.get(waiting)["external_job"], 60)
    for what, answer in NOTHING_MEANT.items():
        fake.says("squeue", times=1, **answer)  # type: ignore[arg-type]
        eventually(lambda: fake.has_said("squeue"), 60)
        after = [(r["state"], r["external_job"]) for r in (alice.get(running), alice.get(waiting))]
        assert after == [("active", str(job["id"])), ("queued", str(waits["id"]))], what
    fake.begin(waits)
    eventually(lambda: alice.get(waiting)["state"] == "active", 60)
    assert fake.lives(job)
    assert at_its_server(alice, running) == running["id"]


def test_a_state_that_nobody_has_heard_of_is_unknown_and_ends_nothing(alice: SlurmAccount, fake: FakeSlurm) -> None:
    sessions = begun(alice, fake, 3)
    strange = (["MOVED_TO_THE_MOON"], ["REVOKED"], ["FAILED", "COMPLETING"])
    for (_, job), states in zip(sessions, strange, strict=True):
        fake.change(job, states=states)
    fake.asked_again()
    for asked, job in sessions:
        assert alice.get(asked)["state"] == "active", fake.now(job)["states"]
        assert at_its_server(alice, asked) == asked["id"]
        fake.change(job, states=["RUNNING"])


def test_a_job_that_is_over_before_it_began_ends_the_wait_and_says_how(alice: SlurmAccount, fake: FakeSlurm) -> None:
    failed, cancelled, lost = (alice.ask(gpus=1) for _ in range(3))
    fake.says("squeue", err=SILENCE, code=1, times=1)
    eventually(lambda: fake.has_said("squeue"), 60)
    fake.end(fake.job_of(failed), "FAILED", code=1, listed=False)
    fake.end(fake.job_of(cancelled), "CANCELLED", by=0, listed=False)
    fake.end(fake.job_of(lost), "NODE_FAIL", listed=False)
    assert over(alice, failed) == ("failed", "it ended with exit code 1")
    assert over(alice, cancelled) == ("cancelled", "it was cancelled in Slurm by an administrator")
    assert over(alice, lost) == ("lost", "its node failed")


def test_a_session_whose_job_is_lost_ends_with_what_the_accounting_says(alice: SlurmAccount, fake: FakeSlurm) -> None:
    ((asked, job),) = begun(alice, fake, 1)
    fake.says("sacct", err="sacct: error: Problem talking to the database: Connection refused", code=1)
    fake.end(job, "NODE_FAIL", listed=False)
    fake.asked_again("sacct")
    assert alice.get(asked)["state"] == "active", "nobody has said that it is over"
    fake.well()
    assert over(alice, asked) == ("lost", "its node failed")


@pytest.mark.stress
@pytest.mark.skipif(not FULL_STRESS, reason="waits for two minutes: `make stress` does")
def test_a_job_that_nobody_knows_any_more_is_lost_or_submitted_again_after_two_minutes(
    alice: SlurmAccount, fake: FakeSlurm
) -> None:
    (lost, job), (heard, runs) = begun(alice, fake, 2)
    waiting = alice.ask(gpus=1)
    waits = fake.job_of(waiting)
    fake.forget(job)
    fake.forget(waits)
    fake.change(runs, listed=False, accounted=False)  # and its agent goes on
    eventually(lambda: len(fake.jobs_of(waiting)) == 2, 180)
    eventually(lambda: alice.get(lost)["state"] == "ended", 60)
    assert alice.get(lost)["reason"] == "lost"
    assert alice.get(waiting)["state"] == "queued"
    assert alice.get(heard)["state"] == "active", "its job agent says that it runs"


# --- the wrong place


def test_a_job_that_says_it_is_elsewhere_than_slurm_says_is_not_let_in(alice: SlurmAccount, fake: FakeSlurm) -> None:
    asked = alice.ask(gpus=1)
    job = fake.job_of(asked)
    eventually(lambda: alice.get(asked)["external_job"], 60)
    fake.change(job, states=["RUNNING"], node="a1")
    eventually(lambda: alice.get(asked)["external_node"] == "a1", 60)
    fake.begin(job, "a1", really_on="a2")
    reason, detail = over(alice, asked)
    assert reason == "failed"
    assert "ended before the session could begin; the log of its job says why" in detail
    assert f"job {job['id']}, on a1 is wanted" in Path(job["output"]).read_text()


def test_a_job_that_slurm_takes_back_from_a_node_before_it_began_may_begin_on_another(
    alice: SlurmAccount, fake: FakeSlurm
) -> None:
    asked = alice.ask(gpus=1)
    job = fake.job_of(asked)
    fake.change(job, states=["RUNNING", "CONFIGURING"], node="a1")
    eventually(lambda: alice.get(asked)["external_node"] == "a1", 60)
    fake.change(job, states=["PENDING"], reason="BeginTime", restarts=1)
    eventually(lambda: alice.get(asked)["external_node"] == "", 60)
    fake.begin(job, "a2")
    eventually(lambda: alice.get(asked)["state"] == "active", 60)
    assert alice.get(asked)["external_node"] == "a2"


def test_a_node_that_the_hub_does_not_reach_is_named(alice: SlurmAccount, fake: FakeSlurm) -> None:
    asked = alice.ask(gpus=1)
    fake.begin(fake.job_of(asked), "far")
    reason, detail = over(alice, asked)
    assert reason == "failed"
    assert "the hub does not reach the server on far, at 255.255.255.255 port" in detail


# --- memory


def test_a_hub_and_a_service_that_are_killed_find_what_waits_and_what_runs(
    alice: SlurmAccount, fake: FakeSlurm
) -> None:
    ((running, job),) = begun(alice, fake, 1)
    waiting = alice.ask(gpus=1)
    waits = fake.job_of(waiting)
    hub = alice.hub
    victims = {name: pid for name, pid in hub.components().items() if name in ("hub", "service")}
    for pid in victims.values():
        os.kill(pid, 9)
    eventually(lambda: not set(victims.values()) & set(hub.components().values()) and hub.is_healthy(), 90)
    after = hub.account("tsalice")
    assert at_its_server(after, running) == running["id"]
    fake.begin(waits)
    eventually(lambda: after.is_ready(waiting["server_name"]), 60)
    assert [after.get(one)["generation"] for one in (running, waiting)] == [1, 1]
    assert [one["id"] for one in (*fake.jobs_of(running), *fake.jobs_of(waiting))] == [job["id"], waits["id"]]


# --- ends that fail


def test_a_job_that_cannot_be_cancelled_is_not_called_over(alice: SlurmAccount, fake: FakeSlurm) -> None:
    asked = alice.ask(gpus=1)
    job = fake.job_of(asked)
    eventually(lambda: alice.get(asked)["external_job"], 60)
    for said in (SILENCE, "scancel: error: Kill job error on job id 1: Access/permission denied"):
        fake.says("scancel", err=said, code=1, times=1)
        alice.end(asked)
        eventually(lambda: fake.has_said("scancel"), 60)
        assert alice.get(asked)["state"] == "ending"
        assert fake.lives(job)
    assert over(alice, asked)[0] == "cancelled"
    assert not fake.lives(job)


def test_a_submission_of_which_nobody_knew_anything_was_made_again_once(
    hub: SlurmHub, fake: FakeSlurm, never_heard_of: list[dict[str, Any]]
) -> None:
    bob = hub.account("tsbob")
    jobs = [fake.job_of(one) for one in never_heard_of]
    for job in jobs:
        assert job["name"].endswith(".2"), "the first attempt arrived nowhere"
        fake.begin(job)
    eventually(lambda: [bob.get(one)["state"] for one in never_heard_of] == ["active"] * 3, 90)
    for one in never_heard_of:
        assert len(fake.jobs_of(one)) == 1
        bob.end(one)
    eventually(lambda: [bob.get(one)["state"] for one in never_heard_of] == ["ended"] * 3, 60)
