"""Logins of the machine's accounts, with their system groups as JupyterHub groups: limits go by them."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
import pwd
import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jupyterhub.auth import PAMAuthenticator
from traitlets import Bool, Integer

from ..spawners.pages import TooMany

log = logging.getLogger("timeshare.hub")
PASSWORDS_AT_ONCE = 32
"""A wrong one takes PAM two seconds. JupyterHub (6.1) checks four at a time, and starts servers in the same threads."""
TRIES_AT_ONCE = 3
"""For one name from one address."""
WRONG_S = (1.5, 2.5)
"""As PAM answers of a wrong password, so that nobody learns which names there are."""


class SystemGroupsAuthenticator(PAMAuthenticator):  # type: ignore[misc]
    """PAM, and who is in which group of the system.

    Groups are read when somebody logs in and again when JupyterHub refreshes what it knows of her
    (``Authenticator.auth_refresh_age``, 300 seconds by default): a change in the system needs no new login.
    """

    least_gid = Integer(
        1000,
        min=0,
        config=True,
        help="""
        Groups with a smaller number than this are the system's own (disk, video, sudo…) and are not handed on.
        Unit: a gid. Default: 1000, where Debian and Red Hat begin to number people's groups. 0: every group is.
        Example: c.SystemGroupsAuthenticator.least_gid = 500
        """,
    )
    own_group = Bool(
        False,
        config=True,
        help="""
        Whether the group that has an account's own name is handed on as well. Default: False: many systems make one
        for each account, and a group of one says nothing. Example: c.SystemGroupsAuthenticator.own_group = True
        """,
    )

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.manage_groups = True
        self._passwords = ThreadPoolExecutor(PASSWORDS_AT_ONCE, "passwords")
        self._tries: Counter[tuple[str, str]] = Counter()

    async def authenticate(self, handler: Any, data: Any) -> dict[str, Any] | None:
        """Checks the password; the model with the groups. None for a wrong one."""
        with self._trying(handler, data["username"]):
            name = await self._checked(handler, data)
        if name is None:
            return None
        return {"name": name, "groups": await self._groups(self.normalize_username(name))}

    @contextlib.contextmanager
    def _trying(self, handler: Any, name: str) -> Iterator[None]:
        """While a password for ``name`` is checked. Raises HTTPError 429: who tries one name after the other has no
        more of the threads than there are accounts, and the others still log in."""
        key = (name, handler.request.remote_ip)
        if self._tries[key] >= TRIES_AT_ONCE:
            raise TooMany("too many logins with this name are being checked: try again in a moment")
        self._tries[key] += 1
        try:
            yield
        finally:
            self._tries[key] -= 1
            if not self._tries[key]:
                del self._tries[key]

    async def _checked(self, handler: Any, data: Any) -> str | None:
        """The name if it is the password; None else. A name that is no account takes none of the threads."""
        if not await asyncio.to_thread(is_account, data["username"]):
            await asyncio.sleep(random.uniform(*WRONG_S))
            return None
        check = PAMAuthenticator.authenticate.__wrapped__  # without JupyterHub's own threads
        name: str | None = await asyncio.get_running_loop().run_in_executor(self._passwords, check, self, handler, data)
        return name

    async def refresh_user(self, user: Any, handler: Any = None) -> dict[str, Any] | bool:
        """Her groups as they are now. False, log in again, for an account that is gone."""
        try:
            return {"name": user.name, "groups": await self._groups(user.name)}
        except KeyError:
            log.warning("the account %r is not known to the system any more", user.name)
            return False
        except OSError as error:  # a directory that does not answer takes nobody's groups away
            log.warning("the groups of %r cannot be read, the last known stand: %s", user.name, error)
            return True

    async def _groups(self, name: str) -> list[str]:
        """Sorted. In a thread: a directory service may take its time. Raises KeyError, OSError."""
        found = await asyncio.to_thread(system_groups, name)
        kept = [group for gid, group in found if gid >= self.least_gid and (self.own_group or group != name)]
        return sorted(kept)


def is_account(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except (KeyError, ValueError):  # no such name; no name at all
        return False
    return True


def system_groups(name: str) -> list[tuple[int, str]]:
    """Number and name of each group of the account ``name``. Raises KeyError for no such account, OSError."""
    found = []
    for gid in os.getgrouplist(name, pwd.getpwnam(name).pw_gid):
        try:
            found.append((gid, grp.getgrgid(gid).gr_name))
        except KeyError:
            log.info("%s is in group %d, which has no name: left out", name, gid)
    return found
