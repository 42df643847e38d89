"""The pages about limits: everybody's own, and the administrators'. Who may open these is JupyterHub's to say, by
roles: the scope ``custom:timeshare:read`` looks, ``custom:timeshare:admin`` changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tornado import web

from ..reservations.client import ServiceClient, ServiceUnreachable
from ..reservations.errors import PublicError
from ..reservations.service.auth import ADMIN_SCOPE, READ_SCOPE
from .base import UNREACHABLE
from .pages import Page

TRY_S = 150.0
"""The service gives up before."""


class MyLimits(Page):
    @web.authenticated
    async def get(self) -> None:
        facts = await self.desk.limits(self.current_user.name)
        self.finish(await self.render_template("timeshare_limits.html", facts=facts))


class AdminPage(Page):
    """Pools, queue, exceptions, calendar, the limits file, and what was changed."""

    @property
    def may_change(self) -> bool:
        return ADMIN_SCOPE in self.expanded_scopes

    def readers_only(self) -> None:
        if not self.may_change and READ_SCOPE not in self.expanded_scopes:
            raise web.HTTPError(403, "this page is for administrators and operators of timeshare")

    def admins_only(self) -> None:
        if not self.may_change:
            raise web.HTTPError(403, "only administrators of timeshare may change this")

    @property
    def service(self) -> ServiceClient:
        """The service, acting for whoever is logged in."""
        return replace(self.desk.service, acting_for=self.current_user.name)

    @web.authenticated
    async def get(self, *_: str) -> None:
        """The page, also below the address of a deed, as after one that was carried out."""
        self.readers_only()
        await self.show({})

    async def show(self, more: dict[str, Any], status: int = 200) -> None:
        facts = await self.desk.overview()
        self.set_status(status)
        page = await self.render_template("timeshare_admin.html", facts=facts, may_change=self.may_change, **more)
        self.finish(page)

    async def deed(self, what: str, path: str, body: dict[str, Any], **kept: Any) -> None:
        """Does it and shows the page again, with what came of it; a refusal keeps what was typed (``kept``)."""
        try:
            await self.service.call("POST", path, body)
        except PublicError as error:
            await self.show({"problem": error.message, **kept}, error.status)
        except ServiceUnreachable:
            await self.show({"problem": UNREACHABLE, **kept}, 503)
        else:
            await self.show({"done": what})


class Limits(AdminPage):
    """Checks the text, tries it, or puts it in force."""

    @web.authenticated
    async def post(self) -> None:
        self.admins_only()
        text = self.get_body_argument("text", "", strip=False).replace("\r\n", "\n")
        if self.get_body_argument("do", "") == "apply":
            body = {
                "text": text,
                "base_version": self.get_body_argument("base_version", "-"),
                "cut_running": bool(self.get_body_argument("cut_running", "")),
            }
            await self.deed("The new limits are in force.", "limits/apply", body, text=text)
            return
        if self.get_body_argument("do", "") == "try":
            await self.try_out(text)
            return
        try:
            found = await self.service.call("POST", "limits/check", {"text": text})
        except (PublicError, ServiceUnreachable) as error:
            await self.show({"problem": getattr(error, "message", UNREACHABLE), "text": text}, 503)
            return
        if found["valid"]:
            done = "This text is valid. It is not in force yet: apply it."
            await self.show({"done": done, "warnings": found["warnings"], "note": found["note"], "text": text})
        else:
            await self.show({"problem": "\n".join(found["errors"]), "text": text}, 422)

    async def try_out(self, text: str) -> None:
        """Shows what ``text`` would have changed."""
        days = self.get_body_argument("days", "30")
        body = {"text": text, "days": _number(days)}
        try:
            found = await self.service.call("POST", "limits/try", body, waits_s=TRY_S)
        except PublicError as error:
            await self.show({"problem": error.message, "text": text, "days": days}, error.status)
        except ServiceUnreachable:
            await self.show({"problem": UNREACHABLE, "text": text, "days": days}, 503)
        else:
            await self.show({"tried": found["table"], "text": text, "days": days})


class Exceptions(AdminPage):
    @web.authenticated
    async def post(self) -> None:
        self.admins_only()
        given = {name: self.get_body_argument(name, "") for name in ("scope", "name", "key", "value", "until", "why")}
        hours = self.get_body_argument("extra_gpu_hours", "") or "0"
        body = {
            **{name: given[name] for name in ("scope", "name", "why")},
            "until": given["until"].replace("T", " "),
            "limits": _nested(given["key"], given["value"]) if given["value"] else {},
            "extra_gpu_hours": _number(hours),
            "allow_unknown": bool(self.get_body_argument("allow_unknown", "")),
        }
        await self.deed("The exception is in force.", "limits/exceptions", body, given=given)


class EndException(AdminPage):
    @web.authenticated
    async def post(self, override_id: str) -> None:
        self.admins_only()
        if not override_id.replace("-", "").isalnum():
            raise web.HTTPError(404, "there is no such exception")
        await self.deed("The exception has ended.", f"limits/exceptions/{override_id}/end", {})


def _nested(key: str, value: str) -> dict[str, Any]:
    section, dot, name = key.partition(".")
    return {section: {name: _number(value)}} if dot else {section: _number(value)}


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


ROUTES: list[tuple[str, type[Page]]] = [
    (r"/timeshare/limits", MyLimits),
    (r"/timeshare/admin", AdminPage),
    (r"/timeshare/admin/limits", Limits),
    (r"/timeshare/admin/exceptions", Exceptions),
    (r"/timeshare/admin/exceptions/([^/]+)/end", EndException),
]
