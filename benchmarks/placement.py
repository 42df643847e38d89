"""How full a machine gets under `reservations.placement`, beside first-fit, best-fit and the exact optimum.

    python benchmarks/placement.py --data DIR

DIR (or TIMESHARE_OPENB) holds ``openb_pod_list_*.csv``: the GPU requests of a production cluster, not part of this
repository. The devices are simulated: placement is a pure function and needs none.

**One filling.** The GPU requests of one list arrive in a random order; nobody leaves. Requests that the machine could
not take even when empty are left out, and so are requests without a GPU. ``gpu_milli`` below 1000 is a memory share of
one device in thousandths, anything else asks for whole devices. Each request is placed or refused, once. Read three
times: at the *first refusal*; when the demand seen, with refused requests, reaches *130 %* of the machine; at the
*end* of the list. **Allocated share**: the memory that the placed requests asked for over the memory of all slots, in
per cent. A MIG instance is held entirely; what it has beyond the wish does not count as allocated.

**Rules.** Every rule sees the same orders. First-fit takes the first slot with room in the devices' fixed order,
best-fit the one with the least memory left over (ties: fixed order). A request fits under one rule exactly when it fits
under the others with the same free space, so only where the earlier ones went can make a difference.

**Exact optimum.** At the first refusal: the longest beginning of the same order that fits at all, placed with full
knowledge of what is still to come (bin packing, solved exactly by search; an order whose search runs past its limit is
counted as *open* and enters with the largest beginning that could fit, so the distance is never understated). At the
end: the best choice from the whole list, refusing at will: devices full, in each instance the largest request that it
can hold. At 130 % none is computed.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import numpy as np

from timeshare.reservations.devices.simulated import parse_spec
from timeshare.reservations.placement import Holding, Room, Slot, hold, need, never_fits, place, slots_of
from timeshare.reservations.shares import FULL_COMPUTE, Shape, ShareRequest

WHERE = """benchmarks/placement.py needs the openb lists: openb_pod_list_*.csv of the folder cluster-trace-gpu-v2023/csv
of https://github.com/alibaba/clusterdata. Put them into a folder and name it with --data or TIMESHARE_OPENB."""
SIZES = (1, 2, 4, 8, 16)
MODEL = "a100-40gb"
LAYOUTS = {
    "whole": (MODEL,),
    "3g+2g+1g+1g": (f"{MODEL}[3g.20gb+2g.10gb+1g.5gb+1g.5gb]",),
    "2g+2g+2g+1g": (f"{MODEL}[2g.10gb+2g.10gb+2g.10gb+1g.5gb]",),
    "mixed": (MODEL, f"{MODEL}[3g.20gb+2g.10gb+1g.5gb+1g.5gb]", MODEL, f"{MODEL}[3g.20gb+3g.20gb]"),
}
READINGS = ("first refusal", "130 %", "end")
DEMAND = 1.3
ALLOWED = 0.2
"""Points that timeshare may be under the better of first-fit and best-fit, as the mean over all orders."""
SEARCH_LIMIT = 200_000

Rule = Callable[[Sequence[Room], ShareRequest], tuple[Holding, ...] | None]


def first_fit(rooms: Sequence[Room], request: ShareRequest) -> tuple[Holding, ...] | None:
    """The first slots with room, in fixed order."""
    fitting = list(_fitting(rooms, request))
    count = max(1, request.count)
    if len(fitting) < count:
        return None
    return tuple(hold(room.slot, wanted) for room, wanted in fitting[:count])


def best_fit(rooms: Sequence[Room], request: ShareRequest) -> tuple[Holding, ...] | None:
    """The slots with the least memory left over, ties in fixed order."""
    if request.shape is Shape.WHOLE:
        return first_fit(rooms, request)
    fitting = [(room.memory_mib - request.memory_mib, room.slot.order, room) for room, _ in _fitting(rooms, request)]
    return first_fit([min(fitting)[2]], request) if fitting else None


