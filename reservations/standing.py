"""How everybody stands with the limits: what each may have, has used, and may do now. No I/O.

``Standing`` keeps what changes seldom (the limits, who is in which group, exceptions, what was used) and turns it into
the ``Policy`` of a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timezone, tzinfo
from fnmatch import fnmatchcase

from .calendar import WeekTimes
from .clock import moment_text
from .kind import Kind
from .limits.effective import BUILT_IN, Effective, Override, resolve, said
from .limits.idle import IdleSettings, idle_settings
from .limits.pools import belongs, membership
from .limits.schema import Budget, CalendarEntry, Event, Limits, PoolLimits
from .limits.values import UNLIMITED, amount_text
from .live import Live
from .placement import Slot, SlotKey, least_gpus
from .policy import Account, Block, FairRules, People, Person, Policy, PoolRule, Preemption, Span
from .reservation import Reservation
from .usage import Books, Running

ENTRY_S = 3600.0
Owners = Callable[[], Iterable[str]]
DECIDED = ("gpus", "largest", "models", "budgets")
"""What of a person's limits the decision itself must know."""
AHEAD_S = 14 * 86400.0
"""How far ahead the office hours of a pool are laid out; no job may be longer than the limits allow anyhow."""
LAID_OUT_S = 86400.0
"""After so long at the latest they are laid out anew."""


@dataclass(frozen=True)
class Purse:
    """A budget and what was taken from it. Hours are weighted GPU-hours; ``refills_at`` in seconds.

    ``rate``: weighted GPUs that are held now. ``whose``: ``user`` or ``group``. ``zone``: of its window, and of what
    people read.
    """

    whose: str
    name: str
    budget: Budget
    hours: float
    used: float
    rate: float
    refills_at: float
    zone: tzinfo = timezone.utc

    @property
    def left(self) -> float:
        return max(0.0, self.hours - self.used)

    @property
    def empty(self) -> bool:
        return self.used >= self.hours

    def lasts_until(self, now: float) -> float | None:
        """When it is empty if everything that runs goes on; None when it refills before."""
        if not self.rate or self.hours == UNLIMITED:
            return None
        at = now + 3600.0 * self.left / self.rate
        return at if at < self.refills_at else None

    def describe(self) -> str:
        owner = "your budget" if self.whose == "user" else f"the budget of the group {self.name}"
        what = f"{amount_text(round(self.used, 1))} of {amount_text(self.hours)} GPU-hours this {self.budget.every}"
        return f"{owner}: {what} are used; it refills at {self.refills}"

    @property
    def refills(self) -> str:
        """When it refills, for reading."""
        return moment_text(self.refills_at, self.zone)


