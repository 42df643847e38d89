"""The idle rules over a month of real notebook runs: what they hold, and who must ask for a GPU again.

    python benchmarks/culler.py --data sensei_june_60sec.csv [--plot docs/images/culler_frontier.png]

The data are those of benchmarks/idle.py. Between two runs a session is idle; every third minute of it the rules decide,
from samples as the sampler gives them. When its GPUs went back, the next run has to ask again. The same limit for all
stands beside one that is shared by the GPUs held: who holds eight has an eighth of the time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from idle import Run, reserved_hours, sessions

from timeshare.idle_culler.rules import Action, Facts, Rules, decide
from timeshare.reservations.activity import Sample, Thresholds, Watched, watch

STEP, MINUTE = 3, 60.0
FIXED = (15, 30, 60, 120, 240)
SHARED = (120, 240, 480, 960)
SHORTEST = 5


@dataclass(frozen=True)
class Point:
    """``held``: % of what is reserved; ``again``: % of runs that ask again; ``killed``: runs whose GPU went back while
    they ran."""

    name: str
    held: float
    again: float
    killed: int


def rules_of(minutes: float) -> Rules:
    return Rules(after=minutes * MINUTE, grace=0.0)


def given_back_after(gap: int, rules: Rules) -> int | None:
    """Minutes after a run, with ``gap`` minutes to the next one; None: it is held until then."""
    watched: Watched | None = None
    warned_at: float | None = None
    for minute in range(0, gap + 1, STEP):
        now = minute * MINUTE
        sample = Sample(now, kernel_busy_s=0.0, gpu=0.0, cpu=0.0, terminal=False, input_at=0.0)
        watched = watch(watched, sample, Thresholds(), now)
        decision = decide(Facts(0.0, watched, warned_at=warned_at), rules, now)
        if decision.action is Action.GIVE_BACK:
            return minute
        if decision.action is Action.WARN and warned_at is None:
            warned_at = now
    return None


def killed(run: Run, rules: Rules) -> bool:
    """Whether the rules would take the GPU of a run: its kernel is busy, and its GPU works every third minute."""
    watched: Watched | None = None
    now = 0.0
    for n in range(max(0, run.ended - run.began - 300), run.ended - run.began + 1, STEP):
        now = n * MINUTE
        sample = Sample(now, now + 1, 90.0 if n % 9 == 0 else 0.0, 0.0, False, 0.0)
        watched = watch(watched, sample, Thresholds(), now)
    return decide(Facts(0.0, watched, warned_at=0.0), rules, now).action is Action.GIVE_BACK


def measure(of: list[list[Run]], name: str, minutes: Callable[[int], float]) -> Point:
    held = again = wrong = 0.0
    known: dict[tuple[int, float], int | None] = {}
    for runs in of:
        gpus = max(run.gpus for run in runs)
        limit = minutes(gpus)
        rules = rules_of(limit)
        for run, following in zip(runs, [*runs[1:], None], strict=True):
            wrong += killed(run, rules)
            busy = run.ended - run.began if following is None else min(run.ended, following.began) - run.began
            gap = 0 if following is None else max(0, following.began - run.ended)
            if (gap, limit) not in known:
                known[gap, limit] = given_back_after(gap, rules)
            back = known[gap, limit]
            held += gpus * (busy + (gap if back is None else back)) / 60
            again += back is not None
    runs_in_all = sum(map(len, of))
    return Point(name, 100 * held / reserved_hours(of), 100 * again / runs_in_all, int(wrong))


@dataclass(frozen=True)
class Limit:
    """``shared``: among the GPUs held."""

    whole: int
    shared: bool

    def __call__(self, gpus: int) -> float:
        return max(SHORTEST, self.whole / gpus) if self.shared else self.whole

    def __str__(self) -> str:
        return f"{self.whole} min" + (" / GPUs" if self.shared else "")


def plot(path: Path, points: list[Point]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.6, 3.4), layout="constrained")
    for shared, colour, label in (
        (False, "#d55e00", "one limit for all"),
        (True, "#0072b2", "shared by the GPUs held"),
    ):
        ours = [p for p in points if ("GPUs" in p.name) is shared]
        axes.plot([p.again for p in ours], [p.held for p in ours], "o-", color=colour, label=label)
        for p in ours:
            axes.annotate(p.name, (p.again, p.held), textcoords="offset points", xytext=(6, 5), fontsize=8)
    axes.set(xlabel="runs that must ask for a GPU again, %", ylabel="GPU-hours held, % of reserved", xlim=(0, 17))
    axes.set_title("The idle rules on a month of notebook runs")
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--plot", type=Path)
    chosen = options.parse_args()
    of = sessions(chosen.data)
    limits = [*(Limit(minutes, False) for minutes in FIXED), *(Limit(minutes, True) for minutes in SHARED)]
    with ProcessPoolExecutor(2) as cores:
        points = list(cores.map(measure, [of] * len(limits), map(str, limits), limits))
    print(f"{sum(map(len, of))} runs, {reserved_hours(of):.0f} GPU-hours reserved")
    print("idle limit          held, % of reserved   runs that ask again, %   runs killed")
    for p in points:
        print(f"{p.name:18} {p.held:20.1f} {p.again:24.1f} {p.killed:13}")
    if chosen.plot:
        plot(chosen.plot, points)


if __name__ == "__main__":
    main()
