"""Wrong passwords of one hold up nobody else's login, and nobody's session. Against the machine's own PAM."""

from __future__ import annotations

import asyncio
import os
import pwd
from types import SimpleNamespace
from typing import Any

import pytest
from tornado.web import HTTPError

from timeshare.hub_config.authenticators import TRIES_AT_ONCE, SystemGroupsAuthenticator

THIS = pwd.getpwuid(os.geteuid()).pw_name


def attempt(door: SystemGroupsAuthenticator, name: str, address: str = "10.0.0.1") -> asyncio.Task[Any]:
    """A login with a wrong password."""
    handler = SimpleNamespace(request=SimpleNamespace(remote_ip=address))
    return asyncio.ensure_future(door.authenticate(handler, {"username": name, "password": "wrong"}))


@pytest.mark.parametrize("name", ["nobodys-{}", "nobodys-\0{}", "nobodys-\ud800{}", "{}/../root"])
async def test_a_name_that_is_no_account_takes_no_thread_and_as_long_as_a_wrong_password(name: str) -> None:
    door, clock = SystemGroupsAuthenticator(), asyncio.get_running_loop().time
    begin = clock()
    found = await asyncio.gather(*(attempt(door, name.format(number)) for number in range(100)))
    assert found == [None] * 100
    assert clock() - begin >= 1.5
    assert not door._passwords._threads


async def test_of_one_name_so_many_passwords_are_checked_at_once_from_one_address() -> None:
    door = SystemGroupsAuthenticator()
    tries = [attempt(door, THIS) for _ in range(TRIES_AT_ONCE)]
    await asyncio.sleep(0)
    with pytest.raises(HTTPError) as caught:
        await attempt(door, THIS)
    assert caught.value.status_code == 429
    elsewhere = attempt(door, THIS, "10.0.0.2")
    assert await asyncio.gather(*tries, elsewhere) == [None] * (TRIES_AT_ONCE + 1)
    assert await attempt(door, THIS) is None
    assert not door._tries


async def test_a_server_starts_while_wrong_passwords_are_checked() -> None:
    door = SystemGroupsAuthenticator()
    wrong = [attempt(door, THIS, f"10.0.0.{number}") for number in range(12)]
    await asyncio.sleep(0.1)
    start = asyncio.ensure_future(door.pre_spawn_start(SimpleNamespace(name=THIS), None))
    done, _ = await asyncio.wait({start, *wrong}, return_when=asyncio.FIRST_COMPLETED)
    assert done == {start}
    await asyncio.gather(*wrong)
