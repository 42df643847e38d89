"""Sessions whose processes do what no honest one does, beside others that must not notice."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import FULL_STRESS
from nodes import Node, eventually, marked, part, running_node, spawned

from timeshare.reservations.agent.cgroups import GROUP, Mounts, group_name
from timeshare.reservations.agent.client import AgentError
from timeshare.reservations.agent.output import MOST_BYTES
from timeshare.reservations.agent.refusals import Refused
from timeshare.reservations.agent.server import STARTS_OF_ONE, THREADS, Agent
from timeshare.reservations.agent.sessions import Sessions
from timeshare.reservations.agent.spools import read_spool
from timeshare.reservations.devices.checkpoint import CudaCheckpointer
from timeshare.reservations.devices.simulated import SimulatedSource

SLEEP = ("sleep", "300")
PYTHON = "/usr/bin/python3"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start sessions of other accounts")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running_node(tmp_path) as found:
        yield found


@pytest.fixture
def people(tmp_path: Path) -> Iterator[Node]:
    """A node whose sessions run as accounts of their owners: `nobody` and `daemon`, which every Debian has."""
    with running_node(tmp_path, multi_user=True) as found:
        yield found


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """A folder that all accounts reach; pytest keeps its own from others whenever it starts anywhere."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def marks(name: str, generation: str = "1") -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "TIMESHARE_RESERVATION_ID": name, "TIMESHARE_GENERATION": generation}


def on_device(pid: int, memory_mib: int) -> dict[str, object]:
    return {"pid": pid, "device": "GPU-simulated-0000", "memory_mib": memory_mib}


def stops(node: Node, name: str) -> None:
    server = node.session(name)["pid"]
    node.stop(name)
    eventually(lambda: node.state(name) == "exited")
    assert not Path(f"/proc/{server}").exists()


@pytest.mark.parametrize("generation", ["9" * 5000, "-1", "٣", ""])
def test_a_process_with_an_odd_generation_keeps_nobody_from_being_stopped(node: Node, generation: str) -> None:
    with spawned([*SLEEP], env=marks(str(uuid.uuid4()), generation)):
        name = node.launch(*SLEEP)
        stops(node, name)
        activity = node.ask("activity", window_s=10)
    assert activity == [] or activity[0]["reservation_id"] == name


@as_root
def test_a_mark_of_anothers_reservation_charges_her_nothing_and_stops_nothing_of_hers(people: Node) -> None:
    hers = people.launch(*SLEEP, user="nobody", share=[part(1024)])
    with spawned([*SLEEP], env=marks(hers), user="daemon") as thief:
        mine = people.launch(*SLEEP, user="daemon", share=[part(1024)])
        # What is charged to its own session is a sign that the watchdog has looked at all of this.
        own = people.session(mine)["pid"]
        people.driver_tells(processes=[on_device(own, 512), on_device(thief.pid, 20480)])
        eventually(lambda: people.session(mine)["memory_mib"] == 512)
        assert people.session(hers)["memory_mib"] in (None, 0)
        assert [e for e in people.ask("events", after=0) if e["reservation_id"] == hers] == []
        stops(people, hers)
        assert thief.poll() is None  # it was not hers to end


@as_root
def test_a_session_with_anothers_mark_is_charged_to_itself(people: Node) -> None:
    """Its processes are its own by parentage and group, whatever they say."""
    hers = people.launch(*SLEEP, user="nobody", share=[part(1024)])
    program = ["env", f"TIMESHARE_RESERVATION_ID={hers}", "TIMESHARE_GENERATION=1", *SLEEP]
    his = people.launch(*program, user="nobody", share=[part(1024)])  # even of the same account
    pid = people.session(his)["pid"]
    people.driver_tells(processes=[on_device(pid, 512)])
    eventually(lambda: people.session(his)["memory_mib"] == 512)
    assert people.session(hers)["memory_mib"] in (None, 0)
    stops(people, hers)
    assert people.state(his) == "running"


