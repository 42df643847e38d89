"""Durable grants per second, and the time of one scheduling decision, with a long past and a long queue.

    python benchmarks/grants.py [--past 10000] [--waiting 1000] [--grants 2000] [--together 32]

Grants are asked for one by one, and many at once: the service commits together what is asked for together.
Beside them, in turns, the least that any ledger on this disk can do: one insert and one commit on SQLite with the same
durability. The ratio of the two is what our bookkeeping costs.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from timeshare.reservations.devices.model import Device, Inventory
from timeshare.reservations.kind import Kind
from timeshare.reservations.ledger import Ledger
from timeshare.reservations.limits.load import LimitsFile
from timeshare.reservations.limits.schema import Limits
from timeshare.reservations.opening import open_pool
from timeshare.reservations.pool import Pool
from timeshare.reservations.reservation import Reason, State
from timeshare.reservations.schedule import schedule
from timeshare.reservations.shares import ShareRequest, parse_share
from timeshare.reservations.submission import Submission

FREE = parse_share({"memory_gib": 1, "model": "t4"})
BUSY = parse_share({"gpus": 1, "model": "a100-40gb"})


def devices() -> tuple[Device, ...]:
    """34 devices of four models, as at a lab; only the a100 are waited for."""
    models = ["a100-40gb"] * 8 + ["v100-32gb"] * 10 + ["p100-16gb"] * 8 + ["t4"] * 8
    sizes = {"a100-40gb": 40_960, "v100-32gb": 32_768, "p100-16gb": 16_384, "t4": 15_360}
    return tuple(Device(f"GPU-{i}", model, sizes[model], order=i) for i, model in enumerate(models))


def wish(number: int, share: ShareRequest) -> Submission:
    return Submission(f"user{number % 200}", share, 3600, Kind.SESSION, f"{share.model}-{number}")


def prepared(folder: Path, past: int, waiting: int) -> Pool:
    """A pool on SQLite with ``past`` ended and ``waiting`` waiting reservations, and every a100 in use."""
    limits = Limits.model_validate(
        {"requests_waiting": 100_000, "defaults": {"sessions": {"at_once": 100}, "waiting": 100}}
    )
    pool = open_pool(Ledger.open(f"sqlite:///{folder}/ledger.sqlite"), LimitsFile(limits, ""), time.time)
    pool.set_inventory(Inventory(devices()))
    for number in range(past):
        made, _ = pool.submit(wish(number, FREE))
        pool.end(made.id, Reason.COMPLETED, "done")
    for number in range(8 + waiting):
        pool.submit(wish(number, BUSY))
    return pool


def timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


class Floor:
    """One row and one commit on SQLite, WAL and synchronous FULL like the ledger."""

    def __init__(self, folder: Path) -> None:
        self._connection = sqlite3.connect(folder / "floor.sqlite", isolation_level=None)
        for text in ("pragma journal_mode=wal", "pragma synchronous=full", "create table t (id integer, body text)"):
            self._connection.execute(text)

    def insert(self) -> None:
        self._connection.execute("begin")
        self._connection.execute("insert into t values (1, ?)", ("x" * 400,))
        self._connection.execute("commit")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("past", 10_000), ("waiting", 1_000), ("grants", 2_000), ("together", 32)):
        options.add_argument(f"--{name}", type=int, default=default)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as place:
        folder = Path(place)
        pool, floor = prepared(folder, chosen.past, chosen.waiting), Floor(folder)
        passes = [timed(lambda: schedule(pool.world().facts, pool.world().policy())) for _ in range(200)]
        measured = measure(pool, floor, chosen.grants, chosen.together)
    show("scheduling pass", passes)
    for what, times in measured.items():
        show(what, times)
    plain = rate(measured["plain insert and commit"], 1)
    for what, count in (("grant, one by one", 1), (f"grant, {chosen.together} together", chosen.together)):
        found = rate(measured[what], count)
        print(f"{what}: {found:.0f} durable grants per second; {found / plain:.2f} of plain inserts ({plain:.0f}/s)")


def rate(times: list[float], count: int) -> float:
    """Per second, when each of ``times`` made ``count``."""
    return count * len(times) / sum(times)


def measure(pool: Pool, floor: Floor, grants: int, together: int) -> dict[str, list[float]]:
    """Times in seconds, in turns: grants one by one, as many asked for together, and plain inserts. What was granted
    is ended between the turns, untimed."""
    found: dict[str, list[float]] = {
        "grant, one by one": [],
        f"grant, {together} together": [],
        "plain insert and commit": [],
    }
    single, joint, plain = found.values()
    while len(joint) * together < grants:
        singles = [wish(number, FREE) for number in range(together)]
        single += [timed(lambda one=one: pool.submit(one)) for one in singles]  # type: ignore[misc]
        end_all(pool, together)
        joint.append(timed(lambda: pool.submit_many([wish(number, FREE) for number in range(together)])))
        end_all(pool, together)
        plain += [timed(floor.insert) for _ in range(together)]
    return found


def end_all(pool: Pool, expected: int) -> None:
    """Ends what was granted; fails when it was not, so that nothing else is measured."""
    granted = [r.id for r in pool.live() if r.state is State.GRANTED and r.request == FREE]
    assert len(granted) == expected, f"{len(granted)} of {expected} were granted"
    for name in granted:
        pool.end(name, Reason.COMPLETED, "done")


def show(what: str, times: list[float]) -> None:
    ordered = [seconds * 1e3 for seconds in sorted(times)]
    p50, p99 = statistics.median(ordered), ordered[int(0.99 * (len(ordered) - 1))]
    print(f"{what:24} n={len(ordered):5}  median {p50:7.2f} ms  p99 {p99:7.2f} ms  max {ordered[-1]:7.2f} ms")


if __name__ == "__main__":
    main()
