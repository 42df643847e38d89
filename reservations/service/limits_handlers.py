"""The part of the API that limits need: what may I have, and what administrators read and change."""

from __future__ import annotations

import asyncio
import pwd
from collections.abc import Mapping
from typing import Any

from ..administration import Moment
from ..calendar import window
from ..clock import rfc3339
from ..errors import PublicError, invalid
from ..ledger.reader import GROUPINGS
from ..limits.load import LimitsError, parse_limits, version_of
from ..numeric import finite
from . import bodies, exceptions_handlers, limits_views, views
from .base import Base
from .exceptions_handlers import unknown_text, who_knows

DAY = 86400.0
MOST_DAYS = 366


class MyLimits(Base):
    async def get(self) -> None:
        query = self.query()
        bodies.known_fields(query, ("owner",))
        owner = self.seen_owner(query) or self.caller.name
        if not owner:
            raise PublicError("invalid", "owner is missing: this token belongs to no user, so name one", 422)
        if owner != self.caller.name:
            await self._refuse_unknown(owner)
        await self.runtime.know(owner)
        await self.costly("limits", owner, limits_views.explanation)

    async def _refuse_unknown(self, owner: str) -> None:
        """Raises PublicError for somebody of whom nobody ever heard: what is misspelt has nobody's limits."""
        known, in_hub = await who_knows(self.runtime, owner)
        if in_hub is False and not await asyncio.to_thread(has_account, owner):
            raise PublicError("unknown-user", unknown_text(owner, known), 422, {"name": owner})


def has_account(name: str) -> bool:
    """Whether this machine has an account of that name: its owner may log in tomorrow."""
    try:
        pwd.getpwnam(name)
    except (KeyError, ValueError):
        return False
    return True


class File(Base):
    """The limits file in force, and what is wrong with the one on disk, if anything."""

    async def get(self) -> None:
        self.no_query()
        self.readers_only()
        self.answer(await self.runtime.call(self.shown))

    def shown(self) -> dict[str, Any]:
        office = self.runtime.administration
        judged = office.review.in_force(office.text)
        return {
            "version": self.runtime.pool.standing.version,
            "text": office.text,
            "problem": office.problem,
            "warnings": list(judged.warnings),
            "note": judged.note,
            "writable": office.path is not None,
        }


class Check(Base):
    """Whether a text would be valid limits, and what in it is probably not intended here; changes nothing."""

    async def post(self) -> None:
        self.no_query()
        self.readers_only()
        body = self.json_body()
        bodies.known_fields(body, ("text",))
        text = _text(body)
        judged = await self.runtime.call(self.runtime.administration.review.check, text)
        self.answer(
            {
                "valid": judged.is_valid,
                "errors": list(judged.errors),
                "warnings": list(judged.warnings),
                "note": judged.note,
                "version": version_of(text),
            }
        )


class Try(Base):
    """What a text would have changed in what really came; changes nothing."""

    async def post(self) -> None:
        self.no_query()
        self.readers_only()
        body = self.json_body()
        bodies.known_fields(body, ("text", "days"))
        text, days = _text(body), finite(body.get("days", 30))
        if days is None or not 0 < days <= MOST_DAYS:
            raise invalid("days", body.get("days"), f"must be above 0 and at most {MOST_DAYS} days of the past")
        try:
            parse_limits(text)
        except LimitsError as error:
            raise PublicError("bad-limits", str(error), 422, {"errors": str(error).splitlines()}) from None
        old, devices = await self.runtime.call(self.tried_on)
        asked = {"old": old, "new": text, "days": days, "devices": devices}
        self.answer(await self.runtime.trials.run(asked))

    def tried_on(self) -> tuple[str, list[dict[str, Any]]]:
        return self.runtime.administration.text, views.devices_view(self.runtime.pool, None)["devices"]


class Budgets(Base):
    """Every budget that something was taken from, of everybody."""

    async def get(self) -> None:
        self.no_query()
        self.readers_only()
        self.answer({"budgets": await self.runtime.call(limits_views.budget_rows, self.runtime.pool)})


class Engines(Base):
    """What engines allow whom by rules of their own."""

    async def get(self) -> None:
        self.no_query()
        self.readers_only()
        self.answer({"engines": await self.runtime.call(limits_views.engine_limits, self.runtime.pool, "")})