def test_no_list_of_processes_tells_a_reservations_id(node: Node, tmp_path: Path) -> None:
    name = node.launch(*SLEEP, log_path=str(tmp_path / "log"))
    assert len(marked(name)) == 2
    for pid in marked(name):
        for file in ("cmdline", "cgroup", "comm", "stat"):
            assert name.encode() not in Path(f"/proc/{pid}/{file}").read_bytes()


# --- the log


def test_a_log_is_bounded_and_keeps_the_latest(node: Node, tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = (
        f"import os\nfor n in range({5 * MOST_BYTES} // 65536): os.write(1, b'x' * 65536)\nprint('the last words')"
    )
    name = node.launch(sys.executable, "-c", program, log_path=str(log))
    eventually(lambda: node.state(name) == "exited", 60)
    assert node.session(name)["exit_code"] == 0
    assert log.stat().st_size <= MOST_BYTES
    assert log.with_name("log.1").stat().st_size <= MOST_BYTES
    assert log.read_bytes().endswith(b"the last words\n")


def test_a_session_never_has_its_log_itself(node: Node, tmp_path: Path) -> None:
    """With a descriptor it could make the file as long as the disk, at any place in it."""
    program = "import os, stat; print([stat.S_ISREG(os.fstat(n).st_mode) for n in (1, 2)], flush=True)"
    name = node.launch(sys.executable, "-c", program, log_path=str(tmp_path / "log"))
    eventually(lambda: node.state(name) == "exited")
    assert (tmp_path / "log").read_text() == "[False, False]\n"


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_log_that_is_no_plain_file_is_refused(node: Node, tmp_path: Path, kind: str) -> None:
    log, other = tmp_path / "log", tmp_path / "other"
    other.write_text("")
    {"link": lambda: log.symlink_to(other), "pipe": lambda: os.mkfifo(log), "folder": log.mkdir}[kind]()
    with pytest.raises(AgentError) as refused:
        node.launch(*SLEEP, log_path=str(log))
    assert refused.value.reason == "failed"
    assert str(log) in str(refused.value)
    assert other.read_text() == ""


def test_output_goes_on_into_the_log_while_no_agent_lives(node: Node, tmp_path: Path) -> None:
    go = tmp_path / "go"
    program = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.05)\nprint('after', flush=True)"
    name = node.launch(sys.executable, "-c", program, log_path=str(tmp_path / "log"))
    node.kill()
    go.touch()
    eventually(lambda: (tmp_path / "log").read_text() == "after\n")
    node.start()
    eventually(lambda: node.state(name) == "exited")


def test_who_keeps_the_way_to_the_log_does_not_keep_the_session(node: Node, tmp_path: Path) -> None:
    """Its output was handed to a process that is none of the session's; the end is told all the same."""
    pipe = tmp_path / "pid"
    program = f"import os, time\nopen({str(pipe)!r} + '.new', 'w').write(str(os.getpid()))\n"
    program += f"os.replace({str(pipe)!r} + '.new', {str(pipe)!r})\ntime.sleep(300)"
    name = node.launch(sys.executable, "-c", program, log_path=str(tmp_path / "log"))
    eventually(pipe.exists)
    with open(f"/proc/{pipe.read_text()}/fd/1", "wb"):
        stops(node, name)


# --- spools


def spool_folder(above: Path) -> Path:
    folder = above / "job"
    folder.mkdir()
    (folder / "spool.jsonl").write_text("mine\n")
    return folder


NOTHING = {"text": "", "next": 0}


@as_root
def test_a_spool_is_read_with_the_eyes_of_its_owner(everybodys: Path) -> None:
    folder = spool_folder(everybodys)
    for path in (folder, folder / "spool.jsonl"):
        os.chown(path, 65534, 65534)
    assert read_spool(str(folder), "nobody", 0) == {"text": "mine\n", "next": 5}
    assert read_spool(str(folder), "daemon", 0) == NOTHING
    (folder / "spool.jsonl").chmod(0o600)
    folder.chmod(0o700)
    assert read_spool(str(folder), "nobody", 1) == {"text": "ine\n", "next": 5}
    # Behind a folder that only root enters nothing can be told apart.
    hidden = everybodys / "hidden"
    hidden.mkdir(mode=0o700)
    for name in ("file", "link", "pipe", "theirs"):
        (hidden / name).mkdir()
    (hidden / "file" / "spool.jsonl").write_text("root's")
    (hidden / "link" / "spool.jsonl").symlink_to("/etc/shadow")
    os.mkfifo(hidden / "pipe" / "spool.jsonl")
    (hidden / "theirs" / "spool.jsonl").write_text("")
    os.chown(hidden / "theirs" / "spool.jsonl", 65534, 65534)
    for name in ("file", "link", "pipe", "theirs", "none"):
        assert read_spool(str(hidden / name), "nobody", 0) == NOTHING, name
    assert os.getresuid() == (0, 0, 0)
    (everybodys / "still-roots").touch()
    assert (everybodys / "still-roots").stat().st_uid == 0


