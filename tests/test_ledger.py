"""The ledger on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pools import pool as devices_of

from timeshare.reservations.clock import ClockAnchor, SteadyClock, anchor_now
from timeshare.reservations.devices.model import Inventory
from timeshare.reservations.job import JobSpec
from timeshare.reservations.kind import Kind
from timeshare.reservations.ledger import Change, Ledger, LedgerLost, tables
from timeshare.reservations.ledger.reader import Reader
from timeshare.reservations.limits.load import LimitsFile
from timeshare.reservations.limits.schema import Limits
from timeshare.reservations.opening import open_pool
from timeshare.reservations.placement import Holding
from timeshare.reservations.queue import Promise
from timeshare.reservations.reservation import Reason, Reservation, State
from timeshare.reservations.shares import parse_share
from timeshare.reservations.submission import Submission


def reservation(name: str, seq: int = 1, **fields: object) -> Reservation:
    return Reservation(
        id=name,
        seq=seq,
        owner="ada",
        server_name="",
        kind=Kind.SESSION,
        request=parse_share(fields or {"gpus": 1}),
        time_limit_s=3600,
        submitted_at=1.5,
    )


WHOLE = (Holding("GPU-0", "", 40_000, 1000, True),)


def test_a_reservation_comes_back_as_it_was_written(ledger_url: str) -> None:
    ledger = Ledger.open(ledger_url)
    wish = reservation("a", memory_gib=2.5, compute_percent=12.5, model="t4")
    granted = wish.granted(WHOLE, 2.25)
    ledger.commit([Change(wish, None)], 1.5)
    ledger.commit([Change(granted, wish)], 2.25)
    ledger.close()
    again = Ledger.open(ledger_url)
    assert again.get("a") == granted
    assert again.live() == [granted]
    assert [event["state"] for event in again.events("a")] == ["queued", "granted"]
    again.close()


def test_what_a_job_is_called_after_is_known_as_long_as_any_of_it_is(ledger_url: str) -> None:
    ledger = Ledger.open(ledger_url)
    job = JobSpec("work", "/python", "/job", "0" * 64, array="a_1%")
    ledger.commit([Change(replace(reservation("one"), job=job, kind=Kind.BATCH), None)], 0.0)
    with contextlib.closing(Reader(ledger_url)) as reader:
        assert [reader.knows(name) for name in ("one", "a_1%", "a", "a_12", "aX1%")] == [
            True,
            True,
            False,
            False,
            False,
        ]
    ledger.close()


@pytest.mark.parametrize("promise", [Promise(5.5, (Holding("GPU-0", "", 40_000, 1000, True),)), Promise(7.0, ())])
def test_what_was_promised_comes_back_as_it_was_written(ledger_url: str, promise: Promise) -> None:
    ledger = Ledger.open(ledger_url)
    ledger.commit([Change(reservation("one"), None)], 0.0, {"one": Promise(9.0, ())})
    ledger.commit([], 0.0, {"one": promise})
    assert ledger.promises() == {"one": promise}
    ledger.commit([], 0.0, {"one": None})
    assert ledger.promises() == {}
    ledger.close()


def test_the_database_itself_refuses_a_second_holder_of_a_whole_device(ledger_url: str) -> None:
    ledger = Ledger.open(ledger_url)
    first, second = reservation("a"), reservation("b", 2)
    ledger.commit([Change(first.granted(WHOLE, 1.0), None)], 1.0)
    with pytest.raises(sa.exc.IntegrityError):
        ledger.commit([Change(second.granted(WHOLE, 1.0), None)], 1.0)
    assert ledger.get("b") is None
    ledger.close()


def test_an_ended_reservation_holds_nothing_but_remembers_what_it_had(ledger_url: str) -> None:
    ledger = Ledger.open(ledger_url)
    granted = reservation("a").granted(WHOLE, 1.0)
    ended = granted.ended(Reason.COMPLETED, "done", 2.0)
    ledger.commit([Change(granted, None)], 1.0)
    ledger.commit([Change(ended, granted), Change(reservation("b", 2).granted(WHOLE, 2.0), None)], 2.0)
    assert [row["reservation_id"] for row in ledger.holdings()] == ["b"]
    found = ledger.get("a")
    assert found is not None
    assert found.holdings == WHOLE
    ledger.close()


def test_a_second_service_on_the_same_ledger_ends_the_first_instead_of_granting_twice(ledger_url: str) -> None:
    first = Ledger.open(ledger_url)
    second = Ledger.open(ledger_url)
    with pytest.raises(LedgerLost):
        first.commit([Change(reservation("a"), None)], 1.0)
    second.commit([Change(reservation("a"), None)], 1.0)
    first.close()
    second.close()


def test_the_migrations_make_exactly_the_tables_that_the_code_uses(ledger_url: str) -> None:
    Ledger.open(ledger_url).close()
    engine = sa.create_engine(ledger_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, tables.metadata) == []
    engine.dispose()


def test_a_client_key_makes_one_reservation_however_often_it_is_sent(ledger_url: str) -> None:
    ledger = Ledger.open(ledger_url)
    pool = open_pool(ledger, LimitsFile(Limits(), ""), lambda: 100.0)
    pool.set_inventory(Inventory(devices_of("a100")))
    wish = Submission("ada", parse_share({"gpus": 1}), client_key="k1")
    first, new = pool.submit(wish)
    assert new
    again, new = pool.submit(wish)
    assert (again, new) == (first, False)
    pool.end(first.id, Reason.CANCELLED, "")
    ended, new = pool.submit(wish)
    assert (ended.id, ended.state, new) == (first.id, State.ENDED, False)
    ledger.close()


WRITER = """
import contextlib
import os
import sys
from pools import pool as devices_of
from timeshare.reservations.devices.model import Inventory
from timeshare.reservations.ledger import Ledger
from timeshare.reservations.ledger.reader import Reader
from timeshare.reservations.limits.load import LimitsFile
from timeshare.reservations.limits.schema import Limits
from timeshare.reservations.opening import open_pool
from timeshare.reservations.pool import Pool
from timeshare.reservations.submission import Submission
from timeshare.reservations.queue import Promise
from timeshare.reservations.reservation import Reason
from timeshare.reservations.shares import parse_share

