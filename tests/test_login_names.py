"""Whose session it is: that of the account whose password was given."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from timeshare.hub_config.authenticators import SystemGroupsAuthenticator, same_account

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes accounts"),
    pytest.mark.skipif(shutil.which("useradd") is None, reason="this system has no useradd"),
]


@pytest.fixture
def pair() -> Iterator[tuple[str, str, str]]:
    """Two accounts whose names differ in capitals alone, and the password of the one with capitals."""
    name, password = f"ts-{secrets.token_hex(3)}a", secrets.token_urlsafe(12)
    for each in (name, name.upper()):
        made = subprocess.run(["useradd", "--badname", each], capture_output=True, text=True, check=False)
        if made.returncode:
            subprocess.run(["userdel", name], check=False, capture_output=True)
            pytest.skip(f"this system has no such accounts: {made.stderr.strip()}")
    subprocess.run(["chpasswd"], input=f"{name.upper()}:{password}", text=True, check=True)
    try:
        yield name, name.upper(), password
    finally:
        for each in (name, name.upper()):
            subprocess.run(["userdel", each], check=False, capture_output=True)


async def log_in(name: str, password: str) -> object:
    """The model that a login from this machine leads to."""
    handler = SimpleNamespace(request=SimpleNamespace(remote_ip="127.0.0.1"))
    return await SystemGroupsAuthenticator().authenticate(handler, {"username": name, "password": password})


def test_nobody_gets_the_session_of_an_account_that_is_written_differently(pair: tuple[str, str, str]) -> None:
    hers, his, password = pair

    assert asyncio.run(log_in(his, password)) is None  # right, but JupyterHub would take him for her
    assert asyncio.run(log_in(hers, password)) is None  # wrong
    subprocess.run(["userdel", his], check=True)
    subprocess.run(["chpasswd"], input=f"{hers}:{password}", text=True, check=True)
    assert asyncio.run(log_in(hers, password)) == {"name": hers, "groups": []}
    assert not same_account(hers, his)
