"""A long past: no question reads all of it, it goes by policy, and nobody's balance knows of that."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from long_past import PEOPLE, fill, make
from nodes import eventually
from pools import pool as devices_of
from services import running_service

from timeshare.reservations.administration import Administration
from timeshare.reservations.calendar import Every, window
from timeshare.reservations.devices.model import Inventory
from timeshare.reservations.fairshare import average_use, decayed_interval
from timeshare.reservations.job import JobSpec
from timeshare.reservations.kind import Kind
from timeshare.reservations.ledger import Ledger, balances, tables
from timeshare.reservations.ledger.reader import GROUPINGS, Reader
from timeshare.reservations.limits.load import LimitsFile
from timeshare.reservations.limits.schema import Limits
from timeshare.reservations.monitor import Monitor
from timeshare.reservations.opening import open_pool
from timeshare.reservations.pool import Pool
from timeshare.reservations.reservation import Reason, State
from timeshare.reservations.service.session_logs import Log, read_logs, remove_logs, to_remove
from timeshare.reservations.shares import parse_share
from timeshare.reservations.submission import Submission
from timeshare.reservations.sweeping import Sweeper
from timeshare.reservations.usage import Charge

NEWEST = max(path.name[:4] for path in (Path(tables.__file__).parent / "migrations/versions").glob("0*.py"))
NOW = 1_795_000_000.0
DAY = 86400.0
EVERY: tuple[Every, ...] = ("day", "week", "month")
LARGE = "reservations|events|charges|decisions"


def limits(retention: dict[str, Any], zone: str = "UTC", half_life: str = "1d") -> Limits:
    fair = {"half_life": {"session": half_life, "batch": "7d"}}
    return Limits.model_validate({"retention": retention, "timezone": zone, "fair_share": fair})


def opened(url: str, rules: Limits, now: Callable[[], float] = lambda: NOW) -> tuple[Pool, Ledger]:
    ledger = Ledger.open(url)
    pool = open_pool(ledger, LimitsFile(rules, rules.model_dump_json()), now)
    pool.set_inventory(Inventory(devices_of(*["a100"] * 4)))
    return pool, ledger


def swept(sweeper: Sweeper) -> dict[str, int]:
    total: dict[str, int] = {}
    while removed := sweeper.piece():
        for name, count in removed.items():
            total[name] = total.get(name, 0) + count
    return total


# --- plans


@contextmanager
def every_statement() -> Iterator[list[tuple[str, Any]]]:
    """What is asked of databases in the block."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        asked.append((statement, parameters[0] if many else parameters))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


def plan(connection: sa.Connection, statement: str, parameters: Any) -> str:
    word = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    rows = connection.exec_driver_sql(f"{word} {statement}", parameters).all()
    return "\n".join(str(row[-1]) for row in rows)


def reads_all(told: str) -> bool:
    """Whether a plan goes through a large table from one end to the other, or sorts what it finds in one."""
    sqlite = re.search(rf"SCAN ({LARGE})(?! USING (COVERING )?INDEX live)", told)
    if sqlite and "USING INDEX sqlite_autoindex_reservations" in told and "TEMP B-TREE" not in told:
        return False  # the newest, by their numbers, until there are enough
    return bool(sqlite or re.search(rf"Seq Scan on ({LARGE})", told))


def everything_asked_often(url: str) -> None:
    """What start-up, requests, pages, reports and sweeps ask of the ledger."""
    rules = limits({"reservations": "400d", "charges": "400d"})
    pool, ledger = opened(url, rules)
    Monitor(pool, ledger)
    wish = Submission(PEOPLE[0], parse_share({"gpus": 1}), 600, client_key="k")
    made, _ = pool.submit(wish)
    pool.submit(wish)
    pool.end(made.id, Reason.CANCELLED, "done")
    pool.get(made.id)
    for owner in (PEOPLE[0], None):
        for kind in (None, Kind.BATCH):
            for states in ((), (State.ENDED,), (State.QUEUED, State.ACTIVE)):
                pool.find(owner, states, 100, kind)
    moment = Administration(pool, ledger, None).moment(NOW - 2 * DAY, NOW)
    reader = Reader(url)
    reader.handed_over(moment.span)
    for owner in (PEOPLE[0], None):
        for name in GROUPINGS:
            reader.usage(moment.span, [name], owner)
    sweeper = Sweeper(pool, ledger)
    for _, _, remove in sweeper._duties():
        with ledger.transaction() as connection:
            remove(connection, NOW - 1000 * DAY, 50)
    reader.close()
    ledger.close()


