"""Who gets what when everybody always wants more: three half-lives of saturation through the replay.

    python benchmarks/fairness.py [--half-lives 3] [--people 4]

Groups with shares 5, 3, 1 and 1, people of unequal shares in them; half of what each asks for is batch. Prints what a
group was entitled to and what it received, Jain's index over the people, and the largest error of a group's share.
The goals are 0.95 or more, and 5 % or less.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import dataclass

from timeshare.reservations.devices.simulated import parse_spec
from timeshare.reservations.fairshare import jain
from timeshare.reservations.kind import Kind
from timeshare.reservations.limits.load import parse_limits
from timeshare.reservations.limits.schema import Limits
from timeshare.reservations.shares import parse_share
from timeshare.reservations.whatif.replay import Outcome, Scenario, replay
from timeshare.reservations.whatif.trace import Arrival

SHARES = {"cms": 5, "atlas": 3, "theory": 1, "students": 1}
HALF_LIFE_S = 12 * 3600.0
DEVICES = "a100-40gb:8,v100-32gb:8"
BEGIN = 1_767_225_600.0
LIMITS = """
requests_waiting: 100000
defaults: {{waiting: 100000, sessions: {{at_once: 100000, max_time: 1d}}, jobs: {{at_once: 100000, max_time: 1d}}}}
fair_share: {{half_life: {{session: {half_life}s, batch: {half_life}s}}}}
groups: {{{groups}}}
users: {{{users}}}
"""


@dataclass(frozen=True)
class Fairness:
    """Parts of all that was received; ``jain`` over received/entitled of the people, ``error`` the largest difference
    of a group's part from what it was entitled to, relative to that."""

    entitled: dict[str, float]
    received: dict[str, float]
    jain: float
    error: float


def people(each: int) -> dict[str, float]:
    """Everybody's share within her group: 1, 2, 1, 2…"""
    return {f"{group}-{number}": 1.0 + number % 2 for group in SHARES for number in range(each)}


def limits(each: int) -> Limits:
    groups = ", ".join(f"{name}: {{shares: {shares}}}" for name, shares in SHARES.items())
    users = ", ".join(f"{name}: {{shares: {shares}}}" for name, shares in people(each).items())
    return parse_limits(LIMITS.format(half_life=int(HALF_LIFE_S), groups=groups, users=users))


def saturation(each: int, until: float, seed: int = 1) -> list[Arrival]:
    """Everybody asks for well more than she is entitled to, all the time."""
    chance = random.Random(seed)
    share = parse_share({"gpus": 1})
    found = []
    for owner in people(each):
        count = int(0.6 * 16 * until / 3600)  # of an hour on average, on 16 GPUs
        for number in range(count):
            at = BEGIN + until * number / count
            run = chance.uniform(1800, 5400)
            kind = Kind.BATCH if chance.random() < 0.5 else Kind.SESSION
            found.append(Arrival(at, owner, (owner.rpartition("-")[0],), kind, share, 5400, run, 0.0))
    return sorted(found, key=lambda arrival: arrival.at)


def measure(each: int, half_lives: float) -> Fairness:
    until = half_lives * HALF_LIFE_S
    scenario = Scenario(parse_spec(DEVICES), saturation(each, until), until=BEGIN + until)
    return judged(replay(scenario, limits(each)), each)


def judged(outcomes: list[Outcome], each: int) -> Fairness:
    shares = people(each)
    received = dict.fromkeys(shares, 0.0)
    for outcome in outcomes:
        received[outcome.arrival.owner] += outcome.weighted
    total = sum(received.values())
    whole = sum(SHARES.values())
    ratios, groups = [], {}
    for group, weight in SHARES.items():
        members = [owner for owner in shares if owner.rpartition("-")[0] == group]
        of_group = sum(shares[owner] for owner in members)
        groups[group] = sum(received[owner] for owner in members) / total
        ratios += [received[owner] / total / (weight / whole * shares[owner] / of_group) for owner in members]
    entitled = {group: weight / whole for group, weight in SHARES.items()}
    error = max(abs(groups[group] - entitled[group]) / entitled[group] for group in SHARES)
    return Fairness(entitled, groups, jain(ratios), error)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--half-lives", type=float, default=3.0)
    options.add_argument("--people", type=int, default=4, help="in each group")
    chosen = options.parse_args()
    found = measure(chosen.people, chosen.half_lives)
    print(f"{'group':10} {'entitled':>9} {'received':>9} {'error':>7}")
    for group, part in found.entitled.items():
        got = found.received[group]
        print(f"{group:10} {100 * part:8.1f}% {100 * got:8.1f}% {100 * (got - part) / part:6.1f}%")
    print(f"Jain over received/entitled of {4 * chosen.people} people: {found.jain:.4f} (goal: at least 0.95)")
    print(f"largest error of a group's share: {100 * found.error:.1f} % (goal: at most 5 %)")


if __name__ == "__main__":
    main()
