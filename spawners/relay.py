"""The hub's own pages for waiting, extending and stopping. Each acts for the person who is logged in, and only on what
is hers; the hub's cross-site protection covers every form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from jupyterhub.handlers.base import BaseHandler
from jupyterhub.handlers.pages import SpawnHandler
from jupyterhub.scopes import needs_scope
from jupyterhub.spawner import SpawnException
from jupyterhub.utils import url_escape_path, url_path_join
from tornado import iostream, web
from tornado.httputil import url_concat

from ..reservations.client import Json, ServiceUnreachable
from ..reservations.errors import PublicError
from . import admin
from .base import UNREACHABLE
from .desk import Desk
from .options import filled_in, parse_options
from .pages import ForScripts, Page, TooMany

MAX_WHY = 200
KEPT_OF_LINKS = ("next", "display_name")
"""What JupyterHub itself reads of a link to the form; neither starts anything."""
MOST_LISTED = 500
"""As many reservations as the service lists at once."""
POLL_S = 3
"""A waiting page hears of its place in the queue at least this often (seconds)."""


class FormPage(SpawnHandler):  # type: ignore[misc]
    """The spawn form. JupyterHub starts a server when a link has options; here they only fill in the form."""

    filled_in: Mapping[str, str] = MappingProxyType({})

    async def _get(self, user_name: str, server_name: str, display_name: str) -> None:
        query = self.request.query_arguments
        self.filled_in = filled_in({key: [v.decode("utf-8", "replace") for v in query[key]] for key in query})
        self.request.query_arguments = {name: query[name] for name in KEPT_OF_LINKS if name in query}
        kept = {name: query[name][-1].decode("utf-8", "replace") for name in self.request.query_arguments}
        self.request.uri = url_concat(self.request.path, kept)  # which the form is sent to
        await super()._get(user_name=user_name, server_name=server_name, display_name=display_name)

    @property
    def template_namespace(self) -> dict[str, Any]:
        return {**super().template_namespace, "filled_in": self.filled_in}


class StartHandler(SpawnHandler):  # type: ignore[misc]
    """The spawn form comes here: reserves, then starts at once, or shows the waiting page."""

    filled_in: Mapping[str, str] = MappingProxyType({})

    def initialize(self, desk: Desk) -> None:
        self.desk = desk

    @property
    def template_namespace(self) -> dict[str, Any]:
        return {**super().template_namespace, "filled_in": self.filled_in}

    def get(self, *_: str) -> None:
        self.redirect(url_path_join(self.hub.base_url, "spawn"))

    @needs_scope("servers")  # type: ignore[untyped-decorator]
    async def _post(self, user_name: str, server_name: str, display_name: str) -> None:
        user = self.current_user if user_name == self.current_user.name else self.find_user(user_name)
        if user is None:
            raise web.HTTPError(404, f"No such user: {user_name}")
        if server_name:
            await self._check_named_server_request(user, server_name, display_name)
        spawner = user.get_or_create_spawner(server_name, display_name, replace_failed=True)
        if spawner.active:
            self.redirect(self._get_pending_url(user, server_name))
            return
        sent = self.request.body_arguments  # not what its address says, which may be a link's
        form = {key: [v.decode("utf-8", "replace") for v in values] for key, values in sent.items()}
        form.pop("_xsrf", None)
        form.pop("next", None)
        self.filled_in = filled_in(form)  # what was chosen stays chosen where it is refused
        try:
            options = parse_options(spawner.options_from_form(form))
            reservation = await self._reserve(user.name, server_name, options)
        except (PublicError, SpawnException, ServiceUnreachable) as error:
            await self._again(user, error)
            return
        if reservation["state"] == "queued":
            self.redirect(wait_url(self.hub.base_url, reservation))
            return
        chosen = {**options.as_options(), "reservation_id": reservation["id"]}
        pending = self._get_pending_url(user, server_name)
        await self._wrap_spawn_single_user(user, server_name, display_name, spawner, pending, chosen)

    async def _reserve(self, owner: str, server_name: str, options: Any) -> Json:
        if options.share is None:
            raise PublicError("invalid", "no share was picked: pick one of the offers", 400)
        reservation = await self.desk.service.create(
            owner,
            options.share.as_options(),
            time_limit_s=options.time_limit_s,
            server_name=server_name,
            queue=True,
            client_key=options.client_key,
        )
        if reservation["state"] == "ended":
            why = reservation["detail"] or reservation["reason"]
            raise PublicError("ended", f"this form was sent before, and what came of it has ended: {why}", 409)
        return reservation

    async def _again(self, user: Any, error: Exception) -> None:
        """The form once more, with what is wrong; nothing was reserved."""
        if isinstance(error, PublicError):
            self.set_status(error.status)
            message = error.message
        elif isinstance(error, SpawnException):
            self.set_status(error.status_code)
            message = error.log_message or str(error)
        else:
            self.set_status(503)
            message = UNREACHABLE
        self.finish(await self._render_form(for_user=user, spawner_options_form="offers", message=message))


def wait_url(hub_url: str, reservation: Json) -> str:
    return str(url_path_join(hub_url, "timeshare", "wait", reservation["id"]))


class WaitPage(Page):
    @web.authenticated
    async def get(self, reservation_id: str) -> None:
        reservation = await self.mine(reservation_id)
        if reservation["state"] in ("starting", "active"):
            self.redirect(self.server_url(reservation))
            return
        html = await self.render_template(
            "timeshare_wait.html", reservation=reservation, server_url=self.server_url(reservation)
        )
        self.finish(html)

    def server_url(self, reservation: Json) -> str:
        user = self.current_user
        name = url_escape_path(reservation["server_name"])
        return str(url_path_join(self.hub.base_url, "spawn-pending", user.escaped_name, name))


class Extend(Page):
    @web.authenticated
    async def post(self, reservation_id: str) -> None:
        await self.mine(reservation_id)
        minutes = self.get_body_argument("minutes", "")
        if not minutes.isdecimal() or not minutes.isascii() or len(minutes) > 6:
            await self.refused(f"minutes is {minutes[:20]!r}: it must be a whole number of minutes", 400)
            return
        await self.carry_out(self.desk.service.extend(reservation_id, int(minutes) * 60))


class GiveBack(Page):
    """Its GPU goes back to the pool; the session runs on."""

    @web.authenticated
    async def post(self, reservation_id: str) -> None:
        await self.mine(reservation_id)
        await self.carry_out(self.desk.service.give_back(reservation_id))


class AskAgain(Page):
    @web.authenticated
    async def post(self, reservation_id: str) -> None:
        await self.mine(reservation_id)
        await self.carry_out(self.desk.service.ask_again(reservation_id))


class Keep(Page):
    """An hour without idle rules, for a reason that those who wait may read."""

    @web.authenticated
    async def post(self, reservation_id: str) -> None:
        await self.mine(reservation_id)
        why = self.get_body_argument("why", "").strip()
        if not 0 < len(why) <= MAX_WHY:
            await self.refused(f"the reason has {len(why)} characters: say why in 1 to {MAX_WHY}", 400)
            return
        await self.carry_out(self.desk.service.keep(reservation_id, "home", 3600, why))


class End(Page):
    """Stops the session, or leaves the queue."""

    @web.authenticated
    async def post(self, reservation_id: str) -> None:
        await self.carry_out(self.end(await self.mine(reservation_id)))

    async def end(self, reservation: Json) -> None:
        user, name = self.current_user, reservation["server_name"]
        spawner = user.spawners.get(name)
        if spawner is not None and spawner.ready and spawner.reservation_id == reservation["id"]:
            await self.stop_single_user(user, name)
        elif reservation["state"] != "ended":
            what = "left the queue" if reservation["state"] == "queued" else "stopped by its owner"
            await self.desk.service.end(reservation["id"], "cancelled", what)


class EndJob(Page):
    """Stops all points of a job, those that wait first: none of them begins meanwhile."""

    @web.authenticated
    async def post(self, array: str) -> None:
        await self.carry_out(self.end(array))

    async def end(self, array: str) -> None:
        for states in ("queued", "granted,starting,active"):
            while points := await self.points(array, states):
                for point in points:
                    await self.desk.service.end(point["id"], "cancelled", "stopped by its owner")

    async def points(self, array: str, states: str) -> list[Json]:
        found = await self.desk.service.list(self.current_user.name, states, MOST_LISTED, "batch")
        return [one for one in found if one["job"] and one["job"]["array"] == array]


class JsonPage(ForScripts):
    """Facts for the pages' scripts."""

    def answer(self, facts: Json) -> None:
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(facts))


