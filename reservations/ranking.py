"""The order of the queue. Pure.

First come, first served, unless the limits say otherwise. With quotas: work within quota, then sessions beyond it,
then batch beyond it. Whoever is beyond a soft budget goes behind everyone else. Within each class by priority:

    weight · F + age_weight · min(waiting time / max_age, 1)

with F in (0, 1] by fair share (Slurm's fair tree or its classic formula). With equal weights a request that waited for
``max_age`` goes before every new one, so nobody starves.
"""

from __future__ import annotations

from collections.abc import Sequence

from .fairshare import Node, classic, fair_tree
from .kind import Kind
from .policy import Policy
from .queue import Facts, Waiting
from .tally import Tally

WITHIN, SESSION_BEYOND, BATCH_BEYOND, LATER = range(4)


def in_order(facts: Facts, policy: Policy, tally: Tally) -> Sequence[Waiting]:
    """The waiting requests, who goes first first."""
    if not policy.ranked or len(facts.waiting) < 2:
        return facts.waiting
    shares = fair_factors(facts, policy, tally)
    ranked = sorted(
        (-_priority(item, policy, shares, facts.now), number, item) for number, item in enumerate(facts.waiting)
    )
    if not policy.quotas and not any(person.later for person in policy.people.values()):
        return [item for _, _, item in ranked]
    claims = dict(tally.by_account)
    classed = [(_class(item, policy, tally, claims), number, item) for number, (_, _, item) in enumerate(ranked)]
    return [item for _, _, item in sorted(classed, key=lambda entry: entry[:2])]


def fair_factors(facts: Facts, policy: Policy, tally: Tally) -> dict[tuple[str, ...], float]:
    """F by (account, person), for everyone who waits or has had something."""
    if policy.fair is None:
        return {}
    groups: dict[str, list[Node]] = {}
    for owner in sorted({*policy.people, *(item.owner for item in facts.waiting)}):
        held = tally.by_owner.get(owner, 0.0)
        account, shares, use = policy.claim_of(owner)
        groups.setdefault(account, []).append(Node(owner, shares, use + policy.fair.entry * held))
    nodes = tuple(
        Node(
            account,
            policy.account(account).shares,
            sum(member.usage for member in members),
            tuple(members),
        )
        for account, members in sorted(groups.items())
    )
    return fair_tree(nodes) if policy.fair.method == "fair_tree" else classic(nodes)


def _priority(item: Waiting, policy: Policy, shares: dict[tuple[str, ...], float], now: float) -> float:
    fair = policy.fair
    if fair is None:
        return 0.0
    age = min(max(0.0, now - item.submitted_at) / fair.max_age_s, 1.0)
    factor = shares[(policy.account_of(item.owner), item.owner)]
    return fair.weight * factor + fair.age_weight * age


def _class(item: Waiting, policy: Policy, tally: Tally, claims: dict[str, float]) -> int:
    """``claims``: what each account would hold with those ahead."""
    person = policy.person(item.owner)
    if item.kind in person.later:
        return LATER
    if not policy.quotas:
        return WITHIN
    gpus = tally.least_of(item.request)
    have = claims.get(person.account, 0.0)
    if have + gpus <= policy.account(person.account).quota + 1e-9:
        claims[person.account] = have + gpus
        return WITHIN
    return SESSION_BEYOND if item.kind is Kind.SESSION else BATCH_BEYOND
