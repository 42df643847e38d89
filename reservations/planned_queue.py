"""Those who wait, with the plan of what is held and of what was promised to them. Pure."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from .placement import SlotKey
from .plan import Place, Plan
from .policy import Policy
from .queue import Facts, Promise, Waiting
from .tally import Tally

IN_TURN_DEPTH = 100
"""How many are planned for where nobody may overtake."""


class PlannedQueue:
    """A decision begins with it, and so does what people are told: both see the same plan."""

    def __init__(self, facts: Facts, policy: Policy) -> None:
        self.facts, self.policy = facts, policy
        self.now = facts.now
        self.tally = Tally(facts.all_slots, facts.held, policy)
        self.promised: dict[str, Promise] = {}
        self.replaced: dict[str, Promise | None] = {}
        """Promises that cannot be kept as they are, and what is promised instead."""
        self.overdue: set[str] = set()
        """Those whose promise has passed: their devices are not free yet."""
        self.depth = policy.backfill_depth or IN_TURN_DEPTH
        self._plan: Plan | None = None

    @property
    def plan(self) -> Plan:
        """Made when something is asked of it: most decisions are about nobody who waits."""
        if self._plan is None:
            self._plan = Plan(self.facts, self.policy, self.tally)
        return self._plan

    def keep_promises(self) -> None:
        """Books what was promised: first all that can be kept as it is, then the rest anew."""
        hindered = []
        told = [(item.promise, item) for item in self.facts.waiting if item.promise is not None]
        for promise, item in sorted(told, key=lambda entry: entry[0].start):
            kept = replace(promise, start=max(promise.start, self.now))
            if self.tally.used_up(item) is not None:
                self.replaced[item.id] = None
            elif self.plan.hinders(item, kept):
                hindered.append((item, promise))
            else:
                self.promise(item, kept)
        for item, promise in hindered:
            self._promise_anew(item, promise)

    def _promise_anew(self, item: Waiting, promise: Promise) -> None:
        found = self.plan.earliest(item)
        if found is not None and found.start <= promise.start:
            found = found._replace(excess=None)  # limits of its own did not keep it back when it was promised
        anew = Promise(found.start, found.holdings) if found is not None and found.excess is None else None
        if anew is not None and promise.start <= self.now and self.plan.in_service(promise):
            # What holds its devices is past its end. The promise stands: it starts as soon as they are seen free.
            self.overdue.add(item.id)
            self.promise(item, anew)
        elif anew is not None and found is not None and self.promisable(item, found):
            self.replaced[item.id] = anew
            self.promise(item, anew)
        else:
            self.replaced[item.id] = None

    def promise(self, item: Waiting, promise: Promise) -> None:
        self.promised[item.id] = promise
        self.plan.book(item, promise)

    def may_promise(self, item: Waiting) -> bool:
        """Whether anything can be promised to ``item``: nobody may go first later, and no budget may run out."""
        return not self.policy.ranked and item.kind not in self.policy.person(item.owner).may_run_out

    def is_firm(self, item: Waiting) -> bool:
        """Whether what was promised to ``item`` can be told as firm.

        Firm is what is written down: a decision will do so with what stands in place of a broken one. A budget that
        was stated after the promise may run out before its start.
        """
        moved = item.id in self.replaced or item.id in self.overdue
        kept = not moved and not self.is_late(self.promised[item.id])
        return kept and item.kind not in self.policy.person(item.owner).may_run_out

    def promisable(self, item: Waiting, found: Place) -> bool:
        """Whether ``found`` can be promised: nothing but a failing device could take it away."""
        sure = found.start + item.seconds <= self.policy.sure_until and not self.is_late(found)
        return found.excess is None and sure and self.may_promise(item)

    def is_late(self, place: Place | Promise) -> bool:
        """Whether ``place`` is for later and waits for one that is past its end: nobody can say when that goes."""
        late = self.late
        return place.start > self.now and bool(late) and any(holding.key in late for holding in place.holdings)

    @cached_property
    def late(self) -> frozenset[SlotKey]:
        """Slots whose holder is past its end, and those of whoever was promised one of them and may be late too."""
        late = {h.key for held in self.facts.held if held.frees_at <= self.now for h in held.holdings}
        if late:
            told = [item.promise for item in self.facts.waiting if item.promise is not None]
            for promise in sorted(told, key=lambda promise: promise.start):
                keys = {holding.key for holding in promise.holdings}
                late |= keys if keys & late else set()
        return frozenset(late)
