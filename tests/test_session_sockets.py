"""Where sessions listen: on sockets in a folder that is theirs from before they start, and nowhere else."""

from __future__ import annotations

import os
import pwd
import secrets
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes import Node, eventually, running_node, spawned

from timeshare.reservations.agent.client import AgentError
from timeshare.reservations.agent.refusals import Refused
from timeshare.reservations.agent.session_folder import SessionFolders
from timeshare.reservations.sockets import SERVER_SOCKET, session_folder, socket_path, unix_url

KEY = ("11111111-2222-3333-4444-555555555555", 1)


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """Short, as it is in a deployment: a socket's path has little room."""
    path = Path("/tmp") / f"ts-run-{secrets.token_hex(4)}"
    yield path
    folders = SessionFolders(path)
    folders.sweep([])
    if not (path / "s").is_symlink():
        eventually(lambda: not left(path), 60)
    for folder in (path / "s", path):
        if folder.is_symlink():
            folder.unlink()
        elif folder.is_dir():
            folder.rmdir()


def left(run_dir: Path) -> list[Path]:
    """All that is in the place of the folders of sessions."""
    place = run_dir / "s"
    return list(place.iterdir()) if place.is_dir() else []


@pytest.fixture
def node(tmp_path: Path, run_dir: Path) -> Iterator[Node]:
    with running_node(tmp_path, run_dir=str(run_dir)) as found:
        yield found


LISTENS = f"""
import socket, sys, time
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1] + "/{SERVER_SOCKET}")
server.listen()
time.sleep(300)
"""


def test_a_session_gets_its_folder_before_it_starts_and_leaves_none(node: Node, run_dir: Path) -> None:
    name = KEY[0]
    folder = session_folder(run_dir, *KEY)
    node.launch(sys.executable, "-c", LISTENS, str(folder), reservation_id=name, server_socket=True)
    eventually((folder / SERVER_SOCKET).exists)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert name not in str(folder)  # /proc/net/unix shows every path to everybody
    node.stop(name)
    eventually(lambda: node.state(name) == "exited")
    assert not folder.exists()


def test_a_later_start_of_a_session_has_a_folder_of_its_own(node: Node, run_dir: Path) -> None:
    name = KEY[0]
    for generation in (1, 2):
        node.launch("sleep", "300", reservation_id=name, generation=generation, server_socket=True)
    assert [session_folder(run_dir, name, generation).exists() for generation in (1, 2)] == [False, True]


def test_a_session_that_asks_for_none_gets_none(node: Node, run_dir: Path) -> None:
    node.launch("sleep", "300", reservation_id=KEY[0])
    assert not session_folder(run_dir, *KEY).exists()


def test_an_agent_that_died_between_folder_and_record_leaves_nothing(node: Node, run_dir: Path) -> None:
    node.launch("sleep", "300", reservation_id=KEY[0], server_socket=True)
    node.kill()
    left = session_folder(run_dir, "of-no-record", 1)
    left.mkdir()
    (left / "file").touch()
    node.start()
    assert not left.exists()
    assert session_folder(run_dir, *KEY).exists()


def test_without_a_folder_for_sockets_the_launch_is_refused(tmp_path: Path) -> None:
    with running_node(tmp_path) as node, pytest.raises(AgentError, match="run_dir"):
        node.launch("sleep", "300", server_socket=True)


# --- what somebody may have put there