def test_no_question_that_is_asked_often_reads_a_large_table_from_end_to_end(ledger_url: str) -> None:
    Ledger.open(ledger_url).close()
    fill(ledger_url, 8000, now=NOW)
    opened(ledger_url, limits({}))[1].close()  # the first start makes the sums of the books
    with every_statement() as asked:
        everything_asked_often(ledger_url)
    engine = sa.create_engine(ledger_url)
    bad = []
    with engine.connect() as connection:
        for statement, parameters in {statement: (statement, parameters) for statement, parameters in asked}.values():
            if statement.split()[0] in ("SELECT", "UPDATE", "DELETE") and re.search(LARGE, statement):
                told = plan(connection, statement, parameters)
                bad += [f"{statement}\n{told}"] if reads_all(told) else []
    engine.dispose()
    assert bad == [], "\n\n".join(bad)
    assert len(asked) > 60


def test_a_start_reads_the_sums_and_not_what_they_were_made_of(ledger_url: str) -> None:
    Ledger.open(ledger_url).close()
    fill(ledger_url, 8000, now=NOW)
    pool, ledger = opened(ledger_url, limits({}))
    before = {who: pool.standing.books.use(who, NOW, ()) for who in PEOPLE}
    ledger.close()
    with every_statement() as asked:
        pool, ledger = opened(ledger_url, limits({}))
    assert not [text for text, _ in asked if "charges.ended >" in text]
    assert {who: pool.standing.books.use(who, NOW, ()) for who in PEOPLE} == before
    assert any(before.values())
    ledger.close()


# --- kills