@as_root
def test_a_folder_that_becomes_a_link_shows_nothing_of_others(everybodys: Path) -> None:
    """The link is put there between any check and the reading, 1,000 times."""
    secret = everybodys / "secret"
    secret.mkdir(mode=0o700)
    (secret / "spool.jsonl").write_text("secret\n")
    os.chown(secret / "spool.jsonl", 65534, 65534)  # the strictest check of the file itself passes
    folder = spool_folder(everybodys)
    os.chown(folder / "spool.jsonl", 65534, 65534)
    link = everybodys / "swapped"
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            for target in (secret, folder):
                draft = everybodys / "draft"
                draft.symlink_to(target)
                draft.replace(link)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        eventually(link.exists)
        texts = {str(read_spool(str(link), "nobody", 0)["text"]) for _ in range(1000)}
    finally:
        done.set()
        thread.join()
    assert texts <= {"", "mine\n"}
    assert "mine\n" in texts


def test_an_account_or_offset_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no account 'no-such-account'"):
        read_spool(str(tmp_path), "no-such-account", 0)
    for offset in (-1, 10**30):
        with pytest.raises(Refused, match="offset is"):
            read_spool(str(tmp_path), None, offset)


# --- all of it together

HOSTILE = """
import os, signal, sys, time
each, other, ready = int(sys.argv[1]), sys.argv[2], sys.argv[3]
signal.signal(signal.SIGTERM, signal.SIG_IGN)
big = {b"BIG%d" % n: b"x" * 120_000 for n in range(8)}
odd = [
    {b"TIMESHARE_RESERVATION_ID": other.encode(), b"TIMESHARE_GENERATION": b"1"},
    {b"TIMESHARE_RESERVATION_ID": other.encode(), b"TIMESHARE_GENERATION": b"9" * 5000},
    {b"TIMESHARE_RESERVATION_ID": b"\\xff\\xfe\\n", b"TIMESHARE_GENERATION": b"-1"},
    {**big, b"TIMESHARE_RESERVATION_ID": other.encode(), b"TIMESHARE_GENERATION": b"1"},
    {},
]
for number in range(each):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        script = "trap '' TERM; while :; do sleep 300; done"
        os.execve(b"/bin/sh", [b"sh) Z 1\\n(", b"-c", script.encode()], odd[number % len(odd)])
for number in range(5):
    if os.fork() == 0:
        os.setsid()
        while True:
            if os.fork():
                os._exit(0)
            time.sleep(0.001)
open(ready, "w").close()
while True:
    try:
        os.wait()
    except OSError:
        time.sleep(1)
"""
GRACE_S = 1.0


def hostile(node: Node, folder: Path, number: int) -> None:
    """Others' sessions start, are watched, charged and stopped beside ``number`` hostile processes, which are gone
    within their grace and 5 s."""
    ready, program = folder / "ready", folder / "hostile.py"
    program.write_text(HOSTILE)
    program.chmod(0o644)
    hers = node.launch(*SLEEP, user="nobody", share=[part(1024)])
    his = node.launch(PYTHON, str(program), str(number), hers, str(ready), user="daemon", share=[part(1024)])
    try:
        beside(node, number, hers, his, ready)
    finally:
        node.stop(his, term=0)
        eventually(lambda: node.state(his) == "exited", 60)


