"""The service's API for timeshare's own processes (hub, starter, command). Asynchronous."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from tornado.httpclient import HTTPClientError

from .errors import PublicError
from .fetching import fetch
from .text import MAX_DETAIL, escaped

Json = dict[str, Any]


ORDER_WAIT_S = 60
"""Longest wait for a server to listen on a node."""


class ServiceUnreachable(Exception):
    """The service did not answer: nothing is known about any reservation."""


@dataclass(frozen=True)
class ServiceClient:
    """``url``: the service with its prefix. ``token``: the deployment's own. ``acting_for``: whom the audit log is to
    name for changes."""

    url: str
    token: str
    timeout_s: float = 10.0
    acting_for: str = ""

    async def offers(self, owner: str) -> Json:
        return await self.call("GET", f"offers?{urlencode({'owner': owner})}")

    async def devices(self) -> Json:
        return await self.call("GET", "devices")

    async def create(self, owner: str, share: Json, **options: Any) -> Json:
        """Options: ``time_limit_s``, ``server_name``, ``client_key``, ``queue``. Raises PublicError when refused."""
        given = {name: value for name, value in options.items() if value is not None}
        return await self.call("POST", "reservations", {"owner": owner, "share": share, **given})

    async def get(self, reservation_id: str) -> Json:
        return await self.call("GET", _one(reservation_id))

    async def wait(self, reservation_id: str, unlike: str, seconds: int) -> Json:
        """The reservation once its state differs from ``unlike``, or after ``seconds``."""
        query = urlencode({"unlike": unlike, "wait_s": seconds})
        return await self.call("GET", f"{_one(reservation_id)}?{query}", waits_s=seconds)

    async def list(self, owner: str | None = None, states: str = "", limit: int = 100, kind: str = "") -> list[Json]:
        """The newest reservations. ``states``: separated by commas, empty for any. ``kind``: empty for both."""
        query = {"limit": str(limit), **({"owner": owner} if owner is not None else {})}
        if states:
            query["state"] = states
        if kind:
            query["kind"] = kind
        answer = await self.call("GET", f"reservations?{urlencode(query)}")
        found: list[Json] = answer["reservations"]
        return found

    async def starting(self, reservation_id: str) -> Json:
        return await self.call("POST", f"{_one(reservation_id)}/starting", {})

    async def active(self, reservation_id: str, generation: int, enforcement: str) -> Json:
        body = {"generation": generation, "enforcement": enforcement}
        return await self.call("POST", f"{_one(reservation_id)}/active", body)

    async def order(self, reservation_id: str, order: Json, wait_s: float = 0) -> Json:
        """Has the waiting job of a reservation run something (``generation``, ``argv``, ``env`` and more), and says
        how that goes; ``wait_s``: how long to wait for that."""
        return await self.call("POST", f"{_one(reservation_id)}/order", {**order, "wait_s": wait_s}, waits_s=wait_s)

    async def extend(self, reservation_id: str, seconds: int) -> Json:
        return await self.call("POST", f"{_one(reservation_id)}/extend", {"seconds": seconds})

    async def end(self, reservation_id: str, reason: str, detail: str) -> Json:
        """End it. ``detail`` may hold what a server or an engine said: what nobody sees in it is written out."""
        words = escaped(detail)[:MAX_DETAIL]
        return await self.call("POST", f"{_one(reservation_id)}/end", {"reason": reason, "detail": words})

    async def activity(self, reservation_id: str) -> Json:
        """What is known of what a session does, and what follows from it."""
        return await self.call("GET", f"{_one(reservation_id)}/activity")

    async def keep(self, reservation_id: str, key: str, seconds: float, why: str) -> Json:
        """Protects it from the idle rules; ``seconds`` 0 ends the protection of that key, whatever ``why`` says."""
        body = {"key": key, "seconds": seconds} | ({"why": why} if seconds else {})
        return await self.call("POST", f"{_one(reservation_id)}/keep", body)

    async def give_back(self, reservation_id: str, *, park: bool = False) -> Json:
        """``park``: what it holds on its GPU is kept in the node's memory."""
        return await self.call("POST", f"{_one(reservation_id)}/give_back", {"park": True} if park else {})

    async def ask_again(self, reservation_id: str) -> Json:
        return await self.call("POST", f"{_one(reservation_id)}/ask_again", {})

    async def all_activity(self) -> Json:
        """Of every session that runs; for the idle culler."""
        return await self.call("GET", "activity")

    async def judge(self, reservation_id: str, judgement: Json) -> Json:
        """What the idle culler decided: ``action``, ``why``, ``quiet_since``, ``act_in_s``."""
        return await self.call("POST", f"activity/{quote(reservation_id, safe='')}", judgement)

    async def events(self, reservation_id: str) -> AsyncIterator[Json]:
        """Every change of it until it has ended, by long polls; the first one at once."""
        seen = await self.get(reservation_id)
        yield seen
        while seen["state"] != "ended":
            seen = await self.wait(reservation_id, seen["state"], 20)
            yield seen

    async def limits(self, owner: str) -> Json:
        """What ``owner`` may have, has used and waits for."""
        return await self.call("GET", f"limits?{urlencode({'owner': owner})}")

    def _headers(self) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        if self.acting_for:
            headers["Timeshare-Acting-For"] = self.acting_for
        return headers

    async def call(self, method: str, path: str, body: Json | None = None, waits_s: float = 0) -> Json:
        """One request. Raises PublicError when it is refused, ServiceUnreachable when there is no answer."""
        try:
            response = await fetch(
                f"{self.url.rstrip('/')}/api/v1/{path}",
                method=method,
                headers=self._headers(),
                body=None if body is None else json.dumps(body),
                request_timeout=self.timeout_s + waits_s,
                connect_timeout=self.timeout_s,
            )
        except HTTPClientError as error:
            raise _refusal(error) from None
        except OSError as error:
            raise ServiceUnreachable(f"the reservations service does not answer ({error})") from None
        answer: Json = json.loads(response.body)
        return answer


def _one(reservation_id: str) -> str:
    return f"reservations/{quote(reservation_id, safe='')}"


def _refusal(error: HTTPClientError) -> Exception:
    try:
        body = json.loads(error.response.body)["error"] if error.response is not None else None
        if body is not None:
            return PublicError(body["reason"], body["message"], error.code, body.get("details", {}))
    except (ValueError, KeyError, TypeError):
        pass
    return ServiceUnreachable(f"the reservations service does not answer ({error.code}: {error.message})")
