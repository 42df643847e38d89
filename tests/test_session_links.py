"""A session's folder is its account's: what hub and proxy, which are root, do with what the account puts there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from accounts import Account, Machine
from aiohttp import ClientOSError
from hubs import command
from jupyterhub import httpclient
from nodes import eventually, kept_from_others
from test_multi_user import accounts

from timeshare.hub_config.run.hub import SafeConnector
from timeshare.reservations.sockets import SERVER_SOCKET, session_folder, unix_url, way_to
from timeshare.spawners.reach import listens

__all__ = ["accounts"]  # the fixture
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\nroots only"
root_with_accounts = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("useradd") is None, reason="needs root: it makes accounts and acts as them"
)


@contextlib.contextmanager
def private_socket(path: Path) -> Iterator[list[bytes]]:
    """A socket that takes connections of its owner alone and answers anything, as some of root's do; what it was
    asked."""
    asked: list[bytes] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                with listening.accept()[0] as connection:
                    asked.append(connection.recv(4096))
                    connection.sendall(ANSWER)

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        path.chmod(0o600)
        listening.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield asked
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.hub
@pytest.mark.timeout(600)
@root_with_accounts
def test_a_link_in_place_of_a_servers_socket_leads_root_nowhere(
    tmp_path_factory: pytest.TempPathFactory, accounts: dict[str, str]
) -> None:
    if reason := kept_from_others():
        pytest.skip(reason)
    name, password = next(iter(accounts.items()))
    hub = Machine(tmp_path_factory.mktemp("links"), command(), "--simulate", "a100-40gb:1")
    try:
        hub.start()
        mallory = Account(hub, name, password)
        mallory.start(memory_gib=10)
        eventually(mallory.is_ready, 90)
        (mine,) = eventually(lambda: [r for r in mallory.reservations() if r["state"] == "active"])
        run_dir = Path(hub.deployment.run_dir)
        place = session_folder(run_dir, mine["id"], mine["generation"]) / SERVER_SOCKET
        address = f"{hub.url}user/{name}/api/status"
        headers = {"Authorization": f"Bearer {mallory.token}"}
        assert requests.get(address, headers=headers, timeout=60).json()["started"]

        def as_mallory(*words: str) -> None:
            subprocess.run(["runuser", "-u", name, "--", *words], check=True, cwd="/")

        with private_socket(run_dir / "roots.sock") as asked:
            as_mallory("mv", str(place), f"{place}.own")
            as_mallory("ln", "-s", str(run_dir / "roots.sock"), str(place))
            answer = requests.get(address, headers=headers, timeout=60)
            assert (answer.status_code, asked) == (503, [])
            upgrade = {**headers, "Connection": "Upgrade", "Upgrade": "websocket"}
            with contextlib.suppress(requests.ConnectionError):
                assert requests.get(address, headers=upgrade, timeout=60).status_code == 503
            hub.kill("hub")  # which asks all servers whether they are up when it starts
            eventually(hub.is_healthy, 60)
            assert asked == []
            as_mallory("mv", f"{place}.own", str(place))
            eventually(lambda: requests.get(address, headers=headers, timeout=60).status_code == 200, 60)
    finally:
        hub.close()


def test_a_link_in_place_of_a_socket_is_not_connected_to(tmp_path: Path) -> None:
    with private_socket(tmp_path / "real.sock") as asked:
        (tmp_path / "link.sock").symlink_to("real.sock")
        with pytest.raises(ConnectionRefusedError), way_to(tmp_path / "link.sock"):
            pass
        assert not asyncio.run(listens(unix_url(tmp_path / "link.sock")))
        assert asked == []
        assert asyncio.run(listens(unix_url(tmp_path / "real.sock")))


def test_the_hubs_own_client_follows_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpclient, "_HTTPUnixConnector", SafeConnector)

    async def ask(path: Path) -> bytes:
        return await (await httpclient.fetch(unix_url(path, "/user/ada/api"))).read()

    with private_socket(tmp_path / "real.sock") as asked:
        (tmp_path / "link.sock").symlink_to("real.sock")
        with pytest.raises(ClientOSError):
            asyncio.run(ask(tmp_path / "link.sock"))
        assert asked == []
        assert asyncio.run(ask(tmp_path / "real.sock")) == b"roots only"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it gives a folder away")
def test_a_socket_of_another_account_than_its_folders_is_not_connected_to(tmp_path: Path) -> None:
    folder = tmp_path / "of-somebody"
    folder.mkdir()
    with private_socket(folder / "moved.sock"):
        os.chown(folder, 65534, 65534)
        with pytest.raises(ConnectionRefusedError), way_to(folder / "moved.sock"):
            pass


def test_the_way_to_a_socket_stays_the_one_that_was_looked_at(tmp_path: Path) -> None:
    first, second = tmp_path / "a.sock", tmp_path / "b.sock"
    with private_socket(first), private_socket(second), way_to(first) as way:
        number = first.stat().st_ino
        second.replace(first)
        assert os.stat(way).st_ino == number != first.stat().st_ino
