"""The part of the API that makes, lists and ends exceptions to the limits."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from ..administration import Exemption
from ..errors import PublicError, invalid
from ..limits.effective import BUILT_IN
from ..limits.faults import faults_of
from ..limits.schema import Limits, PersonLimits
from ..limits.values import Fault, near
from ..numeric import finite
from . import bodies, limits_views
from .base import Base
from .runtime import Runtime

MOST_HOURS = 1e6


async def who_knows(runtime: Runtime, name: str) -> tuple[set[str], bool | None]:
    """Return whom timeshare knows, and whether JupyterHub knows ``name``, if it has to be asked; None: it cannot be."""
    known = set(await runtime.call(runtime.administration.known_people))
    if name in known or runtime.people is None:
        return known, name in known or None
    return known, await runtime.people.knows(name)


def unknown_text(name: str, known: Collection[str]) -> str:
    """That nobody ever heard of ``name``, with the names that are."""
    names = f"known here: {', '.join(sorted(known)[:12]) or 'nobody yet'}{near(name, known)}"
    return f"name is {name!r}: neither JupyterHub nor timeshare knows such a user; {names}"


class Overrides(Base):
    async def get(self) -> None:
        self.no_query()
        self.readers_only()
        self.answer(await self.runtime.call(self.shown))

    async def post(self) -> None:
        self.no_query()
        self.admins_only()
        body = self.json_body()
        asked = _exemption(body, self.runtime.pool.limits)
        may_be_new = bodies.boolean("allow_unknown", body.get("allow_unknown", False))
        note = "" if asked.scope == "group" else await self._about(asked.name, may_be_new)
        made = await self.runtime.call(self.runtime.administration.override, asked, self.who)
        self.answer({**_view(made, self.runtime.pool.clock(), self._zone), "note": note}, 201)

    async def _about(self, name: str, may_be_new: bool) -> str:
        """What is to be said of an exception for ``name``. Raises PublicError for somebody of whom nobody ever heard,
        unless ``may_be_new``."""
        known, in_hub = await who_knows(self.runtime, name)
        if in_hub or name in known:
            return ""
        if in_hub is None:
            return f"nobody called {name} is known here, and JupyterHub cannot be asked now{near(name, known)}"
        if may_be_new:
            return f"{name} is not known yet: this holds once they log in"
        message = (
            f"{unknown_text(name, known)}. For somebody who has not "
            "logged in yet say so (allow_unknown; --new-user of the command)"
        )
        raise PublicError("unknown-user", message, 422, {"name": name})

    @property
    def _zone(self) -> ZoneInfo:
        return self.runtime.pool.limits.zone

    def shown(self) -> dict[str, Any]:
        view = partial(_view, now=self.runtime.pool.clock(), zone=self._zone)
        return {"exceptions": [view(override) for override in self.runtime.administration.overrides()[:500]]}


class Revoke(Base):
    async def post(self, override_id: str) -> None:
        self.no_query()
        self.admins_only()
        bodies.known_fields(self.json_body(), ())
        ended = await self.runtime.call(self.runtime.administration.revoke, override_id, self.who)
        self.answer(_view(ended, self.runtime.pool.clock(), self.runtime.pool.limits.zone))


_view = limits_views.override_view


def _exemption(body: Mapping[str, Any], limits: Limits) -> Exemption:
    known = ("scope", "name", "limits", "extra_gpu_hours", "until", "why", "allow_unknown")
    bodies.known_fields(body, known)
    scope = body.get("scope", "user")
    if scope not in ("user", "group"):
        raise invalid("scope", scope, "must be user or group")
    more = finite(body.get("extra_gpu_hours", 0))
    if more is None or not 0 <= more <= MOST_HOURS:
        rule = f"must be a number of GPU-hours from 0 to {MOST_HOURS:.0f}"
        raise invalid("extra_gpu_hours", body.get("extra_gpu_hours"), rule)
    found = _person_limits(body.get("limits", {}), limits)
    if found == PersonLimits() and not more:
        rule = 'must say what is different, such as {"gpus": 4}, or give extra_gpu_hours'
        raise bodies.meaningless("limits", body.get("limits", {}), rule)
    return Exemption(
        scope=scope,
        name=bodies.text("name", body.get("name")),
        limits=found,
        extra_gpu_hours=more,
        until=bodies.moment("until", body.get("until"), limits.zone),
        why=bodies.text("why", body.get("why")),
    )


def _person_limits(said: Any, limits: Limits) -> PersonLimits:
    """What an exception says, judged as the limits file would be. Raises PublicError with every fault."""
    beside = {"parking": limits.parking.model_dump(mode="json")}
    faults = [_text(fault) for fault in faults_of({"defaults": said, **beside})]
    if faults:
        raise PublicError("invalid", "; ".join(faults), 422, {"errors": faults})
    return PersonLimits.model_validate(said)


def _text(fault: Fault) -> str:
    keys = [str(step) for step in fault.where[1:]]
    last = keys[-1] if keys else ""
    deeper = [key for key in BUILT_IN if key.rpartition(".")[2] == last and "." in key]
    is_short = "no such key" in fault.message and deeper
    hint = f"; did you mean {' or '.join(deeper)}?" if is_short and len(keys) == 1 else ""
    return f"{'.'.join(['limits', *keys])}: {fault.message}{hint}"


def routes(base: str) -> list[tuple[str, type[Base]]]:
    return [
        (f"{base}/limits/exceptions", Overrides),
        (f"{base}/limits/exceptions/([^/]+)/end", Revoke),
    ]
