"""What ``timeshare up`` keeps running, without a hub: whose processes they are, what they inherit, what they write."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from full_disks import small_disk

from timeshare.hub_config.run import logfiles
from timeshare.hub_config.run.environment import for_components
from timeshare.hub_config.run.folders import FolderError, prepare_run_dir, prepare_state_dir
from timeshare.hub_config.run.held import HeldSockets, SocketError, check_length
from timeshare.hub_config.run.leftovers import end_leftovers, leftovers, records
from timeshare.hub_config.run.supervisor import Component, Place, Supervisor, python
from timeshare.reservations.deployment import VARIABLE

SLEEPER = Component("sleeper", ["/bin/sleep", "300"])
ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="another account is needed, and only root can be one")
NOBODY = pwd.getpwnam("nobody").pw_uid


def place(state_dir: Path, said: list[str] | None = None, **env: str) -> Place:
    say: Callable[[str], None] = (lambda _: None) if said is None else said.append
    given = for_components({**os.environ, **env}, ROOT)
    return Place(state_dir, state_dir / "deployment.json", HeldSockets(), given, say)


async def until(question: Callable[[], Any]) -> Any:
    for _ in range(1500):
        if answer := question():
            return answer
        await asyncio.sleep(0.02)
    raise AssertionError("it never became true")


async def test_a_process_that_is_killed_is_started_again_at_once(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = Supervisor(place(tmp_path, said))
    supervisor.start(SLEEPER)
    (first,) = await until(lambda: leftovers(tmp_path))
    os.kill(first, signal.SIGKILL)
    await until(lambda: [pid for pid in leftovers(tmp_path) if pid != first])
    assert "sleeper was ended by signal SIGKILL; it is started again" in said[0]
    await supervisor.stop()
    assert leftovers(tmp_path) == {}


async def test_a_component_whose_log_cannot_be_written_is_started_all_the_same_and_that_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    supervisor = Supervisor(place(tmp_path, said))
    (tmp_path / "logs" / "sleeper.log").mkdir()
    supervisor.start(SLEEPER)
    await until(lambda: leftovers(tmp_path))
    assert said == [f"sleeper is started without a log: {tmp_path}/logs/sleeper.log: Is a directory"]
    await supervisor.stop()


async def test_a_component_that_dies_on_a_full_disk_is_back_once_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 1) as disk:
        said: list[str] = []
        supervisor = Supervisor(place(disk.path, said))
        supervisor.start(SLEEPER)
        (first,) = await until(lambda: leftovers(disk.path))
        disk.fill()
        os.kill(first, signal.SIGKILL)
        await until(lambda: len(said) >= 3)  # it ends again and again, as it cannot be recorded
        disk.room()
        await until(lambda: [pid for pid in leftovers(disk.path) if pid != first])
        await supervisor.stop()


async def test_what_a_killed_supervisor_left_is_found_by_the_next_and_nothing_else(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "other"]
    supervisors = [Supervisor(place(folder)) for folder in folders]
    for supervisor in supervisors:
        supervisor.start(SLEEPER)
    await until(lambda: leftovers(folders[0]) and leftovers(folders[1]))
    supervisors[0]._tasks["sleeper"].cancel()
    assert await asyncio.to_thread(end_leftovers, folders[0]) == ["sleeper"]
    assert leftovers(folders[0]) == {}
    assert len(leftovers(folders[1])) == 1
    for supervisor in supervisors:
        await supervisor.stop()


ODD = {
    "not UTF-8": b"TIMESHARE_COMPONENT=\xff\xfe",
    "a mark of ours": b"TIMESHARE_COMPONENT=hub",
    "long": b"TIMESHARE_COMPONENT=" + b"9" * 100_000,
}


@pytest.mark.parametrize("what", ODD)
def test_what_a_process_says_of_itself_makes_it_no_component(tmp_path: Path, what: str) -> None:
    """It was believed: one that was not UTF-8 kept timeshare from starting, one with our marks was signalled."""
    name, _, value = ODD[what].partition(b"=")
    env = {name: value, VARIABLE.encode(): os.fsencode(tmp_path / "deployment.json")}
    with subprocess.Popen(["/bin/sleep", "300"], env=env) as odd:
        try:
            assert leftovers(tmp_path) == {}
            assert end_leftovers(tmp_path) == []
            assert odd.poll() is None
        finally:
            odd.kill()


@pytest.mark.parametrize(
    "text", ["", "1", "x y z", "1 2 3", "9" * 5000 + " 1 boot", "\udcff 1 2", "1\x002 3 4"], ids=lambda text: text[:8]
)
def test_a_record_that_is_nonsense_is_nobodys(tmp_path: Path, text: str) -> None:
    records(tmp_path).mkdir()
    (records(tmp_path) / "hub").write_bytes(text.encode(errors="surrogateescape"))
    assert leftovers(tmp_path) == {}


def record_of(process: subprocess.Popen[bytes], ticks: int = 0, boot: str = "") -> str:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    this = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{process.pid} {int(fields[19]) + ticks} {boot or this}\n"


@needs_root
def test_only_this_process_of_this_boot_and_of_this_user_is_a_component(tmp_path: Path) -> None:
    records(tmp_path).mkdir()
    record = records(tmp_path) / "hub"
    with ExitStack() as stack:
        mine = stack.enter_context(subprocess.Popen(["/bin/sleep", "300"]))
        stack.callback(mine.kill)
        theirs = stack.enter_context(subprocess.Popen(["/bin/sleep", "300"], user=NOBODY))
        stack.callback(theirs.kill)
        record.write_text(record_of(mine))
        assert leftovers(tmp_path) == {mine.pid: "hub"}
        for text in (record_of(mine, ticks=1), record_of(mine, boot="another"), record_of(theirs)):
            record.write_text(text)
            assert leftovers(tmp_path) == {}
            assert end_leftovers(tmp_path) == []
        assert mine.poll() is theirs.poll() is None


# --- what they inherit

LOOK = """
import json, os, sys
json.dump({"path": sys.path, "cwd": os.getcwd(), "env": dict(os.environ), "umask": os.umask(0)}, open(sys.argv[1], "w"))
"""


async def seen_by_a_component(state_dir: Path, **env: str) -> dict[str, Any]:
    """What a component in Python finds: ``this`` is a module of the standard library that a file here stands in for."""
    told = state_dir / "told.json"
    supervisor = Supervisor(place(state_dir, **env))
    supervisor.start(Component("looker", ["timeit", "-n1", "-r1", f"{LOOK.replace('sys.argv[1]', repr(str(told)))}"]))
    await until(lambda: told.exists() and told.stat().st_size)
    await supervisor.stop()
    seen: dict[str, Any] = json.loads(told.read_text())
    return seen


async def test_a_component_imports_nothing_from_the_working_folder_or_python_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    for name in ("timeit", "tornado", "sitecustomize", "usercustomize", "runpy", "json"):
        (hostile / f"{name}.py").write_text(f"open({str(tmp_path / 'planted')!r}, 'a').write({name!r})\n")
    monkeypatch.chdir(hostile)
    seen = await seen_by_a_component(tmp_path, PYTHONPATH=str(hostile), PYTHONSTARTUP=str(hostile / "json.py"))
    assert not (tmp_path / "planted").exists(), (tmp_path / "planted").read_text()
    assert seen["cwd"] == "/"
    assert "" not in seen["path"]
    assert str(hostile) not in seen["path"]
    assert not [entry for entry in seen["path"] if entry.endswith("hub_config/run")]
    assert seen["umask"] == 0o077


def test_what_root_runs_inherits_what_is_known_to_do_no_harm(tmp_path: Path) -> None:
    hostile = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE", "LD_PRELOAD", "LD_LIBRARY_PATH")
    hostile += ("NODE_OPTIONS", "NODE_PATH", "BASH_ENV", "GCONV_PATH", "LISTEN_FDS", "TIMESHARE_LEDGER_PASSWORD")
    given = dict.fromkeys(hostile, "x") | {"PATH": f".:bin::{tmp_path}:/bin", "TZ": "UTC", "MINE": "1"}
    assert for_components(given, True) == {"PATH": f"{tmp_path}:/bin", "TZ": "UTC"}
    assert for_components(given, True, ["MINE"])["MINE"] == "1"
    own = for_components(given, False)
    assert own["PYTHONPATH"] == "x", "of one's own account it is one's own"
    assert not {"LISTEN_FDS", "TIMESHARE_LEDGER_PASSWORD"} & set(own)


@pytest.mark.skipif(not ROOT, reason="not as root a person's own packages are taken too, where they are installed")
def test_root_takes_no_packages_of_a_home_folder() -> None:
    assert python() == [sys.executable, "-I"]


async def test_a_socket_takes_connections_while_its_owner_restarts(tmp_path: Path) -> None:
    """Two are handed on under their names; what is connected meanwhile is served by the next process."""
    program = (
        "import socket\\n"
        "from timeshare.reservations.listening import inherited\\n"
        "held = inherited('service')\\n"
        "held.setblocking(True)\\n"
        "assert inherited('hub') is not None and inherited('other') is None\\n"
        "assert not held.get_inheritable()\\n"
        "while True:\\n"
        "    taken, _ = held.accept()\\n"
        "    taken.sendall(b'here')\\n"
        "    taken.close()\\n"
    ).replace("\\n", "\n")
    where = place(tmp_path)
    prepare_run_dir(tmp_path / "run", shared=False)
    where.held.listen(tmp_path / "run", shared=False)
    supervisor = Supervisor(where)
    supervisor.start(Component("echo", ["timeit", "-n1", "-r1", program], sockets=["hub", "service"]))
    try:
        for _ in range(3):
            with socket.socket(socket.AF_UNIX) as asking:
                asking.settimeout(60)
                asking.connect(str(tmp_path / "run" / "service.sock"))
                assert await asyncio.to_thread(asking.recv, 4) == b"here"
            (pid,) = leftovers(tmp_path)
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: pid not in leftovers(tmp_path))  # type: ignore[misc]
    finally:
        await supervisor.stop()
        where.held.close()
    assert list((tmp_path / "run").glob("*.sock")) == []


# --- folders


def test_a_state_folder_that_others_can_read_is_closed_and_that_is_said(tmp_path: Path) -> None:
    state, said = tmp_path / "state", list[str]()
    (state / "logs").mkdir(parents=True, mode=0o755)
    for name in ("ledger.sqlite", "hub.sqlite", "logs/hub.log"):
        (state / name).write_text("secret")
        (state / name).chmod(0o644)
    state.chmod(0o755)
    prepare_state_dir(state, said.append)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in state.rglob("*.*"))
    assert "had mode 755" in said[0]
    assert len(said) == 4


@needs_root
def test_a_state_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, NOBODY, -1)
    with pytest.raises(FolderError, match="belongs to nobody, and this runs as root"):
        prepare_state_dir(state, lambda _: None)


PLANTED = ["jupyterhub_site.py", "timeshare_slurm.py", "timeshare_service.py", "limits.yaml", "components/hub"]


def planted(state: Path, name: str) -> Path:
    """A state folder with one file, as somebody could have made it before the first start."""
    path = state / name
    path.parent.mkdir(parents=True)
    path.write_text("planted")
    return path


@needs_root
@pytest.mark.parametrize("mode", [0o700, 0o755, 0o777])
@pytest.mark.parametrize("name", PLANTED)
def test_what_another_account_put_into_a_state_folder_is_refused_each_time(
    tmp_path: Path, name: str, mode: int
) -> None:
    """Root ran it, once the folder had been closed."""
    path = planted(tmp_path / "state", name)
    os.chown(path, NOBODY, NOBODY)
    (tmp_path / "state").chmod(mode)
    for _ in range(2):
        with pytest.raises(FolderError, match=f"{path} belongs to nobody: others may have written what root would run"):
            prepare_state_dir(tmp_path / "state", lambda _: None)
    path.unlink()
    prepare_state_dir(tmp_path / "state", lambda _: None)


@needs_root
def test_a_link_that_another_account_put_into_a_state_folder_is_refused(tmp_path: Path) -> None:
    """The files where it led to were closed to others: those of /etc, for instance."""
    state, elsewhere = tmp_path / "state", tmp_path / "elsewhere"
    state.mkdir()
    elsewhere.mkdir()
    (elsewhere / "passwd").touch(mode=0o644)
    (state / "logs").symlink_to(elsewhere)
    os.chown(state / "logs", NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(FolderError, match=f"{state / 'logs'} belongs to nobody"):
        prepare_state_dir(state, lambda _: None)
    os.chown(state / "logs", 0, 0, follow_symlinks=False)
    prepare_state_dir(state, lambda _: None)
    assert stat.S_IMODE((elsewhere / "passwd").stat().st_mode) == 0o644


@needs_root
@pytest.mark.parametrize("theirs", ["site.py", "open.py", "folder/site.py"])
def test_a_link_to_what_another_account_owns_or_can_write_is_refused(tmp_path: Path, theirs: str) -> None:
    """The link was root's own, and what it leads to was run."""
    state, path = tmp_path / "state", tmp_path / theirs
    state.mkdir(mode=0o700)
    path.parent.mkdir(exist_ok=True)
    path.touch(mode=0o600)
    (state / "jupyterhub_site.py").symlink_to(path)
    prepare_state_dir(state, lambda _: None)
    if theirs == "open.py":
        path.chmod(0o602)
    else:
        os.chown(tmp_path / theirs.split("/")[0], NOBODY, NOBODY)
    with pytest.raises(FolderError, match=f"to which {state / 'jupyterhub_site.py'} leads, (belongs to nobody|can be)"):
        prepare_state_dir(state, lambda _: None)


