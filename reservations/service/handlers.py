"""The HTTP side: each handler checks who asks and what, calls the pool, and answers with a view."""

from __future__ import annotations

import asyncio
import json
import logging
from functools import cache

from tornado import httputil, web

from ..errors import PublicError
from ..reservation import Reservation, State
from ..submission import check_startable
from . import activity_handlers, bodies, job_handlers, jobagent_handlers, limits_handlers, views
from .auth import activity_key
from .base import Base, Context, public_error
from .bells import heard
from .fair_thread import LANE
from .feeds import Feed
from .offers import offers_view

log = logging.getLogger("timeshare.service")
HEARTBEAT_S = 15.0
PUBLIC = "public"
"""The turn of all who give no token."""


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
        await self.costly("offers", owner, offers_view, self.runtime.fresh)


class Reservations(Base):
    async def get(self) -> None:
        query = bodies.parse_list(self.query(), self.caller)
        find = self.runtime.pool.find
        found = await self.views(lambda: find(query.owner, query.states, query.limit, query.kind))
        self.answer_text(f'{{"reservations": {found}}}')

    async def post(self) -> None:
        self.no_query()
        self.count_submission()
        wish = bodies.parse_create(self.json_body(), self.caller)
        reservation, new = await self.runtime.submit(wish)
        self.answer(await self.view(reservation), 201 if new else 200)


class OneReservation(Base):
    async def get(self, reservation_id: str) -> None:
        unlike, seconds = bodies.parse_wait(self.query())
        name = bodies.check_id(reservation_id)

        def look() -> str:
            """Empty while it is to be waited for."""
            found = self.look(name)
            return "" if found.state is unlike and seconds else views.reservation_texts(self.runtime.pool, [found])[0]

        text = await self.runtime.call(look)
        if not text and unlike is not None:
            with self.context.crowd.polling(self.counted), self.until_closed():
                reservation = await self._changed(name, unlike, seconds)
            if self.closed:
                return
            (text,) = await self.runtime.call(views.reservation_texts, self.runtime.pool, [reservation])
        self.answer_text(text)

    async def _changed(self, reservation_id: str, unlike: State, seconds: float) -> Reservation:
        """The reservation once its state is not ``unlike``, or after ``seconds``."""
        bells, clock = self.runtime.bells, asyncio.get_running_loop().time
        until = clock() + seconds
        with bells.listening(reservation_id):
            while True:
                bell = bells.next(reservation_id)  # before: what changes meanwhile counts
                reservation = await self.seen(reservation_id)
                left = until - clock()
                if left <= 0 or self.closed or reservation.state is not unlike:
                    return reservation
                await heard(bell, left)


class Events(Base):
    """Server-sent events: the reservation at once, and whenever its state or its place in the queue changes."""

    async def get(self, reservation_id: str) -> None:
        self.no_query()
        await self.seen(reservation_id)
        with self.context.crowd.streaming(self.counted), self.until_closed():
            async with self.context.feeds.watching(reservation_id) as feed:
                self.set_header("Content-Type", "text/event-stream")
                await self._tell(feed)

    async def _tell(self, feed: Feed) -> None:
        told = 0
        while True:
            number, bell = feed.number, feed.told
            self.write(f"event: reservation\ndata: {feed.text}\n\n" if number != told else ": still here\n\n")
            told = number
            await self.flush()
            if feed.state is State.ENDED:
                return
            await heard(bell, HEARTBEAT_S)


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
        check_startable(await self.mine(name))
        started = await self.view(await self.runtime.call(self.runtime.pool.starting, name))
        self.answer({**started, "activity_key": activity_key(self.context.settings, name)})


class Active(Base):
    async def post(self, reservation_id: str) -> None:
        self.own_processes_only()
        report = bodies.parse_active(self.json_body())
        check_startable(await self.mine(reservation_id))
        await self.change(reservation_id, self.runtime.pool.active, *report)


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


class EndUnaccounted(Base):
    """Ends a session that the ledger does not know."""

    async def post(self, session_id: str) -> None:
        self.no_query()
        self.admins_only()
        bodies.known_fields(self.json_body(), ())
        name = bodies.check_id(session_id)
        pool = self.runtime.pool
        if name not in pool.apart and name not in {session.reservation_id for session in pool.unaccounted}:
            raise PublicError("not-found", f"no session {name} runs here that the ledger does not know", 404)
        await self.runtime.end_unaccounted(name, self.who)
        self.answer(await self.runtime.call(views.devices_view, self.runtime.pool, None))


class Health(Base):
    """Serving at all, and whether the node's agent answers. Tells nothing about people; no login."""

    public = True

    async def get(self) -> None:
        LANE.set(PUBLIC)
        warnings = await self.runtime.call(self._limits_warnings)
        told = await self.runtime.call(views.health_view, self.runtime.pool, self.runtime.fresh)
        self.answer({**told, "limits_warnings": warnings})

    def _limits_warnings(self) -> int:
        office = self.runtime.administration
        return len(office.review.in_force(office.text).warnings)


class OpenApi(Base):
    public = True

    async def get(self) -> None:
        self.finish(await asyncio.to_thread(described, f"{self.context.settings.prefix}/api/v1"))


@cache
def described(base: str) -> str:
    """The description as text; worked out once, for anybody may ask for it.

    Its modules are imported here: they look at all of Unicode, half a second that no start waits for.
    """
    from .openapi import describe

    return json.dumps(describe(base))


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
        (f"{base}/devices/unaccounted/([^/]+)/end", EndUnaccounted),
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