def killed_at(statement: int, act: Callable[[], object]) -> bool:
    """Runs ``act`` in a process that is killed just before its ``statement``-th; False when it ended before."""
    child = os.fork()
    if child == 0:
        left = statement

        def count(*_: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        sa.event.listen(sa.Engine, "before_cursor_execute", count)
        sa.event.listen(sa.Engine, "commit", count)
        try:
            act()
        except BaseException as error:
            print(f"the child failed: {error!r}", flush=True)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed"
    return os.WIFSIGNALED(status)


def test_a_kill_anywhere_in_a_migration_leaves_the_old_ledger_or_the_new_one(ledger_url: str) -> None:
    make(ledger_url, "0006")
    fill(ledger_url, 50, now=NOW)
    statement, seen = 0, set()
    while killed_at(statement := statement + 1, lambda: Ledger.open(ledger_url).close()):
        engine = sa.create_engine(ledger_url)
        with engine.connect() as connection:
            seen.add(connection.scalar(sa.text("SELECT version_num FROM alembic_version")))
            assert connection.scalar(sa.text("SELECT count(*) FROM charges")) == 50
        engine.dispose()
    assert statement > 12
    assert seen == {"0006", NEWEST}
    Ledger.open(ledger_url).close()


def test_a_kill_anywhere_in_a_sweep_leaves_a_whole_ledger_from_which_it_goes_on(ledger_url: str) -> None:
    rules = limits({"reservations": "300d", "charges": "300d", "decisions": "90d"})
    Ledger.open(ledger_url).close()
    fill(ledger_url, 300, now=NOW)
    pool, ledger = opened(ledger_url, rules)
    balance = [pool.standing.books.use(who, NOW, ()) for who in PEOPLE]
    ledger.close()

    def sweep_on() -> None:
        pool, ledger = opened(ledger_url, rules)
        sweeper = Sweeper(pool, ledger)
        sweeper.rows = 20
        swept(sweeper)

    rng, kills = random.Random(5), 0
    while killed_at(rng.randint(20, 120), sweep_on):
        kills += 1
        whole(ledger_url)
    assert kills > 5
    left = whole(ledger_url)
    assert 0 < left["reservations"] < 300
    assert 0 < left["decisions"] < left["reservations"]
    pool, ledger = opened(ledger_url, rules)
    assert [pool.standing.books.use(who, NOW, ()) for who in PEOPLE] == balance
    ledger.close()


def whole(url: str) -> dict[str, int]:
    """How many rows there are; fails where some belong to nothing."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        for table in ("events", "decisions"):
            orphans = f"SELECT count(*) FROM {table} WHERE reservation_id NOT IN (SELECT id FROM reservations)"
            assert connection.scalar(sa.text(orphans)) == 0
        names = ("reservations", "decisions", "charges")
        found = {name: int(connection.scalar(sa.text(f"SELECT count(*) FROM {name}")) or 0) for name in names}
    engine.dispose()
    return found


# --- balances


class Lab:
    """A pool whose charges are noted here too, and never removed here. What is asked of both must agree."""

    def __init__(self, url: str, rng: random.Random) -> None:
        self.url, self.rng, self.now = url, rng, NOW
        self.rules = limits({"reservations": "14d", "charges": "1d", "decisions": "1d"})
        self.all: list[Charge] = []
        self.number = self.removed = 0
        self.pool, self.ledger = opened(url, self.rules, lambda: self.now)

    def again(self) -> None:
        self.ledger.close()
        self.pool, self.ledger = opened(self.url, self.rules, lambda: self.now)

    def other_rules(self) -> None:
        """From where all that they need is kept."""
        zone = self.rng.choice(["UTC", "Europe/Zurich", "Asia/Kathmandu"])
        self.rules = limits({"reservations": "14d", "charges": "1d", "decisions": "1d"}, zone)
        self.again()

    def grant(self) -> None:
        self.number += 1
        kind = self.rng.choice(list(Kind))
        job = JobSpec("j", "/usr/bin/python3", "/j", "0" * 64) if kind is Kind.BATCH else None
        share, server = parse_share({"gpus": 1}), f"s{self.number}"
        wish = Submission(self.rng.choice("abc"), share, 43200, kind, server, job=job)
        self.pool.submit(wish)

    def end(self) -> None:
        held = [r for r in self.pool.live() if r.holds]
        if held:
            one = self.rng.choice(held)
            ended = self.pool.end(one.id, Reason.CANCELLED, "")
            assert ended.state is State.ENDED
            self.all.append(one.charge(self.now))

    def pass_time(self) -> None:
        self.now += self.rng.choice([60.0, 3600.0, 20 * 3600.0, 3 * DAY, 30 * DAY])

    def sweep(self) -> None:
        sweeper = Sweeper(self.pool, self.ledger)
        sweeper.rows = self.rng.choice([1, 20, 500])
        self.removed += sum(swept(sweeper).values())

    def keep(self) -> None:
        with self.ledger.transaction() as connection:
            balances.keep(connection, self.pool.standing.books)

    def check(self) -> None:
        books, zone = self.pool.standing.books, self.rules.zone
        for who in "abc":
            mine = [charge for charge in self.all if charge.owner == who]
            for every in EVERY:
                began, ended = window(self.now, every, zone)
                for kind in Kind:
                    told = books.hours(("user", who), [kind], every, self.now)
                    true = sum(charge.hours(began, ended) for charge in mine if charge.kind is kind)
                    assert told == pytest.approx(true, abs=1e-9), (who, every, kind)
            assert books.use(who, self.now, ()) == pytest.approx(self.used(mine), abs=1e-5)

    def used(self, mine: list[Charge]) -> float:
        total, lives = 0.0, {Kind.SESSION: DAY, Kind.BATCH: 7 * DAY}
        for charge in mine:
            life = lives[charge.kind]
            total += average_use(decayed_interval(charge.rate, charge.began, charge.ended, self.now, life), life)
        return total


@pytest.mark.parametrize("seed", range(6))
def test_balances_are_what_all_charges_come_to_whatever_was_swept_or_restarted(tmp_path: Path, seed: int) -> None:
    lab = Lab(f"sqlite:///{tmp_path}/ledger.sqlite", random.Random(seed))
    deeds = [lab.grant] * 6 + [lab.end] * 6 + [lab.pass_time] * 4 + [lab.sweep, lab.again, lab.keep, lab.other_rules]
    for _ in range(150):
        lab.rng.choice(deeds)()
        lab.check()
    assert lab.removed
    lab.ledger.close()


def test_the_newest_charge_stays_so_that_its_number_is_not_given_again(ledger_url: str) -> None:
    Ledger.open(ledger_url).close()
    fill(ledger_url, 30, now=NOW)
    later = NOW + 1000 * DAY
    rules = limits({"reservations": "14d", "charges": "1d"})
    pool, ledger = opened(ledger_url, rules, lambda: later)
    with ledger.transaction() as connection:
        balances.keep(connection, pool.standing.books)
    assert swept(Sweeper(pool, ledger))["charges"] == 29
    made, _ = pool.submit(Submission("ada", parse_share({"gpus": 1}), 600))
    later += 360.0
    pool.end(made.id, Reason.CANCELLED, "")
    used = pool.standing.books.hours(("user", "ada"), list(Kind), "day", later)
    assert used == pytest.approx(0.1)
    ledger.close()
    pool, ledger = opened(ledger_url, rules, lambda: later)
    assert pool.standing.books.hours(("user", "ada"), list(Kind), "day", later) == pytest.approx(0.1)
    ledger.close()


# --- logs


def test_logs_go_by_age_and_size_and_those_of_live_sessions_stay() -> None:
    logs = [Log(f"{name}.log", 10, float(at)) for at, name in enumerate(["live", "old", "b", "c", "d"])]
    names = [log.name for log in to_remove(logs, frozenset(["live"]), 2.0, 30.0)]
    assert names == ["old.log", "b.log"]
    assert to_remove(logs, frozenset(["live"]), 0.0, float("inf")) == []


def test_only_logs_are_removed_and_no_link_is_followed(tmp_path: Path) -> None:
    folder, other = tmp_path / "sessions", tmp_path / "precious.log"
    folder.mkdir()
    other.write_text("precious")
    (folder / "link.log").symlink_to(other)
    (folder / "notes.txt").write_text("mine")
    (folder / "folder.log").mkdir()
    for name in ("a.log", "a.log.1", "b.log"):
        (folder / name).write_text("x" * 5000)
    found = read_logs(folder)
    assert sorted(log.name for log in found) == ["a.log", "a.log.1", "b.log"]
    remove_logs(folder, to_remove(found, frozenset("b"), 0.0, 0.0))
    assert sorted(path.name for path in folder.iterdir()) == ["b.log", "folder.log", "link.log", "notes.txt"]
    assert other.read_text() == "precious"


# --- the service


def test_the_service_removes_what_is_over_and_says_what_it_keeps(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    Ledger.open(url).close()
    fill(url, 400)
    path = tmp_path / "limits.yaml"
    path.write_text("retention: {reservations: 500d, charges: 500d}\n")
    logs = tmp_path / "logs" / "sessions"
    logs.mkdir(parents=True)
    (logs / "gone.log").write_text("x")
    os.utime(logs / "gone.log", (0, 0))
    with running_service(tmp_path, limits_path=str(path)) as service:
        made = service.create(PEOPLE[0], client_key="again")
        (logs / f"{made['id']}.log").write_text("x")
        os.utime(logs / f"{made['id']}.log", (0, 0))
        told = eventually(lambda: (found := service.ask("GET", "retention"))["last_sweep"] and found, 120)
        rows = {row["of"]: row["rows"] for row in told["kept"]}
        assert 150 < rows["reservations"] < 210
        assert rows["events"] == 5 * rows["reservations"] + 1  # asked for and granted at once
        assert 0 < rows["decisions"] < rows["reservations"] / 3
        assert told["policy"]["reservations"] == 500 * DAY
        assert told["ledger_bytes"] > 0
        assert [log.name for log in logs.iterdir()] == [f"{made['id']}.log"]
        assert service.create(PEOPLE[0], client_key="again")["id"] == made["id"]
        whole_time = service.ask("GET", "usage?since=2000-01-01 00:00")
        assert whole_time["removed_until"] is not None
        assert sum(row["intervals"] for row in whole_time["usage"]) == rows["charges"] + 1
        assert service.ask("GET", "usage")["removed_until"] is None
        assert service.call("GET", "retention", token="").status_code == 401