def _fitting(rooms: Sequence[Room], request: ShareRequest) -> Iterator[tuple[Room, tuple[int, int]]]:
    for room in rooms:
        wanted = need(room.slot, request)
        if wanted is not None and wanted[0] <= room.memory_mib and wanted[1] <= room.compute:
            yield room, wanted


RULES: dict[str, Rule] = {"timeshare": place, "first-fit": first_fit, "best-fit": best_fit}


@dataclass(frozen=True)
class Requests:
    """The requests of one list that a machine can take, with what each asks for in MiB (all devices together)."""

    wishes: tuple[ShareRequest, ...]
    asked: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True)
class Case:
    """One row of the table: a machine and a list."""

    layout: str
    devices: int
    trace: Path

    @property
    def slots(self) -> tuple[Slot, ...]:
        kinds = LAYOUTS[self.layout]
        return slots_of(parse_spec(",".join(kinds[i % len(kinds)] for i in range(self.devices))))


@dataclass
class Result:
    """Allocated shares in per cent: ``shares[rule][reading]`` has one number an order."""

    case: Case
    shares: dict[str, list[list[float]]] = field(default_factory=lambda: {rule: [[], [], []] for rule in RULES})
    longest: list[float] = field(default_factory=list)
    choice: float = 0.0
    open: int = 0

    def means(self, reading: int) -> list[float]:
        """Of the rules in their order."""
        return [float(np.mean(self.shares[rule][reading])) for rule in RULES]

    def optimum(self, reading: int) -> float:
        """Mean over all orders; NaN where none is defined."""
        return (float(np.mean(self.longest)), float("nan"), self.choice)[reading]

    def worse_by(self, reading: int) -> tuple[float, float]:
        """Points under the better of first-fit and best-fit: of the means, and in the worst single order."""
        ours, first, best = (np.array(self.shares[rule][reading]) for rule in RULES)
        return max(first.mean(), best.mean()) - float(ours.mean()), float((np.maximum(first, best) - ours).max())


