"""What an idle limit gives back, on a month of real notebook runs, through the replay of `timeshare limits try`.

    python benchmarks/idle.py --data sensei_june_60sec.csv [--plot docs/images/idle_frontier.png]
    python benchmarks/idle.py --data sensei_june_60sec.csv --write trace.csv     # for `timeshare limits try --trace`

The data: one row a run, with its start and length in minutes and its GPUs; a session begins where start times go back.
A session keeps the GPUs of its largest run. Each run is an arrival that holds them until the next run of its session
begins, idle after its end; an idle limit ends it earlier, and then the next run has to ask again. Nobody waits: the
pool is large enough. Beside the figures stand those of an independent count over the same data.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from timeshare.reservations.devices.simulated import parse_spec
from timeshare.reservations.kind import Kind
from timeshare.reservations.limits.load import parse_limits
from timeshare.reservations.shares import parse_share
from timeshare.reservations.whatif.replay import Outcome, Scenario, replay
from timeshare.reservations.whatif.trace import Arrival

ANCHORS = {15: (29.1, 14.9), 30: (30.0, 10.5), 60: (31.3, 7.7), 240: (36.7, 4.6)}
"""By idle limit in minutes: held, % of reserved; runs that must ask again, %."""
DEVICES = "a100-40gb:1024"
BEGIN = 1_767_225_600.0
LIMITS = """
requests_waiting: 100000
defaults:
  waiting: 100000
  sessions: {{at_once: 100000, max_time: 60d}}
  idle: {{after: {minutes}m, grace: 0s}}
"""


@dataclass(frozen=True)
class Run:
    """Minutes from the beginning of the data."""

    began: int
    ended: int
    gpus: int


@dataclass(frozen=True)
class Point:
    """``held``: % of what is reserved if every session keeps its GPUs; ``again``: % of runs that ask again."""

    minutes: int
    held: float
    again: float


def sessions(path: Path) -> list[list[Run]]:
    """The runs of each session, in their order."""
    found: list[list[Run]] = []
    last = None
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            began = int(row["submit_time"])
            if last is None or began < last:
                found.append([])
            found[-1].append(Run(began, began + int(row["duration"]), int(row["num_gpu"])))
            last = began
    return found


def arrivals(of: Iterable[list[Run]]) -> Iterator[Arrival]:
    for number, runs in enumerate(of):
        share = parse_share({"gpus": max(run.gpus for run in runs)})
        for run, following in zip(runs, [*runs[1:], None], strict=True):
            until = following.began if following is not None else run.ended
            held, idle = 60.0 * (until - run.began), 60.0 * max(0, until - run.ended)
            if held > 0:
                yield Arrival(BEGIN + 60.0 * run.began, f"s{number}", (), Kind.SESSION, share, 60 * 86400, held, idle)


def reserved_hours(of: Iterable[list[Run]]) -> float:
    """GPU-hours if each session keeps its GPUs from the beginning of its first run to the end of its last."""
    return sum(max(run.gpus for run in runs) * (max(run.ended for run in runs) - runs[0].began) / 60.0 for runs in of)


def measure(of: list[list[Run]], minutes: int) -> Point:
    """Through the real decision. Raises AssertionError if somebody had to wait: then this is not what is measured."""
    limits = parse_limits(LIMITS.format(minutes=minutes))
    outcomes = replay(Scenario(parse_spec(DEVICES), list(arrivals(of))), limits)
    assert all(outcome.wait_s == 0 for outcome in outcomes), "the pool is too small: somebody waited"
    held = sum(outcome.held for outcome in outcomes)
    runs = sum(len(session) for session in of)
    return Point(minutes, 100 * held / reserved_hours(of), 100 * sum(map(_gave_back, outcomes)) / runs)


def _gave_back(outcome: Outcome) -> bool:
    return outcome.why == "idle"


def write(path: Path, of: list[list[Run]]) -> None:
    """As a trace."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["submitted_at", "owner", "kind", "gpus", "time_limit_s", "run_s", "idle_s"])
        for a in sorted(arrivals(of), key=lambda arrival: arrival.at):
            rows.writerow([f"{a.at:.0f}", a.owner, "session", a.request.count, a.time_limit_s, a.run_s, a.idle_tail_s])


def plot(path: Path, points: list[Point]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.6, 3.4), layout="constrained")
    axes.plot([p.again for p in points], [p.held for p in points], "o-", color="#0072b2", label="through timeshare")
    axes.plot(
        [a for _, a in ANCHORS.values()], [h for h, _ in ANCHORS.values()], "x", color="#d55e00", label="counted apart"
    )
    for p in points:
        axes.annotate(f"{p.minutes} min", (p.again, p.held), textcoords="offset points", xytext=(6, 6))
    axes.set(xlabel="runs that must ask for a GPU again, %", ylabel="GPU-hours held, % of reserved", xlim=(0, 17))
    axes.set_title("Idle limits on a month of notebook runs")
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--plot", type=Path)
    options.add_argument("--write", type=Path, metavar="CSV")
    chosen = options.parse_args()
    of = sessions(chosen.data)
    if chosen.write:
        write(chosen.write, of)
        return
    print(f"{len(of)} sessions, {sum(map(len, of))} runs, {reserved_hours(of):.0f} GPU-hours reserved")
    with ProcessPoolExecutor(2) as cores:
        points = list(cores.map(measure, [of] * len(ANCHORS), ANCHORS))
    print("idle limit   held, % of reserved   (counted apart)   runs that ask again, %   (counted apart)")
    for p in points:
        held, again = ANCHORS[p.minutes]
        print(f"{p.minutes:6} min {p.held:21.1f} {held:17.1f} {p.again:24.1f} {again:17.1f}")
    if chosen.plot:
        plot(chosen.plot, points)


if __name__ == "__main__":
    main()
