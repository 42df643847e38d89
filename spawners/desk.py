"""What the hub's pages read of the service. Templates call these; an answer always comes, if only to say why not."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from typing import Any

from ..reservations.client import Json, ServiceClient, ServiceUnreachable
from ..reservations.enforcement import BOUND_MEANING, MEANING
from ..reservations.errors import PublicError
from .jobs import LISTED, jobs

SILENT = "The reservations service does not answer at the moment; this page tries again by itself."
HISTORY = 5
LIVE = "queued,granted,starting,active,parked,ending"


class Desk:
    """``service`` acts with the deployment's own token; callers say for whom."""

    meaning = MEANING
    bound_meaning = BOUND_MEANING

    def __init__(self, service: ServiceClient, most_streams: int = 20) -> None:
        """``most_streams``: event streams of one person at the hub's pages."""
        self.service = service
        self.most_streams = most_streams
        self.streams: Counter[str] = Counter()

    def new_key(self) -> str:
        """A key for one form, so that sending it twice asks for one session."""
        return uuid.uuid4().hex

    async def offers(self, owner: str) -> Json:
        """The offers of the API to ``owner``; ``error`` instead when there is no answer."""
        try:
            return await self.service.offers(owner)
        except (PublicError, ServiceUnreachable):
            return {"offers": [], "error": SILENT}

    async def limits(self, owner: str) -> Json:
        """What ``owner`` may have, has used and waits for; ``error`` instead when there is no answer."""
        try:
            return await self.service.limits(owner)
        except PublicError as error:
            return {"error": error.message}
        except ServiceUnreachable:
            return {"error": SILENT}

    async def overview(self) -> Json:
        """Everything for the administrators' page; ``error`` instead when there is no answer."""
        asked = {
            "devices": "devices",
            "reservations": f"reservations?state={LIVE}&limit=500",
            "file": "limits/file",
            "exceptions": "limits/exceptions",
            "audit": "limits/audit?limit=50",
            "usage": "usage?by=group",
            "budgets": "limits/budgets",
            "engines": "limits/engines",
            "offers": "offers",
            "retention": "retention",
        }
        try:
            answers = await asyncio.gather(*(self.service.call("GET", path) for path in asked.values()))
        except PublicError as error:
            return {"error": error.message}
        except ServiceUnreachable:
            return {"error": SILENT}
        return dict(zip(asked, answers, strict=True))

    async def sessions(self, owner: str) -> dict[str, Any]:
        """``live`` and lately ``ended`` sessions of ``owner``, the newest first, and their ``jobs``; ``error``: what of
        it is missing, and why."""
        try:
            live, working = await asyncio.gather(
                self.service.list(owner, LIVE, limit=50, kind="session"),
                self.service.list(owner, LIVE, limit=LISTED, kind="batch"),
            )
        except (PublicError, ServiceUnreachable):
            return {"live": [], "ended": [], "jobs": [], "error": SILENT}
        try:
            ended, batch = await asyncio.gather(
                self.service.list(owner, "ended", limit=HISTORY, kind="session"),
                self.service.list(owner, limit=LISTED, kind="batch"),
            )
        except (PublicError, ServiceUnreachable) as error:  # what lives is known without the ledger
            return {"live": live, "ended": [], "jobs": jobs(working), "error": f"What is over cannot be shown: {error}"}
        together = jobs(batch)
        shown = max(HISTORY, sum(job["live"] for job in together))
        return {"live": live, "ended": ended, "jobs": together[:shown]}
