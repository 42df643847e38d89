"""What the network sees of a session on a compute node: one port of the job agent, from before the server starts."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from nodes import eventually

from timeshare.reservations.jobagent.front import Front, held_port, most_connections, private_folder

MANY = 24 * 1024 * 1024


@pytest.fixture
def front() -> Iterator[Front]:
    made = Front(None, {})
    yield made
    made.close()


@contextlib.contextmanager
def connected(front: Front) -> Iterator[tuple[socket.socket, socket.socket]]:
    """From outside through the front to a server, and the server's end of it."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(front.lead_to(1))
        server.listen()
        with socket.create_connection(("127.0.0.1", front.port)) as outside:
            inside, _ = server.accept()
            with inside:
                yield outside, inside


def everything(end: socket.socket) -> bytes:
    return b"".join(iter(lambda: end.recv(1 << 20), b""))


def test_the_port_is_held_from_before_the_server_listens_until_the_end(front: Front) -> None:
    for address, family in (("127.0.0.1", socket.AF_INET), ("0.0.0.0", socket.AF_INET), ("::1", socket.AF_INET6)):
        if family == socket.AF_INET6 and not socket.has_dualstack_ipv6():
            continue
        with socket.socket(family) as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                other.bind((address, front.port))


def test_what_both_sides_say_arrives_whole_and_each_may_stop_first(front: Front) -> None:
    sent = secrets.token_bytes(MANY)
    with connected(front) as (outside, inside):

        def echo() -> None:
            inside.sendall(everything(inside))  # after the other side has said all: a half-closed connection
            inside.shutdown(socket.SHUT_WR)

        threading.Thread(target=echo, daemon=True).start()

        def say() -> None:
            outside.sendall(sent)
            outside.shutdown(socket.SHUT_WR)

        threading.Thread(target=say, daemon=True).start()
        assert everything(outside) == sent


def test_a_side_that_does_not_read_holds_the_other_back(front: Front) -> None:
    with connected(front) as (outside, _):
        outside.settimeout(1)
        with pytest.raises(TimeoutError):
            outside.sendall(bytes(4 * MANY))


def test_an_end_that_is_cut_off_cuts_off_the_other(front: Front) -> None:
    with connected(front) as (outside, inside):
        inside.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        inside.close()
        with contextlib.suppress(ConnectionError):
            assert outside.recv(1) == b""


def test_before_the_server_listens_connections_are_let_go(front: Front) -> None:
    front.lead_to(1)
    assert not front.answers()
    with socket.create_connection(("127.0.0.1", front.port)) as outside, contextlib.suppress(ConnectionError):
        assert outside.recv(1) == b""


def test_a_later_start_of_the_server_is_reached_by_the_same_port(front: Front) -> None:
    for generation in (1, 2):
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(front.lead_to(generation))
            server.listen()
            assert front.answers()
            server.accept()[0].close()
            with socket.create_connection(("127.0.0.1", front.port)):
                server.accept()[0].close()


def test_nobody_can_have_all_connections_by_keeping_them() -> None:
    bounded = Front(None, {}, most=3)
    with contextlib.ExitStack() as opened:
        server = opened.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(bounded.lead_to(1))
        server.listen()
        server.settimeout(30)

        def carried(host: str) -> tuple[socket.socket, socket.socket]:
            outside = socket.create_connection(("127.0.0.1", bounded.port), timeout=30, source_address=(host, 0))
            inside, _ = server.accept()
            return opened.enter_context(outside), opened.enter_context(inside)

        mine = carried("127.0.0.1")
        silent, busy = carried("127.0.0.2"), carried("127.0.0.2")
        for one in (silent, busy):
            one[0].sendall(b"?")
            assert one[1].recv(1) == b"?"
        late = carried("127.0.0.1")
        with contextlib.suppress(ConnectionError):
            assert silent[0].recv(1) == b"", "of the host that has most the one that is silent"
        for one in (mine, busy, late):
            one[1].sendall(b"!")
            assert one[0].recv(1) == b"!"
    bounded.close()
    assert most_connections() >= 16


def test_a_range_without_a_free_port_is_named() -> None:
    with held_port(None) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"no port from {port} to {port} is free"):
            Front((port, port), {})


# --- the folder


def test_the_folder_is_private_and_goes_with_the_front(front: Front) -> None:
    status = front.folder.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o700, os.geteuid())
    front.close()
    assert not front.folder.exists()


def hostile_folders(tmp_path: Path) -> dict[str, Path]:
    """Each could be moved or replaced by another account, or is of no use."""
    open_to_all = tmp_path / "open"
    below = open_to_all / "below"
    below.mkdir(parents=True)
    open_to_all.chmod(0o777)
    anothers = tmp_path / "anothers"
    anothers.mkdir()
    if os.geteuid() == 0:
        os.chown(anothers, 12345, 12345)
    link = tmp_path / "link"
    link.symlink_to(open_to_all)
    return {
        "open to all": open_to_all,
        "below one that is": below,
        "a link to one": link,
        "another's": anothers if os.geteuid() == 0 else open_to_all,
        "missing": tmp_path / "missing",
        "relative": Path("here"),
        "too deep": Path("/tmp") / ("x" * 90),
    }


@pytest.mark.parametrize(
    "kind", ["open to all", "below one that is", "a link to one", "another's", "missing", "relative", "too deep"]
)
def test_a_hostile_place_for_temporary_files_is_not_used(tmp_path: Path, kind: str) -> None:
    place = hostile_folders(tmp_path)[kind]
    made = private_folder({"TMPDIR": str(place)})
    try:
        assert made.parent == Path("/tmp")
        assert place not in made.resolve().parents
    finally:
        made.rmdir()


def test_without_any_place_the_error_says_what_was_tried() -> None:
    with pytest.raises(OSError, match="/none: No such file or directory") as error:
        private_folder({"TMPDIR": "here"}, ["/none"])
    assert "name one by TMPDIR" in str(error.value)


def test_a_port_is_answered_for_only_while_its_server_lives(front: Front) -> None:
    with connected(front):
        eventually(front.answers)
    assert not front.answers()
