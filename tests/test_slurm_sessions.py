"""Sessions on a real Slurm: a real hub, real accounts, real jobs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from hubs import command
from nodes import eventually, marked
from slurm_cluster import Cluster
from slurm_hubs import SlurmHub, slurm_hub
from test_job_agent import environment_of
from test_session_strangers import CONNECTS, KERNELS, listens, ports_of_kernels

from timeshare.reservations.jobagent.setting import KEY
from timeshare.reservations.service.settings import engine_tag

pytestmark = [pytest.mark.hub, pytest.mark.slurm, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def hub(slurm: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmHub]:
    with slurm_hub(tmp_path_factory.mktemp("slurm"), slurm) as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_left(hub: SlurmHub) -> Iterator[None]:
    yield
    eventually(hub.is_healthy, 60)
    for reservation in hub.everybodys():
        if reservation["state"] != "ended":
            hub.service("POST", f"reservations/{reservation['id']}/end", json={})
    eventually(lambda: all(r["state"] == "ended" for r in hub.everybodys()), 90)
    eventually(lambda: jobs(hub) == [], 60)
    for user in ("tsalice", "tsbob"):
        eventually(hub.account(user).has_no_servers, 60)


def jobs(hub: SlurmHub) -> list[str]:
    """Names of the jobs that Slurm has, of everybody."""
    return str(hub.cluster.run("squeue", "-h", "-o", "%j").stdout).split()


def in_session(user: Any, code: str, server: str = "") -> str:
    """What a cell of a new kernel prints."""
    name = f"/{server}" if server else ""
    base, headers = f"{user.hub.url}user/{user.name}{name}/", {"Authorization": f"Bearer {user.token}"}
    kernel = requests.post(f"{base}api/kernels", headers=headers, json={"name": "python3"}, timeout=60).json()["id"]
    return executed(base, kernel, user.token, code)


def executed(base: str, kernel: str, token: str, code: str) -> str:
    import asyncio
    import uuid

    from tornado.httpclient import HTTPRequest
    from tornado.websocket import websocket_connect

    async def cell() -> str:
        address = f"{base.replace('http', 'ws', 1)}api/kernels/{kernel}/channels"
        socket = await websocket_connect(HTTPRequest(address, headers={"Authorization": f"Bearer {token}"}))
        name = uuid.uuid4().hex
        header = {"msg_id": name, "msg_type": "execute_request", "username": "", "session": name, "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}
        message = {"channel": "shell", "header": header, "parent_header": {}, "metadata": {}, "content": content}
        await socket.write_message(json.dumps({**message, "buffers": []}))
        shown = ""
        while True:
            told = json.loads(await asyncio.wait_for(socket.read_message(), 60) or "{}")
            if told["parent_header"].get("msg_id") != name:
                continue
            if told["msg_type"] == "stream":
                shown += told["content"]["text"]
            if told["msg_type"] == "error":
                shown += f"{told['content']['ename']}: {told['content']['evalue']}"
            if told["msg_type"] == "status" and told["content"]["execution_state"] == "idle":
                break
        socket.close()
        while await socket.read_message() is not None:
            continue  # until the other side has closed it too
        await asyncio.sleep(0.05)
        return shown

    return asyncio.run(cell())


def test_a_session_runs_as_a_job_of_its_owner_on_what_it_asked_for(hub: SlurmHub) -> None:
    alice = hub.account("tsalice")
    assert alice.start(gpus=1, model="a100", engine="slurm").status_code in (201, 202)
    eventually(alice.is_ready, 90)
    mine = alice.active()
    assert (mine["enforcement"], mine["simulated"], mine["gpus"]) == ("simulated", True, 1.0)
    assert mine["external_node"] == hub.cluster.node("a100").name
    job = hub.cluster.job(mine["external_job"])
    assert job["UserId"].startswith("tsalice(")
    told = in_session(
        alice,
        "import getpass, os; print(getpass.getuser(), os.environ['SLURM_JOB_ID'], os.environ['SLURM_JOB_GPUS'],"
        " os.environ['TIMESHARE_SHARE_TEXT'])",
    )
    assert told.split(maxsplit=3) == ["tsalice", mine["external_job"], "0", "1 whole a100 on slurm\n"]
    alice.stop()
    ended = alice.get(mine)
    assert (ended["state"], ended["reason"], ended["detail"]) == ("ended", "cancelled", "stopped by its owner")
    assert jobs(hub) == []


def as_bob(hub: SlurmHub, *words: str) -> str:
    """What another account of the node gets to see."""
    env = {**hub.cluster.env, "PATH": os.environ["PATH"]}
    done = subprocess.run(
        ["runuser", "-u", "tsbob", "--", *words], env=env, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_key_and_sockets_of_a_job_are_for_its_account_alone(hub: SlurmHub) -> None:
    alice = hub.account("tsalice")
    alice.start(gpus=1, model="a100", engine="slurm")
    eventually(alice.is_ready, 90)
    mine = alice.active()
    base, headers = f"{hub.url}user/tsalice/api/kernels", {"Authorization": f"Bearer {alice.token}"}
    assert requests.post(base, headers=headers, json={}, timeout=60).ok
    eventually(lambda: sum("/kernel-" in path for path in listens(marked(mine["id"]))[1]) >= KERNELS, 60)
    agents = [pid for pid in marked(mine["id"]) if b"timeshare.reservations.jobagent" in words_of(pid)]
    (agent,) = [pid for pid in agents if KEY in environment_of(pid)]
    key = environment_of(agent)[KEY]

    tcp, unix = listens(marked(mine["id"]))
    front = listens([agent])[0]
    assert len(front) == 1
    assert ports_of_kernels([address for address in tcp if address not in front])
    assert as_bob(hub, "/usr/bin/python3", "-c", CONNECTS, *unix).split() == ["reached:"]
    assert key.encode() not in b"".join(words_of(pid) for pid in marked(mine["id"]))
    job, folder = mine["external_job"], str(hub.cluster.layout.folder)
    looks = [
        ("scontrol", "show", "job", "-dd", job),
        ("scontrol", "write", "batch_script", job, "-"),
        ("ps", "axeww"),
        ("cat", f"/proc/{agent}/environ"),
        ("grep", "-rsF", "-e", key, folder, "/home/tsalice", "/var/spool"),
    ]
    for look in looks:
        assert key not in as_bob(hub, *look).replace(" ".join(looks[-1]), ""), look[:2]
    assert (
        key in subprocess.run(["grep", "-rshF", "-e", key, folder], capture_output=True, text=True).stdout
    )  # it is there


def words_of(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def test_nothing_runs_on_slurm_as_root(hub: SlurmHub) -> None:
    body = {"share": {"engine": "slurm", "gpus": 1, "model": "a100"}, "owner": "root", "server_name": "r"}
    made = hub.service("POST", "reservations", json=body)
    assert made.status_code in (201, 400, 403, 409), made.text
    if made.status_code == 201:
        name = made.json()["id"]
        eventually(lambda: hub.service("GET", f"reservations/{name}").json()["state"] == "ended", 60)
        assert "has all rights (user id 0)" in hub.service("GET", f"reservations/{name}").json()["detail"]
    assert jobs(hub) == []


def test_a_part_of_a_gpu_is_so_many_shards(hub: SlurmHub) -> None:
    bob = hub.account("tsbob")
    bob.start(memory_gib=8, model="v100", engine="slurm")
    eventually(bob.is_ready, 90)
    mine = bob.active()
    assert mine["gpus"] == 0.5
    assert "gres/shard=2" in hub.cluster.job(mine["external_job"])["TRES"]


BAD = [
    ({"gpus": 5, "model": "a100"}, "ask for gpus from 1 to 4"),
    ({"gpus": 1, "model": "h100"}, "model is 'h100'"),
    ({"memory_gib": 20, "model": "v100"}, "memory_gib is 20"),
    ({"memory_gib": 4, "model": "a100"}, "parts can be had of v100"),
    ({"gpus": 1, "nodes": 2}, "a session is on one node"),
]


@pytest.mark.parametrize(("share", "said"), BAD, ids=[said for _, said in BAD])
def test_what_would_wait_for_ever_there_is_refused_with_what_would_work(
    hub: SlurmHub, share: dict[str, Any], said: str
) -> None:
    refused = hub.account("tsalice").start(engine="slurm", **share)
    assert 400 <= refused.status_code < 500, refused.text
    assert said in refused.json()["message"]
    assert jobs(hub) == []


def test_a_refusal_of_slurm_is_told_in_words(hub: SlurmHub) -> None:
    alice = hub.account("tsalice")
    refused = alice.ask(gpus=1, model="a100", engine="wrong")
    eventually(lambda: alice.get(refused)["state"] == "ended", 60)
    ended = alice.get(refused)
    assert ended["reason"] == "refused"
    assert ended["detail"].startswith("Slurm refused it: ")
    assert "you may not use the QOS that this cluster is configured with" in ended["detail"]


def test_who_waits_there_is_told_what_slurm_says_and_starts_by_itself(hub: SlurmHub) -> None:
    alice = hub.account("tsalice")
    taken = hub.cluster.submit("sleep 600", "--gres=gpu:a100:4", "--time=15", user="tsbob")
    hub.cluster.wait(taken, "RUNNING")
    waiting = alice.ask(gpus=2, model="a100")
    eventually(lambda: "not free yet" in alice.get(waiting)["why_waiting"], 60)
    shown = alice.get(waiting)
    assert (shown["state"], shown["engine_title"]) == ("queued", "Slurm, partition gpu")
    eventually(lambda: (alice.get(waiting)["latest_start_in_s"] or 0) > 60, 90)
    page = alice.page(f"timeshare/wait/{waiting['id']}").text
    assert "decides when it starts" in page
    hub.cluster.run("scancel", taken)
    server = waiting["server_name"]
    eventually(lambda: alice.is_ready(server), 90)
    assert "a100" in in_session(alice, "import os; print(os.environ['TIMESHARE_SHARE_TEXT'])", server)
    alice.end(waiting)


def offer(hub: SlurmHub, model: str, count: int = 1) -> dict[str, Any]:
    offers = hub.service("GET", "offers?owner=tsalice").json()["offers"]
    share = {"engine": "slurm", "gpus": count, "model": model}
    return next(offer for offer in offers if offer["share"] == share)


@contextlib.contextmanager
def maintenance(hub: SlurmHub, minutes: int, *nodes: str) -> Iterator[None]:
    """Of these nodes, for an hour, in so many minutes."""
    about = [f"starttime=now+{minutes}minutes", "duration=60", f"nodes={','.join(nodes)}", "users=root"]
    hub.cluster.run("scontrol", "create", "reservation", "reservationname=fix", "flags=maint", *about)
    try:
        yield
    finally:
        hub.cluster.clear()
        hub.cluster.run("scontrol", "delete", "reservationname=fix")


def test_maintenance_is_shown_and_only_what_ends_before_it_starts(hub: SlurmHub) -> None:
    alice = hub.account("tsalice")
    with maintenance(hub, 30, hub.cluster.node("a100").name):
        eventually(lambda: offer(hub, "a100")["free_for_s"], 60)
        told = offer(hub, "a100")
        assert told["free_now"] == 4
        assert 25 * 60 < told["free_for_s"] < 30 * 60
        assert "4 free now for up to 2" in told["when"]
        assert "maintenance from 20" in told["when"]
        assert 85 * 60 < told["latest_start_in_s"] < 91 * 60  # of two hours
        assert offer(hub, "p100")["when"] == "4 free now"
        announced = hub.service("GET", "offers?owner=tsalice").json()["announced"][0]
        assert announced.startswith("Slurm, partition gpu, maintenance from 20")
        assert hub.cluster.node("a100").name in announced
        waiting = alice.ask(gpus=1, model="a100")
        eventually(lambda: "it would run into maintenance from 20" in alice.get(waiting)["why_waiting"], 60)
        eventually(lambda: 80 * 60 < (alice.get(waiting)["latest_start_in_s"] or 0) < 92 * 60, 60)
        assert alice.start(gpus=1, model="a100", engine="slurm", time_limit_s=900).status_code in (201, 202)
        eventually(alice.is_ready, 90)
        alice.end(waiting)
        alice.stop()


def test_nothing_is_offered_of_nodes_that_are_in_maintenance_or_drained(hub: SlurmHub) -> None:
    a100, p100 = hub.cluster.node("a100").name, hub.cluster.node("p100").name
    hub.cluster.run("scontrol", "update", f"nodename={p100}", "state=drain", "reason=fan")
    try:
        with maintenance(hub, 0, a100):
            # Nodes and maintenance are asked by two commands, and these may have been answered at either side of both.
            eventually(lambda: offer(hub, "a100")["when"].startswith("maintenance from 20"), 60)
            eventually(lambda: not offer(hub, "p100")["possible"], 60)
            told = offer(hub, "a100")
            assert told["free_now"] == 0
            assert (told["possible"], 50 * 60 < told["latest_start_in_s"] <= 3600) == (True, True)
            drained = offer(hub, "p100")
            assert (drained["possible"], drained["free_now"]) == (False, 0)
            assert drained["when"] in (
                f"Not possible: {p100}: drain (fan)",
                f"Not possible: {p100}: drained (fan)",
                f"Not possible: {p100}: draining (fan)",
            )
    finally:
        hub.cluster.run("scontrol", "update", f"nodename={p100}", "state=resume")


def own_limits(hub: SlurmHub, engine: str) -> list[dict[str, str]]:
    """What Slurm allows tsalice there."""
    engines = hub.service("GET", "limits?owner=tsalice").json()["engines"]
    return next((found["limits"] for found in engines if found["engine"] == engine), [])


def test_limits_of_slurm_are_shown_and_named_where_they_stop_somebody(hub: SlurmHub) -> None:
    alice, cluster = hub.account("tsalice"), hub.cluster
    gpus = {"of": "QOS interactive", "what": "at once, each person", "value": "2 GPUs", "name": "MaxTRESPerUser"}
    eventually(lambda: gpus in own_limits(hub, "interactive"), 60)
    assert own_limits(hub, "slurm") == []
    everybody = hub.service("GET", "limits/engines").json()["engines"][0]["limits"]
    assert {row["of"] for row in everybody} == {"account other", "QOS interactive", "QOS single"}
    assert "MaxTRESPerUser" in alice.page("timeshare/limits").text
    taken = cluster.submit("sleep 600", "--qos=interactive", "--gres=gpu:2", user="tsalice")
    cluster.wait(taken, "RUNNING")
    waiting = alice.ask(engine="interactive", gpus=1, model="v100", seconds=900)
    says = "Slurm's limit QOSMaxGRESPerUser: 2 GPUs in QOS interactive"
    eventually(lambda: says in alice.get(waiting)["why_waiting"], 60)
    for _ in range(2):
        cluster.submit("sleep 600", "--qos=interactive", "--hold", user="tsalice")
    refused = alice.ask(engine="interactive", gpus=1, model="v100", seconds=900)
    eventually(lambda: alice.get(refused)["state"] == "ended", 60)
    assert "QOSMaxSubmitJobPerUserLimit: 4 jobs in QOS interactive" in alice.get(refused)["detail"]
    cluster.clear()


def reconcile(hub: SlurmHub, *words: str) -> subprocess.CompletedProcess[str]:
    state = str(hub.deployment.path.parent)
    argv = [command(), "reconcile", "--state", state, "--since", "1h", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)


def test_the_ledger_agrees_with_slurms_accounting_but_for_what_it_does_not_know(hub: SlurmHub) -> None:
    alice, cluster = hub.account("tsalice"), hub.cluster
    alice.start(gpus=2, model="a100", engine="slurm")
    eventually(alice.is_ready, 90)
    mine = alice.active()
    tag = engine_tag(hub.deployment.signing_key, "slurm")
    stray = cluster.submit("sleep 600", "--gres=gpu:p100:1", f"--job-name=timeshare-{tag}-stray.1", user="tsbob")
    log = Path(hub.deployment.state_dir) / "logs" / "service.log"
    eventually(
        lambda: "a job called after 'stray' is of this deployment, and the ledger does not know it" in log.read_text()
    )
    alice.stop()
    assert cluster.job(stray)["JobState"] == "RUNNING", "the ledger may be an older one: nobody's work is ended for it"
    cluster.run("scancel", stray)
    cluster.wait(stray, "CANCELLED")
    cluster.accounted(stray, "State")
    cluster.accounted(mine["external_job"], "State")
    done = reconcile(hub, "--json")
    assert done.returncode == 3, done.stderr
    told = json.loads(done.stdout)["engines"]["slurm"]
    (strange,) = [one for one in told["differences"] if one["kind"] == "not-in-ledger"]
    assert (strange["owner"], strange["job"], strange["reservation"]) == ("tsbob", stray, "")
    assert [one for one in told["differences"] if one["reservation"] == mine["id"]] == []
    totals = {one["owner"]: one for one in told["totals"]}
    assert totals["tsalice"]["ledger"] > 0
    assert totals["tsalice"]["slurm"] > 0
    assert totals["tsbob"]["slurm"] > 0
    table = reconcile(hub).stdout
    assert "PERSON (slurm)" in table
    assert any(line.split()[:4] == ["not-in-ledger", "tsbob", "-", stray] for line in table.splitlines())


def test_leaving_the_line_takes_the_job_out_of_slurm(hub: SlurmHub) -> None:
    alice = hub.account("tsalice")
    taken = hub.cluster.submit("sleep 600", "--gres=gpu:a100:4", user="tsbob")
    hub.cluster.wait(taken, "RUNNING")
    waiting = alice.ask(gpus=4, model="a100")
    eventually(lambda: len(jobs(hub)) == 2, 60)
    alice.end(waiting)
    eventually(lambda: len(jobs(hub)) == 1, 60)
    eventually(lambda: alice.get(waiting)["state"] == "ended", 60)
    hub.cluster.run("scancel", taken)


def test_an_extension_moves_the_end_in_slurm_too_and_a_cancel_there_ends_the_session_with_the_reason(
    hub: SlurmHub,
) -> None:
    alice = hub.account("tsalice")
    alice.start(gpus=1, model="p100", engine="slurm", time_limit_s=3600)
    eventually(alice.is_ready, 90)
    mine = alice.active()
    assert hub.cluster.job(mine["external_job"])["TimeLimit"] == "01:01:00"  # rounded up, with what a stop may take
    longer = alice.service("POST", f"reservations/{mine['id']}/extend", json={"seconds": 1800})
    assert longer.status_code == 200, longer.text
    eventually(lambda: hub.cluster.job(mine["external_job"])["TimeLimit"] == "01:31:00", 60)
    hub.cluster.run("scancel", mine["external_job"])
    eventually(lambda: alice.get(mine)["state"] == "ended", 90)
    assert "Slurm" in alice.get(mine)["detail"] or "server" in alice.get(mine)["detail"]


def test_a_running_session_survives_a_kill_of_the_service_and_one_of_the_hub(hub: SlurmHub) -> None:
    alice = hub.account("tsalice")
    alice.start(gpus=1, model="p100", engine="slurm")
    eventually(alice.is_ready, 90)
    mine = alice.active()
    for victim in ("service", "hub"):
        hub.kill(victim)
        eventually(hub.is_healthy, 90)
        alice = hub.account("tsalice")
        assert in_session(alice, "print(6 * 7)") == "42\n"
        after = alice.active()
        assert (after["id"], after["external_job"], after["generation"]) == (mine["id"], mine["external_job"], 1)
        assert len(jobs(hub)) == 1


def test_a_session_that_starts_survives_a_kill_of_the_service(hub: SlurmHub) -> None:
    alice = hub.account("tsalice")
    asked = alice.ask(gpus=1, model="p100")
    eventually(lambda: alice.get(asked)["state"] == "starting", 60)
    hub.kill("service")
    eventually(hub.is_healthy, 90)
    eventually(lambda: alice.get(asked)["state"] in ("active", "ended"), 120)
    after = alice.get(asked)
    assert (after["state"], after["generation"], after["detail"]) == ("active", 1, "running")
    assert len(jobs(hub)) == 1


def test_while_slurm_is_silent_nothing_is_lost_and_nothing_is_concluded(hub: SlurmHub) -> None:
    alice = hub.account("tsalice")
    alice.start(gpus=1, model="p100", engine="slurm")
    eventually(alice.is_ready, 90)
    mine = alice.active()
    hub.cluster.wait_saved()
    hub.cluster.kill_ctl()
    try:
        waiting = alice.ask(gpus=1, model="v100")
        assert in_session(alice, "print(6 * 7)") == "42\n"
        assert alice.told(mine) == ("active", "", "running")
        assert alice.get(waiting)["state"] == "queued"
    finally:
        hub.cluster.start_ctl()
    eventually(lambda: alice.get(waiting)["state"] in ("starting", "active"), 200)
    assert alice.told(mine) == ("active", "", "running")
    assert len(jobs(hub)) == 2


def test_a_time_limit_is_kept_here_before_slurm_keeps_its_own(hub: SlurmHub) -> None:
    alice = hub.account("tsalice")
    body = {"gpus": 1, "model": "p100", "engine": "slurm", "time_limit_s": 60}
    assert alice.start(**body).status_code in (201, 202)
    mine = alice.active()
    assert any("ends in" in notice["text"] for notice in mine["notices"])
    eventually(lambda: alice.get(mine)["state"] == "ended", 120)
    assert alice.get(mine)["reason"] == "time_limit"
    assert Path("/home/tsalice/.timeshare/slurm").is_dir()


def test_doctor_runs_a_job_that_reaches_service_and_hub_from_a_node(hub: SlurmHub) -> None:
    state = str(hub.deployment.path.parent)
    argv = [command(), "doctor", "--engine", "slurm", "--state", state, "--user", "tsalice", "--job", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    found = {finding["what"]: finding for finding in json.loads(done.stdout)}
    assert found["slurm: a job"]["level"] == "ok", found
    assert "reaches the service and the hub" in found["slurm: a job"]["detail"]
    assert found["wrong: a job"]["level"] == "fail"