class Standing:
    """See the module. ``version`` is that of the limits in force; ``books``: what was used, by their rules."""

    def __init__(self, limits: Limits, version: str, books: Books | None = None) -> None:
        self.limits = limits
        self.version = version
        self.overrides: tuple[Override, ...] = ()
        self._groups: dict[str, tuple[str, ...]] = {}
        self._known: dict[str, Effective] = {}
        self._places: dict[str, tuple[str, float]] = {}
        self._known_until = -1.0
        self.books = books or Books(limits.zone, half_lives(limits))
        self._frame: tuple[Sequence[Slot], float, float, Policy] | None = None
        everyone = said(limits.defaults)
        parts = (limits.groups, limits.users, limits.pools, limits.fair_share, limits.events, limits.maintenance)
        self._says_nothing = not any(parts) and all(
            everyone.get(key, BUILT_IN[key]) == BUILT_IN[key] for key in DECIDED
        )

    def set_groups(self, person: str, groups: Iterable[str]) -> None:
        """The groups of ``person`` as JupyterHub knows them."""
        told = tuple(sorted(groups))
        if self._groups.get(person) != told:
            self._groups[person] = told
            self._known.pop(person, None)
            self._places.pop(person, None)

    def known_groups(self) -> dict[str, tuple[str, ...]]:
        """Everybody's groups, as JupyterHub told them."""
        return dict(self._groups)

    def knows(self, person: str) -> bool:
        """Whether JupyterHub ever told the groups of ``person``."""
        return person in self._groups

    def groups(self, person: str) -> tuple[str, ...]:
        return self._groups.get(person, ())

    def set_overrides(self, overrides: Iterable[Override]) -> None:
        self.overrides = tuple(overrides)
        self._known_until = -1.0

    def effective(self, person: str, now: float) -> Effective:
        """What ``person`` may have at ``now``."""
        if now >= self._known_until:
            self._known, self._places = {}, {}
            self._known_until = min((o.until for o in self.overrides if o.in_force(now)), default=UNLIMITED)
        found = self._known.get(person)
        if found is None:
            found = self._known[person] = resolve(self.limits, person, self.groups(person), self.overrides, now)
        return found

    def idle_of(self, reservation: Reservation, slots: Mapping[SlotKey, Slot], now: float) -> IdleSettings:
        """The idle rules that hold for a session. ``slots``: those known, by key."""
        held = [slots[holding.key] for holding in reservation.holdings if holding.key in slots]
        pools = {name for slot in held if (name := self.pool_name(slot)) is not None}
        return idle_settings(self.limits, self.effective(reservation.owner, now), pools, reservation.terms.gpus)

    def place(self, person: str, now: float) -> tuple[str, float]:
        """The account of ``person`` and her shares in it."""
        found = self._places.get(person) if now < self._known_until else None
        if found is None:
            effective = self.effective(person, now)
            found = self._places[person] = (effective.account, float(effective.values["shares"]))
        return found

    def weight(self, model: str) -> float:
        """What one GPU of ``model`` counts."""
        return next((w for pattern, w in self.limits.weights.items() if fnmatchcase(model, pattern)), 1.0)

    # --- budgets

    def purses(self, person: str, running: Running, now: float) -> list[Purse]:
        """Every budget that ``person`` takes from. ``running``: of everybody, what is held now."""
        mine = self.effective(person, now)
        own = [self._purse("user", person, budget, mine.extra_gpu_hours, running, now) for budget in mine.budgets]
        return own + self.group_purses(mine.account, running, now)

    def group_purses(self, name: str, running: Running, now: float) -> list[Purse]:
        """The budgets of the group ``name`` itself."""
        group = self.limits.groups.get(name)
        if group is None:
            return []
        mine = [o for o in self.overrides if o.in_force(now) and o.scope == "group" and o.name == name]
        extra = sum(o.extra_gpu_hours for o in mine)
        return [self._purse("group", name, budget, extra, running, now) for budget in group.budgets]

    def _purse(self, whose: str, name: str, budget: Budget, extra: float, running: Running, now: float) -> Purse:
        began, refills_at = self.books.window(budget.every, now)
        used = self.books.hours((whose, name), budget.kinds, budget.every, now)
        mine = [charge for charge in running.of(whose, name) if charge.kind in budget.kinds]
        used += sum(charge.hours(began, now) for charge in mine)
        rate = sum(charge.rate for charge in mine)
        return Purse(whose, name, budget, budget.gpu_hours + extra, used, rate, refills_at, self.limits.zone)

    def spoken_for(self, purse: Purse, live: Live, slots: Sequence[Slot], now: float) -> float:
        """Weighted GPU-hours that ``live`` will still take from ``purse`` before it refills: what holds devices until
        its time limit, and what waits if it began now."""
        seconds = max(0.0, purse.refills_at - now)
        taken = 0.0
        of_one = purse.whose == "user"
        for reservation in live.of(purse.name) if of_one else live.values():
            if not (of_one or reservation.account == purse.name) or reservation.kind not in purse.budget.kinds:
                continue
            if reservation.holds and reservation.ends_at is not None:
                taken += reservation.rate * min(seconds, max(0.0, reservation.ends_at - now))
            elif reservation.waits:
                rate = least_gpus(reservation.request, slots) * self.weight(reservation.request.model)
                taken += rate * min(seconds, reservation.time_limit_s)
        return taken / 3600.0

    # --- the policy of a moment

    def policy(self, slots: Iterable[Slot], owners: Owners, running: Running, now: float) -> Policy:
        """What the decision goes by. ``owners``: tells everybody who waits or holds; asked only when that matters."""
        if self._plain(now):
            return Policy(backfill_depth=self.limits.backfill_depth)

        def names() -> set[str]:
            return set(owners()) | (self.books.owners() if self.limits.fair_share else set())

        people = People(names, _Moment(self, running, now))
        return replace(self._framed(tuple(slots), now), people=people)

    def _framed(self, slots: tuple[Slot, ...], now: float) -> Policy:
        """The policy but for its people. It changes seldom, so it is kept for as long as it holds."""
        if self._frame is not None:
            of, since, until, frame = self._frame
            if of is slots and since <= now < until:
                return frame
        limits = self.limits
        frame = Policy(
            backfill_depth=limits.backfill_depth,
            fair=_fair(limits),
            accounts={
                name: Account(group.shares, group.quota or 0.0, _given(group.gpus))
                for name, group in limits.groups.items()
            },
            quotas=any(group.quota is not None for group in limits.groups.values()),
            pools=tuple(self._pools(slots, now)),
            blocks=tuple(self._blocks(slots, now)),
            slots={slot.key: slot for slot in slots},
            grace_s=limits.stop.longest_s,
            sure_until=now + AHEAD_S if any(pool.keep_for_sessions for pool in limits.pools.values()) else UNLIMITED,
        )
        self._frame = (slots, now, self._frame_ends(now), frame)
        return frame

    def _frame_ends(self, now: float) -> float:
        """Until when pools and calendar are what they are at ``now``."""
        whens = [WeekTimes.parse(pool.preempt.when) for pool in self.limits.pools.values() if pool.preempt]
        changes = [change for when in whens if (change := when.next_change(now, self.limits.zone)) is not None]
        spans = [self.limits.span(entry) for entry in (*self.limits.maintenance, *self.limits.events)]
        return min([now + LAID_OUT_S, *changes, *(ends for _, ends in spans if ends > now)])

    def _plain(self, now: float) -> bool:
        """Whether nothing but first come, first served is asked of the decision."""
        return self._says_nothing and not any(override.in_force(now) for override in self.overrides)

    def has_budgets(self, person: str, now: float) -> bool:
        """Whether ``person`` takes from any budget."""
        effective = self.effective(person, now)
        group = self.limits.groups.get(effective.account)
        return bool(effective.budgets or (group is not None and group.budgets))

    def _pools(self, slots: Sequence[Slot], now: float) -> Iterable[PoolRule]:
        shared = membership(self.limits.pools, slots)
        for name, pool in self.limits.pools.items():
            if name in shared.unmatched:
                yield _unmatched_rule(name, pool, shared.unmatched[name])
            else:
                yield self._pool_rule(name, pool, shared.of[name], now)

    def _pool_rule(self, name: str, pool: PoolLimits, slots: Sequence[Slot], now: float) -> PoolRule:
        kept = pool.keep_for_sessions
        preempt = pool.preempt
        if preempt is not None and not WeekTimes.parse(preempt.when).contains(now, self.limits.zone):
            preempt = None
        return PoolRule(
            name=name,
            slots=frozenset(slot.key for slot in slots),
            gpus_in_all=sum(slot.part for slot in slots),
            groups=None if pool.groups is None else frozenset(pool.groups),
            kinds=frozenset(pool.kinds),
            max_time=UNLIMITED if pool.max_time is None else pool.max_time,
            gpus=_given(pool.gpus),
            kept=kept.gpus if kept else 0.0,
            kept_spans=self._spans(kept.when, now) if kept else (),
            preempt=Preemption(preempt.after, preempt.grace) if preempt else None,
        )

    def _spans(self, when: str, now: float) -> tuple[Span, ...]:
        times, zone = WeekTimes.parse(when), self.limits.zone
        spans: list[Span] = []
        at, last = now, now + AHEAD_S + LAID_OUT_S
        while at < last:
            change = times.next_change(at, zone)
            until = last if change is None else min(change, last)
            if times.contains(at, zone):
                spans.append((at, until))
            if change is None:
                break
            at = change
        return tuple(spans)

    def _blocks(self, slots: Sequence[Slot], now: float) -> Iterable[Block]:
        for entry in (*self.limits.maintenance, *self.limits.events):
            begins, ends = self.limits.span(entry)
            if ends <= now:
                continue
            mine = [slot for slot in slots if self._in_entry(slot, entry, slots)]
            if isinstance(entry, Event):
                devices = list(dict.fromkeys(slot.device_uuid for slot in mine))
                kept = set(devices[-int(entry.gpus) :]) if entry.gpus != UNLIMITED else set(devices)
                mine = [slot for slot in mine if slot.device_uuid in kept] if entry.gpus else []
                block = Block(entry.name, _keys(mine), begins, ends, frozenset(entry.groups), frozenset(entry.users))
            else:
                block = Block(entry.name, _keys(mine), begins, ends)
            yield replace(block, since=moment_text(begins, self.limits.zone))

    def _in_entry(self, slot: Slot, entry: CalendarEntry, slots: Sequence[Slot]) -> bool:
        if not any(fnmatchcase(slot.node, pattern) for pattern in entry.nodes):
            return False
        return entry.pool is None or self.pool_name(slot) == entry.pool

    def pool_name(self, slot: Slot) -> str | None:
        """The pool that ``slot`` belongs to."""
        return next((name for name, pool in self.limits.pools.items() if belongs(slot, pool)), None)


