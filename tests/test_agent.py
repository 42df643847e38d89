"""The node agent with real processes: what survives a kill, what a stop leaves, what a session sees."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from nodes import Node, all_marked, deployment, eventually, marked, order, part, running_node

from timeshare.reservations.agent.client import AgentError, AgentUnreachable
from timeshare.reservations.agent.handover import Hidden, Report, compiled_launcher, pack, start_launcher
from timeshare.reservations.agent.records import Records, Tombstone, durable_write
from timeshare.reservations.agent.server import parse_order
from timeshare.reservations.deployment import VARIABLE

SLEEP = ("sleep", "300")
STUBBORN = (
    sys.executable,
    "-c",
    """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(300)
    os._exit(0)
time.sleep(300)
""",
)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running_node(tmp_path) as found:
        yield found


def test_a_session_runs_until_it_is_stopped(node: Node) -> None:
    name = node.launch(*SLEEP)
    assert node.state(name) == "running"
    node.stop(name)
    eventually(lambda: node.state(name) == "exited")
    assert marked(name) == []


def test_the_exit_code_of_a_session_is_told(node: Node) -> None:
    name = node.launch("sh", "-c", "exit 7")
    eventually(lambda: node.state(name) == "exited")
    assert node.session(name)["exit_code"] == 7


def test_a_session_outlives_the_agent_and_is_found_again(node: Node) -> None:
    name = node.launch(*SLEEP)
    before = node.session(name)
    node.kill()
    node.start()
    assert node.session(name) == before


def test_an_end_that_nobody_watched_is_told_later(node: Node, tmp_path: Path) -> None:
    go = tmp_path / "go"
    name = node.launch("sh", "-c", f"while [ ! -e {go} ]; do sleep 0.05; done; exit 3")
    node.kill()
    go.touch()
    eventually(lambda: marked(name) == [])
    node.start()
    assert (node.session(name)["state"], node.session(name)["exit_code"]) == ("exited", 3)


def test_without_its_launcher_a_session_runs_on_and_can_be_stopped(node: Node) -> None:
    name = node.launch(*SLEEP)
    main = node.session(name)["pid"]
    (launcher,) = [pid for pid in marked(name) if pid != main]
    os.kill(launcher, signal.SIGKILL)
    eventually(lambda: marked(name) == [main])
    assert node.state(name) == "running"
    node.stop(name)
    eventually(lambda: node.state(name) == "exited")
    assert node.session(name)["exit_code"] is None
    assert marked(name) == []


def test_processes_that_ignore_sigterm_and_daemonise_are_ended_too(node: Node) -> None:
    name = node.launch(*STUBBORN)
    eventually(lambda: len(marked(name)) == 3)
    node.stop(name, term=0.3)
    eventually(lambda: node.state(name) == "exited")
    assert marked(name) == []


def test_what_a_server_leaves_behind_ends_with_it(node: Node) -> None:
    name = node.launch("sh", "-c", "setsid sleep 300 & exit 0")
    eventually(lambda: node.state(name) == "exited")
    assert node.session(name)["exit_code"] == 0
    assert marked(name) == []


def test_a_stop_goes_on_after_the_agent_was_killed(node: Node) -> None:
    name = node.launch(*STUBBORN)
    node.stop(name, term=0.5)
    node.kill()
    node.start()
    eventually(lambda: node.state(name) == "exited")
    assert marked(name) == []


def test_a_stop_interrupts_kernels_and_leaves_time_to_save(node: Node, tmp_path: Path) -> None:
    saved, ready = tmp_path / "saved", tmp_path / "ready"
    program = f"""
import pathlib, time
try:
    pathlib.Path({str(ready)!r}).touch()
    time.sleep(300)
except KeyboardInterrupt:
    time.sleep(0.5)
    pathlib.Path({str(saved)!r}).write_text("saved")