def test_a_folder_behind_a_link_is_not_used(run_dir: Path, tmp_path: Path) -> None:
    run_dir.mkdir()
    (run_dir / "s").symlink_to(tmp_path)
    with pytest.raises((Refused, OSError)):
        SessionFolders(run_dir).make(KEY, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("which", ["", "s"])
def test_a_folder_that_others_may_change_is_not_used(run_dir: Path, which: str) -> None:
    (run_dir / "s").mkdir(parents=True)
    (run_dir / which).chmod(0o777)
    with pytest.raises(Refused, match="mode 777: only the agent's account may own and change it"):
        SessionFolders(run_dir).make(KEY, None)
    (run_dir / which).chmod(0o700)


@pytest.mark.parametrize("kind", ["file", "link", "full", "deep"])
def test_what_is_in_its_place_gives_way_and_no_link_is_followed(run_dir: Path, tmp_path: Path, kind: str) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    place = session_folder(run_dir, *KEY)
    place.parent.mkdir(parents=True)
    if kind == "file":
        place.touch()
    elif kind == "link":
        place.symlink_to(kept)
    elif kind == "full":
        place.mkdir()
        (place / "link").symlink_to(kept)
    else:
        place.mkdir()
        deep = "import os\nfor _ in range(1500): os.mkdir('d'), os.chdir('d')"  # a shell looks up where it is each time
        subprocess.run([sys.executable, "-c", deep], cwd=place, check=True)
    folders = SessionFolders(run_dir)
    folders.make(KEY, None)
    assert (place.is_symlink(), list(place.iterdir())) == (False, [])
    assert (kept / "file").exists()
    folders.remove(KEY)
    assert not place.exists()


def test_nobody_waits_until_a_full_folder_is_emptied(run_dir: Path) -> None:
    folders = SessionFolders(run_dir)
    folders.make(KEY, None)
    place = session_folder(run_dir, *KEY)
    for number in range(20_000):
        (place / str(number)).touch()
    folders.remove(KEY)
    assert not place.exists()
    assert left(run_dir)  # it is still at it
    eventually(lambda: not left(run_dir), 60)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it mounts, as an account can by fusermount")
def test_a_folder_on_which_its_account_mounted_something_keeps_no_other_one(run_dir: Path) -> None:
    folders = SessionFolders(run_dir)
    keys = [(KEY[0], generation) for generation in range(1, 20)]
    for key in keys:
        folders.make(key, None)
    kept = session_folder(run_dir, *keys[0])
    if subprocess.run(["mount", "-t", "tmpfs", "none", str(kept)], check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        folders.sweep([])
        eventually(lambda: left(run_dir) == [kept], 60)
    finally:
        subprocess.run(["umount", str(kept)], check=True)


def test_one_folder_that_is_filled_again_and_again_does_not_keep_the_others(run_dir: Path) -> None:
    folders, other = SessionFolders(run_dir), ("other", 1)
    for key in (KEY, other):
        folders.make(key, None)
    filling = "while true; do mkdir -p a/b c/d; touch a/b/1 c/d/2; done"  # from within, whatever it is called
    with spawned(["bash", "-c", filling], cwd=session_folder(run_dir, *KEY), stderr=subprocess.DEVNULL):
        for key in (KEY, other):
            folders.remove(key)
        eventually(lambda: len(left(run_dir)) < 2, 60)
    folders.sweep([])
    eventually(lambda: not left(run_dir), 60)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes a folder for another account")
def test_the_folder_is_the_accounts_own_and_nobody_elses(run_dir: Path) -> None:
    account = pwd.getpwnam("nobody")
    SessionFolders(run_dir).make(KEY, "nobody")
    status = session_folder(run_dir, *KEY).stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (account.pw_uid, account.pw_gid, 0o700)
    for folder in (run_dir, run_dir / "s"):  # passed through, not listed
        assert stat.S_IMODE(folder.stat().st_mode) == 0o711


def test_an_account_that_does_not_exist_is_named(run_dir: Path) -> None:
    with pytest.raises(Refused, match="no account 'no-such-account'"):
        SessionFolders(run_dir).make(KEY, "no-such-account")


def test_a_path_that_is_too_long_for_a_socket_is_refused_with_what_would_work(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"at most 107 bytes.*use a shorter --state folder"):
        SessionFolders(tmp_path / ("deep" * 30)).make(KEY, None)


# --- addresses


@pytest.mark.parametrize("path", ["/run/ts/1/server.sock", "/home/Ada L/Ünï/%2F:80/s.sock", "/tmp/A"])
def test_an_address_keeps_its_path_whatever_case_its_host_is_kept_in(path: str) -> None:
    url = unix_url(path, "/user/ada")
    assert socket_path(url) == path
    assert socket_path(url.lower()) == path
    assert url.endswith("/user/ada")