def read_requests(trace: Path, slots: Sequence[Slot]) -> Requests:
    device_mib = max(slot.memory_mib for slot in slots_of(parse_spec(MODEL)))
    wishes: list[ShareRequest] = []
    possible: dict[ShareRequest, bool] = {}
    with trace.open(newline="") as lines:
        for row in csv.DictReader(lines):
            count, milli = int(row["num_gpu"]), int(row["gpu_milli"])
            if count == 0:
                continue
            wish = ShareRequest(Shape.WHOLE, count=count)
            if milli < FULL_COMPUTE:
                wish = ShareRequest(Shape.FRACTION, memory_mib=milli * device_mib // FULL_COMPUTE)
            if possible.setdefault(wish, never_fits(slots, wish) is None):
                wishes.append(wish)
    asked = np.array([wish.memory_mib or wish.count * device_mib for wish in wishes])
    return Requests(tuple(wishes), asked, np.array([wish.count for wish in wishes]))


class Filling:
    """One machine being filled by one rule."""

    def __init__(self, slots: Sequence[Slot], rule: Rule) -> None:
        self.rooms = {slot.key: Room(slot, slot.memory_mib, slot.compute) for slot in slots}
        self.rule = rule
        self.allocated = 0
        self._measure()

    def _measure(self) -> None:
        self.largest = max(room.memory_mib for room in self.rooms.values())
        self.untouched = sum(room.untouched and not room.slot.profile for room in self.rooms.values())

    def add(self, request: ShareRequest, asked: int) -> bool:
        """Places the request if it fits."""
        if request.memory_mib > self.largest or request.count > self.untouched:
            return False
        holdings = self.rule(tuple(self.rooms.values()), request)
        if holdings is None:
            raise AssertionError(f"{request} fits but was not placed")
        for holding in holdings:
            room = self.rooms[holding.key]
            self.rooms[holding.key] = Room(
                room.slot, room.memory_mib - holding.memory_mib, room.compute - holding.compute
            )
        self.allocated += asked
        self._measure()
        return True


def fill(slots: Sequence[Slot], rule: Rule, requests: Requests, order: np.ndarray) -> list[int]:
    """MiB allocated at each of the three readings."""
    filling = Filling(slots, rule)
    demand, limit = 0, DEMAND * sum(slot.memory_mib for slot in slots)
    readings: list[int] = []
    at = 0
    for at, i in enumerate(order):  # noqa: B007
        if demand >= limit and readings:
            break
        asked = int(requests.asked[i])
        demand += asked
        if not filling.add(requests.wishes[i], asked) and not readings:
            readings.append(filling.allocated)
    else:
        return [*readings, *[filling.allocated] * (3 - len(readings))]
    readings.append(filling.allocated)
    rest = order[at:]
    asked_rest, counts = requests.asked[rest], requests.counts[rest]
    while len(rest):
        fits = np.where(counts > 0, counts <= filling.untouched, asked_rest <= filling.largest)
        first = int(fits.argmax())
        if not fits[first]:
            break
        filling.add(requests.wishes[rest[first]], int(asked_rest[first]))
        rest, asked_rest, counts = rest[first + 1 :], asked_rest[first + 1 :], counts[first + 1 :]
    return [*readings, filling.allocated]


class Packing:
    """Whether requests fit together at all: exact, by depth-first search with memory of what failed."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.plain = sorted(slot.memory_mib for slot in slots if not slot.profile)
        self.instances = sorted(slot.memory_mib for slot in slots if slot.profile)

    def fits(self, shares: Sequence[int], whole: int) -> bool | None:
        """True or False for sure; None when the search ran past its limit."""
        if whole > len(self.plain):
            return False
        # Devices of one size: which of them are whole makes no difference.
        bins = tuple([(mib, False) for mib in self.plain[whole:]] + [(mib, True) for mib in self.instances])
        self._failed: set[tuple[int, tuple[tuple[int, bool], ...]]] = set()
        self._steps = 0
        return self._search(tuple(sorted(shares, reverse=True)), 0, tuple(sorted(bins)))

    def _search(self, items: tuple[int, ...], at: int, bins: tuple[tuple[int, bool], ...]) -> bool | None:
        if at == len(items):
            return True
        if sum(items[at:]) > sum(mib for mib, _ in bins) or (at, bins) in self._failed:
            return False
        self._steps += 1
        if self._steps > SEARCH_LIMIT:
            return None
        for i, (mib, instance) in enumerate(bins):
            if mib < items[at] or (i and bins[i - 1] == bins[i]):
                continue
            left = bins[:i] + bins[i + 1 :]
            if not instance and mib - items[at] >= items[-1]:
                left = tuple(sorted((*left, (mib - items[at], False))))
            found = self._search(items, at + 1, left)
            if found is not False:
                return found
        self._failed.add((at, bins))
        return False


def longest_beginning(
    packing: Packing, requests: Requests, order: np.ndarray, known: int, capacity: int
) -> tuple[int, bool]:
    """MiB of the longest beginning that fits, and whether that is proven. ``known`` MiB are known to fit."""
    best, shares, whole, proven = 0, [], 0, True
    for i, total in zip(order, accumulate(int(requests.asked[i]) for i in order), strict=True):
        wish = requests.wishes[i]
        whole += wish.count
        shares += [wish.memory_mib] if wish.memory_mib else []
        if total > capacity:
            break
        if total > known:
            found = packing.fits(shares, whole)
            if found is False:
                break
            proven = proven and found is True
        best = total
    return best, proven


def best_choice(slots: Sequence[Slot], requests: Requests) -> int:
    """MiB of the best choice from the whole list. Raises ValueError when it has too few one-device requests."""
    plain = [slot.memory_mib for slot in slots if not slot.profile]
    if np.count_nonzero(requests.counts == 1) < len(plain):
        raise ValueError(f"the list has fewer than {len(plain)} requests for one whole device")
    shares = sorted(int(mib) for mib in requests.asked[requests.counts == 0])
    total = sum(plain)
    # From the smallest instance up: what a small one takes, a larger one can replace by something at least as large.
    for instance in sorted(slot.memory_mib for slot in slots if slot.profile):
        at = bisect_right(shares, instance)
        total += shares.pop(at - 1) if at else 0
    return total


def measure(case: Case, orders: int) -> Result:
    slots = case.slots
    capacity = sum(slot.memory_mib for slot in slots)
    requests = read_requests(case.trace, slots)
    result, packing = Result(case, choice=100 * best_choice(slots, requests) / capacity), Packing(slots)
    for seed in range(orders):
        order = np.random.default_rng(seed).permutation(len(requests.wishes))
        known = 0
        for name, rule in RULES.items():
            allocated = fill(slots, rule, requests, order)
            known = max(known, allocated[0])
            for reading, mib in enumerate(allocated):
                result.shares[name][reading].append(100 * mib / capacity)
        best, proven = longest_beginning(packing, requests, order, known, capacity)
        result.longest.append(100 * best / capacity)
        result.open += not proven
    return result


def _share(share: float) -> str:
    return "–" if np.isnan(share) else f"{share:.2f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _heading(title: str, columns: Sequence[str]) -> list[str]:
    return ["", f"### {title}", "", _row(columns), "| --- " * len(columns) + "|"]


def table(results: Sequence[Result], reading: int) -> list[str]:
    """One row a machine and list."""
    columns = ["layout", "devices", "list", *RULES, "optimum", "under the better", "worst order", "open"]
    lines = _heading(READINGS[reading].capitalize(), columns)
    for result in results:
        case, (mean, worst) = result.case, result.worse_by(reading)
        shares = [*result.means(reading), result.optimum(reading)]
        cells = [case.layout, str(case.devices), case.trace.stem.removeprefix("openb_pod_list_")]
        cells += [*map(_share, shares), f"{mean:+.2f}", f"{worst:.1f}", str(result.open)]
        lines.append(_row(cells))
    return lines


def summary(results: Sequence[Result]) -> list[str]:
    """Means over all machines and lists of a layout, and its worst row."""
    columns = ["layout", "reading", *RULES, "optimum", "worst row under the better", "worst order"]
    lines = _heading("Summary", columns)
    for layout in dict.fromkeys(result.case.layout for result in results):
        here = [result for result in results if result.case.layout == layout]
        for i, reading in enumerate(READINGS):
            shares = np.mean([[*result.means(i), result.optimum(i)] for result in here], axis=0)
            mean, worst = (max(numbers) for numbers in zip(*(r.worse_by(i) for r in here), strict=True))
            lines.append(_row([layout, reading, *map(_share, shares), f"{mean:+.2f}", f"{worst:.1f}"]))
    return lines


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--data", type=Path, default=os.environ.get("TIMESHARE_OPENB"), help="folder with the lists")
    options.add_argument("--orders", type=int, default=1000)
    options.add_argument("--jobs", type=int, default=1, help="processes to use")
    options.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    chosen = options.parse_args()
    traces = sorted(Path(chosen.data).glob("openb_pod_list_*.csv")) if chosen.data else []
    if not traces:
        print(WHERE, file=sys.stderr)
        return 2
    begin = time.monotonic()
    cases = [Case(layout, n, trace) for layout in chosen.layouts for n in SIZES for trace in traces]
    with ProcessPoolExecutor(chosen.jobs) as workers:
        results = list(workers.map(measure, cases, [chosen.orders] * len(cases)))
    for reading in range(len(READINGS)):
        print("\n".join(table(results, reading)))
    print("\n".join(summary(results)))
    misses = [(r.case, name) for r in results for i, name in enumerate(READINGS) if r.worse_by(i)[0] > ALLOWED]
    print(f"\n{chosen.orders} orders a row, {time.monotonic() - begin:.0f} s. Points, simulated devices.")
    for case, name in misses:
        print(f"MORE than {ALLOWED} points under the better: {case.layout} x{case.devices} {case.trace.stem} {name}")
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
