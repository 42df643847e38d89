"""What the hub's own pages share."""

from __future__ import annotations

from collections.abc import Awaitable
from types import MappingProxyType
from typing import Any

from jupyterhub.handlers.base import BaseHandler
from jupyterhub.utils import url_path_join
from tornado import web

from ..reservations.client import Json, ServiceUnreachable
from ..reservations.errors import PublicError
from .base import UNREACHABLE
from .desk import Desk


class TooMany(web.HTTPError):
    """429. What ``set_header`` set, the page of an error forgets; these JupyterHub sends (6.1, ``write_error``)."""

    headers = MappingProxyType({"Retry-After": "5"})

    def __init__(self, message: str) -> None:
        super().__init__(429, message)


class Page(BaseHandler):  # type: ignore[misc]
    """What the pages share: whose reservation it is, and how refusals are shown."""

    def initialize(self, desk: Desk) -> None:
        self.desk = desk

    async def mine(self, reservation_id: str) -> Json:
        """Raises 404 for what is not hers, as if it were not there; 503 when nobody can say."""
        try:
            found = await self.desk.service.get(reservation_id)
        except PublicError as error:
            raise web.HTTPError(error.status, error.message) from None
        except ServiceUnreachable:
            raise web.HTTPError(503, UNREACHABLE) from None
        if found["owner"] != self.current_user.name:
            raise web.HTTPError(404, f"there is no reservation {reservation_id!r} of yours")
        return found

    def home(self) -> None:
        self.redirect(url_path_join(self.hub.base_url, "home"))

    async def carry_out(self, deed: Awaitable[Any]) -> None:
        """Does it and goes home; a refusal is shown on a page of its own."""
        try:
            await deed
        except PublicError as error:
            await self.refused(error.message, error.status)
        except ServiceUnreachable:
            await self.refused(UNREACHABLE, 503)
        else:
            self.home()

    async def refused(self, message: str, status: int) -> None:
        self.set_status(status)
        self.finish(await self.render_template("timeshare_refused.html", message=message))


class ForScripts(Page):
    """What the pages' own scripts read. They show that they are the hub's by its token, as for a form: a script in a
    page of somebody's server has the hub's origin too, unless there are subdomains."""

    _xsrf_safe_methods = frozenset({"HEAD", "OPTIONS"})

    def check_xsrf_cookie(self) -> None:
        if "Sec-Fetch-Mode" in self.request.headers:  # browsers say so of https and localhost only
            super().check_xsrf_cookie()
