"""The job agent with real processes: how a job says that it is there, runs a server, and comes to its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from databases import free_port
from job_agents import Job, Relay, an_order, answers, begun, jobagent_environment, jobs
from nodes import driver_tells, eventually
from services import Service, running_service

from timeshare.reservations.deployment import Deployment
from timeshare.reservations.devices.simulated import FAULTS_VARIABLE
from timeshare.reservations.engines.local import LocalEngine
from timeshare.reservations.jobagent.setting import KEY
from timeshare.reservations.jobagent.talk import SOCKET_HERE, Stop
from timeshare.reservations.service.__main__ import listen, settings_of
from timeshare.reservations.service.base import Context
from timeshare.reservations.service.bounds import ServiceBounds
from timeshare.reservations.service.crowd import Crowd
from timeshare.reservations.service.feeds import Feeds
from timeshare.reservations.service.handlers import make_app
from timeshare.reservations.service.listening import make_server
from timeshare.reservations.service.runtime import Runtime

Begin = Callable[..., Job]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("service"), simulate="a100-40gb:64") as found:
        yield found


@pytest.fixture
def begin(service: Service, tmp_path: Path) -> Iterator[Begin]:
    """Starts a job of a reservation."""
    with jobs(tmp_path) as started:

        def one(reservation_id: str, **changes: str) -> Job:
            started.append(Job(tmp_path, jobagent_environment(service.deployment, reservation_id, **changes)))
            return started[-1]

        yield one


def run(service: Service, name: str, **order: Any) -> Any:
    return service.ask("POST", f"reservations/{name}/order", json=an_order(**order))


def test_a_job_that_has_begun_runs_what_the_hub_hands_over(service: Service, begin: Begin) -> None:
    name = begun(service)
    begin(name)
    told = run(service, name)
    assert (told["state"], told["node"], told["job_id"]) == ("running", "a1", "100")
    assert told["enforcement"] == "simulated"
    assert answers(told["address"], told["port"]) == name


def test_an_order_waits_for_a_job_that_is_just_beginning(service: Service, begin: Begin) -> None:
    name = begun(service)
    with ThreadPoolExecutor(1) as pool:
        ordered = pool.submit(run, service, name)
        time.sleep(0.3)
        begin(name)
        assert ordered.result()["state"] == "running"


def test_without_a_job_there_is_nobody_to_run_it(service: Service) -> None:
    name = begun(service)
    answer = service.call("POST", f"reservations/{name}/order", json=an_order(wait_s=0))
    assert (answer.status_code, answer.json()["error"]["reason"]) == (409, "no-agent")


def test_the_exit_code_of_the_server_is_told_and_becomes_that_of_the_job(service: Service, begin: Begin) -> None:
    name = begun(service)
    job = begin(name)
    told = run(service, name, argv=("sh", "-c", "exit 7"))
    assert (told["state"], told["exit"]) == ("exited", {"code": 7, "message": ""})
    assert job.exit_code() == 7


def test_a_program_that_does_not_exist_is_named(service: Service, begin: Begin) -> None:
    name = begun(service)
    job = begin(name)
    told = run(service, name, argv=("no-such-program",))
    assert "no-such-program cannot be run" in told["exit"]["message"]
    assert job.exit_code() == 127


def test_a_log_that_cannot_be_written_is_named(service: Service, begin: Begin) -> None:
    name = begun(service)
    job = begin(name)
    told = run(service, name, log_path="/nowhere/server.log")
    assert "/nowhere/server.log cannot be written" in told["exit"]["message"]
    assert job.exit_code() == 1


def test_an_order_given_twice_starts_one_server(service: Service, begin: Begin) -> None:
    name = begun(service)
    job = begin(name)
    first = run(service, name)
    pids = job.server_pids()
    assert run(service, name) == first
    assert job.server_pids() == pids


def test_a_hub_that_was_restarted_starts_it_anew_in_the_same_job(service: Service, begin: Begin) -> None:
    name = begun(service)
    job = begin(name)
    run(service, name)
    old = job.server_pids()
    service.ask("POST", f"reservations/{name}/starting", json={})
    second = run(service, name, generation=2)
    assert (second["state"], second["generation"]) == ("running", 2)
    assert answers(second["address"], second["port"]) == name
    assert set(old).isdisjoint(job.server_pids())
    assert job.process.poll() is None


def test_an_older_start_is_refused(service: Service, begin: Begin) -> None:
    name = begun(service)
    begin(name)
    service.ask("POST", f"reservations/{name}/starting", json={})
    answer = service.call("POST", f"reservations/{name}/order", json=an_order(generation=1))
    assert (answer.status_code, answer.json()["error"]["reason"]) == (409, "older-generation")


def test_people_cannot_give_orders(service: Service) -> None:
    name = begun(service)
    answer = service.call("POST", f"reservations/{name}/order", token="somebody", json=an_order())
    assert answer.status_code in (401, 503)


def test_of_two_jobs_of_one_reservation_the_second_leaves(service: Service, begin: Begin) -> None:
    name = begun(service)
    first = begin(name)
    eventually(lambda: service.call("POST", f"reservations/{name}/order", json=an_order(wait_s=0)).ok)
    second = begin(name, SLURM_JOB_ID="101")
    assert second.exit_code() == 0
    assert "job 100 of this reservation came first" in second.log
    assert first.process.poll() is None


def test_a_job_of_a_reservation_that_has_ended_leaves(service: Service, begin: Begin) -> None:
    name = begun(service)
    service.ask("POST", f"reservations/{name}/end", json={})
    eventually(lambda: service.get(name)["state"] == "ended")
    job = begin(name)
    assert job.exit_code() == 0
    assert "the reservation has ended" in job.log


def test_a_job_that_was_requeued_does_not_run_what_was_ordered_before(service: Service, begin: Begin) -> None:
    name = begun(service)
    first = begin(name)
    run(service, name)
    first.process.kill()
    first.process.wait()
    eventually(lambda: first.server_pids() == [])
    again = begin(name, SLURM_RESTART_COUNT="1")
    told = eventually(lambda: (found := run(service, name, wait_s=0))["state"] == "exited" and found)
    assert "started anew" in told["exit"]["message"]
    assert again.server_pids() == []
    service.ask("POST", f"reservations/{name}/starting", json={})
    assert run(service, name, generation=2)["state"] == "running"


@pytest.mark.parametrize("whose", ["nobody's", "another reservation's"])
def test_a_wrong_key_opens_nothing(service: Service, begin: Begin, whose: str) -> None:
    name, other = begun(service), begun(service)
    key = "wrong" if whose == "nobody's" else jobagent_environment(service.deployment, other)[KEY]
    job = begin(name, **{KEY: key})
    eventually(lambda: "this is not the key" in job.log)
    answer = service.call("POST", f"reservations/{name}/order", json=an_order(wait_s=0))
    assert answer.json()["error"]["reason"] == "no-agent"
    assert key not in job.log


def test_what_a_report_must_not_say_is_named(service: Service) -> None:
    name = begun(service)
    key = jobagent_environment(service.deployment, name)[KEY]
    good = {
        "attempt": 1,
        "job_id": "1",
        "restarts": 0,
        "node": "a1",
        "address": "a1",
        "port": 0,
        "devices": [],
        "level": "simulated",
        "state": "waiting",
        "generation": 0,
        "exits": [],
        "events": [],
        "reading": None,
        "wait_s": 0,
    }
    for field, value in (
        ("address", "evil/../path"),
        ("port", 80),
        ("level", "perfect"),
        ("attempt", 0),
        ("generation", True),
        ("exits", [{"generation": 1}]),
        ("reading", {"gpu": -1, "cpu": None, "memory_mib": None}),
        ("wait_s", 21),
        ("more", 1),
    ):
        answer = service.call("POST", f"reservations/{name}/jobagent", token=key, json={**good, field: value})
        assert answer.status_code == 400, field
    missing = {field: value for field, value in good.items() if field != "node"}
    assert service.call("POST", f"reservations/{name}/jobagent", token=key, json=missing).status_code == 400
    assert service.ask("POST", f"reservations/{name}/jobagent", token=key, json=good) == {"want": "wait"}


def test_what_is_wrong_with_an_order_is_told_without_its_values(service: Service) -> None:
    name = begun(service)
    answer = service.call("POST", f"reservations/{name}/order", json=an_order(env={"TOKEN": "secret\0value"}, wait_s=0))
    assert answer.status_code == 400
    assert "secret" not in answer.text


# --- what survives


def test_a_service_that_is_killed_finds_jobs_that_wait_and_servers_that_run_again(
    service: Service, begin: Begin
) -> None:
    waits, runs = begun(service), begun(service)
    begin(waits)
    job = begin(runs, SLURM_JOB_ID="200")
    first = run(service, runs)
    pids = job.server_pids()
    service.kill()
    assert answers(first["address"], first["port"]) == runs
    service.start()
    assert run(service, runs) == first
    assert job.server_pids() == pids
    assert run(service, waits)["state"] == "running"


def test_an_exit_that_no_service_heard_of_is_the_exit_code_of_the_job(tmp_path: Path) -> None:
    with running_service(tmp_path) as alone, jobs(tmp_path) as started:
        name = begun(alone)
        job = Job(tmp_path, jobagent_environment(alone.deployment, name))
        started.append(job)
        go = tmp_path / "go"
        program = (
            f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.05)\nraise SystemExit(3)"
        )
        given = an_order(argv=(sys.executable, "-c", program), wait_s=0)
        eventually(lambda: alone.call("POST", f"reservations/{name}/order", json=given).ok, 30)
        eventually(lambda: "runs as process" in job.log, 30)
        alone.kill()
        go.touch()
        eventually(lambda: "leaving" in job.log, 30)
        alone.start()
        told = eventually(lambda: (found := run(alone, name, wait_s=30))["state"] == "exited" and found, 60)
        assert told["exit"]["code"] == 3
        assert job.exit_code() == 3


def test_orders_whose_answers_got_lost_are_given_again_and_run_once(service: Service, begin: Begin) -> None:
    relay = Relay(service.deployment.service_url.removesuffix("/services/timeshare"))
    relay.lose = 2
    try:
        name = begun(service)
        job = begin(name, TIMESHARE_SERVICE_URL=f"{relay.url}/services/timeshare")
        told = run(service, name)
        assert (told["state"], relay.lost) == ("running", 2)
        assert job.log.count("runs as process") == 1
    finally:
        relay.close()


def test_a_service_that_never_answers_is_given_up_and_the_allocation_comes_back(service: Service, begin: Begin) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}/services/timeshare"
    job = begin(begun(service), TIMESHARE_SERVICE_URL=nowhere, TIMESHARE_PATIENCE_S="1")
    assert job.exit_code() == 75
    assert "the allocation comes back" in job.log


def test_a_server_dies_with_its_agent(service: Service, begin: Begin) -> None:
    name = begun(service)
    job = begin(name)
    run(service, name)
    assert job.server_pids()
    job.process.kill()
    job.process.wait()
    eventually(lambda: job.server_pids() == [])


# --- the end

SAVES = """
import http.server, pathlib, socketserver, sys, time, signal
signal.signal(signal.SIGTERM, lambda *_: pathlib.Path(sys.argv[1]).write_text("terminated") and sys.exit(0))
try:
    socketserver.UnixStreamServer(sys.argv[2], http.server.BaseHTTPRequestHandler).serve_forever()
