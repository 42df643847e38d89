"""One person's flood of requests at the hub waits behind itself: JupyterHub has no bound of its own, and works on one
request after the other."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from jupyterhub.user import User

from ..reservations.errors import PublicError
from ..reservations.service.crowd import REFUSES_ALL, Crowd, RefusesAll, too_many

AT_ONCE = 2
"""Requests of all that are begun; a further one has its turn when one of them is answered."""
LONGEST_S = 0.25
"""After so long a request is one that waits for something, such as a start, and holds up nobody."""


class Turns:
    """People take turns, whoever has waiting how many; each one's are in order. Used by the event loop alone."""

    def __init__(self, at_once: int = AT_ONCE, longest_s: float = LONGEST_S) -> None:
        self._free, self._longest_s = at_once, longest_s
        self._lanes: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    def waiting(self, who: str) -> int:
        return len(self._lanes.get(who, ()))

    async def turn(self, who: str) -> Callable[[], None]:
        """Returns when it is the turn of ``who``; what it returns is to be called when that is over, once or more."""
        loop = asyncio.get_running_loop()
        if self._free:
            self._free -= 1
        else:
            mine: asyncio.Future[None] = loop.create_future()
            self._lanes.setdefault(who, deque()).append(mine)
            await mine
        over = False

        def done() -> None:
            nonlocal over
            late.cancel()
            if not over:
                over = True
                self._next()

        late = loop.call_later(self._longest_s, done)
        return done

    def _next(self) -> None:
        if not self._lanes:
            self._free += 1
            return
        who, waiting = next(iter(self._lanes.items()))
        waiting.popleft().set_result(None)
        if waiting:
            self._lanes.move_to_end(who)
        else:
            del self._lanes[who]


def take_turns(page: type[Any], crowd: Crowd) -> None:
    """Make the handlers below ``page`` begin in turn, and refuse (429) what a person asks beyond the bounds of
    ``crowd``.

    Services do not wait, nor does who has not logged in: everybody may share one address.
    """
    prepare: Callable[[Any], Any] = page.prepare
    on_finish: Callable[[Any], None] = page.on_finish
    turns = Turns()

    async def prepared(self: Any) -> None:
        await prepare(self)
        if self._finished or not isinstance(self.current_user, User):
            return
        who, most = self.current_user.name, crowd.bounds.requests_at_once
        try:
            crowd.admit(who)
            if turns.waiting(who) >= most:
                raise too_many(f"{most} requests of yours wait", most, "close some pages first", 5)
        except PublicError as error:
            self.set_status(error.status)
            self.set_header("Retry-After", str(error.details["retry_after_s"]))
            if isinstance(error, RefusesAll):
                self.set_header(REFUSES_ALL, f"{error.details['limit']:g}")
            self.finish({"status": error.status, "message": error.message})
            return
        self._turn_is_over = await turns.turn(who)

    def finished(self: Any) -> None:
        getattr(self, "_turn_is_over", int)()
        on_finish(self)

    page.prepare, page.on_finish = prepared, finished
