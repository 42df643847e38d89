"""What it costs to keep promised starts: utilisation and waiting beside rules that promise nothing.

    python benchmarks/promises.py [--jobs 400] [--seeds 5] [--load 0.95]

Jobs come at random to 16 GPUs on two nodes. How long they run follows the published figures of the virtual clusters of
Philly (Jeon et al., USENIX ATC 2019): half of them up to 56 minutes, a quarter more than 3.6 h, a tenth more than 13.9
h; most want one GPU. Each states a time limit of 1 to 4 times what it runs. The same jobs go through

- **kept**: the decision, with what it promised;
- **replanned**: the same decision, whose promises are forgotten after each (the rule before promises were kept);
- **EASY**: only the head of the queue has a place that others may not delay (written here, shares nothing with us);
- **FIFO**: nobody overtakes.

*Late* are those who started after the first firm start they were told; *moved*: those who were told a later one.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from timeshare.reservations.devices.model import Device
from timeshare.reservations.placement import Holding
from timeshare.reservations.policy import Policy
from timeshare.reservations.queue import Facts, Held, Promise, Waiting
from timeshare.reservations.schedule import schedule
from timeshare.reservations.shares import Shape, ShareRequest

MEDIAN_S, SIGMA, LONGEST_S = 56 * 60.0, 2.05, 80 * 3600.0
"""A log-normal with that median and 13.9 h at 90 %; its tail is cut where one job of a hundred would be longer."""
GPUS, GPU_WEIGHTS = (1, 2, 4, 8), (0.80, 0.09, 0.07, 0.04)
NODES, EACH = 2, 8


@dataclass(frozen=True)
class Job:
    """``runs`` and ``limit`` in seconds."""

    name: str
    at: float
    gpus: int
    runs: float
    limit: float


@dataclass
class Result:
    """``waits``: seconds to the start, by job. ``told``: the first firm start and the last."""

    waits: dict[str, float] = field(default_factory=dict)
    busy: float = 0.0
    span: float = 0.0
    first: dict[str, float] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)
    moved: set[str] = field(default_factory=set)
    late: dict[str, float] = field(default_factory=dict)

    def tell(self, name: str, start: float) -> None:
        """``name`` is told a firm start."""
        self.first.setdefault(name, start)
        if start > self.last.get(name, start):
            self.moved.add(name)
        self.last[name] = start


def jobs(count: int, load: float, seed: int) -> list[Job]:
    """So many arrivals that would keep ``load`` of the GPUs busy."""
    chance = random.Random(seed)
    drawn = []
    for _ in range(count):
        runs = min(LONGEST_S, math.exp(chance.gauss(math.log(MEDIAN_S), SIGMA)))
        drawn.append((chance.choices(GPUS, GPU_WEIGHTS)[0], max(30.0, runs)))
    span = sum(gpus * runs for gpus, runs in drawn) / (NODES * EACH * load)
    times = sorted(chance.uniform(0.0, span) for _ in range(count))
    return [
        Job(f"j{number}", at, gpus, runs, runs * chance.uniform(1.0, 4.0))
        for number, (at, (gpus, runs)) in enumerate(zip(times, drawn, strict=True))
    ]


Decide = Callable[[list[Waiting], list[Held], float], dict[str, tuple[Holding, ...]]]


def play(arrivals: list[Job], decide: Decide, result: Result) -> Result:
    """Lets the jobs come, start as ``decide`` says, and end."""
    coming, by_name = list(arrivals), {job.name: job for job in arrivals}
    waiting: list[Waiting] = []
    running: dict[str, tuple[float, Held]] = {}
    while coming or waiting:
        now = min([*(ends for ends, _ in running.values()), *(job.at for job in coming[:1])])
        running = {name: run for name, run in running.items() if run[0] > now}
        while coming and coming[0].at <= now:
            job = coming.pop(0)
            wish = ShareRequest(Shape.WHOLE, count=job.gpus)
            waiting.append(Waiting(job.name, job.name, wish, job.limit, now))
        for name, holdings in decide(waiting, [held for _, held in running.values()], now).items():
            job = by_name[name]
            running[name] = (now + job.runs, Held(name, name, holdings, now + job.limit, gpus=job.gpus, since=now))
            result.waits[name] = now - job.at
            if name in result.first and now > result.first[name] + 1e-6:
                result.late[name] = now - result.first[name]
            waiting[:] = [item for item in waiting if item.id != name]
    result.span = arrivals[-1].at
    starts = {job.name: job.at + result.waits[job.name] for job in arrivals}
    result.busy = sum(
        job.gpus * max(0.0, min(result.span, starts[job.name] + job.runs) - starts[job.name]) for job in arrivals
    )
    return result


def devices() -> tuple[Device, ...]:
    return tuple(
        Device(f"GPU-{node}-{number}", "p100", 16_384, node=f"n{node}", order=number)
        for node in range(NODES)
        for number in range(EACH)
    )


def ours(result: Result, keep: bool, depth: int = 100) -> Decide:
    """The decision. ``keep``: with what it promised before."""
    policy, known = Policy(backfill_depth=depth), devices()

    def decide(waiting: list[Waiting], held: list[Held], now: float) -> dict[str, tuple[Holding, ...]]:
        if not keep:
            waiting[:] = [replace(item, promise=None) for item in waiting]
        decision = schedule(Facts(known, tuple(held), tuple(waiting), now), policy)
        told: dict[str, Promise | None] = decision.promises
        waiting[:] = [replace(item, promise=told.get(item.id, item.promise)) for item in waiting]
        for item in waiting:
            if item.promise is not None and depth:
                result.tell(item.id, item.promise.start)
        return {grant.id: grant.holdings for grant in decision.grants}

    return decide


class Easy:
    """EASY backfilling (Lifka 1995): the head of the queue has a place; others may start if they do not delay it."""

    def __init__(self) -> None:
        self._slots = [(f"GPU-{node}-{number}", node) for node in range(NODES) for number in range(EACH)]

    def __call__(self, waiting: list[Waiting], held: list[Held], now: float) -> dict[str, tuple[Holding, ...]]:
        free_at = {uuid: now for uuid, _ in self._slots}
        for item in held:
            for holding in item.holdings:
                free_at[holding.device_uuid] = max(item.frees_at, now + 1.0)
        started: dict[str, tuple[Holding, ...]] = {}
        head: tuple[float, set[str]] | None = None
        for item in waiting:
            chosen = self._free_now(item, free_at, now, head)
            if chosen:
                started[item.id] = tuple(Holding(uuid, "", 16_384, 1000, True) for uuid in chosen)
                free_at |= dict.fromkeys(chosen, now + item.seconds)
            elif head is None:
                head = self._place_of(item, free_at)
        return started

    def _free_now(
        self, item: Waiting, free_at: dict[str, float], now: float, head: tuple[float, set[str]] | None
    ) -> list[str]:
        for node in range(NODES):
            free = [uuid for uuid, at in self._slots if at == node and free_at[uuid] <= now]
            if head is not None and now + item.seconds > head[0]:
                free = [uuid for uuid in free if uuid not in head[1]]
            if len(free) >= item.request.count:
                return free[: item.request.count]
        return []

    def _place_of(self, item: Waiting, free_at: dict[str, float]) -> tuple[float, set[str]]:
        places = []
        for node in range(NODES):
            mine = sorted((free_at[uuid], uuid) for uuid, at in self._slots if at == node)[: item.request.count]
            places.append((mine[-1][0], {uuid for _, uuid in mine}))
        return min(places, key=lambda place: place[0])


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("jobs", 400), ("seeds", 5)):
        options.add_argument(f"--{name}", type=int, default=default)
    options.add_argument("--load", type=float, default=0.95)
    chosen = options.parse_args()
    rules: dict[str, Callable[[Result], Decide]] = {
        "kept": lambda result: ours(result, keep=True),
        "replanned": lambda result: ours(result, keep=False),
        "EASY": lambda result: Easy(),
        "FIFO": lambda result: ours(result, keep=False, depth=0),
    }
    found: dict[str, list[Result]] = {name: [] for name in rules}
    for seed in range(chosen.seeds):
        arrivals = jobs(chosen.jobs, chosen.load, seed)
        for name, rule in rules.items():
            result = Result()
            found[name].append(play(arrivals, rule(result), result))
    for name, results in found.items():
        show(name, results)
    broken = sum(len(result.late) + len(result.moved) for result in found["kept"])
    sys.exit(f"{broken} promises were broken" if broken else 0)


def show(name: str, results: list[Result]) -> None:
    waits = [wait for result in results for wait in result.waits.values()]
    busy = sum(result.busy for result in results) / (NODES * EACH * sum(result.span for result in results))
    told, moved = sum(len(r.first) for r in results), sum(len(r.moved) for r in results)
    late = [seconds for result in results for seconds in result.late.values()]
    worst = f", worst {max(late) / 3600:.1f} h" if late else ""
    firm = "promises nothing" if not told else f"told firm {told}, moved later {moved}, started late {len(late)}{worst}"
    print(f"{name:10} GPUs busy {busy:6.1%}  mean wait {sum(waits) / len(waits) / 3600:6.2f} h  {firm}")


if __name__ == "__main__":
    main()