class Apply(File):
    async def get(self) -> None:
        raise PublicError("method-not-allowed", "GET is not offered here", 405)

    async def post(self) -> None:
        self.no_query()
        self.admins_only()
        body = self.json_body()
        bodies.known_fields(body, ("text", "base_version", "cut_running"))
        text, base = _text(body), bodies.text("base_version", body.get("base_version"))
        cut = bodies.boolean("cut_running", body.get("cut_running", False))
        await self.runtime.call(self.runtime.administration.apply, text, base, self.who, cut)
        self.answer(await self.runtime.call(self.shown))

    @classmethod
    def methods(cls) -> list[str]:
        return ["POST"]


class Audit(Base):
    async def get(self) -> None:
        query = self.query()
        bodies.known_fields(query, ("limit",))
        self.readers_only()
        found = await self.runtime.call(
            self.runtime.administration.audit, bodies.parse_limit(query.get("limit", "100"))
        )
        self.answer({"audit": [{**entry, "at": rfc3339(float(str(entry["at"])))} for entry in found]})


class Usage(Base):
    """GPU-hours held; a user sees her own."""

    async def get(self) -> None:
        query = self.query()
        bodies.known_fields(query, ("since", "until", "by", "owner"))
        since, until = _span(query, self.runtime.pool.clock(), self.runtime.pool.limits.zone)
        by = tuple(dict.fromkeys(word for word in query.get("by", "owner").split(",") if word))
        unknown = [word for word in by if word not in GROUPINGS]
        if unknown or not by:
            raise invalid("by", query.get("by", ""), f"must be of {', '.join(GROUPINGS)}, separated by commas")
        owner = self.seen_owner(query) or (None if self.caller.sees_all else self.caller.name)
        moment = await self.runtime.call(self.runtime.administration.moment, since, until)
        reader = self.runtime.reader
        read = reader.usage if "since" in query or "until" in query else reader.recent
        past = await self.runtime.read(read, moment.span, by, owner)
        running = [charge for charge in moment.running if owner in (None, charge.owner)]
        rows = limits_views.usage_rows(past, running, by)
        self.answer({**_period(moment), "by": list(by), "usage": rows})


class EngineUsage(Base):
    """What was charged for each reservation at an engine that places work itself."""

    async def get(self) -> None:
        query = self.query()
        bodies.known_fields(query, ("since", "until"))
        self.readers_only()
        since, until = _span(query, self.runtime.pool.clock(), self.runtime.pool.limits.zone)
        moment = await self.runtime.call(self.runtime.administration.moment, since, until)
        ended, charged = await self.runtime.read(self.runtime.reader.handed_over, moment.span)
        rows = limits_views.handed_over_rows(ended, charged, moment, self.runtime.pool.clock())
        self.answer({**_period(moment), "reservations": rows})


class Retention(Base):
    """How long what is over is kept, and how much of it there is."""

    async def get(self) -> None:
        self.no_query()
        self.readers_only()
        self.answer(await self.runtime.call(self.runtime.retention.view))


def _period(moment: Moment) -> dict[str, Any]:
    return {
        "since": rfc3339(moment.span.since),
        "until": rfc3339(moment.span.until),
        "removed_until": rfc3339(moment.removed_until),
    }


def _span(query: Mapping[str, str], now: float, zone: Any) -> tuple[float, float]:
    """``since`` and ``until`` of a query; without them the last 30 days, the first of them from its beginning."""
    since = bodies.moment("since", query["since"], zone) if "since" in query else window(now - 30 * DAY, "day", zone)[0]
    return since, bodies.moment("until", query["until"], zone) if "until" in query else now


def _text(body: Mapping[str, Any]) -> str:
    text = body.get("text")
    if not isinstance(text, str):
        raise invalid("text", text, "must be the whole limits file as text")
    return text


def routes(base: str) -> list[tuple[str, type[Base]]]:
    return [
        (f"{base}/limits", MyLimits),
        (f"{base}/limits/file", File),
        (f"{base}/limits/check", Check),
        (f"{base}/limits/try", Try),
        (f"{base}/limits/budgets", Budgets),
        (f"{base}/limits/engines", Engines),
        (f"{base}/limits/apply", Apply),
        *exceptions_handlers.routes(base),
        (f"{base}/limits/audit", Audit),
        (f"{base}/retention", Retention),
        (f"{base}/usage", Usage),
        (f"{base}/usage/engines", EngineUsage),
    ]