class _Moment:
    """How people stand at ``now``, while ``running`` is held."""

    def __init__(self, standing: Standing, running: Running, now: float) -> None:
        self._standing, self._running, self._now = standing, running, now
        self._accounts: dict[str, str] = {}
        self._claims: dict[str, tuple[str, float, float]] = {}

    def account(self, name: str) -> str:
        found = self._accounts.get(name)
        if found is None:
            found = self._accounts[name] = self._standing.effective(name, self._now).account
        return found

    def claim(self, name: str) -> tuple[str, float, float]:
        found = self._claims.get(name)
        if found is None:
            use = self._standing.books.use(name, self._now, self._running.of("user", name))
            found = self._claims[name] = (*self._standing.place(name, self._now), use)
        return found

    def person(self, name: str) -> Person:
        standing = self._standing
        effective = standing.effective(name, self._now)
        account, shares, use = self.claim(name)
        used_up: dict[Kind, str] = {}
        later: set[Kind] = set()
        strict: set[Kind] = set()
        for purse in standing.purses(name, self._running, self._now) if standing.has_budgets(name, self._now) else ():
            if purse.budget.beyond == "refuse" and purse.hours != UNLIMITED:
                strict.update(purse.budget.kinds)
            if purse.empty and purse.budget.beyond == "refuse":
                used_up.update((kind, purse.describe()) for kind in purse.budget.kinds)
            elif purse.empty:
                later.update(purse.budget.kinds)
        return Person(
            account=account,
            groups=effective.groups,
            gpus=effective.gpus,
            largest=effective.largest,
            models=tuple(effective.values["models"]),
            shares=shares,
            use=use,
            used_up=used_up,
            may_run_out=frozenset(strict),
            later=frozenset(later),
        )


