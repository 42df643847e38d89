"""Jobs over HTTP: submit, estimate, the key of their results and what they put out. Their state, end and extension are
those of any reservation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..clock import rfc3339
from ..engines.base import EngineUnknown, LaunchRefused
from ..errors import PublicError
from ..job import JobSpec
from ..limits.values import UNLIMITED
from ..pool import Pool
from ..reservation import Reason, Reservation
from ..submission import Submission
from ..usage import HOUR
from . import job_bodies
from .base import Base
from .limits_views import purse_view


class Jobs(Base):
    async def post(self) -> None:
        """All of them or none."""
        self.no_query()
        self.count_submission()
        made: list[tuple[Reservation, bool]] = []
        try:
            for wish in job_bodies.parse_submit(self.json_body(), self.caller):
                made.append(await self.runtime.submit(wish))
        except PublicError:
            for reservation, new in made:
                if new:
                    why = "another job of its array was refused"
                    await self.runtime.call(self.runtime.pool.end, reservation.id, Reason.CANCELLED, why)
            raise
        shown = await self.views(lambda: [self.runtime.pool.get(r.id) for r, _ in made])
        key = json.dumps(spec_of(made[0][0]).key)
        self.answer_text(f'{{"jobs": {shown}, "key": {key}}}', 201 if made[0][1] else 200)


class Estimate(Base):
    async def post(self) -> None:
        self.no_query()
        asked = job_bodies.parse_estimate(self.json_body(), self.caller)
        await self.runtime.know(asked.wish.owner)
        self.answer(await self.runtime.call(estimate_view, self.runtime.pool, asked))


class Key(Base):
    """Of the job's results. For its owner only: whoever has it can write results that she will load."""

    async def get(self, reservation_id: str) -> None:
        self.no_query()
        self.answer({"key": spec_of(await own(self, reservation_id)).key})


class Lines(Base):
    """What the job put out, as it stands in its spool; for its owner only."""

    async def get(self, reservation_id: str) -> None:
        offset = job_bodies.parse_offset(self.query())
        reservation = await own(self, reservation_id)
        user = self.runtime.settings.account(reservation.owner)
        try:
            told = await self.runtime.engine.logs(spec_of(reservation).folder, user, offset)
        except EngineUnknown:
            message = "the node that ran this job does not answer: try again, or read the job's own folder"
            raise PublicError("engine-unreachable", message, 503) from None
        except LaunchRefused as error:
            raise PublicError("not-found", str(error), 404) from None
        self.answer(told)


async def own(handler: Base, reservation_id: str) -> Reservation:
    """The caller's own job. Raises PublicError."""
    reservation = await handler.seen(reservation_id)
    if not handler.caller.deployment and reservation.owner != handler.caller.name:
        raise PublicError("forbidden", "only its owner may read what is in a job", 403)
    return reservation


def spec_of(reservation: Reservation) -> JobSpec:
    if reservation.job is None:
        raise PublicError("not-found", "this reservation is not a job", 404)
    return reservation.job


def estimate_view(pool: Pool, asked: job_bodies.Estimate) -> dict[str, Any]:
    """When it could start, what it would cost at most, and what of it is allowed. Raises PublicError for what nobody
    could ever have."""
    wish, now = asked.wish, pool.clock()
    refusal = pool.intake.refusal(wish)
    if refusal is not None and refusal.status == 400:
        raise refusal
    limits, files = pool.standing.effective(wish.owner, now), pool.limits.job_files
    seconds = wish.time_limit_s or limits.default_time(wish.kind)
    least = pool.world().policy([wish.owner]).least_gpus(pool.slots, wish.request, tuple(limits.values["models"]))
    outlook = _outlook(pool, wish, seconds, refusal)
    start = outlook.start
    return {
        "possible": outlook.possible,
        "why": outlook.why,
        "latest_start": rfc3339(start),
        "latest_start_in_s": None if start is None else max(0, round(start - pool.clock())),
        "firm": outlook.firm,
        "engine": wish.request.engine or "local",
        "engine_title": pool.engines[wish.request.engine].title if wish.request.engine in pool.engines else "",
        "time_limit_s": seconds,
        "gpu_hours": round(least * seconds * asked.count / HOUR, 3),
        "budgets": [purse_view(purse, now) for purse in pool.purses(wish.owner)],
        "space": {
            "keep_s": files.keep,
            "bytes": None if files.space_gib == UNLIMITED else int(files.space_gib * 1024**3),
        },
    }


@dataclass(frozen=True)
class _Outlook:
    """``start``: at the latest, or if not ``firm`` as expected; seconds since the epoch."""

    possible: bool
    why: str
    start: float | None
    firm: bool


def _outlook(pool: Pool, wish: Submission, seconds: int, refusal: PublicError | None) -> _Outlook:
    if refusal is not None:
        return _Outlook(False, refusal.message, None, True)
    engine = pool.engines.get(wish.request.engine)
    if engine is None:
        (told,) = pool.latest_starts([wish])
        return _Outlook(True, told.why, told.latest_start, told.firm)
    there = engine.outlook(wish.request, seconds, wish.owner)
    wait = there.start_in_s(seconds)
    return _Outlook(not there.closed, there.said, None if wait is None else pool.clock() + wait, False)


def routes(base: str) -> list[tuple[str, type[Base]]]:
    return [
        (f"{base}/jobs", Jobs),
        (f"{base}/jobs/estimate", Estimate),
        (f"{base}/jobs/([^/]+)/key", Key),
        (f"{base}/jobs/([^/]+)/lines", Lines),
    ]
