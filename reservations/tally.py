"""Who holds how much while a decision is made, and what that leaves to each. Pure; one is made for each decision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .clock import duration_text
from .kind import Kind
from .limits.values import amount_text, gpus_text
from .placement import Holding, Slot, SlotKey, gpus_of
from .policy import TINY, UNLIMITED, Policy, PoolRule
from .queue import Held, Waiting
from .shares import ShareRequest


@dataclass(frozen=True)
class Wait:
    """Why a request waits although there may be room: ``code`` is stable, ``text`` has the rule and the numbers.

    ``frees``: which holdings' end would change that, by owner or group; empty when none would.
    """

    code: str
    text: str
    owner: str = ""
    account: str = ""


class Tally:
    """GPUs held by person, by account, and by pool."""

    def __init__(self, slots: Iterable[Slot], held: Iterable[Held], policy: Policy) -> None:
        self.slots: dict[SlotKey, Slot] = {slot.key: slot for slot in slots}
        self.policy = policy
        self.by_owner: dict[str, float] = defaultdict(float)
        self.by_account: dict[str, float] = defaultdict(float)
        self._owner_in_pool: dict[tuple[str, str], float] = defaultdict(float)
        self._firm_batch: dict[str, float] = defaultdict(float)
        held = list(held)
        for item in held:
            self._add(item.owner, item.gpus, item.holdings)
        self.over_quota = _over_quota(held, self.by_account, policy) if policy.quotas else frozenset()
        for item in held:
            if item.kind is Kind.BATCH and item.id not in self.over_quota:
                self._add_firm_batch(item.holdings)

    def granted(self, item: Waiting, holdings: tuple[Holding, ...]) -> None:
        gives_way = self._beyond_quota(item.owner, self.gpus(holdings))
        self._add(item.owner, self.gpus(holdings), holdings)
        if item.kind is Kind.BATCH and not gives_way:
            self._add_firm_batch(holdings)

    def claim(self, item: Waiting) -> None:
        """``item`` counts from now on, though nobody knows yet which devices it will hold."""
        self._add(item.owner, self.least_of(item.request), ())

    def gpus(self, holdings: Iterable[Holding]) -> float:
        return gpus_of(holdings, self.slots)

    def blocked(self, item: Waiting) -> Wait | None:
        """Why ``item`` may not start now wherever there is room; None when nothing but room is missing."""
        person = self.policy.person(item.owner)
        used_up = person.used_up.get(item.kind)
        if used_up:
            return Wait("budget", used_up)
        return self._caps(item, self.least_of(item.request))

    def refuses(self, item: Waiting, holdings: tuple[Holding, ...], now: float) -> Wait | None:
        """Why ``item`` may not have just these holdings now; None when it may."""
        wait = self._caps(item, self.gpus(holdings))
        if wait is not None or not self.policy.pools:
            return wait
        for name, gpus in self.policy.in_pools(holdings).items():
            wait = self._pool_caps(item, self.policy.pool(name), gpus, now)
            if wait is not None:
                return wait
        return None

    def least_of(self, request: ShareRequest) -> float:
        return self.policy.least_gpus(self.slots.values(), request)

    def _caps(self, item: Waiting, gpus: float) -> Wait | None:
        person = self.policy.person(item.owner)
        have = self.by_owner[item.owner]
        if gpus and have + gpus > person.gpus + TINY:
            text = f"{_held(have)} of the {gpus_text(person.gpus)} that one person may hold at once"
            return Wait("gpus", f"you hold {text}; this needs {amount_text(gpus)} more", owner=item.owner)
        account = self.policy.account(person.account)
        have = self.by_account[person.account]
        if gpus and have + gpus > account.gpus + TINY:
            text = f"{_held(have)} of the {gpus_text(account.gpus)} that it may hold together"
            return Wait("group-gpus", f"the group {person.account} holds {text}", account=person.account)
        return None

    def _pool_caps(self, item: Waiting, pool: PoolRule, gpus: float, now: float) -> Wait | None:
        have = self._owner_in_pool[(item.owner, pool.name)]
        if have + gpus > pool.gpus + TINY:
            text = f"{_held(have)} of the {gpus_text(pool.gpus)} of the pool {pool.name}"
            return Wait("pool-gpus", f"you hold {text} that one person may hold at once", owner=item.owner)
        if item.kind is Kind.SESSION:
            return None
        if pool.preempt is not None and self._beyond_quota(item.owner, gpus):
            return None  # it gives way to people
        kept = pool.kept_during(now, now + item.seconds)
        if kept and self._firm_batch[pool.name] + gpus > pool.gpus_in_all - kept + TINY:
            text = f"{amount_text(kept)} of the {gpus_text(pool.gpus_in_all)} of the pool {pool.name}"
            spans = f"in the next {duration_text(item.seconds)}, the time limit of this job"
            return Wait("kept", f"{text} are kept for sessions {spans}: a shorter job may start earlier")
        return None

    def beyond_quota(self, item: Waiting) -> bool:
        return self._beyond_quota(item.owner, self.least_of(item.request))

    def _beyond_quota(self, owner: str, gpus: float) -> bool:
        if not self.policy.quotas:
            return False
        account = self.policy.account_of(owner)
        return self.by_account[account] + gpus > self.policy.account(account).quota + TINY

    def _add(self, owner: str, gpus: float, holdings: tuple[Holding, ...]) -> None:
        self.by_owner[owner] += gpus
        self.by_account[self.policy.account_of(owner)] += gpus
        if self.policy.pools:
            for pool, in_pool in self.policy.in_pools(holdings).items():
                self._owner_in_pool[(owner, pool)] += in_pool

    def _add_firm_batch(self, holdings: tuple[Holding, ...]) -> None:
        if self.policy.pools:
            for pool, gpus in self.policy.in_pools(holdings).items():
                self._firm_batch[pool] += gpus


def _held(gpus: float) -> str:
    return amount_text(round(gpus, 3))


def victims_first(held: Iterable[Held]) -> list[Held]:
    """In the order in which they would give way: those preempted least often first, of these who was granted last."""
    order = sorted(enumerate(held), key=lambda entry: (entry[1].requeues, -entry[1].since, -entry[0]))
    return [item for _, item in order]


def _over_quota(held: list[Held], by_account: Mapping[str, float], policy: Policy) -> frozenset[str]:
    """The batch jobs by which each account is over its quota, in the order in which they would give way. One whose end
    would bring the account below its quota is not among them."""
    excess = {name: have - policy.account(name).quota for name, have in by_account.items()}
    found = []
    for item in victims_first(held):
        account = policy.account_of(item.owner)
        if item.kind is Kind.BATCH and 0 < item.gpus <= excess[account] + TINY and excess[account] != UNLIMITED:
            excess[account] -= item.gpus
            found.append(item.id)
    return frozenset(found)
