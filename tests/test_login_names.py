"""Whose session it is: that of the account whose password was given."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator

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


def test_nobody_gets_the_session_of_an_account_that_is_written_differently(pair: tuple[str, str, str]) -> None:
    hers, his, password = pair

    async def log_in(name: str) -> object:
        return await SystemGroupsAuthenticator().authenticate(None, {"username": name, "password": password})

    assert asyncio.run(log_in(his)) is None  # right, but JupyterHub would take him for her
    assert asyncio.run(log_in(hers)) is None  # wrong
    subprocess.run(["userdel", his], check=True)
    subprocess.run(["chpasswd"], input=f"{hers}:{password}", text=True, check=True)
    assert asyncio.run(log_in(hers)) == {"name": hers, "groups": []}
    assert not same_account(hers, his)
