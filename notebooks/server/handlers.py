"""What the Lab extension asks, below ``timeshare/``. For whoever may use this server, as all of its API."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable
from typing import Any

from jupyter_server.base.handlers import APIHandler
from tornado import web

from ..batch.service import Refused, Unreachable
from .reporter import Reporter
from .status import Json, Status

KEEP_KEY = "lab"
MOST_SECONDS = 30 * 86400


class Base(APIHandler):
    def initialize(self, status: Status, reporter: Reporter | None) -> None:
        super().initialize()
        self.status = status
        self.reporter = reporter

    async def answer(self, asked: Awaitable[Json]) -> None:
        try:
            self.finish(json.dumps(await asked))
        except (Refused, Unreachable) as error:
            self.set_status(409 if isinstance(error, Refused) else 503)
            self.finish(json.dumps({"message": str(error)}))

    def wrong(self, message: str) -> None:
        self.set_status(400)
        self.finish(json.dumps({"message": message}))

    def body(self) -> Json:
        """Empty for anything that is no JSON object."""
        try:
            found = json.loads(self.request.body or b"{}")
        except ValueError:
            found = None
        return found if isinstance(found, dict) else {}

    def session_only(self) -> bool:
        """False, and answered, outside of a session."""
        if self.reporter is None:
            self.set_status(409)
            self.finish(json.dumps({"message": "this is not a session of timeshare"}))
        return self.reporter is not None


class Current(Base):
    @web.authenticated
    async def get(self) -> None:
        await self.answer(self.status.get())


class Input(Base):
    @web.authenticated
    async def post(self) -> None:
        if self.reporter is not None:
            self.reporter.input()
        self.finish("{}")


class Deed(Base):
    """Extend, keep, give back, ask again."""

    @web.authenticated
    async def post(self, what: str) -> None:
        body = self.body()
        if not self.session_only():
            return
        assert self.reporter is not None
        self.reporter.input()  # somebody is here
        send: Json = {}
        if what in ("extend", "keep"):
            seconds = body.get("seconds")
            if not _is_seconds(seconds):
                self.wrong(f"seconds is {str(seconds)[:40]!r}: it must be a number from 0 to {MOST_SECONDS}")
                return
            send = {"seconds": seconds}
        if what == "give_back" and body.get("park") is True:
            send = {"park": True}
        if what == "keep":
            why = str(body.get("why", "")).strip()
            if body["seconds"] and not 0 < len(why) <= 200:
                self.wrong("say in up to 200 characters what is protected")
                return
            send = {**send, "key": KEEP_KEY, **({"why": why} if body["seconds"] else {})}
        await self.answer(self.status.do(what, send))


def _is_seconds(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and 0 <= value <= MOST_SECONDS


class Cancel(Base):
    @web.authenticated
    async def post(self, job_id: str) -> None:
        if self.session_only():
            await self.answer(self.status.cancel(job_id))


class Log(Base):
    @web.authenticated
    async def get(self, job_id: str) -> None:
        if self.session_only():
            await self.answer(self.status.log(job_id))


def routes(base: str, status: Status, reporter: Reporter | None) -> list[tuple[str, type[Base], dict[str, Any]]]:
    """``base``: the server's address with the folder of the extension."""
    told = {"status": status, "reporter": reporter}
    job = r"jobs/([0-9A-Za-z-]{1,64})"
    return [
        (f"{base}/status", Current, told),
        (f"{base}/input", Input, told),
        (rf"{base}/(extend|keep|give_back|ask_again)", Deed, told),
        (rf"{base}/{job}/cancel", Cancel, told),
        (rf"{base}/{job}/log", Log, told),
    ]
