"""The idle culler as a process: looks, decides, and has done what follows. It keeps nothing: whatever it needs after a
restart stands in the ledger, and whatever it decided is done only if it still holds."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

from tornado.httpclient import HTTPClientError

from ..reservations.client import ServiceClient, ServiceUnreachable
from ..reservations.errors import PublicError
from ..reservations.fetching import fetch
from .judging import Judgement, judge
from .mail import Mailer

log = logging.getLogger("timeshare.culler")
AT_ONCE = 16
"""Judgements that are carried out at the same time."""


@dataclass
class Culler:
    """``hub_health_url``: answers while people can read the hub's pages. ``period_s``: between two looks.
    ``mailer``: tells people by mail too; None: it does not."""

    service: ServiceClient
    hub_health_url: str
    period_s: float = 30.0
    mailer: Mailer | None = None
    _was_silent: bool = field(default=False, init=False)

    async def run(self) -> None:
        """Looks again and again, until it is cancelled."""
        while True:
            began = time.monotonic()
            await self.look()
            await asyncio.sleep(max(0.5, self.period_s - (time.monotonic() - began)))

    async def look(self) -> int:
        """One look at everybody; how many judgements were carried out. Without an answer nothing is done."""
        try:
            told = await self.service.all_activity()
        except (ServiceUnreachable, PublicError) as error:
            if not self._was_silent:
                log.warning("nothing is known, so nothing is done: %s", error)
            self._was_silent = True
            return 0
        if self._was_silent:
            log.info("the reservations service answers again")
        readable = await self._hub_answers() and not self._was_silent
        self._was_silent = False
        judgements = judge(told, readable)
        gate = asyncio.Semaphore(AT_ONCE)
        done = await asyncio.gather(*(self._carry_out(judgement, gate) for judgement in judgements))
        return sum(done)

    async def _hub_answers(self) -> bool:
        try:
            await fetch(self.hub_health_url, request_timeout=5)
        except (OSError, HTTPClientError):
            log.warning("the hub does not answer: nobody can read warnings, so they begin anew")
            return False
        return True

    async def _carry_out(self, judgement: Judgement, gate: asyncio.Semaphore) -> bool:
        async with gate:
            try:
                await self.service.judge(judgement.reservation_id, dict(judgement.body))
            except PublicError as error:
                # Most often it has begun to work in this very moment.
                log.info("%s: not done: %s", judgement.reservation_id, error.message)
                return False
            except ServiceUnreachable as error:
                log.warning("%s: not done: %s", judgement.reservation_id, error)
                return False
        log.info(
            "%s of %s: %s, %s",
            judgement.reservation_id,
            judgement.owner,
            judgement.body["action"],
            judgement.body["why"],
        )
        if self.mailer is not None:
            await self.mailer.tell(judgement)
        return True
