"""Who is in which group: asked of JupyterHub, whichever way it learns of it (accounts, an identity provider, an
admin)."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import quote

from tornado.httpclient import HTTPClientError

from ..fetching import fetch

log = logging.getLogger("timeshare.service")
Groups = tuple[str, ...]


class People(Protocol):
    async def groups(self, name: str) -> Groups | None:
        """The groups of ``name``, sorted; None when nobody can say now."""

    async def knows(self, name: str) -> bool | None:
        """Whether there is such a user; None when nobody can say now."""


@dataclass
class HubPeople:
    """Asks with the service's own token (scope ``read:users:groups``). An answer holds for ``remembered_s`` seconds;
    several who ask for one person at a time share one question. Somebody whom the hub does not know has no groups."""

    hub_api_url: str
    token: str
    remembered_s: float = 30.0
    timeout_s: float = 5.0
    _known: dict[str, tuple[float, Groups]] = field(default_factory=dict)
    _strangers: set[str] = field(default_factory=set)
    """Those of ``_known`` of whom the hub says that there is no such user."""
    _asking: dict[str, asyncio.Task[Groups | None]] = field(default_factory=dict)

    async def groups(self, name: str) -> Groups | None:
        known = self._known.get(name)
        if known is not None and time.monotonic() - known[0] < self.remembered_s:
            return known[1]
        task = self._asking.get(name)
        if task is None:
            task = self._asking[name] = asyncio.create_task(self._ask(name))
            task.add_done_callback(lambda _: self._asking.pop(name, None))
        return await asyncio.shield(task)

    async def knows(self, name: str) -> bool | None:
        return None if await self.groups(name) is None else name not in self._strangers

    async def _ask(self, name: str) -> Groups | None:
        try:
            response = await fetch(
                f"{self.hub_api_url}/users/{quote(name, safe='')}",
                headers={"Authorization": f"Bearer {self.token}"},
                request_timeout=self.timeout_s,
                connect_timeout=self.timeout_s,
            )
            self._strangers.discard(name)
            groups = tuple(sorted(str(group) for group in json.loads(response.body).get("groups", ())))
        except HTTPClientError as error:
            if error.code != 404:
                log.warning("the groups of %s are not known: JupyterHub answered %s", name, error.code)
                return None
            log.info("JupyterHub does not know %s: no groups", name)
            groups = ()
            self._strangers.add(name)
        except (OSError, ValueError) as error:
            log.warning("the groups of %s are not known: %s", name, error)
            return None
        self._known[name] = (time.monotonic(), groups)
        return groups
