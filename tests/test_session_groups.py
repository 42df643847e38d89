"""A session is ended as a whole, and stays within bounds: by each kind of control group that works here, and none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import FULL_STRESS
from nodes import Node, eventually, marked, order, running_node

from timeshare.reservations.agent import ending
from timeshare.reservations.agent.cgroups import PROCESSES, Bounds, Folders, Groups, Mounts, group_name, remove
from timeshare.reservations.agent.client import AgentError
from timeshare.reservations.agent.grouptrial import choose_groups, group_findings
from timeshare.reservations.agent.handover import Hidden
from timeshare.reservations.agent.members import Members
from timeshare.reservations.agent.records import Record
from timeshare.reservations.agent.server import parse_order
from timeshare.reservations.agent.sessions import Sessions
from timeshare.reservations.agent.stopping import StopOrder, Stops
from timeshare.reservations.devices.model import Inventory

CHAIN = """
import os, pathlib, sys
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        while True:  # each forks the next and ends: no list of pids is true for longer than a moment
            if os.fork():
                os._exit(0)
pathlib.Path(sys.argv[1]).touch()
if sys.argv[2:] == ["ends"]:
    sys.exit(7)
while True:
    os.wait()
"""
FREEZER = Folders(Mounts(None, Mounts.here().v1))
"""As on machines without version 2, or with a kernel that has no cgroup.kill there."""
KINDS: dict[str, Groups | None] = {"chosen": choose_groups("cgroup-v2"), "freezer": FREEZER, "none": None}


@pytest.fixture(params=KINDS)
def sessions(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sessions]:
    groups = KINDS[request.param]
    if request.param == "chosen" and groups is None:
        pytest.skip("; ".join(f"{name}: {detail}" for name, works, detail, _ in group_findings() if not works))
    if groups is FREEZER and (os.geteuid() != 0 or "freezer" not in Mounts.here().v1):
        pytest.skip("no freezer of version 1 can be written here")
    made = Sessions(tmp_path / "agent", None, True, groups=groups)
    yield made
    folders = [folder for record in made.records.all() for folder in record.order().group]
    for record in made.records.all():
        end(made, record.reservation_id)
    made.reap()
    assert not [folder for folder in folders if Path(folder).exists()], "no group is removed in which something runs"


def launch(sessions: Sessions, *argv: str, **changes: object) -> Record:
    wanted = parse_order(order(str(uuid.uuid4()), list(argv), share=[], **changes), False)
    sessions.launch(wanted, Hidden({"PATH": os.environ["PATH"]}), Inventory)
    return sessions.records.of(wanted.reservation_id)[0]


def end(sessions: Sessions, name: str) -> None:
    stops = Stops(sessions)
    stops.stop(name, StopOrder(False, 0, 0))
    eventually(lambda: (stops.advance(), sessions.look(sessions.records.of(name)[0]).state == "exited")[1], 30)


def test_a_chain_of_forks_ends_with_its_session(sessions: Sessions, tmp_path: Path) -> None:
    record = launch(sessions, sys.executable, "-c", CHAIN, str(tmp_path / "begun"))
    eventually((tmp_path / "begun").exists)
    end(sessions, record.reservation_id)
    assert marked(record.reservation_id) == []


def test_a_chain_of_forks_ends_when_its_server_does(sessions: Sessions, tmp_path: Path) -> None:
    """Without any stop: the launcher ends what a server leaves behind."""
    record = launch(sessions, sys.executable, "-c", CHAIN, str(tmp_path / "begun"), "ends")
    eventually(lambda: sessions.look(record).state == "exited", 30)
    assert sessions.look(record).exit_code == 7
    assert marked(record.reservation_id) == []


FAST_CHAINS = """
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>
int main(int count, char **words) {
    signal(SIGTERM, SIG_IGN);
    for (int chain = 0; chain < atoi(words[1]); chain++)
        if (fork() == 0) {
            setsid();
            for (;;) if (fork()) _exit(0);
        }
    for (;;) pause();
}
"""


@pytest.mark.stress
def test_hundreds_of_fast_chains_end_with_their_session(node: Node, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None or not node.ask("hello")["session_bounds"]:
        pytest.skip("needs a C compiler (cc), and control groups that can be written")
    program = tmp_path / "chains"
    subprocess.run([compiler, "-x", "c", "-o", str(program), "-"], input=FAST_CHAINS.encode(), check=True)
    name = node.launch(str(program), "400" if FULL_STRESS else "40")
    node.stop(name, term=1)
    eventually(lambda: node.state(name) == "exited", 1 + 5)
    assert not Path(f"/proc/{node.session(name)['pid']}").exists()


def test_a_launcher_that_is_killed_leaves_a_chain_that_can_still_be_ended(sessions: Sessions, tmp_path: Path) -> None:
    if sessions.groups is None:
        pytest.skip("without launcher and group only marks are left: what forks faster than they are read stays")
    record = launch(sessions, sys.executable, "-c", CHAIN, str(tmp_path / "begun"))
    eventually((tmp_path / "begun").exists)
    shim = record.shim()
    assert shim is not None
    folders = record.order().group
    os.kill(shim.pid, 9)
    sessions.reap()
    for _ in range(200):  # each look meets another moment of the chain
        assert sessions.look(record).state == "running"
    end(sessions, record.reservation_id)
    assert marked(record.reservation_id) == []
    assert not any(Path(folder).exists() for folder in folders), "the kernel removes no group in which something runs"


def test_a_group_leaves_nothing_behind_and_its_name_tells_no_id(sessions: Sessions) -> None:
    record = launch(sessions, "sleep", "300")
    folders = record.order().group
    assert all(Path(folder).is_dir() for folder in folders)
    assert not any(record.reservation_id in folder for folder in folders)
    (server,) = sessions.members.of(record)
    inside = Path(f"/proc/{server}/cgroup").read_text()
    assert not folders or group_name(sessions.records.root, *record.key) in inside
    end(sessions, record.reservation_id)
    sessions.forget(*record.key)
    assert not any(Path(folder).exists() for folder in folders)


def test_the_launcher_is_outside_of_the_group_and_tells_how_all_of_it_ended(sessions: Sessions) -> None:
    record = launch(sessions, "sleep", "300")
    shim = record.shim()
    assert shim is not None
    if record.order().group:
        assert ending.group_pids(record.order().group[0]) == {shim.main_pid}
    sessions.members.kill(record)
    eventually(lambda: sessions.look(record).state == "exited")
    assert sessions.look(record).exit_code == -9


def test_an_agent_that_was_killed_while_a_group_was_frozen_is_followed_by_one_that_thaws_it(tmp_path: Path) -> None:
    if os.geteuid() != 0 or "freezer" not in Mounts.here().v1:
        pytest.skip("no freezer of version 1 can be written here")
    sessions = Sessions(tmp_path / "agent", None, True, groups=FREEZER)
    record = launch(sessions, "sleep", "300")
    state = Path(record.order().group[0], "freezer.state")
    state.write_text("FROZEN")
    eventually(lambda: state.read_text() == "FROZEN\n")
    after = Sessions(tmp_path / "agent", None, True, groups=FREEZER)
    assert state.read_text() == "THAWED\n"
    end(after, record.reservation_id)
    sessions.reap()


def test_groups_of_starts_that_never_began_are_swept_and_no_others(tmp_path: Path) -> None:
    groups = KINDS["chosen"]
    if groups is None:
        pytest.skip("there are no control groups here")
    root = tmp_path / "agent"
    sessions = Sessions(root, None, True, groups=groups)
    record = launch(sessions, "sleep", "300")
    left = groups.prepare(group_name(root, "never-began", 1), Bounds())
    others = groups.prepare(group_name(tmp_path / "another", "r", 1), Bounds())
    Sessions(root, None, True, groups=groups)
    assert not any(Path(folder).exists() for folder in left.folders)
    assert all(Path(folder).exists() for folder in (*others.folders, *record.order().group))
    remove(others.folders)
    end(sessions, record.reservation_id)
    sessions.reap()


# --- bounds


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running_node(tmp_path) as found:
        yield found


def holds(node: Node, bound: str) -> None:
    if bound not in node.ask("hello")["session_bounds"]:
        pytest.skip(next(f"{detail}: {advice}" for name, _, detail, advice in group_findings() if bound in name))


THREADS = """
import json, sys, threading
begun, wait = 0, threading.Event()
try:
    while begun < 6000:
        threading.Thread(target=wait.wait, daemon=True).start()
        begun += 1
