"""A ledger with a long past beside one that has none: start-up, pages, API, grants; and what a sweep delays.

    python benchmarks/ledger_size.py [--past 1000000] [--turns 200] [--starts 7] [--databases sqlite,postgresql]

Of each database, three real services run side by side: one on an empty ledger, one on a ledger with --past ended
reservations of 200 people over three years, with what happened to each, their charges and decisions, and one on a young
ledger of the same people that has only the last 90 days of as busy a time. What is measured is asked of all in turns.
What shows people their own past (lists, home with the last 100 jobs, use) is held to the young ledger: what is in an
answer takes its time whatever lies behind it. Everything else is held to the empty one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import requests
import sqlalchemy as sa
from databases import postgres
from long_past import PEOPLE, YEARS_S, fill, make
from services import ADMIN, Service, running_service

from timeshare.reservations.client import ServiceClient
from timeshare.reservations.ledger import Ledger
from timeshare.spawners.desk import Desk

MOST = 1.2
DELAY_S = 0.050
YOUNG_S = 90 * 86400.0
OWN_PAST = ("list", "page: home", "page: my limits", "own usage")
"""What shows past reservations, or what they used."""
LIMITS = """
defaults: {sessions: {at_once: 50}, budgets: [{gpu_hours: 100000, every: month}]}
fair_share: {}
retention: {reservations: %s, charges: %s, decisions: %s}
"""
SIMULATE = "a100-40gb:8,v100-32gb:10,t4:8"
Times = dict[str, list[float]]


def limits(kept: str) -> str:
    return LIMITS % (kept, kept, kept)


@dataclass
class Side:
    """One service and what is asked of it, as JupyterHub's pages do."""

    service: Service
    times: Times = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.desk = Desk(ServiceClient(self.service.deployment.service_url, ADMIN))
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Bearer {ADMIN}"

    def get(self, path: str) -> Any:
        answer = self.session.get(f"{self.service.url}/{path}", timeout=60)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self.session.post(f"{self.service.url}/{path}", json=body, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def grant(self, owner: str) -> None:
        made = self.post("reservations", {"share": {"memory_gib": 1, "model": "t4"}, "owner": owner, "kind": "session"})
        assert made["state"] == "granted", made
        self.ended = made["id"]

    def end(self) -> None:
        self.post(f"reservations/{self.ended}/end", {})

    def take(self, what: str, act: Callable[[], object]) -> float:
        began = time.perf_counter()
        act()
        took = time.perf_counter() - began
        self.times.setdefault(what, []).append(took)
        return took


def deeds(side: Side, turn: int) -> list[tuple[str, Callable[[], object]]]:
    who = PEOPLE[turn % len(PEOPLE)]
    return [
        ("grant", lambda: side.grant(who)),
        ("end", side.end),
        ("offers", lambda: side.get(f"offers?owner={who}")),
        ("page: home", lambda: asyncio.run(side.desk.sessions(who))),
        ("page: my limits", lambda: asyncio.run(side.desk.limits(who))),
        ("page: admin", lambda: asyncio.run(side.desk.overview())),
        ("live reservations of all", lambda: side.get("reservations?state=queued,granted,starting,active&limit=500")),
        ("own usage of 30 days", lambda: side.get(f"usage?owner={who}&by=day")),
        ("budgets", lambda: side.get("limits/budgets")),
        ("list of 100, own", lambda: side.get(f"reservations?owner={who}")),
        ("list of 100, of all", lambda: side.get("reservations")),
        ("list of 100 jobs", lambda: side.get("reservations?kind=batch")),
    ]


def measure(sides: dict[str, Side], turns: int) -> None:
    for turn in range(-3, turns):
        order = list(sides.values())
        for number in range(len(deeds(order[0], 0))):
            for side in rotated(order, turn + number):
                what, act = deeds(side, turn)[number]
                side.take(what if turn >= 0 else "warm-up", act)


def measure_starts(sides: dict[str, Side], starts: int) -> None:
    for turn in range(starts):
        for side in rotated(list(sides.values()), turn):
            side.service.close()  # takes longer where rows are just being counted for administrators
            side.take("start-up", side.service.start)


def rotated(order: list[Side], by: int) -> list[Side]:
    """Whoever is asked right after another finds the machine warm: so each comes after each."""
    first = by % len(order)
    turned = [*order[first:], *order[:first]]
    return turned if (by // len(order)) % 2 else turned[::-1]


def show(sides: dict[str, Side]) -> bool:
    """The table; whether the promise holds."""
    names = list(sides)
    print(f"{'':28}" + "".join(f"{name:>16}" for name in names) + "".join(f"{f'/ {n}':>12}" for n in names[:-1]))
    held = True
    for what in sides[names[0]].times:
        if what == "warm-up":
            continue
        medians = [statistics.median(sides[name].times[what]) for name in names]
        ratios = [medians[-1] / median for median in medians[:-1]]
        held &= ratios[1 if what.startswith(OWN_PAST) else 0] <= MOST
        cells = "".join(f"{1000 * median:13.1f} ms" for median in medians)
        print(f"{what:28}{cells}" + "".join(f"{ratio:12.2f}" for ratio in ratios), flush=True)
    return held


def sweep(side: Side, folder: Path) -> bool:
    """Grants before a sweep of most of the past, and while it goes on; whether none waited for it too long."""
    quiet = [_cycle(side, n) for n in range(1000)]
    (folder / "limits.yaml").write_text(limits("150d"))
    until = time.monotonic() + 60
    while not side.get("retention")["removed"].get("decisions") and time.monotonic() < until:
        time.sleep(0.2)
    busy = []
    while len(busy) < 1000 and side.get("retention")["sweeping"]:
        busy.append(_cycle(side, len(busy)))
    told = side.get("retention")
    for name, times in (("grant, quiet", quiet), ("grant, sweeping", busy)):
        ordered = sorted(times)
        p95 = ordered[int(0.95 * (len(ordered) - 1))]
        print(
            f"{name:24} n={len(ordered):5}  median {1e3 * statistics.median(ordered):6.1f}  p95 {1e3 * p95:6.1f}  "
            f"max {1e3 * ordered[-1]:6.1f} ms"
        )
    print(f"longest piece of the sweep: {told['longest_piece_ms']} ms; removed so far: {told['removed']}", flush=True)
    return bool(told["longest_piece_ms"] <= 1e3 * DELAY_S)


def _cycle(side: Side, number: int) -> float:
    took = side.take("grant while sweeping", lambda: side.grant(PEOPLE[number % len(PEOPLE)]))
    side.end()
    return took


@contextlib.contextmanager
def side(folder: Path, url: str) -> Iterator[Side]:
    folder.mkdir(exist_ok=True)
    (folder / "limits.yaml").write_text(limits("0"))
    changes = {"ledger_url": url, "limits_path": str(folder / "limits.yaml"), "simulate": SIMULATE}
    with running_service(folder, **changes) as service:
        yield Side(service)


def filled(url: str, count: int, over_s: float) -> str:
    if count and not _has_past(url):
        make(url, "0006")
        began = time.perf_counter()
        fill(url, count, over_s=over_s)
        print(f"{count} past reservations written in {time.perf_counter() - began:.0f} s", flush=True)
    began = time.perf_counter()
    Ledger.open(url).close()
    print(f"migrated in {time.perf_counter() - began:.1f} s", flush=True)
    return url


def _has_past(url: str) -> bool:
    """Whether it was written by an earlier run."""
    engine = sa.create_engine(url)
    found = "reservations" in sa.inspect(engine).get_table_names()
    engine.dispose()
    return found


def database(folder: Path, names: list[str], server: str | None) -> dict[str, str]:
    """The URL of a database of each name."""
    if server is None:
        return {name: f"sqlite:///{folder}/{name}.sqlite" for name in names}
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for name in names:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return {name: server.rpartition("/")[0] + f"/{name}" for name in names}


def compare(kind: str, chosen: argparse.Namespace) -> bool:
    with contextlib.ExitStack() as stack:
        folder = Path(chosen.ledgers or tempfile.mkdtemp(prefix="ledger-size-"))
        if not chosen.ledgers:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        server = stack.enter_context(postgres()) if kind == "postgresql" else None
        spans = {"empty": 0.0, "young": YOUNG_S, "past": YEARS_S}
        urls = database(folder, list(spans), server)
        sides = {}
        for name, span in spans.items():
            url = filled(urls[name], round(chosen.past * span / YEARS_S), span)
            sides[name] = stack.enter_context(side(folder / f"{name}.d", url))
        print(f"\n{kind}: {chosen.past} past reservations", flush=True)
        measure(sides, chosen.turns)
        held = show(sides)
        for one in sides.values():
            one.times.clear()
        measure_starts(sides, chosen.starts)
        held = show(sides) and held
        return sweep(sides["past"], folder / "past.d") and held


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("past", 1_000_000), ("turns", 200), ("starts", 7)):
        options.add_argument(f"--{name}", type=int, default=default)
    options.add_argument("--databases", default="sqlite,postgresql")
    options.add_argument("--ledgers", default="", help="a folder for the ledgers, of 10 GB, kept for the next run")
    chosen = options.parse_args()
    held = [compare(kind, chosen) for kind in chosen.databases.split(",")]
    sys.exit(0 if all(held) else "a promise does not hold")


if __name__ == "__main__":
    main()
