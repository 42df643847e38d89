"""Who holds how much while a decision is made, and what that leaves to each. Pure; one is made for each decision."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .kind import Kind
from .limits.values import amount_text, gpus_text
from .placement import Holding, Slot, SlotKey, gpus_of
from .policy import TINY, UNLIMITED, Policy
from .queue import Held, Waiting
from .shares import ShareRequest


@dataclass(frozen=True)
class Wait:
    """Why a request waits although there may be room: ``code`` is stable, ``text`` has the rule and the numbers."""

    code: str
    text: str


class Tally:
    """GPUs held by person, by account, and by pool."""

    def __init__(self, slots: Iterable[Slot], held: Iterable[Held], policy: Policy) -> None:
        self.slots: dict[SlotKey, Slot] = {slot.key: slot for slot in slots}
        self.policy = policy
        self.by_owner: dict[str, float] = defaultdict(float)
        self.by_account: dict[str, float] = defaultdict(float)
        held = list(held)
        for item in held:
            self._add(item.owner, item.gpus)
        self.over_quota = _over_quota(held, self.by_account, policy) if policy.quotas else frozenset()

    def granted(self, item: Waiting, holdings: tuple[Holding, ...]) -> None:
        self._add(item.owner, self.gpus(holdings))

    def claim(self, item: Waiting) -> None:
        """``item`` counts from now on, though nobody knows yet which devices it will hold."""
        self._add(item.owner, self.least_of(item.request))

    def gpus(self, holdings: Iterable[Holding]) -> float:
        return gpus_of(holdings, self.slots)

    def blocked(self, item: Waiting) -> Wait | None:
        """Why ``item`` may not start now wherever there is room; None when nothing but room is missing."""
        return self.used_up(item) or self._caps(item, self.least_of(item.request))

    def used_up(self, item: Waiting) -> Wait | None:
        """The budget of its owner's that is empty; None when none is."""
        why = self.policy.person(item.owner).used_up.get(item.kind)
        return Wait("budget", why) if why else None

    def least_of(self, request: ShareRequest) -> float:
        return self.policy.least_gpus(self.slots.values(), request)

    def _caps(self, item: Waiting, gpus: float) -> Wait | None:
        person = self.policy.person(item.owner)
        have = self.by_owner[item.owner]
        if gpus and have + gpus > person.gpus + TINY:
            text = f"{_held(have)} of the {gpus_text(person.gpus)} that one person may hold at once"
            return Wait("gpus", f"you hold {text}; this needs {amount_text(gpus)} more")
        account = self.policy.account(person.account)
        have = self.by_account[person.account]
        if gpus and have + gpus > account.gpus + TINY:
            text = f"{_held(have)} of the {gpus_text(account.gpus)} that it may hold together"
            return Wait("group-gpus", f"the group {person.account} holds {text}")
        return None

    def beyond_quota(self, item: Waiting) -> bool:
        return self.owner_beyond_quota(item.owner, self.least_of(item.request))

    def owner_beyond_quota(self, owner: str, gpus: float) -> bool:
        if not self.policy.quotas:
            return False
        account = self.policy.account_of(owner)
        return self.by_account[account] + gpus > self.policy.account(account).quota + TINY

    def _add(self, owner: str, gpus: float) -> None:
        self.by_owner[owner] += gpus
        self.by_account[self.policy.account_of(owner)] += gpus


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
