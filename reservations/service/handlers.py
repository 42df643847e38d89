"""The HTTP side: each handler checks who asks and what, calls the pool, and answers with a view."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tornado import httputil, iostream, web

from ..errors import PublicError
from ..reservation import Reservation, State
from ..submission import unknown_id
from . import bodies, views
from .auth import Caller, TokenChecker, authenticate
from .offers import offers_view
from .openapi import describe
from .runtime import Runtime
from .settings import Settings

log = logging.getLogger("timeshare.service")
HEARTBEAT_S = 15.0
READ_AND_DROP = 16 * 1024 * 1024
"""A body that is too large is read up to this size before it is refused in words; beyond, the connection is closed."""


@dataclass(frozen=True)
class Context:
    """What every handler needs."""

    settings: Settings
    runtime: Runtime
    tokens: TokenChecker | None


class Base(web.RequestHandler):
    """Tokens, body limits and the one error body."""

    public = False
    caller: Caller

    def initialize(self, context: Context) -> None:
        self.context = context
        self.runtime = context.runtime

    def set_default_headers(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")

    async def prepare(self) -> None:
        if self.request.method not in self.methods():
            raise PublicError("method-not-allowed", f"{self.request.method} is not offered here", 405)
        if not self.public:
            header = self.request.headers.get("Authorization")
            self.caller = await authenticate(self.context.settings, self.context.tokens, header)

    @classmethod
    def methods(cls) -> list[str]:
        return [name for name in ("GET", "POST") if getattr(cls, name.lower()) is not getattr(Base, name.lower())]

    def json_body(self) -> dict[str, Any]:
        if len(self.request.body) > bodies.MAX_BODY:
            raise _too_large()
        return bodies.parse_json(self.request.body or b"{}")

    def query(self) -> dict[str, str]:
        """Query arguments; each may be given once."""
        found = {}
        for name, values in self.request.query_arguments.items():
            if len(values) != 1:
                raise PublicError("invalid", f"{name[:40]} is given {len(values)} times: give it once", 400)
            try:
                found[name] = values[0].decode("utf-8")
            except UnicodeDecodeError:
                raise PublicError("invalid", f"{name[:40]} is not UTF-8 text", 400) from None
        return found

    def no_query(self) -> None:
        bodies.known_fields(self.query(), ())

    def answer(self, body: dict[str, Any], status: int = 200) -> None:
        self.set_status(status)
        self.finish(json.dumps(body))

    async def mine(self, reservation_id: str) -> Reservation:
        """The caller's reservation of that id; somebody else's looks like none at all."""
        found = await self.runtime.call(self.runtime.pool.get, bodies.check_id(reservation_id))
        if not self.caller.may_touch(found.owner):
            raise unknown_id(reservation_id)
        return found

    async def view(self, reservation: Reservation) -> dict[str, Any]:
        return await self.runtime.call(views.reservation_view, self.runtime.pool, reservation)

    async def change(self, reservation_id: str, change: Callable[..., Reservation], *arguments: Any) -> None:
        """Makes a change to the caller's reservation and answers with what it is then."""
        await self.mine(reservation_id)
        changed = await self.runtime.call(change, reservation_id, *arguments)
        self.answer(await self.view(changed))

    def admins_only(self) -> None:
        if not self.caller.admin:
            raise PublicError("forbidden", "only administrators may do this", 403)

    def own_processes_only(self) -> None:
        if not self.caller.deployment:
            raise PublicError("forbidden", "only timeshare's own hub may report this", 403)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not isinstance(value, PublicError | iostream.StreamClosedError):
            super().log_exception(typ, value, tb)

    def write_error(self, status_code: int, **details: Any) -> None:
        error = details.get("exc_info", (None, None, None))[1]
        if not isinstance(error, PublicError):
            error = _public(status_code)
        self.set_status(error.status)
        if error.status == 405:
            self.set_header("Allow", ", ".join(self.methods()))
        if error.status == 401:
            self.set_header("WWW-Authenticate", "Bearer")
        self.finish(json.dumps(error.body()))


def _too_large() -> PublicError:
    message = f"the body is larger than {bodies.MAX_BODY} bytes, the most that is read here"
    return PublicError("body-too-large", message, 413, {"limit": bodies.MAX_BODY})


def _public(status: int) -> PublicError:
    if status == 404:
        return PublicError("not-found", "there is nothing at this address: see api/v1/openapi.json", 404)
    if status == 405:
        return PublicError("method-not-allowed", "this method is not offered here", 405)
    if 400 <= status < 500:
        return PublicError("malformed", "the request cannot be read", status)
    return PublicError("internal", "something went wrong here; the service's log says what", status)


class NotFound(Base):
    public = True

    async def prepare(self) -> None:
        raise _public(404)


class Offers(Base):
    async def get(self) -> None:
        query = self.query()
        bodies.known_fields(query, ("owner",))
        owner = bodies.acting_for(query.get("owner"), self.caller) if "owner" in query else self.caller.name
        await self.runtime.know(owner)
        self.answer(await self.runtime.call(offers_view, self.runtime.pool, owner, self.runtime.fresh))