@as_root
def test_a_start_that_is_stopped_half_way_fails_and_keeps_nobody_waiting(people: Node) -> None:
    """Its account can do so, between the moment when the start becomes its own and the one when its program begins.
    It went on for ever: a thread of the agent was kept by each, and there are 64."""
    unified, name = Mounts.here().unified, str(uuid.uuid4())
    if unified is None or not os.access(unified, os.W_OK):
        pytest.skip("needs control groups of version 2, in which what is frozen can be killed")
    folder = unified / GROUP / group_name(Path(people.deployment.state_dir) / "agent", name, 1)
    folder.mkdir(parents=True)
    (folder / "cgroup.freeze").write_text("1")  # it joins its group half way
    with pytest.raises(AgentError, match="its program did not begin within"):
        people.launch(*SLEEP, reservation_id=name, user="daemon", share=[])
    eventually(lambda: people.state(name) == "exited")
    assert not folder.exists()
    hers = people.launch(*SLEEP, user="nobody", share=[])
    assert people.state(hers) == "running"


def test_starts_of_one_leave_threads_of_the_agent_for_others(tmp_path: Path) -> None:
    sessions, source = Sessions(tmp_path / "agent", None, True), SimulatedSource("t4:1")
    agent = Agent(sessions, source, CudaCheckpointer(), False)
    with contextlib.ExitStack() as under_way:
        for _ in range(STARTS_OF_ONE):
            under_way.enter_context(agent.starting("ada"))
        with pytest.raises(Refused, match="16 starts of ada are under way"):
            under_way.enter_context(agent.starting("ada"))
        under_way.enter_context(agent.starting("ben"))
    with agent.starting("ada"):
        assert STARTS_OF_ONE <= THREADS / 4


def beside(node: Node, number: int, hers: str, his: str, ready: Path) -> None:
    eventually(ready.exists, 120)
    eventually(lambda: len(processes_of("daemon", "sleep")) == number, 120)
    another = node.launch(*SLEEP, user="nobody", share=[part(1024)])
    holders = [(node.session(name)["pid"], mib) for name, mib in ((hers, 256), (another, 512), (his, 900))]
    told = [on_device(pid, mib) for pid, mib in holders]
    node.driver_tells(processes=told)
    eventually(lambda: [node.session(n)["memory_mib"] for n in (hers, another, his)] == [256, 512, 900], 60)
    told += [on_device(pid, 1000) for pid in sorted(processes_of("daemon", "sleep"))]
    node.driver_tells(processes=told)
    eventually(lambda: [e for e in node.ask("events", after=0) if e["reservation_id"] == his], 60)
    assert {e["reservation_id"] for e in node.ask("events", after=0)} <= {his}
    assert [node.session(n)["memory_mib"] for n in (hers, another)] == [256, 512]
    eventually(lambda: {r["reservation_id"] for r in node.ask("activity", window_s=10)} >= {hers, another}, 60)
    stops(node, another)
    node.stop(his, term=GRACE_S)
    began = time.monotonic()
    eventually(lambda: node.state(his) == "exited", GRACE_S + 5)  # as docs/admin_guide.md says
    print(f"{number} hostile processes ended in {time.monotonic() - began:.1f} s, with a grace of {GRACE_S:g} s")
    assert processes_of("daemon") == set()
    assert node.state(hers) == "running"
    stops(node, hers)


def processes_of(account: str, called: str = "") -> set[int]:
    """Of that account, by the name of the program. Zombies are only waiting for whoever inherited them."""
    words = ["ps", "-o", "pid=,stat=,comm=", "-u", account]
    told = subprocess.run(words, capture_output=True, text=True, check=False, errors="replace")
    rows = [line.split(None, 2) for line in told.stdout.splitlines()]
    running = [row for row in rows if len(row) == 3 and row[0].isdigit() and not row[1].startswith("Z")]
    return {int(pid) for pid, _, name in running if called in ("", name)}


@as_root
def test_a_few_hostile_processes_are_not_noticed_by_others(people: Node, everybodys: Path) -> None:
    hostile(people, everybodys, 40)


@as_root
@pytest.mark.stress
@pytest.mark.timeout(600)
def test_many_hostile_processes_are_not_noticed_by_others(people: Node, everybodys: Path) -> None:
    hostile(people, everybodys, 500 if FULL_STRESS else 120)
