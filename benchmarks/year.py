"""A year of 200 people on 34 GPUs through the replay: how long it takes.

    python benchmarks/year.py [--arrivals 30000] [--days 365] [--limits hub_config/limits_lab.yaml] [--profile]
    python benchmarks/year.py --write trace.csv      # the same arrivals as a trace for `timeshare limits try`

30,000 requests: everybody asks three times in five working days. Mostly sessions in office hours on parts of a GPU,
some batch by night and day; made up, with a fixed seed.
"""

from __future__ import annotations

import argparse
import cProfile
import csv
import math
import pstats
import random
import time
from collections.abc import Iterator
from pathlib import Path

from timeshare.reservations.devices.simulated import parse_spec
from timeshare.reservations.kind import Kind
from timeshare.reservations.limits.load import load_limits
from timeshare.reservations.shares import ShareRequest, parse_share
from timeshare.reservations.whatif.replay import Fate, Outcome, Scenario, replay
from timeshare.reservations.whatif.trace import COLUMNS, Arrival

DEVICES = "t4:8,p100-16gb:8,v100-32gb:10,a100-40gb:8"
GROUPS = ("cms", "atlas", "theory", "students")
BEGIN = 1_767_225_600.0  # 2026-01-01, UTC
SESSIONS = [
    (parse_share({"memory_gib": 4}), 4),
    (parse_share({"memory_gib": 8}), 4),
    (parse_share({"gpus": 1, "model": "t4"}), 1),
    (parse_share({"memory_gib": 10, "model": "a100-40gb"}), 1),
]
JOBS = [
    (parse_share({"gpus": 1, "model": "v100-32gb"}), 2),
    (parse_share({"gpus": 1, "model": "p100-16gb"}), 2),
    (parse_share({"gpus": 2, "model": "a100-40gb"}), 1),
]


def year(count: int, days: int, people: int = 200, seed: int = 1) -> list[Arrival]:
    """``count`` arrivals over ``days``."""
    return sorted(_arrivals(count, days, people, random.Random(seed)), key=lambda arrival: arrival.at)


def _arrivals(count: int, days: int, people: int, chance: random.Random) -> Iterator[Arrival]:
    for _ in range(count):
        number = int(people * chance.random() ** 1.5)  # some do much more than others
        group = GROUPS[min(3, number % 7 // 2)]
        batch = chance.random() < 0.15 and group != "students"
        at = BEGIN + 86400 * chance.randrange(days) + _time_of_day(chance, batch)
        owner = f"{group}-{number}"
        share = _pick(chance, JOBS if batch else SESSIONS)
        if group == "students" and share.model == "a100-40gb":
            share = SESSIONS[0][0]
        run = min(14400.0, chance.lognormvariate(math.log(5400), 1.0)) if not batch else chance.uniform(3600, 86400)
        kind = Kind.BATCH if batch else Kind.SESSION
        limit = 24 * 3600 if batch else 4 * 3600
        yield Arrival(at, owner, (group,), kind, share, limit, run, 0.0 if batch else 0.4 * run)


def _time_of_day(chance: random.Random, batch: bool) -> float:
    return chance.uniform(0, 86400) if batch else min(86399.0, max(0.0, chance.gauss(13, 3)) * 3600)


def _pick(chance: random.Random, choices: list[tuple[ShareRequest, int]]) -> ShareRequest:
    return chance.choices([share for share, _ in choices], [weight for _, weight in choices])[0]


def write(path: Path, arrivals: list[Arrival]) -> None:
    """As a trace."""
    with path.open("w", newline="") as file:
        rows = csv.DictWriter(file, [name for name in COLUMNS if name not in ("mig_profile", "cpu_only")])
        rows.writeheader()
        for a in arrivals:
            fixed = {"submitted_at": f"{a.at:.0f}", "owner": a.owner, "groups": ";".join(a.groups)}
            times = {"time_limit_s": a.time_limit_s, "run_s": f"{a.run_s:.0f}", "idle_s": f"{a.idle_tail_s:.0f}"}
            rows.writerow({**fixed, "kind": a.kind.value, **a.request.as_options(), **times})


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--arrivals", type=int, default=30_000)
    options.add_argument("--days", type=int, default=365)
    options.add_argument("--limits", default="hub_config/limits_lab.yaml")
    options.add_argument("--write", default="", metavar="CSV")
    options.add_argument("--profile", action="store_true")
    chosen = options.parse_args()
    arrivals = year(chosen.arrivals, chosen.days)
    if chosen.write:
        write(Path(chosen.write), arrivals)
        return
    scenario = Scenario(parse_spec(DEVICES), arrivals)
    limits = load_limits(Path(chosen.limits))
    profile = cProfile.Profile()
    began = time.process_time()  # other work on the machine does not count
    outcomes = profile.runcall(replay, scenario, limits) if chosen.profile else replay(scenario, limits)
    took = time.process_time() - began
    if chosen.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(35)
    show(outcomes, took)


def show(outcomes: list[Outcome], took: float) -> None:
    fates = {fate.value: sum(1 for outcome in outcomes if outcome.fate is fate) for fate in Fate}
    waited = sum(1 for outcome in outcomes if (outcome.wait_s or 0) > 0)
    stopped = sum(outcome.preemptions for outcome in outcomes)
    hours = sum(outcome.held for outcome in outcomes)
    each = 1e6 * took / len(outcomes)
    print(f"{len(outcomes)} arrivals in {took:.1f} s of processor time ({each:.0f} µs each): {fates}")
    print(f"{waited} waited, {stopped} preemptions, {hours:.0f} GPU-hours held")


if __name__ == "__main__":
    main()