def test_a_link_that_leads_nowhere_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "link").symlink_to("nowhere")
    told: list[str] = []
    prepare_state_dir(tmp_path / "state", told.append)
    assert told == []


@pytest.mark.parametrize("name", PLANTED)
def test_what_others_could_write_in_an_open_state_folder_is_refused_and_stays_as_it_is(
    tmp_path: Path, name: str
) -> None:
    path = planted(tmp_path / "state", name)
    path.chmod(0o666)
    (tmp_path / "state").chmod(0o755)
    for _ in range(2):
        with pytest.raises(FolderError, match=rf"{path} can be written by others \(mode 666\)"):
            prepare_state_dir(tmp_path / "state", lambda _: None)
    (tmp_path / "state").chmod(0o700)
    prepare_state_dir(tmp_path / "state", lambda _: None)


@needs_root
@pytest.mark.parametrize("further", [False, True])
def test_a_link_on_the_way_that_another_account_can_move_is_refused(tmp_path: Path, further: bool) -> None:
    """Only where it led to was looked at. ``further``: the link is not on the way that was named, but led to."""
    theirs, state = tmp_path / "theirs", tmp_path / "state"
    theirs.mkdir()
    state.mkdir(mode=0o700)
    (theirs / "link").symlink_to(state)
    (tmp_path / "first").symlink_to("theirs/link")
    os.chown(theirs, NOBODY, NOBODY)
    with pytest.raises(FolderError, match=f"{theirs}, on the way to"):
        prepare_state_dir(tmp_path / "first" if further else theirs / "link", lambda _: None)
    prepare_state_dir(state, lambda _: None)