class Offers(JsonPage):
    @web.authenticated
    async def get(self) -> None:
        self.answer(await self.desk.offers(self.current_user.name))


class Sessions(JsonPage):
    @web.authenticated
    async def get(self) -> None:
        self.answer(await self.desk.sessions(self.current_user.name))


class Events(ForScripts):
    """Server-sent events about one reservation, until it has ended."""

    @web.authenticated
    async def get(self, reservation_id: str) -> None:
        reservation = await self.mine(reservation_id)
        name, streams = self.current_user.name, self.desk.streams
        if streams[name] >= self.desk.most_streams:
            message = f"you have {streams[name]} pages that wait, and the limit is {self.desk.most_streams}: close one"
            raise TooMany(message)
        streams[name] += 1
        try:
            await self._tell(reservation_id, reservation)
        finally:
            streams[name] -= 1
            if not streams[name]:
                del streams[name]

    async def _tell(self, reservation_id: str, reservation: Json) -> None:
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Accel-Buffering", "no")
        try:
            while not self.request.connection.stream.closed():
                self.write(f"data: {json.dumps(reservation)}\n\n")
                await self.flush()
                if reservation["state"] == "ended":
                    return
                reservation = await self.desk.service.wait(reservation_id, reservation["state"], POLL_S)
        except (iostream.StreamClosedError, PublicError, ServiceUnreachable):
            return  # the browser asks again by itself


def fill_in_forms(routes: list[tuple[Any, ...]]) -> None:
    """Put ``FormPage`` in the place of the hub's own page in its ``routes``, which win over extra ones."""
    routes[:] = [(route[0], FormPage, *route[2:]) if route[1] is SpawnHandler else route for route in routes]


def handlers(desk: Desk) -> list[tuple[str, type[BaseHandler], dict[str, Any]]]:
    """For ``c.JupyterHub.extra_handlers``."""
    one = r"/timeshare/reservations/([^/]+)"
    routes = [
        (r"/timeshare/start", StartHandler),
        (r"/timeshare/start/([^/]+)", StartHandler),
        (r"/timeshare/start/([^/]+)/([^/]+)", StartHandler),
        (r"/timeshare/wait/([^/]+)", WaitPage),
        (rf"{one}/extend", Extend),
        (rf"{one}/end", End),
        (rf"{one}/give_back", GiveBack),
        (rf"{one}/ask_again", AskAgain),
        (rf"{one}/keep", Keep),
        (rf"{one}/events", Events),
        (r"/timeshare/jobs/([^/]+)/end", EndJob),
        (r"/timeshare/offers", Offers),
        *admin.ROUTES,
        (r"/timeshare/sessions", Sessions),
    ]
    return [(pattern, handler, {"desk": desk}) for pattern, handler in routes]