limits = Limits.model_validate({"defaults": {"sessions": {"at_once": 1000}}})
pool = open_pool(Ledger.open(sys.argv[1]), LimitsFile(limits, ""), lambda: 100.0)
pool.set_inventory(Inventory(devices_of("a100", "a100")))
number = 0
while True:
    number += 1
    made, _ = pool.submit(Submission("ada", parse_share({"memory_gib": 9}), server_name=f"s{os.getpid()}-{number}"))
    print("told", made.id, made.state.value, flush=True)
    if number > 12:
        oldest = next(iter(pool.live()))
        pool.end(oldest.id, Reason.CANCELLED, "")
        print("ended", oldest.id, flush=True)
"""


def test_what_was_told_before_a_kill_is_still_true_after_it(ledger_url: str) -> None:
    told: dict[str, str] = {}
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    for round_number in range(6):
        command = [sys.executable, "-c", WRITER, ledger_url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as writer:
            assert writer.stdout is not None
            text = writer.stdout.readline()
            assert text, "the writer said nothing"
            time.sleep(0.05 * (round_number + 1))
            writer.send_signal(signal.SIGKILL)
            text += writer.stdout.read()
        # A line that the kill cut in two was not told.
        for line in text[: text.rfind("\n")].splitlines():
            words = line.split()
            told[words[1]] = words[2] if words[0] == "told" else "ended"
        check(ledger_url, told)


def check(ledger_url: str, told: dict[str, str]) -> None:
    ledger = Ledger.open(ledger_url)
    for name, state in told.items():
        found = ledger.get(name)
        assert found is not None, f"{name} was told {state} and is gone"
        if state == "ended":
            assert found.state is State.ENDED
    used: dict[str, int] = {}
    for row in ledger.holdings():
        used[row["device_uuid"]] = used.get(row["device_uuid"], 0) + row["memory_mib"]
    assert all(memory <= 40_000 for memory in used.values())
    held = {row["reservation_id"] for row in ledger.holdings()}
    assert held == {r.id for r in ledger.live() if r.holds}
    ledger.close()


def test_the_clock_goes_on_over_a_restart_and_ignores_steps_of_the_wall_clock() -> None:
    here = anchor_now()
    stepped = ClockAnchor(here.boot_id, here.boot_seconds, here.wall - 3600)
    assert abs(SteadyClock(stepped)() - (time.time() - 3600)) < 5
    other_boot = ClockAnchor("another", here.boot_seconds, here.wall - 3600)
    assert abs(SteadyClock(other_boot)() - time.time()) < 5


def test_a_stop_that_began_late_frees_its_devices_a_grace_after_it_began() -> None:
    granted = reservation("a").granted(WHOLE, 0.0).starting(1.0)
    assert granted.held(45).frees_at == 3645
    assert granted.ending(Reason.TIME_LIMIT, "late", 9000.0).held(45).frees_at == 9045
    assert granted.ending(Reason.CANCELLED, "early", 100.0).held(45).frees_at == 145
