"""What every handler of the API does: who asks, the body within its limits, the one error body."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tornado import http1connection, iostream, web

from ..errors import PublicError
from ..reservation import Reservation
from ..sockets import account_of_peer, is_foreign
from ..submission import unknown_id
from ..text import escaped
from . import bodies, json_bodies, views
from .auth import Caller, TokenChecker, authenticate
from .crowd import ACCOUNT, REFUSES_ALL, Crowd, RefusesAll
from .fair_thread import HUB, LANE
from .feeds import Feeds
from .remembered import Remembered
from .runtime import Runtime
from .settings import Settings

VIEWS_A_TURN = 16
MOST_GOOD_TOKENS = 10_000
RETRY_AFTER_S = 30
"""What is said of a bound that no clock lifts, such as requests that wait."""


@dataclass(frozen=True)
class Context:
    """What every handler needs."""

    settings: Settings
    runtime: Runtime
    tokens: TokenChecker | None
    crowd: Crowd
    feeds: Feeds
    remembered: Remembered[str] = field(default_factory=Remembered)
    asking: dict[bytes, asyncio.Future[Caller | None]] = field(default_factory=dict)
    """Digests of tokens that JupyterHub is just asked about."""
    good_tokens: dict[bytes, None] = field(default_factory=dict)
    """Digests of tokens that were good when they were checked last; the one used longest ago comes first."""


class CountedTokens:
    """Tokens that were good before are checked at once; others are counted, as each is a question to JupyterHub."""

    def __init__(self, context: Context, address: str) -> None:
        self._context, self._address = context, address

    async def caller(self, token: str) -> Caller | None:
        """As of ``TokenChecker``; raises PublicError 429 too."""
        context, name = self._context, hashlib.sha256(token.encode()).digest()
        assert context.tokens is not None
        if name not in context.good_tokens:
            context.crowd.admit_unknown(self._address)
        # One question for all that come with it meanwhile: JupyterHub answers ten at a time, and others wait too.
        task = context.asking.get(name)
        if task is None:
            task = context.asking[name] = asyncio.ensure_future(context.tokens.caller(token))
            task.add_done_callback(lambda _: context.asking.pop(name, None))
        found = await asyncio.shield(task)
        context.good_tokens.pop(name, None)
        if found is not None:
            context.good_tokens[name] = None
            if len(context.good_tokens) > MOST_GOOD_TOKENS:
                context.good_tokens.pop(next(iter(context.good_tokens)))
        return found


class Base(web.RequestHandler):
    """Tokens, body limits and the one error body."""

    public = False
    caller: Caller
    counted = ""
    """Whose bounds hold for this request; empty: one of timeshare's own processes."""
    closed = False
    """Whether the caller has gone."""

    def initialize(self, context: Context) -> None:
        self.context = context
        self.runtime = context.runtime
        self._working = contextlib.ExitStack()
        self._held_by: asyncio.Task[Any] | None = None

    def set_default_headers(self) -> None:
        self.set_header("Content-Type", "application/json")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")

    def compute_etag(self) -> str | None:
        """None: nobody keeps an answer, and a digest of a long one would hold up all others."""
        return None

    async def prepare(self) -> None:
        if self.request.method not in self.methods():
            raise PublicError("method-not-allowed", f"{self.request.method} is not offered here", 405)
        if not self.public:
            header = self.request.headers.get("Authorization")
            tokens = None if self.context.tokens is None else CountedTokens(self.context, self.address)
            self.caller = await authenticate(self.context.settings, tokens, header)
            self._count()

    def _count(self) -> None:
        """Everybody's requests take turns. Raises PublicError 429 for those of one who sends too many."""
        caller = self.caller
        if not (caller.deployment or caller.culler):
            self.counted = f"person:{caller.name}" if caller.name else "services"
            self.context.crowd.admit(self.counted)
            self._working.enter_context(self.context.crowd.working(self.counted))
        LANE.set(self.counted or self._acting_lane())

    def count_submission(self) -> None:
        """Raises PublicError 429 for a person who asks for too many shares."""
        if self.counted:
            self.context.crowd.admit_submission(self.counted)

    def _acting_lane(self) -> str:
        """The turn of what our own processes ask: that of the person for whom they do."""
        named = self.request.headers.get("Timeshare-Acting-For") or self.get_query_argument("owner", "")
        return f"person:{named[: bodies.MAX_NAME]}" if named else HUB

    @property
    def address(self) -> str:
        """Whose request it is before its token is known. Another account of the machine, by the kernel: it can write
        any address. Else what our proxy puts last, whatever stood there before."""
        connection = self.request.connection
        assert isinstance(connection, http1connection.HTTP1Connection)
        account = account_of_peer(connection.stream.socket)
        if is_foreign(account):
            return f"{ACCOUNT}{account}"
        return self.request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()[:64]

    def on_finish(self) -> None:
        self._working.close()

    def on_connection_close(self) -> None:
        self.closed = True  # what is worked on for it counts until that is done
        if self._held_by is not None:
            self._held_by.cancel()

    @contextlib.contextmanager
    def until_closed(self) -> Iterator[None]:
        """What is held for a caller ends when that has gone, so that it counts no longer."""
        self._working.close()  # it waits: it is no work
        self._held_by = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            if not self.closed:
                raise
        except iostream.StreamClosedError:
            self.closed = True
        finally:
            self._held_by = None

    @classmethod
    def methods(cls) -> list[str]:
        return [name for name in ("GET", "POST") if getattr(cls, name.lower()) is not getattr(Base, name.lower())]

    def json_body(self, *, escaped_bytes: bool = False) -> dict[str, Any]:
        """The body; ``escaped_bytes``: see ``json_bodies.parse_json``."""
        if len(self.request.body) > json_bodies.MAX_BODY:
            raise _too_large()
        return json_bodies.parse_json(self.request.body or b"{}", escaped_bytes=escaped_bytes)

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
        self.answer_text(json_bodies.to_json(body), status)

    def answer_text(self, body: str, status: int = 200) -> None:
        """Answer with JSON that was written in the pool's thread: much of it would hold up this one, and so all."""
        self.set_status(status)
        self.finish(body)

    async def mine(self, reservation_id: str) -> Reservation:
        """The caller's reservation of that id; somebody else's looks like none at all."""
        return await self.runtime.call(self.look_at_mine, bodies.check_id(reservation_id))

    def look_at_mine(self, reservation_id: str) -> Reservation:
        """The same, in the pool's thread."""
        found = self.look(reservation_id)
        if not self.caller.may_touch(found.owner):
            raise PublicError("forbidden", "you may see this reservation, but not change it", 403)
        return found

    async def seen(self, reservation_id: str) -> Reservation:
        """The reservation of that id, if the caller may see it."""
        return await self.runtime.call(self.look, bodies.check_id(reservation_id))

    def look(self, reservation_id: str) -> Reservation:
        """The same, in the pool's thread."""
        found = self.runtime.pool.get(reservation_id)
        if not self.caller.may_see(found.owner):
            raise unknown_id(reservation_id)
        return found

    async def costly(self, what: str, owner: str, make: Callable[..., dict[str, Any]], *arguments: Any) -> None:
        """Answers with what ``make`` makes in the pool's thread for ``owner``, or made a moment ago."""
        runtime = self.runtime

        async def made() -> str:
            return await runtime.call(lambda: json_bodies.to_json(make(runtime.pool, owner, *arguments)))

        remembered, version = self.context.remembered, runtime.pool.version
        self.answer_text(await remembered.get(what, owner, version, made, counted=bool(self.counted)))

    async def views(self, find: Callable[[], Sequence[Reservation]]) -> str:
        """What is shown of those that ``find`` finds, as a JSON list; a long one takes several turns."""
        pool = self.runtime.pool

        def begin() -> tuple[Sequence[Reservation], list[str]]:
            found = find()
            return found, views.reservation_texts(pool, found[:VIEWS_A_TURN])

        found, texts = await self.runtime.call(begin)
        for first in range(VIEWS_A_TURN, len(found), VIEWS_A_TURN):
            part = found[first : first + VIEWS_A_TURN]
            texts += await self.runtime.call(views.reservation_texts, pool, part)
        return f"[{', '.join(texts)}]"

    async def view(self, reservation: Reservation) -> dict[str, Any]:
        return await self.runtime.call(views.reservation_view, self.runtime.pool, reservation)

    async def change(self, reservation_id: str, change: Callable[..., Reservation], *arguments: Any) -> None:
        """Makes a change to the caller's reservation and answers with what it is then: all in one turn."""
        name, pool = bodies.check_id(reservation_id), self.runtime.pool

        def changed() -> list[str]:
            self.look_at_mine(name)
            return views.reservation_texts(pool, [change(name, *arguments)])

        self.answer_text((await self.runtime.call(changed))[0])

    @property
    def who(self) -> str:
        """The name for the audit log: the caller's; our own pages say for whom they act."""
        acting = self.request.headers.get("Timeshare-Acting-For", "") if self.caller.deployment else ""
        return self.caller.name or escaped(acting)[: bodies.MAX_NAME] or "the deployment"

    def seen_owner(self, query: Mapping[str, str]) -> str | None:
        """The ``owner`` that a query names, if the caller may see what is hers; None when it names nobody."""
        if "owner" not in query:
            return None
        owner = bodies.text("owner", query["owner"])
        if not self.caller.may_see(owner):
            raise PublicError("forbidden", f"owner is {owner!r}: only administrators and operators see others", 403)
        return owner

    def readers_only(self) -> None:
        if not self.caller.sees_all:
            raise PublicError("forbidden", "only administrators and operators may see this", 403)

    def admins_only(self) -> None:
        if not self.caller.admin:
            raise PublicError("forbidden", "only administrators may do this", 403)

    def own_processes_only(self) -> None:
        if not self.caller.deployment:
            raise PublicError("forbidden", "only timeshare's own hub may report this", 403)

    def culler_only(self) -> None:
        if not self.caller.culler:
            raise PublicError("forbidden", "only the idle culler may do this", 403)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not isinstance(value, PublicError | iostream.StreamClosedError):
            super().log_exception(typ, value, tb)

    def write_error(self, status_code: int, **details: Any) -> None:
        error = details.get("exc_info", (None, None, None))[1]
        if not isinstance(error, PublicError):
            error = public_error(status_code)
        self.set_status(error.status)
        if error.status == 405:
            self.set_header("Allow", ", ".join(self.methods()))
        if error.status == 429:
            self.set_header("Retry-After", str(error.details.get("retry_after_s", RETRY_AFTER_S)))
        if isinstance(error, RefusesAll):
            self.set_header(REFUSES_ALL, f"{error.details['limit']:g}")
        if error.status == 401:
            self.set_header("WWW-Authenticate", "Bearer")
        self.finish(json_bodies.to_json(error.body()))


def _too_large() -> PublicError:
    message = f"the body is larger than {json_bodies.MAX_BODY} bytes, the most that is read here"
    return PublicError("body-too-large", message, 413, {"limit": json_bodies.MAX_BODY})


def public_error(status: int) -> PublicError:
    if status == 404:
        return PublicError("not-found", "there is nothing at this address: see api/v1/openapi.json", 404)
    if status == 405:
        return PublicError("method-not-allowed", "this method is not offered here", 405)
    if 400 <= status < 500:
        return PublicError("malformed", "the request cannot be read", status)
    return PublicError("internal", "something went wrong here; the service's log says what", status)
