"""Who is calling: a token in, a caller out. Tokens come in the ``Authorization`` header only, so no page of another
site can act for a person through her browser."""

from __future__ import annotations

import hmac
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from tornado.web import HTTPError

from ..errors import PublicError
from .settings import Settings

log = logging.getLogger("timeshare.service")
USE_SCOPE = "custom:timeshare:use"
READ_SCOPE = "custom:timeshare:read"
ADMIN_SCOPE = "custom:timeshare:admin"
_HEADER = re.compile(r"(?:bearer|token)\s+([!-~]{1,512})", re.IGNORECASE)


@dataclass(frozen=True)
class Caller:
    """``name`` is the JupyterHub user. ``admin`` may see and touch everything, ``reader`` see it. ``deployment``: one
    of our own processes, which acts for users and reports what became of their servers. ``culler``: may read what
    sessions do, and warn them and end those that are idle, by the rules."""

    name: str
    admin: bool = False
    reader: bool = False
    deployment: bool = False
    culler: bool = False

    @property
    def sees_all(self) -> bool:
        return self.admin or self.reader

    def may_see(self, owner: str) -> bool:
        return self.sees_all or owner == self.name

    def may_touch(self, owner: str) -> bool:
        return self.admin or owner == self.name


class TokenChecker(Protocol):
    async def caller(self, token: str) -> Caller | None:
        """The caller that ``token`` belongs to; None for a token that nobody knows. Raises PublicError 503."""


class HubTokens:
    """Asks JupyterHub about tokens, and remembers the answer for ten seconds: a revoked one is out after that."""

    def __init__(self, settings: Settings) -> None:
        from jupyterhub.services.auth import HubAuth

        self._auth = HubAuth(
            api_url=settings.hub_api_url, api_token=settings.hub_token, cache_max_age=10, base_url=settings.prefix
        )

    async def caller(self, token: str) -> Caller | None:
        try:
            model: dict[str, Any] | None = await self._auth.user_for_token(token, sync=False)
        except HTTPError as error:
            log.warning("a token could not be checked: %s", error)
            message = "JupyterHub, which knows the tokens, does not answer: try again in a few seconds"
            raise PublicError("hub-unreachable", message, 503) from None
        return None if model is None else caller_of(model.get("kind", "user"), model["name"], model.get("scopes", ()))


def caller_of(kind: str, name: str, scopes: Iterable[str]) -> Caller:
    """Raises PublicError 403 for a token whose scopes do not reach here."""
    granted = {scope.partition("!")[0] for scope in scopes}
    if ADMIN_SCOPE in granted:
        return Caller(name if kind == "user" else "", admin=True)
    if READ_SCOPE in granted:
        return Caller(name if kind == "user" else "", reader=True)
    if USE_SCOPE in granted and kind == "user":
        return Caller(name)
    message = f"this token may not use timeshare: it needs the scope {USE_SCOPE}"
    raise PublicError("scope-missing", message, 403, {"needed": USE_SCOPE})


def activity_key(settings: Settings, reservation_id: str) -> str:
    """With it a session can report what it does, and nothing else; that of no other session either."""
    return _key(settings, "activity", reservation_id)


def may_report(settings: Settings, reservation_id: str, header: str | None) -> bool:
    return _holds(header, activity_key(settings, reservation_id))


def jobagent_key(settings: Settings, reservation_id: str) -> str:
    """With it a job agent reports how this reservation's job is, and gets what that is to run; nothing else."""
    return _key(settings, "jobagent", reservation_id)


def is_job_agent(settings: Settings, reservation_id: str, header: str | None) -> bool:
    return _holds(header, jobagent_key(settings, reservation_id))


def _key(settings: Settings, purpose: str, reservation_id: str) -> str:
    """For one purpose and one reservation; checking it asks nobody."""
    return hmac.new(settings.signing_key.encode(), f"{purpose}:{reservation_id}".encode(), "sha256").hexdigest()


def _holds(header: str | None, key: str) -> bool:
    match = _HEADER.fullmatch((header or "").strip())
    return match is not None and hmac.compare_digest(match[1], key)


async def authenticate(settings: Settings, tokens: TokenChecker | None, header: str | None) -> Caller:
    """Raises PublicError 401 without a good token."""
    match = _HEADER.fullmatch((header or "").strip())
    if match is None:
        raise _unauthorized("no token was given: send it as 'Authorization: Bearer …'")
    if hmac.compare_digest(match[1], settings.admin_token):
        return Caller("", admin=True, deployment=True)
    if settings.culler_token and hmac.compare_digest(match[1], settings.culler_token):
        return Caller("", culler=True)
    caller = await tokens.caller(match[1]) if tokens is not None else None
    if caller is None:
        raise _unauthorized("this token is not known, or no longer: make a new one on the hub's token page")
    return caller


def _unauthorized(message: str) -> PublicError:
    return PublicError("unauthorized", message, 401)