except KeyboardInterrupt:
    time.sleep(0.5)
    pathlib.Path(sys.argv[1]).write_text("saved")
"""
STUBBORN = """
import http.server, os, signal, socketserver, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(300)
    os._exit(0)
socketserver.UnixStreamServer(sys.argv[1], http.server.BaseHTTPRequestHandler).serve_forever()
"""


def program(text: str, *arguments: object) -> tuple[str, ...]:
    """``ipykernel_launcher`` among its words makes it a kernel for whoever interrupts kernels."""
    return (sys.executable, "-c", text, *map(str, arguments), SOCKET_HERE, "ipykernel_launcher")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_when_the_batch_system_ends_the_job_kernels_have_time_to_save(
    service: Service, begin: Begin, tmp_path: Path, number: signal.Signals
) -> None:
    name = begun(service)
    job = begin(name)
    run(service, name, argv=program(SAVES, tmp_path / "saved"))
    job.send(number)
    assert job.exit_code() == 0
    assert (tmp_path / "saved").read_text() == "saved"
    told = run(service, name, wait_s=0)
    assert (told["state"], told["exit"]["code"]) == ("exited", 0)


def test_what_does_not_end_in_its_time_is_killed_and_nothing_is_left(service: Service, begin: Begin) -> None:
    name = begun(service)
    job = begin(name, TIMESHARE_SAVE_GRACE_S="0", TIMESHARE_TERM_GRACE_S="0.5")
    run(service, name, argv=program(STUBBORN))
    eventually(lambda: len(job.server_pids()) == 2)
    job.send(signal.SIGINT)
    assert job.exit_code() == 128 + signal.SIGKILL
    assert job.server_pids() == []


def test_what_a_server_leaves_behind_ends_with_it(service: Service, begin: Begin) -> None:
    name = begun(service)
    job = begin(name)
    run(service, name, argv=("sh", "-c", "setsid sleep 300 & exit 0"))
    assert job.exit_code() == 0
    assert job.server_pids() == []


def test_a_job_that_waits_leaves_when_the_batch_system_ends_it(service: Service, begin: Begin) -> None:
    job = begin(begun(service))
    eventually(lambda: "holds" in job.log)
    time.sleep(0.5)
    job.send(signal.SIGTERM)
    assert job.exit_code() == 0


class Near:
    """A service in this process, so that a test has its meeting in hand, as the engine has."""

    def __init__(self, runtime: Runtime, url: str) -> None:
        self.runtime = runtime
        self.url = url

    async def ask(self, path: str, body: dict[str, Any]) -> Any:
        answer = await asyncio.to_thread(
            requests.post,
            f"{self.url}/api/v1/{path}",
            json=body,
            headers={"Authorization": "Bearer admin-token"},
            timeout=60,
        )
        assert answer.ok, answer.text
        return answer.json()

    async def begun(self) -> str:
        await until(lambda: self.runtime.fresh)
        made = await self.ask("reservations", {"share": {"gpus": 1}, "owner": "ada"})
        await self.ask(f"reservations/{made['id']}/starting", {})
        return str(made["id"])


async def until(question: Callable[[], Any], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < end, "never became true"
        await asyncio.sleep(0.02)
    return answer


@contextlib.asynccontextmanager
async def near_service(place: Deployment) -> AsyncIterator[Near]:
    settings = settings_of(place)
    assert settings.agent_socket is not None
    runtime = Runtime(settings, LocalEngine(settings.agent_socket))
    await runtime.start()
    bounds = ServiceBounds()
    app = make_app(Context(settings, runtime, None, Crowd(bounds), Feeds(runtime)))
    server = make_server(app, bounds, bounds.connections)
    listen(server, settings.url)
    try:
        yield Near(runtime, place.service_url)
    finally:
        server.stop()
        await server.close_all_connections()
        await runtime.stop()


async def test_the_engine_sees_who_has_arrived_and_stops_it_with_graces(place: Deployment, tmp_path: Path) -> None:
    async with near_service(place) as near:
        with jobs(tmp_path) as started:
            name = await near.begun()
            meeting = near.runtime.meeting
            job = Job(tmp_path, jobagent_environment(place, name))
            started.append(job)
            here = await until(lambda: meeting.arrival(name))
            assert (here.attempt, here.job_id, here.said.state, here.generation) == (1, "100", "waiting", 0)
            saved = tmp_path / "saved"
            await near.ask(f"reservations/{name}/order", an_order(argv=program(SAVES, saved)))
            assert meeting.arrival(name).said.port
            meeting.stop(name, 1, Stop(True, 30, 10))
            assert await asyncio.to_thread(job.exit_code) == 0
            assert saved.read_text() == "saved"
            assert meeting.arrival(name).over
            assert meeting.exits(name)[1].code == 0


async def test_a_second_and_stricter_stop_comes_sooner(place: Deployment, tmp_path: Path) -> None:
    async with near_service(place) as near:
        with jobs(tmp_path) as started:
            name = await near.begun()
            meeting = near.runtime.meeting
            job = Job(tmp_path, jobagent_environment(place, name))
            started.append(job)
            saved = tmp_path / "saved"
            await near.ask(f"reservations/{name}/order", an_order(argv=program(SAVES, saved)))
            meeting.stop(name, 1, Stop(False, 3600, 10))
            await until(lambda: meeting.arrival(name).said.state == "stopping")
            assert job.process.poll() is None
            meeting.stop(name, 1, Stop(False, 0, 10))
            assert await asyncio.to_thread(job.exit_code) == 0
            assert saved.read_text() == "terminated"


async def test_the_job_that_the_ledger_knows_wins_over_the_one_that_came_first(
    place: Deployment, tmp_path: Path
) -> None:
    async with near_service(place) as near:
        with jobs(tmp_path) as started:
            name = await near.begun()
            meeting = near.runtime.meeting
            first = Job(tmp_path, jobagent_environment(place, name))
            started.append(first)
            await until(lambda: meeting.arrival(name))
            meeting.expect(name, 2, "101")
            assert await asyncio.to_thread(first.exit_code) == 0
            assert "attempt 2, job 101 is wanted" in first.log
            second = Job(tmp_path, jobagent_environment(place, name, TIMESHARE_ATTEMPT="2", SLURM_JOB_ID="101"))
            started.append(second)
            assert (await until(lambda: meeting.arrival(name))).job_id == "101"


async def test_what_the_server_uses_is_told(place: Deployment, tmp_path: Path) -> None:
    busy = tmp_path / "faults.json"
    driver_tells(busy, use=[{"device": "GPU-simulated-0000", "percent": 80}])
    async with near_service(place) as near:
        with jobs(tmp_path) as started:
            name = await near.begun()
            meeting = near.runtime.meeting
            job = Job(tmp_path, jobagent_environment(place, name, **{FAULTS_VARIABLE: str(busy)}))
            started.append(job)
            await near.ask(f"reservations/{name}/order", an_order())
            assert meeting.arrival(name).said.devices == ("GPU-simulated-0000",)
            meeting.stop(name, 1, Stop(False, 3600, 10))  # has it report every second
            reading = await until(lambda: (r := meeting.arrival(name).said.reading) and r.cpu is not None and r)
            assert (reading.gpu, reading.memory_mib) == (80, 0)


async def test_more_memory_than_the_part_is_warned_of_and_stopped_and_the_reason_is_told(
    place: Deployment, tmp_path: Path
) -> None:
    faults = tmp_path / "over.json"
    async with near_service(place) as near:
        with jobs(tmp_path) as started:
            name = await near.begun()
            meeting = near.runtime.meeting
            part = {"TIMESHARE_SHARE_SHAPE": "fraction", "TIMESHARE_SHARE_MEMORY_MIB": "10240"}
            job = Job(tmp_path, jobagent_environment(place, name, **part, **{FAULTS_VARIABLE: str(faults)}))
            started.append(job)
            await near.ask(f"reservations/{name}/order", an_order())
            (pid,) = job.server_pids()
            use = [{"pid": p, "device": "GPU-simulated-0000", "memory_mib": 20480} for p in (pid, 1)]
            driver_tells(faults, processes=use)
            assert await asyncio.to_thread(job.exit_code) == 128 + signal.SIGTERM
            assert "the share is 10.0 GiB" in meeting.exits(name)[1].message
            assert meeting.arrival(name).said.events[-1].kind == "stopped_over_memory"


# --- what the server sees


def environment_of(pid: int) -> dict[str, str]:
    raw = Path(f"/proc/{pid}/environ").read_bytes().decode("utf-8", "surrogateescape")
    return dict(item.split("=", 1) for item in raw.split("\0") if "=" in item)


def test_hostile_values_reach_the_server_as_they_are_and_the_share_wins(service: Service, begin: Begin) -> None:
    name = begun(service)
    job = begin(name, SLURM_TMPDIR="/tmp/of-slurm", LOADED_BY_A_MODULE="yes")
    hostile = {
        "NEWLINES": "a\nb\r\n$(touch /tmp/never) `id` ${HOME}",
        "UNICODE": "Grüße, 世界 \N{BEETLE}",
        "BYTES": "\udcff",
        "QUOTES": "\"'\\ ; | & {port} %s",
        "TIMESHARE_RESERVATION_ID": "another",
        "CUDA_VISIBLE_DEVICES": "all",
        "SLURM_JOB_ID": "999",
        KEY: "mine",
    }
    run(service, name, env=hostile, ends_at="2030-01-01T00:00:00Z")
    (pid,) = job.server_pids()
    seen = environment_of(pid)
    for variable in ("NEWLINES", "UNICODE", "BYTES", "QUOTES"):
        assert seen[variable] == hostile[variable]
    assert KEY not in seen
    assert "TIMESHARE_SHARE_SHAPE" not in seen
    assert (seen["SLURM_JOB_ID"], seen["SLURM_TMPDIR"], seen["LOADED_BY_A_MODULE"]) == ("100", "/tmp/of-slurm", "yes")
    assert seen["TIMESHARE_RESERVATION_ID"] == name
    assert (seen["TIMESHARE_DEVICES"], seen["CUDA_VISIBLE_DEVICES"]) == ("GPU-simulated-0000", "")
    assert (seen["TIMESHARE_ENFORCEMENT"], seen["TIMESHARE_MEMORY_MIB"]) == ("simulated", "40960")
    assert (seen["TIMESHARE_GENERATION"], seen["TIMESHARE_ENDS_AT"]) == ("1", "2030-01-01T00:00:00Z")
    assert seen["TIMESHARE_SHARE_TEXT"] == "1 whole a100-40gb"
    page = (Path(__file__).parents[1] / "docs" / "environment.md").read_text()
    of_a_share, _, _ = page.partition("The last two are a courtesy")
    documented = set(re.findall(r"^\| `([A-Z_]+)`", of_a_share, re.MULTILINE))
    assert documented - set(seen) == {"TF_FORCE_GPU_ALLOW_GROWTH", "XLA_PYTHON_CLIENT_PREALLOCATE"}  # of parts only


def test_no_secret_stands_in_arguments_logs_or_files(service: Service, begin: Begin, tmp_path: Path) -> None:
    name = begun(service)
    job = begin(name)
    token = "a-token-that-nobody-may-read"
    log_path = tmp_path / "server.log"
    run(service, name, env={"JUPYTERHUB_API_TOKEN": token}, log_path=str(log_path))
    key = jobagent_environment(service.deployment, name)[KEY]
    (pid,) = job.server_pids()
    assert environment_of(pid)["JUPYTERHUB_API_TOKEN"] == token
    for number in (pid, job.process.pid):
        words = Path(f"/proc/{number}/cmdline").read_text()
        assert token not in words
        assert key not in words
    files = [
        path
        for folder in (tmp_path, Path(service.deployment.state_dir))
        for path in folder.rglob("*")
        if path.is_file()
    ]
    assert log_path in files
    holding = [path for path in files if token.encode() in path.read_bytes() or key.encode() in path.read_bytes()]
    assert holding == []


def test_a_job_whose_script_was_given_nothing_still_has_a_path(service: Service, begin: Begin) -> None:
    name = begun(service)
    job = begin(name, PATH="")
    told = run(service, name, argv=("sh", "-c", "exit 4"))
    assert told["exit"]["code"] == 4
    assert job.exit_code() == 4


def test_a_port_of_the_range_that_the_site_has_opened_is_taken(service: Service, begin: Begin) -> None:
    name = begun(service)
    begin(name, TIMESHARE_PORTS="41000-41999", TIMESHARE_NODE_ADDRESS="localhost")
    told = run(service, name)
    assert 41000 <= told["port"] <= 41999
    assert told["address"] == "localhost"


def test_a_missing_or_wrong_variable_is_named(service: Service, begin: Begin) -> None:
    job = begin(begun(service), TIMESHARE_SERVICE_URL="")
    assert job.exit_code() == 2
    assert "TIMESHARE_SERVICE_URL is not set" in job.log


def test_a_folder_that_is_missing_costs_nobody_the_session(service: Service, begin: Begin) -> None:
    name = begun(service)
    job = begin(name)
    assert run(service, name, cwd="/nowhere")["state"] == "running"
    (pid,) = job.server_pids()
    assert os.readlink(f"/proc/{pid}/cwd") == os.path.realpath(environment_of(pid)["HOME"])
    assert "/nowhere cannot be entered" in job.log


JUPYTER = """
import sys
from jupyter_server.serverapp import main
main(["--allow-root", f"--ServerApp.sock={sys.argv[1]}", "--ServerApp.open_browser=False",
      "--KernelManager.transport=ipc", "--ServerApp.allow_remote_access=True",
      "--ServerApp.base_url=/user/ada/", "--IdentityProvider.token=abc"])
"""


def test_a_jupyter_server_with_a_kernel_runs_and_ends_in_order(service: Service, begin: Begin, tmp_path: Path) -> None:
    name = begun(service)
    job = begin(name)
    home = {"JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    told = run(service, name, argv=(sys.executable, "-c", JUPYTER, SOCKET_HERE), env=home, cwd=str(tmp_path), wait_s=60)
    assert told["state"] == "running"
    url = f"http://{told['address']}:{told['port']}/user/ada/api"
    headers = {"Authorization": "token abc"}
    kernel = requests.post(f"{url}/kernels", json={}, headers=headers, timeout=60)
    assert kernel.ok, kernel.text
    eventually(lambda: len(job.server_pids()) >= 2)
    job.send(signal.SIGTERM)
    assert job.exit_code(60) in (0, 128 + signal.SIGTERM)
    assert job.server_pids() == []
