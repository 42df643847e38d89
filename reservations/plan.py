"""Who holds what until when, and what is booked for those who wait: one plan of the pool's future. Pure.

Conservative backfilling: whoever waits has a place in the plan, and nobody is given room that somebody else has. What
was promised is booked before anything is planned, so a later plan can bring it forward only; what becomes free early is
used to do so (a *compression* of the plan: Mu'alem and Feitelson, "Utilization, Predictability, Workloads, and User
Runtime Estimates in Scheduling the IBM SP2 with Backfilling", 2001).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .allowances import Allowances, Excess
from .placement import Holding, Room
from .policy import Domain, Policy
from .queue import Facts, Promise, Waiting
from .tally import Tally
from .timeline import FOREVER, Timeline


class Place(NamedTuple):
    """Where ``holdings`` are free from ``start`` (seconds) on. ``excess``: the limit of its owner's own without which
    it would be earlier (infinite: without which it could start at all); None when only room is missing."""

    start: float
    holdings: tuple[Holding, ...]
    excess: Excess | None = None


class Plan:
    """What is held and what is booked, from now on."""

    def __init__(self, facts: Facts, policy: Policy, tally: Tally) -> None:
        self.now = facts.now
        self._policy = policy
        self._timeline = Timeline(facts.slots, facts.now)
        self._allowances = Allowances(policy, tally, facts.now)
        self._floors: dict[object, float] = {}
        for held in facts.held:
            self._timeline.take(held.holdings, facts.now, held.until(facts.now))
            self._allowances.hold(held)

    def book(self, item: Waiting, place: Place | Promise) -> None:
        """``item`` has ``place`` from now on."""
        self._timeline.take(place.holdings, place.start, place.start + item.seconds)
        self._allowances.book(item, place.holdings, place.start)

    def cancel(self, item: Waiting, place: Place | Promise) -> None:
        """Undoes ``book``."""
        self._timeline.give_back(place.holdings, place.start, place.start + item.seconds)
        self._allowances.cancel(item, place.holdings, place.start)
        self._floors.clear()

    def hinders(self, item: Waiting, promise: Promise) -> str:
        """What keeps ``promise`` of ``item`` from being booked; empty: nothing does."""
        if not self._timeline.knows(promise.holdings):
            return "a device that was kept for it is out of service"
        if not self._timeline.has(promise.holdings, promise.start, promise.start + item.seconds):
            return "what runs on the devices that were kept for it has not ended in time"
        return self.limits_hinder(item, promise)

    def limits_hinder(self, item: Waiting, promise: Promise) -> str:
        """The limits or their calendar that keep ``item`` from ``promise``, in words; empty: none do."""
        domain, end = self._policy.domain(item), promise.start + item.seconds
        for holding in promise.holdings:
            if not domain.has(holding.key):
                return "the limits do not open these devices to it"
            if not domain.allows(holding.key, promise.start, item.seconds):
                return self._policy.kept_for(holding.key, item.owner, promise.start, end)
        excess = self._allowances.excess(item, promise.holdings, promise.start)
        return "" if excess is None else excess.wait.text

    def in_service(self, promise: Promise) -> bool:
        """Whether all devices that were kept for it are."""
        return self._timeline.knows(promise.holdings)

    def may_be_earlier(self, item: Waiting, promise: Promise) -> bool:
        """Whether ``item`` might begin before its booked ``promise``. False is certain."""
        domain = self._policy.domain(item)
        return self._timeline.may_begin_before(item.request, item.seconds, domain, promise.holdings, promise.start)

    def earliest(self, item: Waiting, after: float | None = None) -> Place | None:
        """The first place for ``item`` from ``after`` (seconds; None: now) on; None when nobody can say."""
        return self._earliest(item, self._policy.domain(item), self.now if after is None else after)

    def next(self, item: Waiting) -> Place | None:
        """``earliest``, for those who are looked at one after the other while places are only booked: an equal request
        further back cannot begin before one ahead."""
        bounds = (item.owner, item.kind) if self._bounded else ()
        kind = (item.request, item.seconds, id(self._policy.domain(item)), bounds)
        place = self.earliest(item, self._floors.get(kind))
        if place is not None and place.excess is None:
            self._floors[kind] = place.start
        return place

    def free_now(self, item: Waiting) -> list[tuple[Room, float]]:
        """What is free now for such a request as ``item``, and until when nobody else has it."""
        return self._timeline.free_now(item.request, self._policy.domain(item))

    def allows(self, item: Waiting, holdings: tuple[Holding, ...], start: float) -> bool:
        """Whether ``item`` may have just these ``holdings`` from ``start`` on: they are booked for nobody else."""
        free = self._timeline.has(holdings, start, start + item.seconds)
        return free and self._allowances.excess(item, holdings, start) is None

    @property
    def _bounded(self) -> bool:
        return self._allowances.bounded

    def _earliest(self, item: Waiting, domain: Domain, after: float, *, one_pool: bool = False) -> Place | None:
        """``one_pool``: ``domain`` has no other one to look at where a limit of the pool is met."""
        first: Excess | None = None
        start = after
        while start != FOREVER:
            found = self._timeline.earliest(item.request, item.seconds, start, domain)
            if found is None:
                return None
            start, holdings = found
            excess = self._allowances.excess(item, holdings, start)
            if excess is None:
                return Place(start, holdings, first)
            if excess.pool and not one_pool:
                return self._in_other_pools(item, domain, start, excess)
            first = first or excess
            start = excess.until
        return None if first is None else Place(FOREVER, (), first)

    def _in_other_pools(self, item: Waiting, domain: Domain, start: float, excess: Excess) -> Place | None:
        """The first place from ``start`` on, each pool looked at by itself: where one is closed another may be open."""
        looked = (self._earliest(item, part, start, one_pool=True) for part in self._parts(domain))
        places = [place for place in looked if place is not None]
        best = min(places, key=lambda place: place.start, default=Place(FOREVER, ()))
        return best if best.start <= start else best._replace(excess=excess)

    def _parts(self, domain: Domain) -> Iterator[Domain]:
        pooled = self._policy.pool_of
        for pool in self._policy.pools:
            yield Domain(frozenset(key for key in pool.slots if domain.has(key)), domain.blocks)
        yield Domain(
            frozenset(key for key in self._policy.slots if key not in pooled and domain.has(key)), domain.blocks
        )
