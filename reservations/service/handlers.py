"""The HTTP side: each handler checks who asks and what, calls the pool, and answers with a view."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from tornado import httputil, iostream, web

from ..errors import PublicError
from ..reservation import State
from . import activity_handlers, bodies, job_handlers, jobagent_handlers, limits_handlers, views
from .auth import activity_key
from .base import Base, Context, public_error
from .offers import offers_view
from .openapi import describe

log = logging.getLogger("timeshare.service")
HEARTBEAT_S = 15.0


class NotFound(Base):
    public = True

    async def prepare(self) -> None:
        raise public_error(404)


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
            found = pool.find(query.owner, query.states, query.limit, query.kind)
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
            reservation = await self.seen(reservation_id)
            left = until - asyncio.get_running_loop().time()
            if left <= 0 or unlike is None or reservation.state is not unlike:
                break
            await self.runtime.next_change(version, left)
        self.answer(await self.view(reservation))


class Events(Base):
    """Server-sent events: the reservation at once, and whenever its state or its place in the queue changes."""

    async def get(self, reservation_id: str) -> None:
        self.no_query()
        reservation = await self.seen(reservation_id)
        self.set_header("Content-Type", "text/event-stream")
        told = ""
        try:
            while True:
                version = self.runtime.pool.version
                reservation = await self.seen(reservation_id)
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
        name = reservation_id
        await self.mine(name)
        started = await self.view(await self.runtime.call(self.runtime.pool.starting, name))
        self.answer({**started, "activity_key": activity_key(self.context.settings, name)})


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
        owner = None if self.caller.sees_all else self.caller.name
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
        *activity_handlers.routes(base),
        *job_handlers.routes(base),
        *jobagent_handlers.routes(base),
        *limits_handlers.routes(base),
        (".*", NotFound),
    ]
    options = {"context": context}
    return web.Application([(pattern, handler, options) for pattern, handler in routes], log_function=_log_request)


def _log_request(handler: web.RequestHandler) -> None:
    level = logging.WARNING if handler.get_status() >= 500 else logging.DEBUG
    request: httputil.HTTPServerRequest = handler.request
    log.log(level, "%d %s %s %.0f ms", handler.get_status(), request.method, request.path, 1e3 * request.request_time())