except RuntimeError:
    pass
json.dump(begun, open(sys.argv[1] + ".new", "w"))
import os
os.replace(sys.argv[1] + ".new", sys.argv[1])
os._exit(0)
"""


def test_a_session_has_no_more_processes_than_it_may(node: Node, tmp_path: Path) -> None:
    holds(node, "processes")
    node.launch(sys.executable, "-c", THREADS, str(tmp_path / "begun"))
    eventually((tmp_path / "begun").exists, 60)
    assert PROCESSES - 20 < json.loads((tmp_path / "begun").read_text()) < PROCESSES


TAKE = "held = []\nwhile True: held.append(bytearray(8 << 20))"


def test_a_session_that_takes_more_memory_than_it_may_is_told_so(node: Node) -> None:
    holds(node, "memory")
    name = node.launch(sys.executable, "-c", TAKE, memory_mib=128)
    eventually(lambda: node.state(name) == "exited", 60)
    assert node.session(name)["exit_code"] == -9
    assert node.session(name)["message"] == ("its main memory was used up: a session like this one may have 0.125 GiB")


def test_a_kernel_that_takes_too_much_memory_is_told_of_and_its_server_runs_on(node: Node) -> None:
    holds(node, "memory")
    program = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {TAKE!r}]); time.sleep(300)"
    name = node.launch(sys.executable, "-c", program, memory_mib=128)
    told = eventually(lambda: [e for e in node.ask("events", after=0) if e["kind"] == "out_of_memory"], 60)
    assert told[0]["reservation_id"] == name
    assert told[0]["message"].startswith("0.125 GiB of main memory, the most that this session may have, were used up")
    assert node.state(name) == "running"


def test_cores_are_a_weight(node: Node, tmp_path: Path) -> None:
    holds(node, "cpu")
    name = node.launch("sleep", "300", cpus=2.5)
    (record,) = [path for path in (tmp_path / "agent" / "sessions").iterdir() if path.name.startswith(name)]
    weights = [Path(folder, file) for folder in Record(record).order().group for file in ("cpu.shares", "cpu.weight")]
    assert [path.read_text() for path in weights if path.exists()] in (["2560\n"], ["250\n"])


@pytest.mark.parametrize("wrong", [{"cpus": 0}, {"cpus": "2"}, {"memory_mib": -1}, {"memory_mib": 10**400}])
def test_bounds_that_no_kernel_can_be_told_are_refused(node: Node, wrong: dict[str, object]) -> None:
    with pytest.raises(AgentError, match=next(iter(wrong))):
        node.launch("sleep", "300", **wrong)


def test_what_control_groups_do_here_is_told_with_advice_where_they_do_not() -> None:
    rows = group_findings()
    assert [name for name, *_ in rows] == ["sessions as groups", "bound: processes", "bound: memory", "bound: cpu"]
    for _, works, detail, advice in rows:
        assert detail
        assert works != bool(advice)


def test_members_of_nothing_are_none() -> None:
    assert Members(list, "boot").owned().owners == {}