class Reservations(Base):
    async def get(self) -> None:
        query = bodies.parse_list(self.query(), self.caller)
        pool = self.runtime.pool

        def listed() -> list[dict[str, Any]]:
            found = pool.find(query.owner, query.states, query.limit)
            return [views.reservation_view(pool, reservation) for reservation in found]

        self.answer({"reservations": await self.runtime.call(listed)})

    async def post(self) -> None:
        self.no_query()
        wish = bodies.parse_create(self.json_body(), self.caller)
        reservation, new = await self.runtime.submit(wish)
        self.answer(await self.view(reservation), 201 if new else 200)


class OneReservation(Base):
    async def get(self, reservation_id: str) -> None:
        unlike, seconds = bodies.parse_wait(self.query())
        until = asyncio.get_running_loop().time() + seconds
        while True:
            version = self.runtime.pool.version
            reservation = await self.mine(reservation_id)
            left = until - asyncio.get_running_loop().time()
            if left <= 0 or (unlike is not None and reservation.state is not unlike):
                break
            await self.runtime.next_change(version, left)
        self.answer(await self.view(reservation))


class Events(Base):
    """Server-sent events: the reservation at once, and whenever its state or its place in the queue changes."""

    async def get(self, reservation_id: str) -> None:
        self.no_query()
        reservation = await self.mine(reservation_id)
        self.set_header("Content-Type", "text/event-stream")
        told = ""
        try:
            while True:
                version = self.runtime.pool.version
                reservation = await self.mine(reservation_id)
                shown = json.dumps(await self.view(reservation))
                self.write(f"event: reservation\ndata: {shown}\n\n" if shown != told else ": still here\n\n")
                told = shown
                await self.flush()
                if reservation.state is State.ENDED:
                    return
                await self.runtime.next_change(version, HEARTBEAT_S)
                await asyncio.sleep(0.2)  # a burst of changes is told once
        except iostream.StreamClosedError:
            return


class Extend(Base):
    async def post(self, reservation_id: str) -> None:
        self.no_query()
        await self.mine(reservation_id)
        await self.change(reservation_id, self.runtime.pool.extend, bodies.parse_seconds(self.json_body()))


class Starting(Base):
    async def post(self, reservation_id: str) -> None:
        self.own_processes_only()
        bodies.known_fields(self.json_body(), ())
        await self.change(reservation_id, self.runtime.pool.starting)


class Active(Base):
    async def post(self, reservation_id: str) -> None:
        self.own_processes_only()
        await self.change(reservation_id, self.runtime.pool.active, *bodies.parse_active(self.json_body()))


class End(Base):
    async def post(self, reservation_id: str) -> None:
        self.no_query()
        await self.mine(reservation_id)
        await self.change(reservation_id, self.runtime.pool.end, *bodies.parse_end(self.json_body(), self.caller))
        self.runtime.hurry()


class Devices(Base):
    async def get(self) -> None:
        self.no_query()
        owner = None if self.caller.admin else self.caller.name
        self.answer(await self.runtime.call(views.devices_view, self.runtime.pool, owner))


class Cordon(Base):
    """Takes a device out of service for new shares, or puts it back."""

    async def post(self, device_uuid: str, what: str) -> None:
        self.no_query()
        self.admins_only()
        body = self.json_body()
        if what == "uncordon":
            bodies.known_fields(body, ())
        why = bodies.parse_cordon(body) if what == "cordon" else None
        pool = self.runtime.pool
        if device_uuid not in {device.uuid for device in pool.devices}:
            raise PublicError("not-found", f"there is no device {device_uuid[:60]!r} here", 404)
        await self.runtime.call(pool.cordon, device_uuid, why)
        self.answer(await self.runtime.call(views.devices_view, pool, None))


class Health(Base):
    """Serving at all, and whether the node's agent answers. Tells nothing about people; no login."""

    public = True

    async def get(self) -> None:
        live = await self.runtime.call(lambda: sum(1 for _ in self.runtime.pool.live()))
        fresh = self.runtime.fresh
        self.answer({"status": "ok" if fresh else "degraded", "agent": fresh, "ledger": True, "live": live})


class OpenApi(Base):
    public = True

    async def get(self) -> None:
        self.answer(describe(f"{self.context.settings.prefix}/api/v1"))


def make_app(context: Context) -> web.Application:
    base = f"{context.settings.prefix}/api/v1"
    one = f"{base}/reservations/([^/]+)"
    routes: list[tuple[str, type[Base]]] = [
        (f"{base}/offers", Offers),
        (f"{base}/reservations", Reservations),
        (one, OneReservation),
        (f"{one}/events", Events),
        (f"{one}/extend", Extend),
        (f"{one}/starting", Starting),
        (f"{one}/active", Active),
        (f"{one}/end", End),
        (f"{base}/devices", Devices),
        (f"{base}/devices/([^/]+)/(cordon|uncordon)", Cordon),
        (f"{base}/health", Health),
        (f"{base}/openapi.json", OpenApi),
        (".*", NotFound),
    ]
    options = {"context": context}
    return web.Application([(pattern, handler, options) for pattern, handler in routes], log_function=_log_request)


def _log_request(handler: web.RequestHandler) -> None:
    level = logging.WARNING if handler.get_status() >= 500 else logging.DEBUG
    request: httputil.HTTPServerRequest = handler.request
    log.log(level, "%d %s %s %.0f ms", handler.get_status(), request.method, request.path, 1e3 * request.request_time())
