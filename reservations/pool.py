"""The owner of all reservations: takes requests and facts, has them decided, writes the ledger, lets others know.

No I/O but the ledger's; every call runs in one thread. Whoever calls asks the agent and the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from heapq import nlargest

from .clock import Clock, duration_text
from .deadlines import due, shortened
from .devices.model import Device, Inventory
from .elsewhere import Elsewhere
from .enforcement import share_enforcement
from .engines.base import EngineSession
from .errors import PublicError
from .fleet import Fleet
from .host import HostSize, this_machine
from .intake import Intake
from .kind import Kind
from .ledger import Apart, Change, Ledger, LedgerSilent, sound
from .ledger import policy as policy_tables
from .limits.checks import check_extension
from .limits.idle import IdleSettings
from .limits.schema import Limits, Stop
from .live import Live
from .notices import Notice
from .placement import Slot
from .queue import Forecast, Promise, Waiting
from .reservation import Reason, Reservation, State
from .shares import ShareRequest
from .standing import Purse, Standing
from .submission import Answer, Submission, unknown_id, wrong_state
from .usage import Charge, Charges
from .watching import Warned
from .world import Decided, World, closed

EXTENDABLE = (State.GRANTED, State.STARTING, State.ACTIVE, State.PARKED)
"""States in which the end of a reservation may be moved."""


class Pool:
    """All reservations and devices of a pool. ``changed`` is called after every commit with the ids of what changed;
    with none for something that all may see. ``host``: the size of this machine; None: of the one that this process
    runs on."""

    def __init__(self, ledger: Ledger, standing: Standing, clock: Clock, host: HostSize | None = None) -> None:
        self._ledger = ledger
        self.standing = standing
        self.clock = clock
        self.changed: Callable[[Collection[str]], None] = lambda names: None
        self.device_filter: str | None = None
        self.session_bounds: tuple[str, ...] = ()
        """What control groups hold of a session on this machine: of ``cpu``, ``memory``, ``processes``."""
        self.notices: dict[str, tuple[Notice, ...]] = {}
        self.can_give_back = True
        """Whether the node can take the devices of a session that runs on."""
        self.node_cannot_park = ""
        """Why it cannot keep GPU state in its memory; empty: it can."""
        self.unaccounted: tuple[EngineSession, ...] = ()
        """What runs on this machine though the ledger does not know it."""
        self.idle_warnings: dict[str, Warned] = {}
        """Those in force, by session; the monitor sets them."""
        self.version = 0
        self.engines: dict[str, Elsewhere] = {}
        """Those that place work themselves, by name."""
        self.local = True
        """Whether anything may run that names none of them."""
        self.gpus_unknown = ""
        """Why nobody knows how this machine's GPUs are, while its agent answers; empty: they were seen of late."""
        self._paused = False
        self._fleet = Fleet(_cordons(ledger.read_meta("cordons")), host or this_machine())
        self._live = Live(ledger.live())
        self._fleet.apart = _held_apart(self.apart.values())
        self._waiting: dict[str, Waiting] = {}
        """Made once for each that waits, with what it was promised: a decision looks at all of them."""
        promised = ledger.promises()
        for reservation in self._live.values():
            if reservation.waits:
                self._put_waiting(reservation, promised.get(reservation.id))
        self.intake = Intake(self, ledger)
        self._forecast: tuple[int, float, dict[str, Forecast]] = (-1, 0.0, {})
        self._keeper: tuple[int, float, Callable[[Reservation], str]] = (-1, 0.0, lambda reservation: "")

    # --- questions

    @property
    def limits(self) -> Limits:
        """The limits in force."""
        return self.standing.limits

    @property
    def apart(self) -> Mapping[str, Apart]:
        """Live rows of the ledger that are not understood, by reservation."""
        return self._ledger.apart

    @property
    def odd(self) -> Collection[str]:
        """What else of the ledger is not understood and left out, in words."""
        return self._ledger.odd.values()

    @property
    def devices(self) -> tuple[Device, ...]:
        """Every device known, those that are missing or cordoned too."""
        return self._fleet.devices

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots of all devices known."""
        return self._fleet.slots

    @property
    def host(self) -> HostSize:
        """The size of this machine."""
        return self._fleet.host

    @property
    def inventory(self) -> Inventory | None:
        """What the agent told last; None until it did."""
        return self._fleet.inventory

    @property
    def ledger_trouble(self) -> str:
        """Why the ledger could not be written or read when that was tried last; empty: it could."""
        trouble = self._ledger.trouble
        return "" if trouble is None else trouble.message

    @property
    def unseen(self) -> tuple[str, ...]:
        """Engines whose devices are not known yet, as the limits call them."""
        engines = [*([""] if self.local else []), *self.engines]
        return tuple(engine or "local" for engine in engines if not self._fleet.has_told(engine))

    def live(self) -> Collection[Reservation]:
        """Everything that has not ended, in the order in which it was asked for."""
        return self._live.values()

    def owner_of(self, reservation_id: str) -> str:
        """Return whose it is; empty when it has ended. Called by any thread."""
        found = self._live.get(reservation_id)
        return "" if found is None else found.owner

    def live_of(self, owner: str) -> Collection[Reservation]:
        """The same of one person."""
        return self._live.of(owner)

    def get(self, reservation_id: str) -> Reservation:
        """Raises PublicError 404 for an id that there never was."""
        found = self._live.get(reservation_id) or self._ledger.get(reservation_id)
        if found is None and reservation_id in self.apart:
            message = f"what the ledger has of {reservation_id} is not understood: an administrator has to decide"
            raise PublicError("not-understood", message, 409)
        if found is None:
            raise unknown_id(reservation_id)
        return found

    def find(
        self, owner: str | None, states: Iterable[State], limit: int, kind: Kind | None = None
    ) -> list[Reservation]:
        """The newest ``limit`` reservations, of ``owner`` (None: of all), in one of ``states`` (none given: any), of
        ``kind`` (None: both)."""
        wanted = frozenset(states) or frozenset(State)
        live = self._live.values() if owner is None else self._live.of(owner)
        fitting = (r for r in live if r.state in wanted and kind in (None, r.kind))
        found = nlargest(limit, fitting, key=lambda r: r.seq)
        if State.ENDED not in wanted:
            return found
        after = found[-1].seq if len(found) == limit else 0  # older ones have no place in it
        ended = self._ledger.find(owner, (State.ENDED,), limit, kind, after)
        return nlargest(limit, [*found, *ended], key=lambda r: r.seq)

    def events(self, reservation_id: str) -> list[dict[str, object]]:
        return self._ledger.events(reservation_id)

    def forecast(self) -> dict[str, Forecast]:
        """Position and latest start of everyone who waits; kept for a second, as it is the same for all askers."""
        version, at, known = self._forecast
        now = self.clock()
        if version != self.version or now - at > 1.0:
            world = self.world()
            unseen = self.local and (self.inventory is None or bool(self.gpus_unknown))
            known = world.remembered() if unseen else world.forecast()
            self._forecast = (self.version, now, known)
        return known

    def kept_back(self, reservation: Reservation) -> str:
        """Why ``reservation`` is not handed to its engine yet; empty: nothing keeps it. As fresh as ``forecast``."""
        version, at, keeper = self._keeper
        now = self.clock()
        if version != self.version or now - at > 1.0:
            keeper = self.world().keeper()
            self._keeper = (self.version, now, keeper)
        return keeper(reservation)

    def latest_starts(self, wishes: Sequence[Submission]) -> list[Forecast]:
        """What each of ``wishes`` could expect if it joined the queue now."""
        return self.world().latest_starts(wishes)

    def idle_rules(self, reservation: Reservation) -> IdleSettings:
        """The idle rules that hold for ``reservation``. Where its GPU cannot be taken alone, the session is stopped;
        where it is to be parked and never could be, nothing is done: then nobody is warned of it either."""
        slots = {slot.key: slot for slot in self.slots}
        found = self.standing.idle_of(reservation, slots, self.clock())
        if found.then == "park":
            return replace(found, after=0.0) if self.cannot_park(reservation) else found
        return replace(found, then="stop") if self.cannot_give_back(reservation) else found

    def cannot_give_back(self, reservation: Reservation) -> str:
        """Why its GPU cannot be taken while it runs on; empty: it can."""
        if reservation.external is not None:
            return f"what {reservation.request.engine} gave a session stays with it until its end"
        return "" if self.can_give_back else "this node cannot take a GPU from a session that runs on"

    def cannot_park(self, reservation: Reservation) -> str:
        """Why its GPU state can never be kept in the node's memory as things are; empty: it may be."""
        if not self.limits.parking.host_memory_gib:
            return "the limits set no memory of the node aside for it (parking.host_memory_gib)"
        if reservation.external is not None:
            return self.cannot_give_back(reservation)
        if any(holding.instance_uuid for holding in reservation.holdings):
            return "a MIG instance cannot be parked: the driver has no checkpoint of one"
        return self.node_cannot_park

    def budget_ends_at(self, reservation: Reservation) -> float | None:
        """When a budget that ends it will be empty, if everything goes on; None when none will be before it refills."""
        now = self.clock()
        if not reservation.rate or not self.standing.has_budgets(reservation.owner, now):
            return None
        ends = [
            purse.lasts_until(now)
            for purse in self.purses(reservation.owner)
            if purse.budget.beyond == "refuse" and reservation.kind in purse.budget.kinds
        ]
        return min((at for at in ends if at is not None), default=None)

    def running(self) -> list[Charge]:
        """What everybody holds now, charged until now."""
        return self.world().running()

    def purses(self, person: str) -> list[Purse]:
        """The budgets that ``person`` takes from, as they stand."""
        return self.standing.purses(person, Charges(self.running()), self.clock())

    def spoken_for(self, purse: Purse) -> float:
        """Weighted GPU-hours that what runs and waits will still take from ``purse``."""
        return self.standing.spoken_for(purse, self._live, self.slots, self.clock())

    def stop_of(self, reservation: Reservation) -> Stop:
        """How it is to be stopped. What is preempted has the grace of its pool, for a checkpoint."""
        if reservation.reason is not Reason.PREEMPTED:
            return self.limits.stop
        slots = {slot.key: slot for slot in self.slots}
        names = {self.standing.pool_name(slots[h.key]) for h in reservation.holdings if h.key in slots}
        rules = [rule for name in names if name and (rule := self.limits.pools[name].preempt)]
        grace = max((rule.grace for rule in rules), default=self.limits.stop.save_grace)
        return Stop(save_grace=grace, term_grace=self.limits.stop.term_grace)

    def enforcement_of(self, share: ShareRequest) -> str:
        """What would hold ``share`` to its size; never overstated."""
        if share.engine in self.engines:
            return self.engines[share.engine].enforcement(share)
        return share_enforcement(share, self.device_filter, bool(self.inventory and self.inventory.simulated))

    def world(self) -> World:
        """What a decision would look at now."""
        return World(self._live, self._waiting, self.standing, self._fleet, self.clock())

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
        """The same for several, in their order; in place of what may not be, why."""
        return self.intake.submit_many(wishes)

    def starting(self, reservation_id: str) -> Reservation:
        """A start begins: durable before any process exists. Raises PublicError when it may not."""
        reservation = self.get(reservation_id)
        if reservation.state not in (State.GRANTED, State.STARTING):
            raise wrong_state(reservation, "be started")
        if any(session.reservation_id == reservation_id for session in self.unaccounted):
            message = "a session of it runs that the ledger does not know of: an administrator has to decide first"
            raise PublicError("unaccounted", message, 409)
        return self.change(reservation, reservation.starting(self.clock()))

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
        return self.change(reservation, reservation.active(enforcement, self.clock()))

    def extend(self, reservation_id: str, seconds: int) -> Reservation:
        """Moves the end. Refused beyond the limits, and when somebody who waits would start later for it."""
        reservation = self.get(reservation_id)
        if reservation.state not in EXTENDABLE:
            raise wrong_state(reservation, "be extended")
        engine = self.engines.get(reservation.request.engine)
        if reservation.external is not None and (why := engine.cannot_extend() if engine else "its engine is away"):
            raise PublicError("not-extendable", f"its end cannot be moved: {why}", 409)
        effective = self.standing.effective(reservation.owner, self.clock())
        check_extension(effective, reservation, seconds, self.purses(reservation.owner), self.spoken_for)
        longer = reservation.extended(seconds)
        if reservation.external is None and (why := self.world().unfit(longer)):
            message = f"it cannot go on for {duration_text(seconds)} more: {why}; a shorter extension may still fit"
            raise PublicError("not-open", message, 409, {"seconds": seconds})
        delayed = self.world().delayed_by(longer)
        if delayed:
            message = (
                f"{delayed} waiting request{'s' if delayed > 1 else ''} would start later if this session went on for "
                f"{duration_text(seconds)} more: it ends as planned; a shorter extension may still fit"
            )
            raise PublicError("others-wait", message, 409, {"seconds": seconds, "waiting": delayed})
        detail = f"extended by {duration_text(seconds)}"
        return self.change(reservation, replace(longer, detail=detail))

    def end(self, reservation_id: str, reason: Reason, detail: str) -> Reservation:
        """Begins the end; one that has no process ends at once. Idempotent."""
        reservation = self.get(reservation_id)
        if reservation.goes_back:  # it was to be started again; now it is not
            return self.change(reservation, replace(reservation, reason=reason, detail=detail))
        if reservation.state in (State.ENDING, State.ENDED):
            return reservation
        outside = reservation.external is not None and reservation.external.handed_over
        if reservation.state in (State.QUEUED, State.GRANTED) and not outside:
            return self.change(reservation, reservation.ended(reason, detail, self.clock()))
        return self.change(reservation, reservation.ending(reason, detail, self.clock()))

    def gone(self, reservation_id: str, reason: Reason, detail: str, generation: int = 0) -> Reservation:
        """Every process of it was seen gone: it has ended, its devices are free. What was preempted waits again.

        ``generation``: the start that was seen gone; 0: whichever it is.
        """
        reservation = self.get(reservation_id)
        if reservation.state in (State.ENDED, State.QUEUED) or (reservation.state is State.GRANTED and generation):
            return reservation
        if generation and generation != reservation.generation:
            return reservation  # told of an earlier start: it was requeued meanwhile
        if reservation.goes_back:
            return self.change(reservation, reservation.requeued())
        return self.change(reservation, reservation.ended(reason, detail, self.clock()))

    def tick(self) -> list[Reservation]:
        """What time alone brings: ends, starts that were given up, and grants. Returns those that begin to end."""
        world = self.world()
        now = world.now
        changes = []
        for reservation in self._live.values():
            after = due(reservation, self.limits, now) or world.exhausted(reservation)
            if after is not None:
                changes.append(Change(after, reservation))
        decided = self.decide(changes)
        if decided:
            self.commit(decided)
        return [change.after for change in decided.changes if change.after.state is State.ENDING]

    def set_inventory(self, inventory: Inventory) -> None:
        """The devices as the agent sees them now. One that held shares and is missing stays, cordoned."""
        found, self.gpus_unknown = bool(self.gpus_unknown), ""
        if self._renew(inventory) or found:
            self._settle()

    def _renew(self, inventory: Inventory) -> bool:
        return self._fleet.update(inventory, self._holders())

    def _holders(self) -> set[str]:
        """UUIDs of all devices that somebody has something of."""
        return {h.device_uuid for r in self._live.holding for h in r.holdings} | set(self._fleet.apart)

    def set_unaccounted(self, sessions: Sequence[EngineSession]) -> None:
        """What runs here though the ledger does not know it: no new share goes to its devices."""
        if sessions != self.unaccounted:
            self.unaccounted = tuple(sessions)
            self._fleet.occupied = {uuid: _occupied(session) for session in sessions for uuid in session.devices}
            if self.inventory is not None:
                self.set_inventory(self.inventory)

    def settle(self, reservation_id: str, who: str) -> None:
        """An administrator, ``who``, has decided about a row that is not understood, and nothing of it runs."""
        self._ledger.settle(reservation_id, self.clock(), f"its row was not understood; {who} has ended it")
        self._fleet.apart = _held_apart(self.apart.values())
        if self.inventory is not None:
            self.set_inventory(self.inventory)
        self.touch()

    def known(self, names: Iterable[str]) -> frozenset[str]:
        """Those of ``names`` that the ledger has a reservation of, ended or not."""
        return frozenset(name for name in names if name in self._live or self._ledger.get(name) is not None)

    def lose_sight(self, why: str) -> None:
        """Nobody knows how this machine's GPUs are, for ``why``, until they are seen again."""
        if self.gpus_unknown != why:
            self.gpus_unknown = why
            self.touch()

    def set_devices(self, engine: str, devices: Sequence[Device]) -> None:
        """The devices of an engine that places work itself, as it tells them now."""
        if self._fleet.update_engine(engine, tuple(devices), self._holders()):
            self.touch()

    def set_standing(self, standing: Standing) -> None:
        """Other limits from now on; what runs keeps what it was granted."""
        self.standing = standing
        for reservation in self._live.values():
            if reservation.waits:
                self._put_waiting(reservation)
        self._settle()

    def cut_to_limits(self) -> None:
        """Moves the end of what runs to what its owner could ask for now; she is told as before any other end."""
        now = self.clock()
        changes = []
        for reservation in self._live.values():
            longest = self.standing.effective(reservation.owner, now).max_time(reservation.kind)
            shorter = shortened(reservation, longest, now + max(self.limits.notices, default=0))
            if shorter is not None:
                changes.append(Change(shorter, reservation))
        if changes:
            self.commit(self.decide(changes))

    def touch(self) -> None:
        """Something that people see has changed."""
        self.version += 1
        self.changed(())

    def set_groups(self, person: str, groups: Sequence[str]) -> None:
        """The groups of ``person``, as JupyterHub tells them; kept for when it does not."""
        with self._ledger.transaction() as connection:
            policy_tables.set_person(connection, person, groups, self.clock())
        self.standing.set_groups(person, groups)

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
        if self.inventory is not None and self._renew(self.inventory):
            self._settle()

    def events_heard(self, boot_id: str) -> int:
        """The number of the last event that was taken in; events are numbered anew with every boot of the node."""
        heard = self._ledger.read_meta("events_heard")
        try:
            return sound.count("seq", heard["seq"]) if heard and heard["boot_id"] == boot_id else 0
        except sound.ODD:
            return 0

    def hear(self, boot_id: str, seq: int) -> None:
        """Event ``seq`` was taken in."""
        self._ledger.write_meta("events_heard", {"boot_id": boot_id, "seq": seq})

    def notice(self, reservation_id: str, level: str, text: str) -> None:
        """Something its owner must read now; kept until the reservation ends."""
        if reservation_id not in self._live:
            return
        before = self.notices.get(reservation_id, ())
        self.notices[reservation_id] = (*before[-9:], Notice(level, text, self.clock()))
        self.touch()

    # --- what every change goes through

    def _settle(self) -> None:
        """Devices or limits are others: decides at once, so that what people are told follows from it."""
        decided = self.decide([])
        if decided:
            with suppress(LedgerSilent):  # then the next tick decides it
                self.commit(decided)
        self.touch()

    def decide(self, changes: list[Change]) -> Decided:
        """``changes`` and what follows from them, unless nobody knows how things are. While only the GPUs are unknown,
        what needs none is decided, and what was promised of them stands."""
        if self._paused or (self.inventory is None and not self.gpus_unknown):
            return Decided(changes)
        return self.world().decided(changes, cpu_only=bool(self.gpus_unknown))

    def change(self, before: Reservation, after: Reservation) -> Reservation:
        """Writes ``after`` in place of ``before``, and what follows from it."""
        frees, waits = before.holds and not after.holds, before.waits != after.waits
        decided = Decided([Change(after, before)])
        if frees or waits or before.ends_at != after.ends_at:
            decided = self.decide(decided.changes)
        self.commit(decided)
        return after

    def commit(self, decided: Decided) -> None:
        """Writes what was decided, all or nothing, with what it charges."""
        now = self.clock()
        changes = [replace(change, charge=closed(change.before, change.after, now)) for change in decided.changes]
        left = {change.after.id for change in changes if not change.after.waits and change.before is not None}
        over = {name: None for name in left if (known := self._waiting.get(name)) is not None and known.promise}
        self._ledger.commit(changes, now, {**decided.promises, **over})
        for change in changes:
            if change.charge is not None:
                self.standing.books.close(change.charge, now)
            if change.after.waits:
                self._put_waiting(change.after)
            else:
                self._waiting.pop(change.after.id, None)
            if change.after.state is State.ENDED:
                self._live.drop(change.after.id)
                self.notices.pop(change.after.id, None)
            else:
                self._live.put(change.after)
        for name, promise in decided.promises.items():
            if name in self._waiting:
                self._waiting[name] = replace(self._waiting[name], promise=promise)
        self.version += 1
        self.changed([*(change.after.id for change in changes), *decided.promises])

    def _put_waiting(self, reservation: Reservation, promise: Promise | None = None) -> None:
        known = self._waiting.get(reservation.id)
        promise = known.promise if known is not None else promise
        self._waiting[reservation.id] = replace(reservation.waiting(self.limits.stop.longest_s), promise=promise)


def _cordons(told: object) -> dict[str, str]:
    """Those that are understood."""
    found = told.items() if isinstance(told, dict) else ()
    return {uuid: why for uuid, why in found if isinstance(uuid, str) and isinstance(why, str)}


def _held_apart(rows: Iterable[Apart]) -> dict[str, str]:
    return {
        uuid: f"what the ledger has of a reservation of {row.owner} ({row.reservation_id}) is not understood, and it "
        "may hold this: it stays until an administrator ends it (timeshare unaccounted)"
        for row in rows
        for uuid in row.devices
    }


def _occupied(session: EngineSession) -> str:
    return (
        f"a session of {session.owner} runs on it that the ledger does not know ({session.reservation_id}): it stays "
        "until an administrator ends it"
    )
