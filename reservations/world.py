"""Everything that a decision looks at, at one moment, and what follows from it. Pure: nothing is written here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from .clock import duration_text
from .fleet import Fleet
from .job import JobSpec
from .kind import Kind
from .ledger import Change
from .limits.host_bounds import HostRules
from .live import Live
from .outlook import Prospect, delayed, forecast, latest_for_new, prospects, unfit
from .placement import Holding, gpus_of, least_gpus
from .policy import Policy
from .queue import Decision, Facts, Forecast, Held, Promise, Waiting
from .reservation import Reason, Reservation, State, Terms
from .schedule import schedule
from .shares import Shape
from .standing import Standing
from .submission import SHORTEST_S, Submission
from .tally import Tally
from .usage import Charge, Charges

TOGETHER_S = 3.0
"""Those of an array are asked for one after the other, in less time than this between two."""


@dataclass
class Decided:
    """What is to be committed together: ``changes``, and what is promised to those who wait where that is new."""

    changes: list[Change]
    promises: dict[str, Promise | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.changes or self.promises)


@dataclass(frozen=True)
class World:
    """``live``: every reservation that has not ended. ``now``: seconds since the epoch. Use it before anything of it
    changes.

    ``items``: those that wait as the decision sees them, with what they were promised; a decision looks at all.
    ``closing``: what ends at this moment, and is in no books yet.
    """

    live: Live
    items: Mapping[str, Waiting]
    standing: Standing
    fleet: Fleet
    now: float
    closing: tuple[Charge, ...] = ()

    def with_changes(self, reservations: Collection[Reservation]) -> World:
        """The world with ``reservations`` in it, or as they are now. What ends with them is charged at once: whoever
        had it has had it."""
        before = ((self.live.get(after.id), after) for after in reservations)
        closing = tuple(charge for was, after in before if (charge := closed(was, after, self.now)) is not None)
        return replace(self, live=self.live.with_changes(reservations), closing=(*self.closing, *closing))

    def running(self) -> list[Charge]:
        """What everybody holds, charged until now, and what ends now."""
        return [*(reservation.charge(self.now) for reservation in self.live.holding), *self.closing]

    def policy(self, owners: Iterable[str] = ()) -> Policy:
        """The limits as the decision goes by them. ``owners``: people to know beside those who hold or wait."""

        def everybody() -> set[str]:
            return {*self.live.owners, *owners}

        return self.standing.policy(self.fleet.slots, everybody, Charges(self.running()), self.now)

    @cached_property
    def facts(self) -> Facts:
        """Devices, holders and those who wait."""
        grace = self._grace
        held = [reservation.held(grace) for reservation in self.live.holding]
        waiting: list[Waiting] = []
        turns = Turns(self.live.holding)
        for reservation in self.live.others:
            if reservation.external is not None:
                # Of an array that limits itself no more can begin at once than it says.
                if reservation.external.handed_over and turns.take(reservation.job):
                    held.append(self._claimed(reservation))
            elif reservation.waits:
                if not turns.take(reservation.job):
                    continue  # others of its array come first
                waiting.append(self.items.get(reservation.id) or reservation.waiting(grace))
        return Facts(self.fleet.devices, tuple(held), tuple(waiting), self.now, self.fleet.slots)

    def _claimed(self, reservation: Reservation) -> Held:
        """What the engine has of ``reservation``, which may begin there at any moment: it counts as if it had."""
        slots = [slot for slot in self.fleet.slots if slot.engine == reservation.request.engine]
        gpus = least_gpus(reservation.request, slots)
        name, owner, kind = reservation.id, reservation.owner, reservation.kind
        return Held(name, owner, (), float("inf"), kind, gpus, reservation.submitted_at)

    def handed_over_next(self, engine: str) -> list[Reservation]:
        """Those whose turn it is to be handed to ``engine``, which then decides when they start: all that no limit of
        their owners keeps back, in their order. What remains of an array follows at once if its first ones may start:
        the engine keeps its parallel bound."""
        facts, policy = self.facts, self.policy()
        tally = Tally(facts.all_slots, facts.held, policy)
        mine = [r for r in self.live.values() if r.external is not None and r.request.engine == engine]
        under_way = Counter(r.job.array for r in mine if r.job and r.external and r.external.handed_over)
        arrived = Counter(r.job.array for r in mine if r.job)
        newest = max((r.submitted_at for r in mine), default=0.0)
        taken: Counter[str] = Counter()
        found = []
        for reservation in mine:
            external, job = reservation.external, reservation.job
            if reservation.state is not State.QUEUED or external is None or external.handed_over:
                continue
            if job is not None and arrived[job.array] < job.of and self.now < newest + TOGETHER_S:
                continue  # the rest of it is just being asked for
            bound = job.parallel if job is not None else 0
            if job is not None and bound and under_way[job.array] and under_way[job.array] + taken[job.array] >= bound:
                continue  # a part of it was kept back before: its engine knows the bound of that part only
            item = reservation.waiting(self._grace)
            follows = job is not None and bound and taken[job.array] >= bound
            if not follows and tally.blocked(item) is not None:
                continue
            if not follows:
                tally.claim(item)
            if job is not None:
                taken[job.array] += 1
            found.append(reservation)
        return found

    def keeper(self) -> Callable[[Reservation], str]:
        """Return what says why one of ``live`` is not handed to its engine yet, in words; empty when nothing keeps
        it. Made once for all of them."""
        facts = self.facts
        tally = Tally(facts.all_slots, facts.held, self.policy())

        def kept_back(reservation: Reservation) -> str:
            wait = tally.blocked(reservation.waiting(self._grace))
            return "" if wait is None else wait.text

        return kept_back

    def begun(self, reservation: Reservation, holdings: Sequence[Holding], at: float) -> Reservation:
        """``reservation`` once its engine has started it on ``holdings``."""
        return reservation.granted(tuple(holdings), at, self._terms(reservation, holdings))

    def forecast(self) -> dict[str, Forecast]:
        """Position and latest start of everyone who waits."""
        return forecast(self.facts, self.policy())

    def remembered(self) -> dict[str, Forecast]:
        """The same while nobody has seen the devices: what was promised stands."""
        found = {}
        for position, item in enumerate(self.facts.waiting, start=1):
            start = None if item.promise is None else max(item.promise.start, self.now)
            found[item.id] = Forecast(position, start, "its node has not answered yet", item.promise is not None)
        return found

    def latest_starts(self, wishes: Sequence[Submission]) -> list[Forecast]:
        """What each of ``wishes`` could expect if it joined the queue now."""
        policy = self.policy([wish.owner for wish in wishes])
        return latest_for_new(self.facts, policy, [self._as_waiting(wish) for wish in wishes])

    def prospects(self, wishes: Sequence[Submission]) -> list[Prospect]:
        """The same, and what of each is free now."""
        policy = self.policy([wish.owner for wish in wishes])
        items = [self._as_waiting(wish) for wish in wishes]
        return prospects(self.facts, policy, items, SHORTEST_S + self._grace)

    def _as_waiting(self, wish: Submission) -> Waiting:
        seconds = wish.time_limit_s or self.standing.effective(wish.owner, self.now).default_time(wish.kind)
        return Waiting("", wish.owner, wish.request, seconds + self._grace, self.now, wish.kind)

    def delayed_by(self, longer: Reservation) -> int:
        """How many waiting requests would start later if ``longer`` replaced the reservation of its id."""
        if not self.facts.waiting:
            return 0
        return len(delayed(self.facts, self.policy(), longer.held(self._grace)))

    def unfit(self, longer: Reservation) -> str:
        """Why the limits or their calendar do not let ``longer`` replace the reservation of its id; empty: they do."""
        policy = self.policy([longer.owner])
        return "" if policy.plain else unfit(self.facts, policy, longer.held(self._grace))

    def exhausted(self, reservation: Reservation) -> Reservation | None:
        """The end of ``reservation`` because a budget that it takes from is empty; None while none is."""
        if reservation.state not in (State.STARTING, State.ACTIVE) or not reservation.rate:
            return None
        if not self.standing.has_budgets(reservation.owner, self.now):
            return None
        for purse in self.standing.purses(reservation.owner, Charges(self.running()), self.now):
            if purse.empty and purse.budget.beyond == "refuse" and reservation.kind in purse.budget.kinds:
                return reservation.ending(Reason.BUDGET, purse.describe(), self.now)
        return None

    def decided(self, changes: Sequence[Change], *, cpu_only: bool = False) -> Decided:
        """``changes`` and the grants, refusals, preemptions and promises that follow from them. ``cpu_only``: for those
        alone who wait for no GPU."""
        after = {change.after.id: change.after for change in changes}
        world = self.with_changes(after.values())
        decision = Decision()
        if any(reservation.waits and reservation.external is None for reservation in world.live.others):
            facts = world.facts
            if cpu_only:
                waiting = tuple(item for item in facts.waiting if item.request.shape is Shape.CPU)
                facts = replace(facts, waiting=waiting)
            decision = schedule(facts, world.policy())
            after |= world._carried_out(decision)
        changed = [Change(reservation, self.live.get(name)) for name, reservation in after.items()]
        return Decided(changed, decision.promises)

    def _carried_out(self, decision: Decision) -> dict[str, Reservation]:
        after = {}
        for name in decision.broken:
            after[name] = replace(self.live[name], detail=_broken(decision.promises[name], self.now))
        for grant in decision.grants:
            before, terms = self.live[grant.id], self._terms(self.live[grant.id], grant.holdings)
            begin = before.resumed if before.state is State.PARKED else before.granted
            after[grant.id] = begin(grant.holdings, self.now, terms)
        for refusal in decision.refusals:
            before, why = self.live[refusal.id], refusal.error.message
            if before.state is State.PARKED:
                after[refusal.id] = replace(before, asked_again_at=None, detail=f"it got no GPU again: {why}")
            else:
                after[refusal.id] = before.ended(Reason.REFUSED, why, self.now)
        for victim in decision.preemptions:
            after[victim.id] = preempted(self.live[victim.id], victim.why, self.now)
        return after

    def _terms(self, reservation: Reservation, holdings: Sequence[Holding]) -> Terms:
        slots = {slot.key: slot for slot in self.fleet.slots}
        gpus = gpus_of(holdings, slots)
        model = next((slots[h.key].model for h in holdings if h.key in slots), "")
        request = reservation.request
        bounds = self.host_rules(reservation.owner, reservation.kind, request.engine).granted(request)
        rate = gpus * self.standing.weight(model)
        return Terms(gpus, rate, model, self.standing.version, bounds.known_cpus, bounds.known_memory_mib)

    def host_rules(self, owner: str, kind: Kind, engine: str = "") -> HostRules:
        """What ``owner`` may have of cores and main memory by the limits in force now, on this machine or at
        ``engine``."""
        host = None if engine else self.fleet.host
        effective = self.standing.effective(owner, self.now)
        return HostRules(effective, kind, host, self.standing.limits.host_memory_fraction)

    @property
    def _grace(self) -> float:
        """Seconds that a stop may take: devices are not free before."""
        return self.standing.limits.stop.longest_s


class Turns:
    """How many more of each array may be granted; of an array that limits itself, those after that do not wait yet."""

    def __init__(self, holding: Iterable[Reservation]) -> None:
        self._taken: dict[str, int] = {}
        for reservation in holding:
            self.take(reservation.job)

    def take(self, job: JobSpec | None) -> bool:
        """False when ``job`` must wait for another one of its array to end."""
        if job is None or not job.parallel:
            return True
        taken = self._taken.get(job.array, 0)
        self._taken[job.array] = taken + 1
        return taken < job.parallel


def closed(before: Reservation | None, after: Reservation, now: float) -> Charge | None:
    """What the holding of ``before`` came to, if ``after`` ends it at ``now`` (seconds); None while it goes on."""
    if before is None or not before.holds or after.holds:
        return None
    until = now if after.ended_at is None else after.ended_at
    return replace(before.charge(until), reason=after.reason.value if after.reason else "preempted")


def _broken(anew: Promise | None, now: float) -> str:
    why = "the start that was promised cannot be kept: devices, limits or their calendar have changed"
    return why if anew is None else f"{why}; it starts in {duration_text(round(anew.start - now))} at the latest"


def preempted(reservation: Reservation, why: str, now: float) -> Reservation:
    """The end of a job that gives way: at once back into the queue if nothing of it runs yet."""
    if reservation.state is State.GRANTED:
        ending = replace(reservation, state=State.ENDING, reason=Reason.PREEMPTED, detail=why, ending_at=now)
        return ending.requeued()
    return reservation.ending(Reason.PREEMPTED, why, now)
