"""The owner of all reservations: takes requests and facts, decides, writes the ledger, then lets others know.

No I/O but the ledger's; every call runs in one thread. Whoever calls asks the agent and the clock.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from .clock import Clock, duration_text
from .devices.model import Device, Inventory
from .enforcement import share_enforcement
from .errors import PublicError
from .fleet import Fleet
from .ledger import Change, Ledger
from .limits import Limits, check_extension, check_submission, check_time
from .notices import Notice
from .placement import Slot, never_fits
from .reservation import Reason, Reservation, State
from .schedule import Facts, Forecast, Held, Waiting, earliest_for_new, forecast, schedule
from .shares import ShareRequest
from .submission import (
    Answer,
    Submission,
    check_server_free,
    no_capacity,
    one_per_owner,
    unknown_id,
    wrong_state,
)


class Pool:
    """All reservations and devices of a pool. ``changed`` is called after every commit."""

    def __init__(self, ledger: Ledger, limits: Limits, clock: Clock) -> None:
        self._ledger = ledger
        self.limits = limits
        self.clock = clock
        self.changed: Callable[[], None] = lambda: None
        self.device_filter: str | None = None
        self.notices: dict[str, tuple[Notice, ...]] = {}
        self.version = 0
        self._paused = False
        self._fleet = Fleet(ledger.read_meta("cordons") or {})
        self._live = {reservation.id: reservation for reservation in ledger.live()}
        self._waiting: dict[str, Waiting] = {}
        """Made once for each that waits: a decision looks at all of them."""
        self._seq = ledger.last_seq()
        self._forecast: tuple[int, float, dict[str, Forecast]] = (-1, 0.0, {})

    # --- questions

    @property
    def devices(self) -> tuple[Device, ...]:
        """Every device known, those that are missing or cordoned too."""
        return self._fleet.devices

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots of all devices known."""
        return self._fleet.slots

    @property
    def inventory(self) -> Inventory | None:
        """What the agent told last; None until it did."""
        return self._fleet.inventory

    def live(self) -> Iterable[Reservation]:
        return self._live.values()

    def get(self, reservation_id: str) -> Reservation:
        """Raises PublicError 404 for an id that there never was."""
        found = self._live.get(reservation_id) or self._ledger.get(reservation_id)
        if found is None:
            raise unknown_id(reservation_id)
        return found

    def find(self, owner: str | None, states: Iterable[State], limit: int) -> list[Reservation]:
        return self._ledger.find(owner, states, limit)

    def events(self, reservation_id: str) -> list[dict[str, object]]:
        return self._ledger.events(reservation_id)

    def forecast(self) -> dict[str, Forecast]:
        """Position and latest start of everyone who waits; kept for a second, as it is the same for all askers."""
        version, at, known = self._forecast
        now = self.clock()
        if version != self.version or now - at > 1.0:
            known = forecast(self.facts(), self.limits.rules)
            self._forecast = (self.version, now, known)
        return known

    def latest_starts(self, wishes: Sequence[tuple[ShareRequest, float]]) -> list[float | None]:
        grace = self.limits.stop.longest_s
        return earliest_for_new(self.facts(), [(request, seconds + grace) for request, seconds in wishes])

    def enforcement_of(self, share: ShareRequest) -> str:
        """What would hold ``share`` to its size here; never overstated."""
        return share_enforcement(share, self.device_filter, bool(self.inventory and self.inventory.simulated))

    def facts(self) -> Facts:
        return self._facts_of(self._live.values(), self.clock())

    # --- changes

    def submit(self, wish: Submission) -> tuple[Reservation, bool]:
        """The reservation for ``wish``, and whether it is new: an owner's client key makes one reservation, ever.

        Raises PublicError.
        """
        (answer,) = self.submit_many([wish])
        if isinstance(answer, PublicError):
            raise answer
        return answer

    def submit_many(self, wishes: Sequence[Submission]) -> list[Answer]:
        """The same for several, in their order. They share a decision and a commit: disks are slow, queues are not."""
        return [answer for group in one_per_owner(wishes) for answer in self._submit_group(group)]

    def starting(self, reservation_id: str) -> Reservation:
        """A start begins: durable before any process exists. Raises PublicError when it may not."""
        reservation = self.get(reservation_id)
        if reservation.state not in (State.GRANTED, State.STARTING):
            raise wrong_state(reservation, "be started")
        return self._change(reservation, reservation.starting(self.clock()))

    def active(self, reservation_id: str, generation: int, enforcement: str) -> Reservation:
        """The server answers. A report of an older generation is refused."""
        reservation = self.get(reservation_id)
        if generation != reservation.generation:
            raise PublicError(
                "old-generation",
                f"generation is {generation}: this reservation was started again and is at {reservation.generation}",
                409,
                {"generation": generation, "current": reservation.generation},
            )
        if reservation.state is State.ACTIVE:
            return reservation
        if reservation.state is not State.STARTING:
            raise wrong_state(reservation, "become active")
        return self._change(reservation, reservation.active(enforcement, self.clock()))

    def extend(self, reservation_id: str, seconds: int) -> Reservation:
        """Moves the end. Refused beyond the limits, and when somebody who waits would start later for it."""
        reservation = self.get(reservation_id)
        if reservation.state not in (State.GRANTED, State.STARTING, State.ACTIVE):
            raise wrong_state(reservation, "be extended")
        check_extension(self.limits, reservation, seconds)
        longer = reservation.extended(seconds)
        delayed = self.delayed_by(longer)
        if delayed:
            message = (
                f"{delayed} waiting request{'s' if delayed > 1 else ''} would start later if this session went on for "
                f"{duration_text(seconds)} more: it ends as planned; a shorter extension may still fit"
            )
            raise PublicError("others-wait", message, 409, {"seconds": seconds, "waiting": delayed})
        detail = f"extended by {duration_text(seconds)}"
        return self._change(reservation, replace(longer, detail=detail))

    def delayed_by(self, longer: Reservation) -> int:
        """How many waiting requests would start later if ``longer`` replaced the reservation of its id."""
        facts = self.facts()
        if not facts.waiting:
            return 0
        before = forecast(facts, self.limits.rules)
        grace = self.limits.stop.longest_s
        held = tuple(longer.held(grace) if h.id == longer.id else h for h in facts.held)
        after = forecast(replace(facts, held=held), self.limits.rules)
        return sum(1 for name, told in after.items() if _later(before[name], told))

    def end(self, reservation_id: str, reason: Reason, detail: str) -> Reservation:
        """Begins the end; one that has no process ends at once. Idempotent."""
        reservation = self.get(reservation_id)
        if reservation.state in (State.ENDING, State.ENDED):
            return reservation
        if reservation.state in (State.QUEUED, State.GRANTED):
            return self._change(reservation, reservation.ended(reason, detail, self.clock()))
        return self._change(reservation, reservation.ending(reason, detail, self.clock()))

    def gone(self, reservation_id: str, reason: Reason, detail: str) -> Reservation:
        """Every process of it was seen gone: it has ended, its devices are free."""
        reservation = self.get(reservation_id)
        if reservation.state is State.ENDED:
            return reservation
        return self._change(reservation, reservation.ended(reason, detail, self.clock()))

    def tick(self) -> list[Reservation]:
        """What time alone brings: ends, starts that were given up, and grants. Returns those that begin to end."""
        now = self.clock()
        changes = []
        for reservation in self._live.values():
            after = self._due(reservation, now)
            if after is not None:
                changes.append(Change(after, reservation))
        changes = self._decide(changes)
        if changes:
            self._commit(changes)
        return [change.after for change in changes if change.after.state is State.ENDING]

    def set_inventory(self, inventory: Inventory) -> None:
        """The devices as the agent sees them now. One that held shares and is missing stays, cordoned."""
        holders = {h.device_uuid for r in self._live.values() if r.holds for h in r.holdings}
        if self._fleet.update(inventory, holders):
            self.version += 1
            self.changed()

    def pause(self) -> None:
        """Grants nothing until ``resume``: nobody knows how the devices are."""
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    def cordon(self, device_uuid: str, why: str | None) -> None:
        """Takes a device out of service for new shares, over restarts; ``why`` None puts it back."""
        cordons = self._fleet.with_cordon(device_uuid, why)
        if cordons == self._fleet.cordons:
            return
        self._ledger.write_meta("cordons", cordons)
        self._fleet.cordons = cordons
        if self.inventory is not None:
            self.set_inventory(self.inventory)

    def events_heard(self, boot_id: str) -> int:
        """The number of the last event that was taken in; events are numbered anew with every boot of the node."""
        heard = self._ledger.read_meta("events_heard") or {}
        return int(heard["seq"]) if heard.get("boot_id") == boot_id else 0

    def hear(self, boot_id: str, seq: int) -> None:
        """Event ``seq`` was taken in."""
        self._ledger.write_meta("events_heard", {"boot_id": boot_id, "seq": seq})

    def notice(self, reservation_id: str, level: str, text: str) -> None:
        """Something its owner must read now; kept until the reservation ends."""
        if reservation_id not in self._live:
            return
        before = self.notices.get(reservation_id, ())
        self.notices[reservation_id] = (*before[-9:], Notice(level, text, self.clock()))
        self.version += 1
        self.changed()

    # --- inside

    def _submit_group(self, wishes: Sequence[Submission]) -> list[Answer]:
        """``wishes`` of different owners, so none of them bears on what another may ask for."""
        answers: list[Answer | Reservation] = []
        made: list[Reservation] = []
        for wish in wishes:
            try:
                known = self._by_client_key(wish)
                if known is not None:
                    answers.append((known, False))
                    continue
                made.append(self._accepted(wish, made))
                answers.append(made[-1])
            except PublicError as error:
                answers.append(error)
        impatient = {
            r.id for r, wish in zip(answers, wishes, strict=True) if isinstance(r, Reservation) and not wish.queue
        }
        changes, refused = self._decide_new(made, impatient)
        if changes:
            self._commit(changes)
            self._seq += len(made)
        written = {change.after.id: change.after for change in changes}
        return [
            (refused.get(answer.id) or (written[answer.id], True)) if isinstance(answer, Reservation) else answer
            for answer in answers
        ]

    def _by_client_key(self, wish: Submission) -> Reservation | None:
        return None if wish.client_key is None else self._ledger.by_client_key(wish.owner, wish.client_key)

    def _accepted(self, wish: Submission, before: Sequence[Reservation]) -> Reservation:
        """The new reservation, queued. ``before``: those accepted with it. Raises PublicError when it may not be."""
        seconds = check_time(self.limits, wish.time_limit_s)
        check_submission(self.limits, wish.owner, wish.kind, [*self._live.values(), *before])
        check_server_free(wish, self._live.values())
        if self.inventory is not None:
            error = never_fits(self.slots, wish.request)
            if error is not None:
                raise error
        return Reservation(
            id=str(uuid.uuid4()),
            seq=self._seq + len(before) + 1,
            owner=wish.owner,
            server_name=wish.server_name,
            kind=wish.kind,
            request=wish.request,
            time_limit_s=seconds,
            submitted_at=self.clock(),
            client_key=wish.client_key,
            detail="asked for",
        )

    def _decide_new(
        self, made: Sequence[Reservation], impatient: set[str]
    ) -> tuple[list[Change], dict[str, PublicError]]:
        """What follows from ``made``; an impatient one that would have to wait is refused, and was never there."""
        refused: dict[str, PublicError] = {}
        while True:
            changes = self._decide([Change(r, None) for r in made if r.id not in refused])
            stuck = next((c.after for c in changes if c.after.id in impatient and c.after.state is State.QUEUED), None)
            if stuck is None:
                return changes, refused
            (start,) = self.latest_starts([(stuck.request, stuck.time_limit_s)])
            refused[stuck.id] = no_capacity(stuck, start)

    def _due(self, reservation: Reservation, now: float) -> Reservation | None:
        limits, state = self.limits, reservation.state
        if state is State.GRANTED and now >= (reservation.granted_at or now) + limits.start_within:
            detail = f"granted, but not started within {duration_text(limits.start_within)}"
            return reservation.ended(Reason.LOST, detail, now)
        if state is State.GRANTED and now >= (reservation.ends_at or now + 1):
            detail = f"granted, but not started within its time limit of {duration_text(reservation.time_limit_s)}"
            return reservation.ended(Reason.LOST, detail, now)
        if state is State.STARTING and now >= (reservation.starting_at or now) + limits.start_timeout:
            detail = f"the server did not start within {duration_text(limits.start_timeout)}"
            return reservation.ending(Reason.FAILED, detail, now)
        if state in (State.STARTING, State.ACTIVE) and now >= (reservation.ends_at or now + 1):
            detail = f"its time limit of {duration_text(reservation.time_limit_s)} was reached"
            return reservation.ending(Reason.TIME_LIMIT, detail, now)
        return None

    def _decide(self, changes: list[Change]) -> list[Change]:
        """``changes`` and the grants and refusals that follow from them, as one set to commit."""
        if self.inventory is None or self._paused:
            return changes
        after = {change.after.id: change.after for change in changes}
        world = {**self._live, **after}
        if not any(reservation.state is State.QUEUED for reservation in world.values()):
            return changes
        now = self.clock()
        facts = self._facts_of(world.values(), now)
        decision = schedule(facts, self.limits.rules)
        for grant in decision.grants:
            after[grant.id] = world[grant.id].granted(grant.holdings, now)
        for refusal in decision.refusals:
            after[refusal.id] = world[refusal.id].ended(Reason.REFUSED, refusal.error.message, now)
        return [Change(reservation, self._live.get(name)) for name, reservation in after.items()]

    def _facts_of(self, world: Iterable[Reservation], now: float) -> Facts:
        grace = self.limits.stop.longest_s
        held: list[Held] = []
        waiting: list[Waiting] = []
        for reservation in world:
            if reservation.state is State.QUEUED:
                waiting.append(self._waiting.get(reservation.id) or reservation.waiting(grace))
            elif reservation.holds:
                held.append(reservation.held(grace))
        return Facts(self.devices, tuple(held), tuple(waiting), now)

    def _change(self, before: Reservation, after: Reservation) -> Reservation:
        changes = [Change(after, before)]
        if before.holds and not after.holds:
            changes = self._decide(changes)
        self._commit(changes)
        return after

    def _commit(self, changes: Sequence[Change]) -> None:
        self._ledger.commit(changes, self.clock())
        for change in changes:
            if change.after.state is State.QUEUED:
                self._waiting[change.after.id] = change.after.waiting(self.limits.stop.longest_s)
            else:
                self._waiting.pop(change.after.id, None)
            if change.after.state is State.ENDED:
                self._live.pop(change.after.id, None)
                self.notices.pop(change.after.id, None)
            else:
                self._live[change.after.id] = change.after
        self.version += 1
        self.changed()


def _later(before: Forecast, after: Forecast) -> bool:
    if before.latest_start is None:
        return False
    return after.latest_start is None or after.latest_start > before.latest_start + 0.5