def _unmatched_rule(name: str, pool: PoolLimits, slots: Sequence[Slot]) -> PoolRule:
    """The rule of a pool without devices, whose restriction holds for ``slots``: it must not be lost."""
    groups = None if pool.groups is None else frozenset(pool.groups)
    longest = UNLIMITED if pool.max_time is None else pool.max_time
    return PoolRule(name, _keys(slots), 0.0, groups, frozenset(pool.kinds), longest, unmatched=True)


def half_lives(limits: Limits) -> dict[Kind, float] | None:
    if limits.fair_share is None:
        return None
    half_life = limits.fair_share.half_life
    return {Kind.SESSION: float(half_life.session), Kind.BATCH: float(half_life.batch)}


def _fair(limits: Limits) -> FairRules | None:
    rules = limits.fair_share
    if rules is None:
        return None
    shortest = min((value for value in (half_lives(limits) or {}).values() if value), default=86400.0)
    entry = 1.0 - 0.5 ** (ENTRY_S / shortest)
    return FairRules(rules.method, rules.weight, rules.age_weight, rules.max_age, entry)


def _given(value: float | None) -> float:
    return UNLIMITED if value is None else value


def _keys(slots: Iterable[Slot]) -> frozenset[SlotKey]:
    return frozenset(slot.key for slot in slots)