"""
    name = node.launch(sys.executable, "-c", program, "ipykernel_launcher")
    eventually(ready.exists)
    node.stop(name, interrupt=True, save=30)
    eventually(lambda: node.state(name) == "exited")
    assert saved.read_text() == "saved"


def test_a_second_and_stricter_stop_comes_sooner_never_later(node: Node) -> None:
    name = node.launch(*SLEEP)
    assert node.stop(name, save=3600) == "stopping"
    assert node.state(name) == "stopping"
    node.stop(name, save=0)
    eventually(lambda: node.state(name) == "exited")


def test_a_stopped_reservation_can_never_be_started(node: Node) -> None:
    name = "0b7c3f4e-never-started"
    assert node.stop(name) == "exited"
    with pytest.raises(AgentError, match="was stopped"):
        node.launch(*SLEEP, reservation_id=name)
    node.kill()
    node.start()
    with pytest.raises(AgentError, match="was stopped"):
        node.launch(*SLEEP, reservation_id=name, generation=2)
    assert marked(name) == []


def test_a_launch_given_twice_starts_one_session(node: Node) -> None:
    name = node.launch(*SLEEP)
    pid = node.session(name)["pid"]
    again = node.ask("launch", **order(name, list(SLEEP)))
    assert again["pid"] == pid


def test_a_higher_generation_ends_the_lower_one_first(node: Node) -> None:
    name = node.launch(*SLEEP)
    old = node.session(name)["pid"]
    node.launch(*SLEEP, reservation_id=name, generation=2)
    assert old not in marked(name)
    assert (node.state(name, 1), node.state(name, 2)) == ("exited", "running")


def test_a_lower_generation_is_refused(node: Node) -> None:
    name = node.launch(*SLEEP, generation=2)
    with pytest.raises(AgentError) as refused:
        node.launch(*SLEEP, reservation_id=name, generation=1)
    assert refused.value.reason == "older-generation"


def test_a_program_that_does_not_exist_is_named(node: Node) -> None:
    with pytest.raises(AgentError, match="no-such-program cannot be run"):
        node.launch("no-such-program")


def test_a_running_session_is_not_forgotten_and_an_ended_one_is(node: Node) -> None:
    name = node.launch(*SLEEP)
    with pytest.raises(AgentError, match="has not ended"):
        node.ask("forget", reservation_id=name, generation=1)
    node.stop(name)
    eventually(lambda: node.state(name) == "exited")
    node.ask("forget", reservation_id=name, generation=1)
    assert node.ask("sessions") == []


def test_a_session_reads_its_share_from_its_environment(node: Node, tmp_path: Path) -> None:
    out = tmp_path / "env.json"
    program = f"import json, os; json.dump(dict(os.environ), open({str(out)!r}, 'w'))"
    name = node.launch(sys.executable, "-c", program)
    eventually(lambda: node.state(name) == "exited")
    env = json.loads(out.read_text())
    assert env["TIMESHARE_RESERVATION_ID"] == name
    assert env["TIMESHARE_MEMORY_MIB"] == "10240"
    assert env["TIMESHARE_COMPUTE_PERCENT"] == "25"
    assert env["TIMESHARE_ENFORCEMENT"] == "simulated"
    assert env["TIMESHARE_SIMULATED"] == "1"
    assert env["TIMESHARE_DEVICES"] == "GPU-simulated-0000"
    assert env["CUDA_VISIBLE_DEVICES"] == ""
    assert json.loads(env["TIMESHARE_SHARE"]) == [part()]


def test_the_token_in_the_environment_does_not_stay_on_disk(node: Node, tmp_path: Path) -> None:
    node.launch(*SLEEP, env={"PATH": os.environ["PATH"], "SECRET": "very-secret-token"})
    files = [path for path in (tmp_path / "agent").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"very-secret-token" in path.read_bytes()]


def test_a_fraction_over_its_memory_is_warned_then_stopped_and_its_neighbour_is_not(node: Node) -> None:
    greedy, neighbour = node.launch(*SLEEP), node.launch(*SLEEP)
    pids = {name: node.session(name)["pid"] for name in (greedy, neighbour)}
    use = {greedy: 10_600, neighbour: 10_000}
    reports = [{"pid": pids[n], "device": "GPU-simulated-0000", "memory_mib": use[n]} for n in (greedy, neighbour)]
    node.driver_tells(processes=reports)
    eventually(lambda: node.state(greedy) == "exited")
    events = [e for e in node.ask("events", after=0) if e["reservation_id"] == greedy]
    assert [e["kind"] for e in events][:2] == ["over_memory", "stopped_over_memory"]
    assert "10.4 GiB of GPU memory are used; the share is 10.0 GiB" in events[1]["message"]
    assert "was stopped" in node.session(greedy)["message"]
    assert node.state(neighbour) == "running"


def test_memory_that_the_driver_does_not_tell_stops_nobody(node: Node) -> None:
    name = node.launch(*SLEEP)
    pid = node.session(name)["pid"]
    report = [{"pid": pid, "device": "GPU-simulated-0000", "memory_mib": None}]
    node.driver_tells(processes=report)
    time.sleep(2.5)
    assert node.state(name) == "running"
    assert node.ask("events", after=0) == []


def test_a_driver_that_does_not_answer_is_unknown_not_empty(node: Node) -> None:
    node.driver_tells(unknown=True)
    with pytest.raises(AgentError) as refused:
        node.ask("inventory")
    assert refused.value.reason == "unknown"


def test_a_broken_device_is_reported_with_the_reason(node: Node) -> None:
    health = [{"device": "GPU-simulated-0000", "code": 79, "detail": "XID 79: fell off the bus", "cordon": True}]
    node.driver_tells(health=health)
    (event,) = eventually(lambda: node.ask("events", after=0))
    assert (event["device_uuid"], event["cordon"]) == ("GPU-simulated-0000", True)
    assert "fell off the bus" in event["message"]
    assert node.ask("events", after=event["seq"]) == []


def test_what_was_noticed_is_told_by_the_next_agent_too(node: Node) -> None:
    health = [{"device": "GPU-simulated-0000", "code": 79, "detail": "XID 79: fell off the bus", "cordon": True}]
    node.driver_tells(health=health)
    before = eventually(lambda: node.ask("events", after=0))
    node.kill()
    node.faults.unlink()
    node.start()
    assert node.ask("events", after=0) == before
    node.driver_tells(health=health)
    (later,) = eventually(lambda: node.ask("events", after=before[0]["seq"]))
    assert later["seq"] > before[0]["seq"]


@pytest.mark.parametrize(
    "line",
    [b"", b"x\n", b"{}\n", b"[]\n", b'{"method": "nothing"}\n', b'{"method": "launch", "params": {}}\n', b"\xff\n"],
)
def test_a_malformed_request_gets_an_answer_and_the_agent_goes_on(node: Node, line: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(node.deployment.agent_socket)
        connection.sendall(line)
        connection.shutdown(socket.SHUT_WR)
        answer = json.loads(connection.makefile().readline())
    assert answer["error"]["reason"] == "invalid"
    assert node.ask("hello")["simulated"] is True


def test_a_request_that_is_too_long_is_refused(node: Node) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(node.deployment.agent_socket)
        with contextlib.suppress(BrokenPipeError):
            connection.sendall(b"x" * 3_000_000)
    assert node.ask("hello")


def test_path_like_ids_are_refused(node: Node) -> None:
    for name in ("../../etc", "a/b", "", "a.b"):
        with pytest.raises(AgentError, match="must be letters, digits and dashes"):
            node.ask("launch", **order(name, list(SLEEP)))


def test_a_second_agent_on_the_same_folder_is_refused(node: Node) -> None:
    second = run_agent(node.deployment.path)
    assert second.returncode == 1
    assert "another agent already runs" in second.stderr


def test_only_root_and_the_agents_user_reach_the_socket(node: Node) -> None:
    path = Path(node.deployment.agent_socket)
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


def test_records_of_an_earlier_boot_are_ended(tmp_path: Path) -> None:
    where = deployment(tmp_path)
    node = Node(where)
    node.start()
    name = node.launch(*SLEEP)
    node.kill()
    for pid in marked(name):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: marked(name) == [])
    (record,) = Records(tmp_path / "agent").all()
    shim = json.loads((record.path / "shim.json").read_text())
    (record.path / "shim.json").write_text(json.dumps({**shim, "boot_id": "another-boot", "pid": os.getpid()}))
    node.start()
    try:
        assert (node.state(name), node.session(name)["exit_code"]) == ("exited", None)
    finally:
        node.close()


def at_once(*actions: Callable[[], object]) -> list[object]:
    """All at the same time; what each gave, or the error that it raised."""

    def attempt(action: Callable[[], object]) -> object:
        try:
            return action()
        except (AgentError, AgentUnreachable) as error:
            return error

    with ThreadPoolExecutor(len(actions)) as pool:
        return [future.result() for future in [pool.submit(attempt, action) for action in actions]]


def test_stops_of_one_reservation_at_the_same_time_all_succeed(node: Node) -> None:
    for _ in range(4):
        name = str(uuid.uuid4())

        def exited(number: int, name: str = name) -> bool:
            return node.stop(name, save=100 - number) == "exited"  # not at once where others hold it for a second

        assert at_once(*[lambda n=n, exited=exited: eventually(lambda: exited(n)) for n in range(8)]) == [True] * 8


def test_launches_of_one_generation_at_the_same_time_start_one_session(node: Node) -> None:
    name = str(uuid.uuid4())
    node.ids.append(name)
    wanted = order(name, list(SLEEP))
    answers = at_once(*[lambda: node.ask("launch", **wanted)["pid"] for _ in range(6)])
    assert set(answers) == {node.session(name)["pid"]}
    assert len(marked(name)) == 2


def test_a_launch_and_a_stop_at_the_same_time_leave_nothing(node: Node) -> None:
    for delay in range(6):
        name = str(uuid.uuid4())
        node.ids.append(name)

        def stop(name: str = name, delay: int = delay) -> str:
            time.sleep(delay * 0.008)
            return node.stop(name, term=0.1)

        at_once(lambda name=name: node.ask("launch", **order(name, list(SLEEP))), stop)
        eventually(lambda name=name: node.stop(name) == "exited")
        assert marked(name) == []


def launcher_of(node: Node, name: str) -> int:
    path = Path(node.deployment.state_dir) / "agent" / "sessions" / f"{name}.1" / "shim.json"
    return int(json.loads(path.read_text())["pid"]) if path.exists() else 0


@dataclass(frozen=True)
class SlowStart:
    """A launch that hangs before the server's program runs: this process has a lease on the program, so who opens it is
    kept waiting until ``go_on``. See fcntl(2), F_SETLEASE."""

    name: str
    thread: threading.Thread
    program: Path
    lease: int

    def go_on(self) -> None:
        os.close(self.lease)


def slow_start(node: Node, program: Path) -> SlowStart:
    shutil.copy2(shutil.which("sleep") or "", program)
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # it says that somebody waits
    lease = os.open(program, os.O_RDWR)
    fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    name = str(uuid.uuid4())
    node.ids.append(name)
    wanted = order(name, [str(program), "300"])
    thread = threading.Thread(target=at_once, args=(lambda: node.ask("launch", **wanted),))
    thread.start()
    eventually(lambda: len(marked(name)) == 2)
    return SlowStart(name, thread, program, lease)


def test_a_start_that_a_dead_agent_began_is_never_called_failed_while_it_may_succeed(
    node: Node, tmp_path: Path
) -> None:
    slow = slow_start(node, tmp_path / "program")
    node.kill()
    slow.thread.join()
    node.start()
    retry: list[object] = []
    again = threading.Thread(
        target=lambda: retry.extend(at_once(lambda: node.ask("launch", **order(slow.name, list(SLEEP)))))
    )
    again.start()
    time.sleep(0.3)  # the request must be waiting before the start can go on
    slow.go_on()
    again.join()
    (told,) = retry
    assert isinstance(told, dict), told
    assert told["pid"] == node.session(slow.name)["pid"]
    assert node.state(slow.name) == "running"


def test_a_start_that_a_dead_agent_only_wrote_down_is_as_if_nobody_had_asked(node: Node, tmp_path: Path) -> None:
    """Its end was told as one that it had never had; who asked again, of the same start, was refused."""
    name = str(uuid.uuid4())
    node.ids.append(name)
    wanted = order(name, list(SLEEP))
    node.kill()
    Records(tmp_path / "agent").create(parse_order(wanted, False))
    node.start()
    assert node.ask("sessions") == []
    assert node.ask("launch", **wanted)["pid"] == node.session(name)["pid"]
    assert node.state(name) == "running"


def test_a_start_that_was_stopped_before_it_began_is_told_as_ended(node: Node, tmp_path: Path) -> None:
    name = str(uuid.uuid4())
    wanted = order(name, list(SLEEP))
    node.kill()
    records = Records(tmp_path / "agent")
    records.create(parse_order(wanted, False))
    records.bury(name, Tombstone("any-boot", False, 0, 0))
    node.start()
    assert node.state(name) == "exited"
    with pytest.raises(AgentError, match="was stopped"):
        node.ask("launch", **wanted)


def test_what_is_being_removed_is_no_session(node: Node, tmp_path: Path) -> None:
    """It was read as one of a reservation of that name, whose record cannot be read."""
    (tmp_path / "agent" / "sessions" / f"removed-{uuid.uuid4()}.1").mkdir()
    assert node.ask("sessions") == []


def test_a_start_whose_launcher_is_killed_leaves_no_server_behind_the_failure(node: Node, tmp_path: Path) -> None:
    slow = slow_start(node, tmp_path / "program")
    node.kill()
    slow.thread.join()
    os.kill(launcher_of(node, slow.name), signal.SIGKILL)
    node.start()
    with pytest.raises(AgentError) as refused:
        node.ask("launch", **order(slow.name, list(SLEEP)))
    assert refused.value.reason == "failed"
    assert marked(slow.name) == []


def test_a_start_that_hangs_can_be_stopped(node: Node, tmp_path: Path) -> None:
    slow = slow_start(node, tmp_path / "program")
    eventually(lambda: node.stop(slow.name, term=0) == "exited")  # at the first question where that took a while
    assert marked(slow.name) == []
    slow.thread.join()


def test_many_slow_requests_do_not_keep_others_waiting(node: Node, tmp_path: Path) -> None:
    starts = [slow_start(node, tmp_path / f"program-{number}") for number in range(10)]
    name = node.launch(*SLEEP)
    node.stop(name)
    eventually(lambda: node.state(name) == "exited")
    for slow in starts:
        node.stop(slow.name, term=0)
    for slow in starts:
        slow.thread.join()
    eventually(lambda: not [slow for slow in starts if marked(slow.name)])


def test_a_record_that_cannot_be_read_is_unknown_and_holds_up_nobody(node: Node, tmp_path: Path) -> None:
    broken, other = sorted([str(uuid.uuid4()), str(uuid.uuid4())])
    for name in (broken, other):  # the other one takes more steps than the first to stop
        node.launch(*STUBBORN, reservation_id=name)
    path = tmp_path / "agent" / "sessions" / f"{broken}.1" / "order.json"
    whole = path.read_text()
    path.write_text("{")
    with pytest.raises(AgentError):
        node.stop(broken)
    assert node.state(broken) == "unknown"
    node.stop(other)
    eventually(lambda: node.state(other) == "exited")
    path.write_text(whole)
    eventually(lambda: node.state(broken) == "exited")


def test_a_device_that_vanished_is_not_launched_on(node: Node) -> None:
    node.driver_tells(missing=["GPU-simulated-0000"])
    with pytest.raises(AgentError, match="GPU-simulated-0000 is not on this machine any more") as refused:
        node.launch(*SLEEP)
    assert refused.value.reason == "failed"
    assert node.ask("sessions") == []


def test_a_session_that_runs_is_told_again_while_the_driver_does_not_answer(node: Node) -> None:
    name = node.launch(*SLEEP)
    node.driver_tells(unknown=True)
    assert node.ask("launch", **order(name, list(SLEEP)))["pid"] == node.session(name)["pid"]


def test_a_missing_working_folder_is_told_in_the_log_and_home_is_taken(node: Node, tmp_path: Path) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    home.mkdir()
    env = {"PATH": os.environ["PATH"], "HOME": str(home)}
    name = node.launch("pwd", cwd="/no/such/folder", log_path=str(log), env=env)
    eventually(lambda: node.state(name) == "exited")
    assert log.read_text().splitlines() == [
        "timeshare: the working folder /no/such/folder cannot be entered (No such file or directory); using another",
        str(home),
    ]


def test_why_the_watchdog_ended_a_session_is_told_by_the_next_agent_too(node: Node) -> None:
    name = node.launch(*SLEEP)
    report = {"pid": node.session(name)["pid"], "device": "GPU-simulated-0000", "memory_mib": 20_480}
    node.driver_tells(processes=[report])
    eventually(lambda: node.state(name) == "exited")
    node.kill()
    node.start()
    assert "20.0 GiB of GPU memory are used; the share is 10.0 GiB" in node.session(name)["message"]
    assert "(sleep) was stopped" in node.session(name)["message"]


def test_stopping_one_kernel_is_not_told_as_the_end_of_its_server(node: Node, tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = f"sleep 300 & echo $! > {tmp_path}/kernel; while [ ! -e {go} ]; do sleep 0.05; done; exit 3"
    name = node.launch("sh", "-c", script)
    eventually(lambda: (tmp_path / "kernel").exists() and (tmp_path / "kernel").read_text().strip())
    kernel = int((tmp_path / "kernel").read_text())
    report = {"pid": kernel, "device": "GPU-simulated-0000", "memory_mib": 20_480}
    node.driver_tells(processes=[report])
    eventually(lambda: node.ask("events", after=0))
    eventually(lambda: kernel not in marked(name))
    assert node.state(name) == "running"
    go.touch()
    eventually(lambda: node.state(name) == "exited")
    assert (node.session(name)["exit_code"], node.session(name)["message"]) == (3, "")


def test_what_the_driver_does_not_tell_is_not_nothing(node: Node) -> None:
    known, unknown = node.launch(*SLEEP), node.launch(*SLEEP)
    reports = [
        {"pid": node.session(name)["pid"], "device": "GPU-simulated-0000", "memory_mib": used}
        for name, used in ((known, 100), (unknown, None))
    ]
    node.driver_tells(processes=reports)
    eventually(lambda: node.session(known)["memory_mib"] == 100)
    assert node.session(unknown)["memory_mib"] is None
    node.driver_tells(unknown=True)
    eventually(lambda: node.session(known)["memory_mib"] is None)


def test_a_socket_folder_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    open_folder = tmp_path / "open"
    open_folder.mkdir(mode=0o755)
    where = deployment(tmp_path, agent_socket=str(open_folder / "agent.sock"))
    told = run_agent(where.path)
    assert told.returncode == 1
    assert "chmod 700" in told.stderr
    assert "Traceback" not in told.stderr


def test_a_socket_path_that_is_too_long_is_told_in_words(tmp_path: Path) -> None:
    where = deployment(tmp_path, agent_socket=str(tmp_path / ("x" * 100) / "agent.sock"))
    told = run_agent(where.path)
    assert told.returncode == 1
    assert "use a shorter --state folder" in told.stderr
    assert "Traceback" not in told.stderr


def run_agent(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "timeshare.reservations.agent"]
    env = {**os.environ, VARIABLE: str(path)}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)


def test_documented_variables_are_those_that_a_session_gets(node: Node, tmp_path: Path) -> None:
    out = tmp_path / "env.json"
    program = f"import json, os; json.dump(dict(os.environ), open({str(out)!r}, 'w'))"
    name = node.launch(sys.executable, "-c", program)
    eventually(lambda: node.state(name) == "exited")
    told = {key for key in json.loads(out.read_text()) if key not in ("PATH", "HOME", "LC_CTYPE")}
    page = (Path(__file__).parents[1] / "docs" / "environment.md").read_text()
    by_the_agent, _, _ = page.partition("## What a session with a server has beside these")
    assert told == set(re.findall(r"^\| `([A-Z_]+)`", by_the_agent, re.MULTILINE))


def test_a_session_has_not_ended_while_its_launcher_lives(node: Node, tmp_path: Path) -> None:
    name = node.launch(*SLEEP)
    end = tmp_path / "agent" / "sessions" / f"{name}.1" / "exit.json"
    end.write_text('{"code": 0, "message": ""}')
    assert node.state(name) == "running"


def test_a_launcher_that_finds_a_tombstone_starts_nothing(tmp_path: Path) -> None:
    records, program = Records(tmp_path), compiled_launcher(tmp_path)
    out = tmp_path / "ran"
    wanted = parse_order(order(str(uuid.uuid4()), ["touch", str(out)]), False)
    record = records.create(wanted)
    records.bury(record.reservation_id, Tombstone("any-boot", False, 0, 0))
    tombstone = records.stops / f"{record.reservation_id}.json"
    started = start_launcher(program, record, tombstone, pack(wanted, Hidden({"PATH": os.environ["PATH"]})), ())
    assert started.report() == Report(stopped=True)
    assert started.process.wait() == 1
    assert record.exit() == {"code": None, "message": "it was stopped before it started"}
    assert not out.exists()


def test_a_launcher_that_was_given_up_starts_nothing(tmp_path: Path) -> None:
    records, program = Records(tmp_path), compiled_launcher(tmp_path)
    out = tmp_path / "ran"
    wanted = parse_order(order(str(uuid.uuid4()), ["touch", str(out)]), False)
    record = records.create(wanted)
    assert record.abandon_unless_started()
    started = start_launcher(program, record, tmp_path / "none", pack(wanted, Hidden({"PATH": os.environ["PATH"]})), ())
    assert started.report() == Report()
    assert started.process.wait() == 1
    assert not out.exists()


@pytest.mark.parametrize("again", [False, True])
def test_a_launcher_whose_record_is_gone_or_another_starts_nothing(tmp_path: Path, again: bool) -> None:
    """It was begun by an agent that died. ``again``: the start was asked for anew, and has another launcher."""
    records, program = Records(tmp_path), compiled_launcher(tmp_path)
    out = tmp_path / "ran"
    wanted = parse_order(order(str(uuid.uuid4()), ["touch", str(out)]), False)
    record = records.create(wanted)
    with open(record.path / "lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # it waits here
        packed = pack(wanted, Hidden({"PATH": os.environ["PATH"]}))
        started = start_launcher(program, record, tmp_path / "none", packed, ())
        folder = f"/proc/{started.process.pid}/fd"
        locked = str(record.path / "lock")
        eventually(lambda: locked in {os.readlink(f"{folder}/{name}") for name in os.listdir(folder)})
        record.remove()
        if again:
            records.create(wanted)
    assert started.report() == Report()
    assert started.process.wait() == 1
    assert not out.exists()


def test_the_same_fact_can_be_written_by_many_at_the_same_time(tmp_path: Path) -> None:
    def write(number: int) -> None:
        for _ in range(50):
            durable_write(tmp_path / "fact", {"number": number, "padding": "x" * number * 500})

    answers = at_once(*[lambda n=n: write(n) for n in range(8)])
    assert answers == [None] * 8
    assert [path.name for path in tmp_path.iterdir()] == ["fact"]
    assert json.loads((tmp_path / "fact").read_text())["number"] in range(8)


@pytest.mark.parametrize("words", [["a\0b"], ["\ud800"]])
def test_words_that_no_process_can_be_given_are_refused(node: Node, words: list[str]) -> None:
    with pytest.raises(AgentError) as refused:
        node.launch("echo", *words)
    assert refused.value.reason == "invalid"
    assert node.ask("sessions") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start sessions of other accounts")
def test_a_session_runs_as_its_owners_account_and_never_as_root(tmp_path: Path) -> None:
    account = pwd.getpwnam("nobody")
    program = "import json, os; print(json.dumps([os.getuid(), os.getgroups(), dict(os.environ)]))"
    with running_node(tmp_path, multi_user=True) as node:
        name = node.launch("/usr/bin/python3", "-c", program, user="nobody", log_path=str(tmp_path / "log"))
        eventually(lambda: node.state(name) == "exited")
        uid, groups, env = json.loads((tmp_path / "log").read_text())
        for user, message in (("root", "do not run as root"), ("no-such-account", "no account 'no-such-account'")):
            with pytest.raises(AgentError, match=message):
                node.launch(*SLEEP, user=user)
    assert (uid, groups) == (account.pw_uid, os.getgrouplist("nobody", account.pw_gid))
    assert (env["USER"], env["HOME"], env["SHELL"]) == ("nobody", account.pw_dir, account.pw_shell)


def kill_launcher(node: Node, name: str) -> None:
    pid = launcher_of(node, name)
    if pid in marked(name):
        os.kill(pid, signal.SIGKILL)


def storm(node: Node, rng: random.Random, running: set[str]) -> None:
    """Starts and stops while the agent is killed somewhere among them; ``running`` is kept to what must still run.

    A launch without an answer may or may not have happened: it is asked for again, as the hub does.
    """
    process = node.process
    assert process is not None
    killer = threading.Timer(rng.random() * 0.25, process.kill)
    names = [str(uuid.uuid4()) for _ in range(4)]
    node.ids += names
    wanted = {name: order(name, list(SLEEP)) for name in names}
    doomed = rng.sample(sorted(running), min(len(running), 2))
    killer.start()
    at_once(
        *[lambda name=name: node.ask("launch", **wanted[name]) for name in names],
        *[lambda name=name: node.stop(name, term=0.1) for name in doomed],
    )
    killer.join()
    process.wait()
    if rng.random() < 0.2:  # a second kill, while it recovers
        node.spawn()
        time.sleep(rng.random() * 0.5)
        node.kill()
    node.start()
    for name in names:
        with contextlib.suppress(AgentError):
            node.ask("launch", **wanted[name])
            running.add(name)
    for name in doomed:
        node.stop(name, term=0.1)
        running.discard(name)
    if running and rng.random() < 0.5:
        kill_launcher(node, rng.choice(sorted(running)))


@pytest.mark.stress
@pytest.mark.timeout(1800)
def test_kills_of_agent_and_launchers_lose_no_session_double_none_and_leave_nothing(node: Node) -> None:
    rng = random.Random(20261123)
    running: set[str] = set()
    rounds = 150 if os.environ.get("STRESS") == "full" else 10
    for _ in range(rounds):
        storm(node, rng, running)
        states = {s["reservation_id"]: s["state"] for s in node.ask("sessions")}
        assert {name: states.get(name) for name in running} == dict.fromkeys(running, "running")
        alive = all_marked()
        assert [name for name in node.ids if len(alive.get(name, ())) > 2] == []  # a launcher and one server
        if len(running) > 12:
            for name in rng.sample(sorted(running), 8):
                node.stop(name, term=0.1)
                running.discard(name)
    for name in node.ids:
        node.stop(name, term=0.1)
    eventually(lambda: {s["state"] for s in node.ask("sessions")} <= {"exited"})
    assert set(node.ids) & set(all_marked()) == set()


def test_a_requeued_job_starts_again_and_a_late_stop_of_its_earlier_start_does_not_touch_it(node: Node) -> None:
    name = node.launch("sleep", "300")
    graces = {"interrupt": False, "save_grace_s": 0, "term_grace_s": 0.2}
    eventually(lambda: node.ask("stop", reservation_id=name, generation=1, **graces)["state"] == "exited")
    with pytest.raises(AgentError, match="was stopped"):
        node.launch("sleep", "300", reservation_id=name, generation=1)
    node.launch("sleep", "300", reservation_id=name, generation=2)
    assert node.ask("stop", reservation_id=name, generation=1, **graces)["state"] == "exited"
    assert node.state(name, 2) == "running"
    eventually(lambda: node.ask("stop", reservation_id=name, **graces)["state"] == "exited")
    with pytest.raises(AgentError, match="was stopped"):
        node.launch("sleep", "300", reservation_id=name, generation=3)
