"""What people, groups and pools may hold at once, over time: what is held, and what is booked for later. Pure.

``Tally`` answers for this moment. A start that is told for later has to keep the same limits then, when what is held
now has ended and what else was promised has begun.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .clock import duration_text
from .kind import Kind
from .limits.values import amount_text, gpus_text
from .placement import Holding
from .policy import TINY, UNLIMITED, Policy, PoolRule, Span
from .queue import Held, Waiting
from .tally import Tally, Wait
from .timeline import cut

Payer = tuple[str, ...]
"""Whose limit it is: ``person``, ``group``, ``pool`` (a person's in it) or ``batch`` (of a pool), and the names."""


@dataclass(frozen=True)
class Booking:
    """GPUs that one holds from ``start`` to ``end`` (seconds). ``firm_batch``: batch that gives way to nobody."""

    owner: str
    account: str
    gpus: float
    in_pools: tuple[tuple[str, float], ...]
    firm_batch: bool
    start: float
    end: float

    def payers(self) -> Iterator[tuple[Payer, float]]:
        yield ("person", self.owner), self.gpus
        yield ("group", self.account), self.gpus
        for pool, gpus in self.in_pools:
            yield ("pool", pool, self.owner), gpus
            if self.firm_batch:
                yield ("batch", pool), gpus


@dataclass(frozen=True)
class Excess:
    """A limit that would be broken, and when it is broken no more (seconds; infinite: never, as far as is known).
    ``pool``: the limit is of that pool, and another one may be open."""

    wait: Wait
    until: float
    pool: str = ""


class _Step(NamedTuple):
    value: float
    begins: float
    until: float


class Level:
    """GPUs over time as a step function; the last step lasts for ever."""

    __slots__ = ("times", "values")

    def __init__(self, now: float) -> None:
        self.times, self.values = [now], [0.0]

    def add(self, gpus: float, start: float, end: float) -> None:
        """Adds ``gpus`` from ``start`` to ``end`` (seconds)."""
        first = cut(start, self.times, self.values)
        for i in range(first, len(self.times) if end == UNLIMITED else cut(end, self.times, self.values)):
            self.values[i] += gpus

    def beyond(self, most: float, start: float, end: float) -> _Step | None:
        """The last step between ``start`` and ``end`` (seconds) that is above ``most``."""
        for i in range(bisect_left(self.times, end) - 1, max(0, bisect_right(self.times, start) - 1) - 1, -1):
            if self.values[i] > most + TINY:
                until = self.times[i + 1] if i + 1 < len(self.times) else UNLIMITED
                return _Step(self.values[i], self.times[i], until)
        return None


class Allowances:
    """Who holds how much when, against the limits of ``policy``. A level is kept once somebody asks for it."""

    def __init__(self, policy: Policy, tally: Tally, now: float) -> None:
        self._policy, self._tally, self._now = policy, tally, now
        self._bookings: list[Booking] = []
        self._levels: dict[Payer, Level] = {}
        self.bounded = policy.bounded

    def hold(self, held: Held) -> None:
        """``held`` holds from now on until its devices are free."""
        if self.bounded:
            firm = held.kind is Kind.BATCH and held.id not in self._tally.over_quota
            until = held.until(self._now)
            self._add(self._booking(held.owner, held.gpus, held.holdings, firm, self._now, until))

    def book(self, item: Waiting, holdings: tuple[Holding, ...], start: float) -> None:
        """``item`` will hold ``holdings`` from ``start`` (seconds) on."""
        if self.bounded:
            self._add(self._of(item, holdings, start))

    def cancel(self, item: Waiting, holdings: tuple[Holding, ...], start: float) -> None:
        """It will not: undoes ``book``."""
        if self.bounded:
            booking = self._of(item, holdings, start)
            self._bookings.remove(booking)
            for payer, gpus in booking.payers():
                if payer in self._levels:
                    self._levels[payer].add(-gpus, booking.start, booking.end)

    def excess(self, item: Waiting, holdings: tuple[Holding, ...], start: float) -> Excess | None:
        """The limit of ``item``'s own that is broken if it holds ``holdings`` from ``start`` on; None when none is."""
        if not self.bounded:
            return None
        gpus = self._tally.gpus(holdings)
        span = (start, start + item.seconds)
        found = self._caps(item, gpus, span) if gpus else None
        if found is not None or not self._policy.pools:
            return found
        for name, part in self._policy.in_pools(holdings).items():
            found = self._in_pool(item, self._policy.pool(name), part, span)
            if found is not None:
                return found
        return None

    def _caps(self, item: Waiting, gpus: float, span: Span) -> Excess | None:
        person = self._policy.person(item.owner)
        found = self._beyond(("person", item.owner), person.gpus, gpus, span)
        if found is not None:
            text = f"{self._have('you', found)} of the {gpus_text(person.gpus)} that one person may hold at once"
            return Excess(Wait("gpus", f"{text}; this needs {amount_text(gpus)} more"), found.until)
        most = self._policy.account(person.account).gpus
        found = self._beyond(("group", person.account), most, gpus, span)
        if found is not None:
            who = self._have(f"the group {person.account}", found)
            return Excess(Wait("group-gpus", f"{who} of the {gpus_text(most)} that it may hold together"), found.until)
        return None

    def _in_pool(self, item: Waiting, pool: PoolRule, gpus: float, span: Span) -> Excess | None:
        found = self._beyond(("pool", pool.name, item.owner), pool.gpus, gpus, span)
        if found is not None:
            text = f"{self._have('you', found)} of the {gpus_text(pool.gpus)} of the pool {pool.name}"
            return Excess(Wait("pool-gpus", f"{text} that one person may hold at once"), found.until, pool.name)
        if item.kind is Kind.SESSION or not pool.kept or self._gives_way(item.owner, pool, gpus):
            return None
        for begins, ends in pool.kept_spans:
            part = (max(begins, span[0]), min(ends, span[1]))
            found = self._beyond(("batch", pool.name), pool.gpus_in_all - pool.kept, gpus, part)
            if found is not None:
                text = f"{amount_text(pool.kept)} of the {gpus_text(pool.gpus_in_all)} of the pool {pool.name}"
                spans = f"in the next {duration_text(item.seconds)}, the time limit of this job"
                wait = Wait("kept", f"{text} are kept for sessions {spans}: a shorter job may start earlier")
                return Excess(wait, min(found.until, ends), pool.name)
        return None

    def _gives_way(self, owner: str, pool: PoolRule, gpus: float) -> bool:
        return pool.preempt is not None and self._tally.owner_beyond_quota(owner, gpus)

    def _beyond(self, payer: Payer, most: float, gpus: float, span: Span) -> _Step | None:
        if most == UNLIMITED or span[0] >= span[1]:
            return None
        return self._level(payer).beyond(most - gpus, *span)

    def _have(self, who: str, step: _Step) -> str:
        amount = amount_text(round(step.value, 3))
        holds = "hold" if who == "you" else "holds"
        return f"{who} {holds} {amount}" if step.begins <= self._now else f"{who} will hold {amount}"

    def _level(self, payer: Payer) -> Level:
        level = self._levels.get(payer)
        if level is None:
            level = self._levels[payer] = Level(self._now)
            for booking in self._bookings:
                for other, gpus in booking.payers():
                    if other == payer:
                        level.add(gpus, booking.start, booking.end)
        return level

    def _of(self, item: Waiting, holdings: tuple[Holding, ...], start: float) -> Booking:
        gpus = self._tally.gpus(holdings)
        in_pools = self._policy.in_pools(holdings)
        gives_way = any(self._gives_way(item.owner, self._policy.pool(name), part) for name, part in in_pools.items())
        firm = item.kind is Kind.BATCH and not gives_way
        return self._booking(item.owner, gpus, holdings, firm, start, start + item.seconds)

    def _booking(
        self, owner: str, gpus: float, holdings: tuple[Holding, ...], firm: bool, start: float, end: float
    ) -> Booking:
        in_pools = tuple(self._policy.in_pools(holdings).items()) if self._policy.pools else ()
        return Booking(owner, self._policy.account_of(owner), gpus, in_pools, firm, start, end)

    def _add(self, booking: Booking) -> None:
        self._bookings.append(booking)
        for payer, gpus in booking.payers():
            if payer in self._levels:
                self._levels[payer].add(gpus, booking.start, booking.end)