@needs_root
def test_a_link_in_a_sticky_folder_is_its_owners(tmp_path: Path) -> None:
    sticky, state = tmp_path / "sticky", tmp_path / "state"
    sticky.mkdir()
    sticky.chmod(0o1777)
    state.mkdir(mode=0o700)
    (sticky / "link").symlink_to("../state")
    prepare_state_dir(sticky / "link", lambda _: None)
    os.chown(sticky / "link", NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(FolderError, match=f"{sticky / 'link'}, on the way to"):
        prepare_state_dir(sticky / "link", lambda _: None)


@pytest.mark.parametrize("sticky", [False, True])
def test_a_folder_on_the_way_in_which_others_can_write_is_refused(tmp_path: Path, sticky: bool) -> None:
    """Sticky ones such as /tmp are enough for one person, and not where other accounts have sessions."""
    above = tmp_path / "above"
    above.mkdir()
    above.chmod(0o1777 if sticky else 0o777)
    if sticky:
        prepare_run_dir(above / "run", shared=False)
    else:
        with pytest.raises(FolderError, match=f"{above}, on the way to"):
            prepare_run_dir(above / "run", shared=False)
    with pytest.raises(FolderError, match="chmod go-w"):
        prepare_run_dir(above / "run", shared=True)


@needs_root
def test_a_run_folder_that_somebody_made_before_is_refused(tmp_path: Path) -> None:
    made = Path(f"/run/timeshare-test-{os.getpid()}")
    made.mkdir()
    try:
        (made / "elsewhere").mkdir()
        (made / "run").mkdir()
        os.chown(made / "run", NOBODY, -1)
        with pytest.raises(FolderError, match="belongs to nobody"):
            prepare_run_dir(made / "run", shared=True)
        (made / "run").rmdir()
        (made / "run").symlink_to(made / "elsewhere")
        with pytest.raises(FolderError, match="is not a folder of root"):
            prepare_run_dir(made / "run", shared=True)
    finally:
        subprocess.run(["rm", "-r", str(made)], check=True)


@needs_root
def test_the_folder_of_all_run_folders_is_open_whatever_the_umask_was(tmp_path: Path) -> None:
    above = Path(f"/run/timeshare-test-{os.getpid()}")
    above.mkdir(mode=0o700)
    try:
        prepare_run_dir(above / "run", shared=False)
        assert stat.S_IMODE(above.stat().st_mode) == 0o700
        prepare_run_dir(above / "run", shared=True)
        assert stat.S_IMODE(above.stat().st_mode) == 0o755
    finally:
        subprocess.run(["rm", "-r", str(above)], check=True)


@needs_root
def test_accounts_may_go_through_a_shared_run_folder_and_write_nothing_there() -> None:
    made, held = Path(f"/run/timeshare-test-{os.getpid()}"), HeldSockets()
    try:
        prepare_run_dir(made, shared=True)
        held.listen(made, shared=True)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [made, *made.iterdir()]}
        assert modes == {
            made.name: 0o755,
            "s": 0o755,
            "hub.sock": 0o666,
            "service.sock": 0o666,
            "proxy-api.sock": 0o600,
            "agent.sock": 0o600,
        }
        script = Path(__file__).with_name("socket_attack.py").read_text()
        words = ["/usr/bin/python3", "-I", "-c", script, str(made), "127.0.0.1", "1"]
        done = subprocess.run(words, user=NOBODY, input="", capture_output=True, text=True, check=True, cwd="/")
        assert done.stdout.splitlines()[:-1] == ["reached hub", "reached service"]
    finally:
        held.close()
        subprocess.run(["rm", "-rf", str(made)], check=True)


