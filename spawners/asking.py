"""Asks for a server to be started, also while whoever starts it is being started anew."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..reservations.agent.client import AgentError, AgentUnreachable
from ..reservations.client import Json, ServiceUnreachable
from ..reservations.errors import PublicError

ASK_EVERY_S = 1.0
"""Between two questions to service or agent, whether a session still lives or what became of an order."""


class LaunchError(Exception):
    """The engine could not start the server; the text is for the person who waits for it."""


async def started(
    order: Callable[[float], Awaitable[Json]], within_s: float, silence: str, warn: Callable[[object], None]
) -> Json:
    """Return the answer to ``order``, which is told how many seconds are left of ``within_s``.

    Who does not answer is asked again: an order of the same generation a second time changes nothing. ``silence``:
    what to say if nobody answers in time. ``warn``: hears why each time. Raises LaunchError.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + within_s
    while True:
        left = max(0.0, until - clock())
        try:
            return await order(left)
        except (PublicError, AgentError) as error:
            raise LaunchError(f"the server could not be started: {error}") from None
        except (ServiceUnreachable, AgentUnreachable) as error:
            warn(error)
            if not left:
                raise LaunchError(f"the server could not be started: {silence}") from None
        await asyncio.sleep(ASK_EVERY_S)
