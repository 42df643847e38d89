"""A damaged row of the ledger never stops the service: it is set apart, what it holds stays held, all others go on."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from conftest import fresh_schema
from nodes import eventually
from pools import Lab
from services import running_service

from timeshare.hub_config import doctor
from timeshare.reservations.administration import Administration
from timeshare.reservations.errors import PublicError
from timeshare.reservations.ledger import Ledger, balances
from timeshare.reservations.ledger.reader import Reader, Span
from timeshare.reservations.ledger.store import open_engine
from timeshare.reservations.monitor import Monitor
from timeshare.reservations.reservation import Reason, State
from timeshare.reservations.service.views import devices_view, health_view

NAN, INF, HUGE = "NaN", "Infinity", "9" * 5000
ON_BOTH: list[tuple[str, Any]] = [
    *(("share", text) for text in ("{", "", "null", "7", '{"gpus": "many"}', f'{{"gpus": {HUGE}}}', "[" * 100_000)),
    *(("terms", text) for text in ("{", "[]", f'{{"gpus": {NAN}}}', f'{{"rate": {INF}}}', '{"rate": -1}', '{"x": 1}')),
    *(("placement", text) for text in ("{", "{}", "[7]", '[{"device_uuid": 3}]', '[{"memory_mib": -5}]')),
    ("job", "{"),
    ("job", '{"name": 3}'),
    ("external", '{"attempt": "x"}'),
    ("state", "dreaming"),
    ("kind", "dream"),
    ("reason", "whim"),
    ("generation", -1),
    ("time_limit_s", -1),
    ("ends_at", -1.0),
    ("ends_at", 1e300),
    ("ends_at", None),
    ("granted_at", None),
    ("submitted_at", 1e300),
]
"""Columns of a session that runs, and what is in them."""
ON_SQLITE: list[tuple[str, Any]] = [
    ("seq", "many"),
    ("seq", 2**63 - 1),
    ("ends_at", "soon"),
    ("ends_at", float("inf")),
    ("owner", b"\xff\xfe"),
    ("owner", "a\x00b"),
    ("detail", "\x00"),
    ("generation", "x"),
    ("time_limit_s", 2**62),
    ("extensions", 1.5),
    ("requeues", b"\x00"),
]


def damage(url: str, reservation_id: str, column: str, value: Any) -> None:
    if isinstance(value, bytes):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file, file:
            query = f"UPDATE reservations SET {column} = CAST(? AS TEXT) WHERE id = ?"
            file.execute(query, (value, reservation_id))
        return
    change(url, f"UPDATE reservations SET {column} = :value WHERE id = :id", value=value, id=reservation_id)


def change(url: str, query: str, **values: Any) -> None:
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text(query), values)
    engine.dispose()


def lab_on(tmp_path: Path, url: str) -> Lab:
    return Lab(tmp_path, {}, "a100", "t4", url=url)


def check(tmp_path: Path, url: str, column: str, value: Any) -> None:
    """Ada's session is damaged; Ben's runs on, Cleo waits for a GPU and gets Ben's, never Ada's."""
    lab = lab_on(tmp_path, url)
    ada, ben = lab.ask("ada"), lab.ask("ben")
    lab.run(ada, ben)
    cleo = lab.ask("cleo")
    held = ada.id and lab.pool.get(ada.id).holdings[0].device_uuid
    lab.ledger.close()
    damage(url, ada.id, column, value)

    lab = lab_on(tmp_path, url)
    assert list(lab.pool.apart) == [ada.id]
    assert {r.id for r in lab.pool.live()} == {ben.id, cleo.id}
    assert lab.pool.known([ada.id, ben.id]) == {ben.id}  # so nobody ends its session
    with pytest.raises(PublicError, match="not understood"):
        lab.pool.get(ada.id)
    view = devices_view(lab.pool, None)
    assert [s["id"] for s in view["unaccounted"]] == [ada.id]
    assert [d["uuid"] for d in view["devices"] if "is not understood" in str(d["cordoned"])] == [held]
    assert any("1 live reservations" in text for text in health_view(lab.pool, True)["warnings"])
    lab.later(60)
    assert lab.state(cleo) == "queued"
    lab.pool.gone(ben.id, Reason.COMPLETED, "")
    assert lab.state(cleo) == "granted"
    assert lab.pool.get(cleo.id).holdings[0].device_uuid != held
    dora = lab.ask("dora")
    assert lab.state(dora) == "queued"
    lab.pool.settle(ada.id, "root")
    assert not lab.pool.apart
    assert lab.state(dora) == "granted"
    lab.ledger.close()
    lab_on(tmp_path, url).ledger.close()


@pytest.mark.parametrize(("column", "value"), ON_BOTH, ids=lambda value: str(value)[:20])
def test_a_damaged_live_row_is_set_apart(tmp_path: Path, column: str, value: Any) -> None:
    check(tmp_path, f"sqlite:///{tmp_path}/ledger.sqlite", column, value)


@pytest.mark.parametrize(("column", "value"), ON_SQLITE, ids=lambda value: str(value)[:20])
def test_a_value_that_only_sqlite_keeps_is_set_apart(tmp_path: Path, column: str, value: Any) -> None:
    check(tmp_path, f"sqlite:///{tmp_path}/ledger.sqlite", column, value)


@pytest.mark.parametrize(("column", "value"), [("ends_at", float("nan")), ("share", "{"), ("state", "dreaming")])
def test_a_damaged_live_row_is_set_apart_on_postgresql(
    tmp_path: Path, postgres_url: str, column: str, value: Any
) -> None:
    check(tmp_path, fresh_schema(postgres_url), column, value)


@pytest.mark.parametrize("damaged", [b"ab\xffc", b"ab\x00c", b"ab\nc"], ids=["no UTF-8", "NUL", "line end"])
def test_a_row_whose_id_is_damaged_too_keeps_what_it_holds_until_it_is_ended(tmp_path: Path, damaged: bytes) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    lab = lab_on(tmp_path, url)
    held = lab.pool.get(lab.ask("ada").id).holdings[0].device_uuid
    lab.ledger.close()
    with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as file, file:
        file.execute("UPDATE holdings SET reservation_id = CAST(? AS TEXT)", (damaged,))
        file.execute("UPDATE reservations SET id = CAST(? AS TEXT), seq = 'x'", (damaged,))
    for _ in range(2):  # what is made anew is not what it holds
        lab = lab_on(tmp_path, url)
        (apart,) = lab.pool.apart.values()
        assert apart.devices == (held,)
        assert apart.reservation_id.isprintable()
        lab.ledger.close()
    lab = lab_on(tmp_path, url)
    lab.pool.settle(apart.reservation_id, "root")
    lab.ledger.close()
    lab = lab_on(tmp_path, url)
    assert not lab.pool.apart
    assert [r.state for r in (lab.pool.get(lab.ask("ben").id), lab.pool.get(lab.ask("cleo").id))] == [State.GRANTED] * 2


def test_a_key_of_a_damaged_row_is_not_used_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    lab = lab_on(tmp_path, url)
    ada = lab.ask("ada")
    lab.ledger.close()
    change(url, "UPDATE reservations SET client_key = 'k', share = '{' WHERE id = :id", id=ada.id)
    ledger = Ledger.open(url)
    with pytest.raises(PublicError, match="use a new one"):
        ledger.by_client_key("ada", "k")
    ledger.close()


META: list[tuple[str, str]] = [
    *(("epoch", text) for text in ("", "x", "NaN", "-3", "1e999", "9" * 400, "\x00", "²")),
    *(("clock", text) for text in ("{", "7", '{"wall": 1}', '{"boot_id": 1, "boot_seconds": NaN, "wall": -1}')),
    *(("cordons", text) for text in ("{", "[]", '{"GPU-1": 7}', "NaN")),
    *(("events_heard", text) for text in ("{", "[]", '{"boot_id": "b", "seq": "x"}', '{"seq": 1}')),
    *(("swept", text) for text in ("{", "[]", '{"charges": NaN}', '{"charges": "x"}')),
    *(("books", text) for text in ("{", "[]", "7", '{"books": {}, "through": 0}', '{"through": -1}')),
]


@pytest.mark.parametrize(("key", "text"), META, ids=lambda value: str(value)[:20])
def test_a_damaged_note_stops_nothing(tmp_path: Path, key: str, text: str) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    lab = lab_on(tmp_path, url)
    ada = lab.ask("ada")
    lab.run(ada)
    lab.ledger.close()
    change(url, "DELETE FROM meta WHERE key = :key", key=key)
    change(url, "INSERT INTO meta VALUES (:key, :value)", key=key, value=text)
    lab = lab_on(tmp_path, url)
    lab.ledger.clock_anchor()
    assert lab.pool.events_heard("b") == 0
    Administration(lab.pool, lab.ledger, None).moment(0, 1)
    lab.pool.cordon("GPU-1", "its fan")
    lab.ask("ben")
    assert lab.state(ada) == "active"
    lab.ledger.close()
    if key == "epoch":
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite")) as file:
            (found,) = file.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
        assert int(found) > 1_700_000_000


ODD_SUMS = ["-1.0", NAN, INF, '"much"', "null", "[]", "true"]


@pytest.mark.parametrize("odd", ODD_SUMS)
def test_sums_that_can_be_none_are_made_anew(tmp_path: Path, odd: str) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    rules = {"fair_share": {"half_life": {"session": "1d", "batch": "7d"}}}
    lab = Lab(tmp_path, rules, "a100", url=url)
    ada = lab.ask("ada")
    lab.run(ada)
    lab.now += 3600
    lab.pool.gone(ada.id, Reason.COMPLETED, "")
    with lab.ledger.transaction() as connection:
        balances.keep(connection, lab.pool.standing.books)
    now, used = lab.now, lab.pool.standing.books.use("ada", lab.now, ())
    assert used > 0
    told = lab.ledger.read_meta("books")
    told["books"]["decayed"]["session"]["values"]["ada"] = "ODD"
    lab.ledger.close()
    text = json.dumps(told).replace('"ODD"', odd)
    change(url, "UPDATE meta SET value = :value WHERE key = 'books'", value=text)
    lab = Lab(tmp_path, rules, "a100", url=url, start=now)
    assert lab.pool.standing.books.use("ada", now, ()) == pytest.approx(used)
    lab.ledger.close()


SPOILT = [
    ("promises", "UPDATE promises SET holdings = '{'"),
    ("promises", "UPDATE promises SET start = 'soon'"),
    ("people", "INSERT INTO people VALUES ('eve', '{', 0)"),
    ("people", "INSERT INTO people VALUES ('eve', '[7]', 0)"),
    ("activity", "INSERT INTO activity SELECT id, '{' FROM reservations"),
    ("activity", "INSERT INTO activity SELECT id, '{\"keeps\": 7}' FROM reservations"),
    ("overrides", "INSERT INTO overrides VALUES ('o', 'user', 'ada', '{', 0, 9e9, 'w', 'root', 0, NULL)"),
    ("overrides", "INSERT INTO overrides VALUES ('o', 'user', 'ada', '{}', 'x', 'y', 'w', 'root', 0, NULL)"),
    ("charges", "INSERT INTO charges VALUES (9, 'r', 'eve', '', 'session', 'm', 'x', 'y', 0, 9e9, '')"),
    ("charges", "INSERT INTO charges VALUES (9, 'r', 'eve', '', 'dream', 'm', 1, 1, 0, 9e9, '')"),
    ("charges", "INSERT INTO charges VALUES (9, 'r', 'eve', '', 'session', 'm', 9e999, 1, 0, 9e9, '')"),
]


@pytest.mark.parametrize(("what", "query"), SPOILT, ids=range(len(SPOILT)))
def test_a_damaged_row_of_another_table_takes_no_other_along(tmp_path: Path, what: str, query: str) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    lab = Lab(tmp_path, {}, "a100", url=url)
    ada, ben = lab.ask("ada"), lab.ask("ben")
    lab.run(ada)
    lab.later(5)
    lab.pool.set_groups("ada", ("cms",))
    lab.ledger.close()
    change(url, query)
    lab = Lab(tmp_path, {}, "a100", url=url, start=lab.now)
    assert [r.id for r in lab.pool.live()] == [ada.id, ben.id]
    assert lab.pool.standing.groups("ada") == ("cms",)
    Monitor(lab.pool, lab.ledger)
    Administration(lab.pool, lab.ledger, None).overrides()
    reader = Reader(url)
    used = reader.usage(Span(0, 9e9, 99), ("owner",), None)
    reader.close()
    assert [one for one in used if not 0 <= one.gpu_s < 1e15] == []
    lab.later(5)
    if what == "promises":
        assert any("promises" in text for text in health_view(lab.pool, True)["warnings"])
    lab.ledger.close()


HELD = [
    "UPDATE holdings SET device_uuid = 'GPU-1' WHERE device_uuid = 'GPU-0'",
    "UPDATE holdings SET whole = 'maybe', memory_mib = 'much'",
    "UPDATE holdings SET memory_mib = -5",
    "DELETE FROM holdings",
    "INSERT INTO holdings SELECT id, 'GPU-1', '', 1, 1, 1 FROM reservations WHERE state = 'ended'",
]


@pytest.mark.parametrize("query", HELD, ids=range(len(HELD)))
def test_what_is_held_is_written_anew_where_it_is_damaged(tmp_path: Path, query: str) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    lab = lab_on(tmp_path, url)
    ada, ben = lab.ask("ada"), lab.ask("ben")
    lab.run(ada)
    lab.pool.end(ben.id, Reason.CANCELLED, "")
    as_it_was = lab.ledger.holdings()
    lab.ledger.close()
    change(url, query)
    lab = lab_on(tmp_path, url)
    assert lab.ledger.holdings() == as_it_was
    assert lab.state(lab.ask("cleo")) == "granted"  # the other GPU, and nothing fails on it
    lab.ledger.close()


@pytest.fixture
def spoilt(tmp_path: Path) -> Iterator[Any]:
    with running_service(tmp_path, simulate="a100-40gb:2") as service:
        yield service


def test_the_service_goes_on_and_an_administrator_decides(spoilt: Any) -> None:
    """A real service and agent: the session of the damaged row runs until somebody ends it, and then all is free."""
    ada = spoilt.create("ada")
    eventually(lambda: spoilt.get(ada["id"])["state"] == "granted")
    spoilt.ask("POST", f"reservations/{ada['id']}/starting")
    pid = spoilt.node.launch("sleep", "300", reservation_id=ada["id"]) and spoilt.node.session(ada["id"])["pid"]
    spoilt.kill()
    url = spoilt.deployment.ledger_url
    damage(url, ada["id"], "terms", "{")
    spoilt.start(wait_for_agent=True)
    eventually(lambda: [s["id"] for s in spoilt.ask("GET", "devices")["unaccounted"]] == [ada["id"]])
    eventually(lambda: any(d["cordoned"] for d in spoilt.ask("GET", "devices")["devices"]))
    found = list(doctor._health(Path(spoilt.deployment.state_dir)))
    assert any("1 live reservations in the ledger are not understood" in finding.detail for finding in found)
    ben = spoilt.create("ben")
    eventually(lambda: spoilt.get(ben["id"])["state"] == "granted")
    assert spoilt.create("cleo")["state"] == "queued"
    assert Path(f"/proc/{pid}").exists()
    assert spoilt.call("GET", f"reservations/{ada['id']}").status_code == 409
    spoilt.ask("POST", f"devices/unaccounted/{ada['id']}/end", json={})
    eventually(lambda: not spoilt.ask("GET", "devices")["unaccounted"], 60)
    eventually(lambda: all(d["cordoned"] is None for d in spoilt.ask("GET", "devices")["devices"]), 30)