def test_a_path_too_long_for_a_socket_is_named_with_the_limit_and_the_cure(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 108) / "hub.sock"
    with pytest.raises(SocketError, match=rf"{path}.* has {len(str(path))} bytes, and Linux allows 107: .* --state"):
        check_length(path)


# --- logs

CHATTY = """
import os
for number in range(100000):
    os.write(1, b"%099d\\n" % number)
open("DONE", "w").close()
import time
time.sleep(300)
"""


async def test_logs_are_kept_short_while_their_components_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfiles.rotate, "__defaults__", (100_000,))
    monkeypatch.setattr("timeshare.hub_config.run.supervisor.ROTATE_EVERY_S", 0.01)
    supervisor = Supervisor(place(tmp_path))
    supervisor.start(Component("chatty", ["timeit", "-n1", "-r1", CHATTY.replace("DONE", str(tmp_path / "done"))]))
    keeping = asyncio.create_task(supervisor.keep_logs_short())
    log = tmp_path / "logs" / "chatty.log"
    old = log.with_suffix(".log.1")
    await until((tmp_path / "done").exists)
    await until(lambda: log.stat().st_size <= 100_000)
    keeping.cancel()
    await supervisor.stop()
    assert old.stat().st_size >= 100_000 - 100, "the newest is kept, and as much of the older in whole lines"
    assert old.stat().st_size <= 2_000_000, "of 10 MB written as fast as can be"
    assert [path.stat().st_mode & 0o777 for path in (log, old)] == [0o600, 0o600]
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["chatty.log", "chatty.log.1"]


def test_a_log_that_is_rotated_goes_on_at_its_new_end(tmp_path: Path) -> None:
    path = tmp_path / "hub.log"
    with logfiles.open_log(path) as log:
        log.write(b"before\n" * 10)
        log.flush()
        assert not logfiles.rotate(path, 70)
        assert logfiles.rotate(path, 69)
        log.write(b"after\n")
    assert path.read_bytes() == b"after\n"
    assert path.with_suffix(".log.1").read_bytes() == b"before\n" * 10
    path.write_bytes(b"before\n" * 10)
    assert logfiles.rotate(path, 20)
    assert path.with_suffix(".log.1").read_bytes() == b"before\n" * 2, "of one that grew very fast the newest lines"
