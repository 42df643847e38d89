"""What came of a replay, in figures: for each group, and in all. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..fairshare import jain
from ..kind import Kind
from ..limits.schema import Limits
from ..placement import least_gpus, slots_of
from ..standing import Standing
from .replay import Fate, Outcome, Scenario

ALL = "all"


@dataclass(frozen=True)
class Waits:
    """Seconds from request to start, of those that started: how many, the median, and what 95 % stay below."""

    count: int = 0
    median: float | None = None
    p95: float | None = None
    seconds: tuple[float, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Figures:
    """Of one group, or of all. Hours are GPU-hours as counted; ``received`` weighted ones; ``entitled`` what fair
    shares would have given of all that was received to those who asked, nobody more than she asked for. ``jain``:
    Jain's index of received/entitled over the people, 1 when everybody had what she was entitled to."""

    asked: int
    waits: Mapping[Kind, Waits]
    held: float
    idle: float
    lost: float
    received: float
    entitled: float
    jain: float
    refused: Mapping[str, int]
    ended: Mapping[str, int]
    preemptions: int
    unfinished: int


By = Mapping[str, Figures]


@dataclass(frozen=True)
class Comparison:
    """Both runs by group. ``about``: what was tried on what, in lines."""

    about: Sequence[str]
    now: By
    new: By

    @property
    def groups(self) -> list[str]:
        return [ALL, *sorted({*self.now, *self.new} - {ALL})]


def figures(scenario: Scenario, limits: Limits, outcomes: Sequence[Outcome]) -> dict[str, Figures]:
    """By group, ``all`` first."""
    received, entitled, accounts = entitlements(scenario, limits, outcomes)
    found = {}
    for name in (ALL, *sorted(set(accounts.values()))):
        mine = [outcome for outcome in outcomes if name in (ALL, outcome.account)]
        people = [owner for owner, account in accounts.items() if name in (ALL, account)]
        found[name] = _figures(mine, people, received, entitled)
    return found


def _figures(
    outcomes: Sequence[Outcome], people: Iterable[str], received: Mapping[str, float], entitled: Mapping[str, float]
) -> Figures:
    ratios = [received[person] / entitled[person] for person in people if entitled[person] > 0]
    return Figures(
        asked=len(outcomes),
        waits={kind: waits(o for o in outcomes if o.arrival.kind is kind) for kind in Kind},
        held=sum(outcome.held for outcome in outcomes),
        idle=sum(outcome.idle for outcome in outcomes),
        lost=sum(outcome.lost for outcome in outcomes),
        received=sum(received[person] for person in people),
        entitled=sum(entitled[person] for person in people),
        jain=jain(ratios),
        refused=Counter(outcome.why for outcome in outcomes if outcome.fate is Fate.REFUSED),
        ended=Counter(outcome.why for outcome in outcomes if outcome.fate is Fate.FINISHED),
        preemptions=sum(outcome.preemptions for outcome in outcomes),
        unfinished=sum(1 for outcome in outcomes if outcome.fate is Fate.UNFINISHED),
    )


def waits(outcomes: Iterable[Outcome]) -> Waits:
    seconds = sorted(wait for outcome in outcomes if (wait := outcome.wait_s) is not None)
    if not seconds:
        return Waits()
    return Waits(len(seconds), _quantile(seconds, 0.5), _quantile(seconds, 0.95), tuple(seconds))


def _quantile(ordered: Sequence[float], part: float) -> float:
    """Between the two nearest, by distance (R's type 7)."""
    place = part * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def entitlements(
    scenario: Scenario, limits: Limits, outcomes: Sequence[Outcome]
) -> tuple[dict[str, float], dict[str, float], dict[str, str]]:
    """By person: the weighted GPU-hours that she received, those that she was entitled to, and her account."""
    standing = Standing(limits, "")
    slots = slots_of(scenario.devices)
    received: dict[str, float] = {}
    wanted: dict[str, float] = {}
    accounts: dict[str, str] = {}
    gpus: dict[object, float] = {}
    for outcome in outcomes:
        arrival = outcome.arrival
        standing.set_groups(arrival.owner, arrival.groups)
        request = arrival.request
        if request not in gpus:
            gpus[request] = least_gpus(request, slots) * standing.weight(request.model)
        accounts[arrival.owner] = outcome.account
        received[arrival.owner] = received.get(arrival.owner, 0.0) + outcome.weighted
        more = max(outcome.weighted, gpus[request] * arrival.run_s / 3600.0)
        wanted[arrival.owner] = wanted.get(arrival.owner, 0.0) + more
    groups: dict[str, dict[str, float]] = {}
    for person, account in accounts.items():
        groups.setdefault(account, {})[person] = wanted[person]
    shares = {name: limits.groups[name].shares if name in limits.groups else 1.0 for name in groups}
    parts = fill(sum(received.values()), {name: sum(people.values()) for name, people in groups.items()}, shares)
    entitled: dict[str, float] = {}
    for name, people in groups.items():
        own = {person: float(standing.effective(person, 0.0).values["shares"]) for person in people}
        entitled.update(fill(parts[name], people, own))
    return received, entitled, accounts


def fill(amount: float, wanted: Mapping[str, float], shares: Mapping[str, float]) -> dict[str, float]:
    """``amount`` divided by ``shares``, nobody more than ``wanted``; what somebody does not want goes to the rest by
    their shares, and to those without shares only when nobody else wants it (progressive filling; max-min fairness).
    """
    given = dict.fromkeys(wanted, 0.0)
    for tier in ([n for n in wanted if shares[n] > 0], [n for n in wanted if shares[n] <= 0]):
        weight = {name: shares[name] or 1.0 for name in tier}
        for name in sorted(tier, key=lambda name: wanted[name] / weight[name]):
            rest = sum(weight.values())
            part = min(wanted[name], amount * weight.pop(name) / rest)
            given[name] = part
            amount = max(0.0, amount - part)
    return given
