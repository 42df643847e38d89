"""Tombstones of the agent: kept for as long as a late start may come, and not for ever."""

from __future__ import annotations

from pathlib import Path

from timeshare.reservations.agent.records import Order, Tombstone
from timeshare.reservations.agent.sessions import Sessions
from timeshare.reservations.agent.stopping import TOMBSTONE_S, StopOrder, Stops, boot_seconds


def order(name: str) -> Order:
    return Order(name, 1, "ada", None, ("true",), "/", None, ())


def test_a_tombstone_is_dropped_a_day_after_its_end_and_only_without_a_record(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path, None, True)
    stops, records = Stops(sessions), sessions.records
    now, boot = boot_seconds(), sessions.boot_id
    old = now - TOMBSTONE_S - 1
    for name, stone in {
        "old": Tombstone(boot, True, old, old),
        "fresh": Tombstone(boot, True, now, now),
        "known": Tombstone(boot, True, old, old),
        "before": Tombstone("another-boot", True, 1e9, 1e9),
    }.items():
        records.bury(name, stone)
    (records.stops / "odd.json").write_text("{half")
    records.create(order("known"))
    stops.sweep()
    left = {path.stem for path in records.stops.iterdir()}
    assert left == {"fresh", "known", "odd"} | ({"before"} if now <= TOMBSTONE_S else set())


def test_a_stop_forbids_a_start_that_comes_late_also_after_a_sweep(tmp_path: Path) -> None:
    sessions = Sessions(tmp_path, None, True)
    stops = Stops(sessions)
    assert stops.stop("late", StopOrder(False, 0.0, 0.0)) == "exited"
    stops.sweep()
    assert sessions.records.forbidden("late", 1)
