"""Activity over HTTP: reports of sessions, what is known of one, protection, giving a GPU back and asking for it again,
and what the idle culler reads and decides."""

from __future__ import annotations

from functools import partial

from ..errors import PublicError
from ..kind import Kind
from ..reservation import Reason, Reservation, State
from ..watching import Reading, Warned
from . import activity_views, bodies
from .activity_bodies import Judgement, parse_give_back, parse_judgement, parse_keep, parse_report
from .auth import may_report
from .base import Base


class Activity(Base):
    """GET: for people. POST: the report of a session, with the key that can do nothing else."""

    async def prepare(self) -> None:
        # A report must cost next to nothing, so its key is checked here and not by asking the hub.
        self.public = self.request.method == "POST"
        await super().prepare()

    async def get(self, reservation_id: str) -> None:
        self.no_query()
        await show(self, await self.seen(reservation_id))

    async def post(self, reservation_id: str) -> None:
        self.no_query()
        name = bodies.check_id(reservation_id)
        if not may_report(self.context.settings, name, self.request.headers.get("Authorization")):
            message = "this is not the activity key of this session: it stands in its TIMESHARE_ACTIVITY_KEY"
            raise PublicError("unauthorized", message, 401)
        self.context.crowd.admit_report(f"activity:{name}")
        monitor = self.runtime.monitor
        next_s = monitor.report(name, parse_report(self.json_body(), self.runtime.pool.clock()))
        self.answer({"next_s": round(next_s, 1)})


class Keep(Base):
    async def post(self, reservation_id: str) -> None:
        self.no_query()
        reservation = await self.mine(reservation_id)
        keep = parse_keep(self.json_body())
        if reservation.state not in (State.ACTIVE, State.PARKED) or reservation.kind is not Kind.SESSION:
            message = f"only a session that runs is protected: it is {reservation.state.value}"
            raise PublicError("wrong-state", message, 409)
        await self.runtime.call(self.runtime.monitor.keep, reservation, keep.key, keep.seconds, keep.why)
        await show(self, reservation)


async def show(handler: Base, reservation: Reservation) -> None:
    """Answers with what is known of a session."""
    runtime = handler.runtime
    handler.answer(await runtime.call(activity_views.activity_view, runtime.pool, runtime.monitor, reservation))


class GiveBack(Base):
    async def post(self, reservation_id: str) -> None:
        self.no_query()
        give_back = partial(self.runtime.parking.give_back, park=parse_give_back(self.json_body()))
        who = "its owner" if not self.caller.admin else "an administrator"
        await self.change(reservation_id, give_back, f"its GPU was given back by {who}")


class AskAgain(Base):
    async def post(self, reservation_id: str) -> None:
        self.no_query()
        bodies.known_fields(self.json_body(), ())
        await self.change(reservation_id, self.runtime.parking.ask_again)


class Everybody(Base):
    """What the culler looks at."""

    async def get(self) -> None:
        self.no_query()
        self.culler_only()
        runtime = self.runtime
        self.answer(await runtime.call(activity_views.everybody_view, runtime.pool, runtime.monitor))


class Judge(Base):
    """What the culler decided about one session; done only if it still holds."""

    async def post(self, reservation_id: str) -> None:
        self.no_query()
        self.culler_only()
        name, judgement = bodies.check_id(reservation_id), parse_judgement(self.json_body())
        await self.runtime.call(self._carry_out, name, judgement)
        self.runtime.hurry()
        self.answer({"done": judgement.action})

    def _carry_out(self, name: str, judgement: Judgement) -> None:
        pool, monitor = self.runtime.pool, self.runtime.monitor
        reservation = pool.get(name)
        rules = monitor.rules(reservation)
        if judgement.action == "warn":
            now = pool.clock()
            text, meaning = f"This session is {judgement.why}.", consequence(rules.then, monitor.session(name).reading)
            act_at = now + judgement.act_in_s
            warned = Warned(now, judgement.quiet_since, act_at, rules.then, text, meaning)
            monitor.warn(reservation, warned, judgement.why)
            return
        if judgement.action != rules.then:
            raise PublicError("not-that", f"action is {judgement.action!r}: the limits say {rules.then!r}", 409)
        monitor.check_due(reservation, judgement.quiet_since)
        monitor.decided(name, judgement.action, judgement.why)
        if judgement.action == "stop":
            pool.end(name, Reason.IDLE, judgement.why)
        else:
            self.runtime.parking.give_back(name, judgement.why, park=judgement.action == "park")


def consequence(then: str, reading: Reading | None) -> str:
    """What its owner must know of what follows."""
    if then == "stop":
        return "it is stopped: run something, or keep it alive."
    text = "its GPU goes back to the pool; the notebook stays."
    if reading is not None and reading.memory_mib == 0:
        return text
    if then == "park":
        return (
            f"{text} What kernels hold of GPU memory is kept in the node's memory until there is a GPU again, if that "
            "can be done; this is experimental, and the state can be lost: save what matters."
        )
    return f"{text} Kernels that hold GPU memory are ended then, after time to save; all others stay."


def routes(base: str) -> list[tuple[str, type[Base]]]:
    one = f"{base}/reservations/([^/]+)"
    return [
        (f"{one}/activity", Activity),
        (f"{one}/keep", Keep),
        (f"{one}/give_back", GiveBack),
        (f"{one}/ask_again", AskAgain),
        (f"{base}/activity", Everybody),
        (f"{base}/activity/([^/]+)", Judge),
    ]
