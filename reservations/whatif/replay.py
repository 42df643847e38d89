"""Arrivals through the real decision under one policy, from event to event. No ledger, no clock, no processes.

What the service does with time and processes is done here at once: a granted reservation runs from its grant, and what
ends frees its devices then; only what is preempted keeps them for its grace. A run ends at the first of: what it would
have run, its time limit, the idle limit of its owner, an empty budget that ends what runs. While somebody waits,
decisions are made at every arrival and end, when a job may first be preempted, and every quarter of an hour, when
office hours begin and budgets refill. People do what they did: nobody extends, gives up, or asks for something else
because of other limits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from heapq import heappop, heappush

from ..admission import Desk, accept
from ..devices.model import Device
from ..errors import PublicError
from ..kind import Kind
from ..limits.schema import Limits
from ..live import Live
from ..placement import Holding, gpus_of, slots_of
from ..policy import Policy
from ..queue import Decision, Facts, Held, Waiting
from ..reservation import Reason, Reservation, State, Terms
from ..schedule import schedule
from ..standing import Standing
from ..submission import Submission
from ..usage import LONGEST_WINDOW_S, Charge
from .trace import Arrival

WAKE_S = 900.0
Progress = Callable[[float], None]
"""Called now and then with the part that is done, from 0 to 1."""


class Fate(str, Enum):
    """How an arrival ended."""

    FINISHED = "finished"
    REFUSED = "refused"
    UNFINISHED = "unfinished"


@dataclass(slots=True)
class Outcome:
    """What became of one arrival. ``why``: the refusal's code, or the reason of its end. Hours are GPU-hours: ``held``
    as counted, ``weighted`` with the weight of the model, ``idle`` what of ``held`` a session only sat on, ``lost``
    what of ``held`` was to be done again after a preemption. ``stretches``: when it held what, begin and end."""

    arrival: Arrival
    account: str = ""
    fate: Fate = Fate.UNFINISHED
    why: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    held: float = 0.0
    weighted: float = 0.0
    idle: float = 0.0
    lost: float = 0.0
    preemptions: int = 0
    stretches: list[tuple[float, float, tuple[Holding, ...]]] = field(default_factory=list)

    @property
    def wait_s(self) -> float | None:
        """Seconds from the request to the first grant; None while there was none."""
        return None if self.started_at is None else self.started_at - self.arrival.at


@dataclass(frozen=True)
class Scenario:
    """What both policies are tried on. ``until`` (seconds): what has not ended then is unfinished; None: everything
    runs to its end. ``checkpoints``: a preempted job goes on where it was; otherwise it runs again from its beginning.
    ``keep_stretches``: outcomes tell what was held when."""

    devices: tuple[Device, ...]
    arrivals: Sequence[Arrival]
    until: float | None = None
    checkpoints: bool = False
    keep_stretches: bool = False


def replay(scenario: Scenario, limits: Limits, progress: Progress | None = None) -> list[Outcome]:
    """What becomes of each arrival, in their order, under ``limits``."""
    return _Replay(scenario, limits).run(progress)


class _Event(int, Enum):
    """What happens at one time, in this order."""

    END = 0
    BUDGET = 1
    WAKE = 2


@dataclass(slots=True)
class _Run:
    """A reservation that has not ended. ``done_s``: what of its run is done already; ``ends``: why it will end when, as
    planned; ``turn`` counts grants and stops, so that the end planned for an earlier one is known to be void."""

    reservation: Reservation
    outcome: Outcome
    done_s: float = 0.0
    turn: int = 0
    why: Reason = Reason.COMPLETED
    held: Held | None = None


class _Replay:
    def __init__(self, scenario: Scenario, limits: Limits) -> None:
        self._scenario = scenario
        self._devices = scenario.devices
        self._slots = slots_of(scenario.devices, include_cordoned=True)
        self._by_key = {slot.key: slot for slot in self._slots}
        self._standing = Standing(limits, "")
        self._grace = limits.stop.longest_s
        self._runs: dict[str, _Run] = {}
        self._live = Live()
        self._waiting: dict[str, Waiting] = {}
        self._held: dict[str, Held] = {}
        self._events: list[tuple[float, int, int, str, int]] = []
        self._number = 0
        self._next_wake = 0.0
        self._open = _Open()
        self._budget_looks: dict[str, float] = {}
        self._now = 0.0

    def run(self, progress: Progress | None) -> list[Outcome]:
        arrivals = self._scenario.arrivals
        until = float("inf") if self._scenario.until is None else self._scenario.until
        outcomes = [Outcome(arrival) for arrival in arrivals]
        order = sorted(range(len(arrivals)), key=lambda number: arrivals[number].at)
        for done, number in enumerate(order):
            at = arrivals[number].at
            if at >= until:
                break
            self._pass_time(at)
            self._now = at
            self._arrives(outcomes[number])
            if progress is not None and done % 500 == 0:
                progress(done / len(order))
        self._pass_time(until)
        self._stop_counting(until)
        if progress is not None:
            progress(1.0)
        return outcomes

    # --- events

    def _pass_time(self, until: float) -> None:
        """Everything that happens by itself before ``until``, or at it."""
        while self._events and self._events[0][0] <= until:
            self._now, kind, _, name, turn = heappop(self._events)
            if kind == _Event.END:
                self._ends(name, turn)
            elif kind == _Event.BUDGET:
                self._check_budgets()
            elif self._waiting:
                self._decide()

    def _plan(self, at: float, event: _Event, name: str = "", turn: int = 0) -> None:
        self._number += 1
        heappush(self._events, (at, event.value, self._number, name, turn))

    def _plan_wake(self) -> None:
        """While somebody waits: the next full quarter of an hour, unless nothing can change any more."""
        at = (self._now // WAKE_S + 1) * WAKE_S
        if at > self._next_wake and (self._held or self._may_change()):
            self._next_wake = at
            self._plan(at, _Event.WAKE)

    def _may_change(self) -> bool:
        """Whether time alone may let somebody start who waits while nothing is held: for as long as calendars run."""
        last = max((item.submitted_at for item in self._waiting.values()), default=0.0)
        return self._now < last + LONGEST_WINDOW_S

    def _arrives(self, outcome: Outcome) -> None:
        arrival = outcome.arrival
        self._standing.set_groups(arrival.owner, arrival.groups)
        limits = self._standing.effective(arrival.owner, self._now)
        outcome.account = limits.account
        seconds = arrival.time_limit_s
        if arrival.extended and seconds is not None:
            seconds = min(seconds, limits.max_time(arrival.kind))
        policy = self._policy(arrival.owner)
        desk = Desk(self._standing, policy, self._slots, self._live, self._open, self._number, self._now)
        try:
            made = accept(desk, Submission(arrival.owner, arrival.request, seconds, arrival.kind))
        except PublicError as error:
            outcome.fate, outcome.why = Fate.REFUSED, error.reason
            return
        self._number += 1
        run = _Run(replace(made, id=f"{self._number}"), outcome)
        self._runs[run.reservation.id] = run
        self._live.put(run.reservation)
        self._waiting[run.reservation.id] = run.reservation.waiting(self._grace)
        self._decide(policy)

    def _ends(self, name: str, turn: int) -> None:
        run = self._runs.get(name)
        if run is None or run.turn != turn:
            return
        self._close(run, self._now)
        if run.reservation.goes_back:
            self._goes_back(run)
        else:
            del self._runs[name]
            self._live.drop(name)
            run.outcome.fate, run.outcome.why, run.outcome.ended_at = Fate.FINISHED, run.why.value, self._now
        self._decide()

    def _goes_back(self, run: _Run) -> None:
        """Into the queue, at its old place in time."""
        run.reservation = run.reservation.requeued()
        self._live.put(run.reservation)
        run.turn += 1
        self._waiting[run.reservation.id] = run.reservation.waiting(self._grace)
        self._waiting = dict(sorted(self._waiting.items(), key=lambda item: int(item[0])))

    def _check_budgets(self) -> None:
        """Ends what an empty budget ends."""
        self._open.now = self._now
        over = [run for run in self._runs.values() if self._over_budget(run.reservation)]
        for run in over:
            run.why = Reason.BUDGET
            run.turn += 1
            self._ends(run.reservation.id, run.turn)
        for owner in tuple(self._live.owners):
            self._plan_budgets(owner)

    def _over_budget(self, reservation: Reservation) -> bool:
        if reservation.state is not State.GRANTED or not reservation.rate:
            return False
        if not self._standing.has_budgets(reservation.owner, self._now):
            return False
        purses = self._standing.purses(reservation.owner, self._open, self._now)
        return any(
            purse.empty and purse.budget.beyond == "refuse" and reservation.kind in purse.budget.kinds
            for purse in purses
        )

    # --- decisions

    def _policy(self, owner: str = "") -> Policy:
        """The limits as the decision goes by them now. ``owner``: whoever is to be known beside those who are there."""
        self._open.now = self._now

        def owners() -> set[str]:
            return {*self._live.owners, *([owner] if owner else [])}

        return self._standing.policy(self._slots, owners, self._open, self._now)

    def _decide(self, policy: Policy | None = None) -> None:
        """``policy``: that of this moment, if it was made already."""
        if not self._waiting:
            return
        now = self._now
        policy = policy or self._policy()
        facts = Facts(self._devices, tuple(self._held.values()), tuple(self._waiting.values()), now, self._slots)
        self._carry_out(schedule(facts, policy))
        if self._waiting:
            self._plan_wake()

    def _carry_out(self, decision: Decision) -> None:
        for grant in decision.grants:
            self._starts(self._runs[grant.id], grant.holdings)
        for refusal in decision.refusals:
            run = self._runs.pop(refusal.id)
            self._live.drop(refusal.id)
            del self._waiting[refusal.id]
            run.outcome.fate, run.outcome.why = Fate.REFUSED, refusal.error.reason
        for name, promise in decision.promises.items():
            if name in self._waiting:
                self._waiting[name] = replace(self._waiting[name], promise=promise)
        for victim in decision.preemptions:
            self._gives_way(self._runs[victim.id], victim.grace)

    def _starts(self, run: _Run, holdings: tuple[Holding, ...]) -> None:
        now, outcome = self._now, run.outcome
        del self._waiting[run.reservation.id]
        gpus = gpus_of(holdings, self._by_key)
        model = self._by_key[holdings[0].key].model if holdings else ""
        terms = Terms(gpus, gpus * self._standing.weight(model), model)
        run.reservation = run.reservation.granted(holdings, now, terms)
        self._live.put(run.reservation)
        self._open.add(run)
        run.turn += 1
        self._held[run.reservation.id] = run.reservation.held(self._grace)
        if outcome.started_at is None:
            outcome.started_at = now
        seconds, run.why = self._lasts(run)
        self._plan(now + seconds, _Event.END, run.reservation.id, run.turn)
        self._plan_budgets(run.reservation.owner)
        if run.reservation.kind is Kind.BATCH:
            self._plan_preemption(run.reservation)

    def _lasts(self, run: _Run) -> tuple[float, Reason]:
        """How long it will run from its grant, and why it will end then, if nothing else comes."""
        arrival = run.outcome.arrival
        rest = arrival.run_s - run.done_s
        ends = [(rest, Reason.COMPLETED), (float(run.reservation.time_limit_s), Reason.TIME_LIMIT)]
        if arrival.kind is Kind.SESSION:
            rules = self._standing.idle_of(run.reservation, self._by_key, self._now)
            if rules.after:
                ends.append((max(rest - arrival.idle_tail_s, rules.grace) + rules.after, Reason.IDLE))
        return min(ends, key=lambda end: end[0])

    def _plan_preemption(self, job: Reservation) -> None:
        """A decision when it has run long enough to be preempted."""
        names = {self._standing.pool_name(self._by_key[holding.key]) for holding in job.holdings}
        rules = [rule for name in names if name and (rule := self._standing.limits.pools[name].preempt)]
        if rules:
            self._plan(self._now + max(rule.after for rule in rules), _Event.WAKE)

    def _plan_budgets(self, owner: str) -> None:
        """A look at the budgets of ``owner`` when the first of them that ends what runs will be empty, or refills."""
        now = self._now
        if not self._standing.has_budgets(owner, now):
            return
        self._open.now = now
        purses = self._standing.purses(owner, self._open, now)
        strict = [purse for purse in purses if purse.budget.beyond == "refuse" and purse.rate]
        soonest = min((purse.lasts_until(now) or purse.refills_at for purse in strict), default=None)
        planned = self._budget_looks.get(owner, 0.0)
        if soonest is not None and not now < planned <= soonest + 1.0:
            # A moment later: by then it is empty to the last digit.
            self._budget_looks[owner] = max(soonest, now) + 1.0
            self._plan(self._budget_looks[owner], _Event.BUDGET, owner)

    def _gives_way(self, run: _Run, grace: float) -> None:
        """Its end begins: its devices are free after ``grace``."""
        run.reservation = run.reservation.ending(Reason.PREEMPTED, "", self._now)
        self._live.put(run.reservation)
        run.outcome.preemptions += 1
        run.turn += 1
        self._held[run.reservation.id] = run.reservation.held(self._grace)
        self._plan(self._now + grace, _Event.END, run.reservation.id, run.turn)

    # --- what it came to

    def _close(self, run: _Run, now: float) -> None:
        """Charges what was held until ``now``."""
        reservation, outcome, arrival = run.reservation, run.outcome, run.outcome.arrival
        del self._held[reservation.id]
        self._open.remove(run)
        charge = reservation.charge(now)
        self._standing.books.close(charge, now)
        seconds = charge.ended - charge.began
        hours = charge.gpus / 3600.0
        outcome.held += seconds * hours
        outcome.weighted += charge.rate * seconds / 3600.0
        if arrival.kind is Kind.SESSION:
            outcome.idle += max(0.0, seconds - max(0.0, arrival.run_s - arrival.idle_tail_s)) * hours
        if reservation.goes_back and self._scenario.checkpoints:
            run.done_s = min(arrival.run_s, run.done_s + seconds)
        elif reservation.goes_back:
            outcome.lost += seconds * hours
        if self._scenario.keep_stretches:
            outcome.stretches.append((charge.began, charge.ended, reservation.holdings))

    def _stop_counting(self, until: float) -> None:
        """What still holds devices is charged until the end; what waits never started."""
        for run in list(self._runs.values()):
            if run.reservation.holds:
                self._close(run, until)


class _Open:
    """What is held, by payer, charged until ``now``."""

    def __init__(self) -> None:
        self.now = 0.0
        self._runs: dict[tuple[str, str], dict[str, _Run]] = {}

    def add(self, run: _Run) -> None:
        for payer in _payers(run.reservation):
            self._runs.setdefault(payer, {})[run.reservation.id] = run

    def remove(self, run: _Run) -> None:
        for payer in _payers(run.reservation):
            del self._runs[payer][run.reservation.id]

    def of(self, whose: str, name: str) -> Sequence[Charge]:
        runs = self._runs.get((whose, name))
        return [run.reservation.charge(self.now) for run in runs.values()] if runs else ()


def _payers(reservation: Reservation) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("user", reservation.owner), ("group", reservation.account)
