"""What another account of the machine reaches of a session, and what a session gets of the hub's own environment."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from accounts import Account, Machine
from hubs import Hub, User, command
from nodes import core, eventually, kept_from_others, marked
from test_job_agent import environment_of
from test_multi_user import accounts

from timeshare.reservations.sockets import SERVER_SOCKET, session_folder

__all__ = ["accounts"]  # the fixture
pytestmark = [
    pytest.mark.hub,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes accounts and looks with their eyes"),
    pytest.mark.skipif(shutil.which("useradd") is None, reason="this system has no useradd"),
]
LISTENING = "0A"
KERNELS = 5
"""Channels on which a kernel listens."""
CONNECTS = """
import socket, sys
reached = []
for path in sys.argv[1:]:
    with socket.socket(socket.AF_UNIX) as tried:
        try:
            tried.connect(path)
            reached.append(path)
        except OSError:
            pass
print("reached:", *reached)
"""
SEEN = {
    # what JupyterHub tells a server
    "JPY_API_TOKEN",
    "JUPYTERHUB_ACTIVITY_URL",
    "JUPYTERHUB_API_TOKEN",
    "JUPYTERHUB_API_URL",
    "JUPYTERHUB_BASE_URL",
    "JUPYTERHUB_CLIENT_ID",
    "JUPYTERHUB_COOKIE_HOST_PREFIX_ENABLED",
    "JUPYTERHUB_DEFAULT_URL",
    "JUPYTERHUB_HOST",
    "JUPYTERHUB_OAUTH_ACCESS_SCOPES",
    "JUPYTERHUB_OAUTH_CALLBACK_URL",
    "JUPYTERHUB_OAUTH_CLIENT_ALLOWED_SCOPES",
    "JUPYTERHUB_OAUTH_SCOPES",
    "JUPYTERHUB_PUBLIC_HUB_URL",
    "JUPYTERHUB_PUBLIC_URL",
    "JUPYTERHUB_SERVER_NAME",
    "JUPYTERHUB_SERVICE_PREFIX",
    "JUPYTERHUB_SERVICE_URL",
    "JUPYTERHUB_USER",
    # where Jupyter finds what
    "JUPYTER_CONFIG_PATH",
    "JUPYTER_PATH",
    "JUPYTER_RUNTIME_DIR",
    "PYTHONSTARTUP",
    # of the account
    "HOME",
    "LOGNAME",
    "PATH",
    "SHELL",
    "USER",
    # of its share
    "CUDA_DEVICE_ORDER",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "TF_FORCE_GPU_ALLOW_GROWTH",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
}
OURS = re.compile(r"TIMESHARE_[A-Z_]+")


class Odd(Machine):
    """Root's environment has in it what nobody else is to see or to be led by."""

    def environment(self) -> dict[str, str]:
        mine = {"SECRET_OF_ROOT": "x", "PYTHONPATH": "/nowhere", "LD_LIBRARY_PATH": "/nowhere", "AWS_SECRET_KEY": "x"}
        return {**super().environment(), **mine}


def sockets_of(pids: list[int]) -> set[str]:
    """The inodes of their open sockets."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    match = re.fullmatch(r"socket:\[([0-9]+)\]", os.readlink(link))
                    found |= {match[1]} if match else set()
    return found


def listens(pids: list[int]) -> tuple[list[str], list[str]]:
    """Where they listen: local addresses of TCP, and names of unix sockets."""
    mine = sockets_of(pids)
    tcp = [
        line.split()[1]
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        if line.split()[3] == LISTENING and line.split()[9] in mine
    ]
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return tcp, [row[7] for row in rows if len(row) > 7 and row[6] in mine and int(row[3], 16) & 0x10000]


def busy(person: User, session: dict[str, Any]) -> list[int]:
    """Its processes, once a kernel and a terminal run too."""
    base, headers = f"{person.hub.url}user/{person.name}/api", {"Authorization": f"Bearer {person.token}"}
    for what in ("kernels", "terminals"):
        answer = requests.post(f"{base}/{what}", json={}, headers=headers, timeout=60)
        assert answer.status_code in (200, 201), answer.text
    eventually(lambda: len([path for path in listens(marked(session["id"]))[1] if "/kernel-" in path]) >= KERNELS, 90)
    return marked(session["id"])


def ports_of_kernels(tcp: list[str]) -> bool:
    """Whether no more listens on TCP than ipykernel has for output of forked processes (``iostream.py``): one port of
    loopback for each kernel. Others can connect to it; it drops what does not begin with its secret."""
    return len(tcp) <= 1 and all(address.startswith("0100007F:") for address in tcp)


def reached_by(account: str, paths: list[str]) -> list[str]:
    words = ["runuser", "-u", account, "--", "/usr/bin/python3", "-c", CONNECTS, *paths]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd="/")
    return done.stdout.removeprefix("reached:").split()


def check_no_way_in(hub: Hub, person: User, stranger: str) -> None:
    person.start(memory_gib=10)
    eventually(person.is_ready, 90)
    (mine,) = eventually(lambda: [r for r in person.reservations() if r["state"] == "active"])
    tcp, unix = listens(busy(person, mine))
    assert ports_of_kernels(tcp)
    assert listens([core(mine["id"])[1]])[0] == []
    folder = session_folder(Path(hub.deployment.run_dir), mine["id"], mine["generation"])
    assert str(folder / SERVER_SOCKET) in unix
    assert [path for path in unix if path.startswith("@")] == []  # abstract ones have no owner
    assert reached_by("root", [str(folder / SERVER_SOCKET)]) == [str(folder / SERVER_SOCKET)]  # the hub does
    assert reached_by(stranger, unix) == []
    assert subprocess.run(["runuser", "-u", stranger, "--", "ls", str(folder)], capture_output=True).returncode != 0
    person.stop()
    assert not folder.exists()


def test_no_other_account_reaches_what_a_session_listens_on(
    tmp_path_factory: pytest.TempPathFactory, accounts: dict[str, str]
) -> None:
    if reason := kept_from_others():
        pytest.skip(reason)
    (first, password), (second, _) = accounts.items()
    hub = Machine(tmp_path_factory.mktemp("strangers"), command(), "--simulate", "a100-40gb:1")
    try:
        hub.start()
        check_no_way_in(hub, Account(hub, first, password), second)
    finally:
        hub.close()


@pytest.fixture
def one_person(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    hub = Hub(tmp_path_factory.mktemp("one"), command(), "--simulate", "a100-40gb:1")
    try:
        hub.start()
        yield hub
    finally:
        hub.close()


def test_beside_one_person_too_no_other_account_reaches_a_session(one_person: Hub) -> None:
    check_no_way_in(one_person, one_person.login("ada"), "nobody")


def test_a_session_sees_nothing_of_roots_environment(
    tmp_path_factory: pytest.TempPathFactory, accounts: dict[str, str]
) -> None:
    if reason := kept_from_others():
        pytest.skip(reason)
    first, password = next(iter(accounts.items()))
    hub = Odd(tmp_path_factory.mktemp("environment"), command(), "--simulate", "a100-40gb:1")
    try:
        hub.start()
        ada = Account(hub, first, password)
        ada.start(memory_gib=10)
        eventually(ada.is_ready, 90)
        (mine,) = [r for r in ada.reservations() if r["state"] != "ended"]
        seen = environment_of(core(mine["id"])[1])
        assert {name for name in seen if not OURS.fullmatch(name)} == SEEN
        assert seen["PATH"] == f"{command().parent}:/usr/local/bin:/usr/bin:/bin"
        assert seen["HOME"] == f"/home/{first}"
    finally:
        hub.close()
