"""A disk that takes nothing more, and a database that does not answer: what is known can be read, what cannot be
written is refused in words, and all of it works again by itself."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from databases import postgres_bin, postgres_server
from full_disks import SmallDisk, small_disk
from nodes import eventually
from services import Service, running_service
from test_ledger import reservation

from timeshare.reservations.ledger import Change, Ledger, LedgerLost, LedgerSilent

LIMITS = "defaults:\n  gpus: 8\nrequests_waiting: 5000\n"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "small", 24) as disk:
        yield disk


@pytest.fixture
def service(tmp_path: Path, disk: SmallDisk) -> Iterator[Service]:
    """All that it keeps is on the small disk, but for its logs and the limits."""
    limits = tmp_path / "limits.yaml"
    limits.write_text(LIMITS)
    with running_service(disk.path, limits_path=str(limits), simulate="a100-40gb:4") as service:
        yield service


def ask_until_refused(service: Service) -> requests.Response:
    """SQLite writes on for a while where it has written before. The first answer that is a refusal."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        answer = service.call("POST", "reservations", json={"share": {"gpus": 1}, "owner": "ben", "kind": "session"})
        if answer.status_code >= 500:
            return answer
        if answer.ok:
            service.call("POST", f"reservations/{answer.json()['id']}/end", json={})
    raise AssertionError("everything is written on the full disk")


def error_of(answer: requests.Response) -> Any:
    return answer.json()["error"]


def test_reads_go_on_writes_are_refused_in_words_and_it_comes_back_by_itself(service: Service, disk: SmallDisk) -> None:
    before, pid = service.create(), service.process.pid
    disk.fill()
    answer = ask_until_refused(service)
    assert answer.status_code == 507
    told = error_of(answer)
    assert told["reason"] == "storage-full"
    assert f"the disk that holds {disk.path} is full (0.0 MiB free)" in told["message"]
    assert "It works again by itself once an administrator has made room there" in told["message"]

    # What is known can be read; what is asked for is refused, each time.
    assert service.get(before["id"])["state"] == "granted"
    assert service.ask("GET", "reservations")["reservations"]
    assert service.ask("GET", "offers?owner=ada")["offers"]
    refused = service.call("POST", f"reservations/{before['id']}/end", json={})
    assert refused.status_code == 507
    assert service.get(before["id"])["state"] == "granted", "what is not written has not happened"
    health = service.ask("GET", "health")
    assert (health["status"], health["ledger"]) == ("degraded", False)
    assert "the ledger cannot be written now" in health["warnings"][0]
    assert str(disk.path) not in str(health), "anybody may read it"

    disk.room()
    eventually(lambda: service.health() == "ok", 60)
    assert service.ask("POST", f"reservations/{before['id']}/end", json={})["state"] == "ended"
    assert service.create("ben")["state"] == "granted"
    assert service.process.pid == pid
    assert service.process.poll() is None
    log = (disk.path / "service.log").read_text()
    assert "Traceback" not in log


def test_a_start_on_a_full_disk_says_so_and_nothing_is_half_written(service: Service, disk: SmallDisk) -> None:
    kept = service.create()
    disk.fill()
    ask_until_refused(service)
    service.kill()
    started = service.spawn()
    said = started.communicate(timeout=60)[1].decode()
    assert started.returncode != 0
    assert f"timeshare service: the disk that holds {disk.path} is full" in said
    assert "Traceback" not in said
    disk.room()
    service.start()
    live = [r for r in service.ask("GET", "reservations")["reservations"] if r["state"] != "ended"]
    assert [r["id"] for r in live] == [kept["id"]]


def test_limits_that_cannot_be_written_change_nothing_and_edited_ones_are_taken_over_later(
    service: Service, disk: SmallDisk, tmp_path: Path
) -> None:
    path = tmp_path / "limits.yaml"
    file = service.ask("GET", "limits/file")
    new = LIMITS.replace("gpus: 8", "gpus: 2")
    disk.fill()
    ask_until_refused(service)
    refused = service.call("POST", "limits/apply", json={"text": new, "base_version": file["version"]})
    assert refused.status_code == 507, refused.text
    assert path.read_text() == LIMITS
    assert list(tmp_path.glob(".limits*")) == [], "no draft is left"
    assert service.ask("GET", "limits/file")["version"] == file["version"]
    path.write_text(new)
    time.sleep(3)  # the service looks at the file each second
    assert service.ask("GET", "limits/file")["version"] == file["version"]
    disk.room()
    eventually(lambda: service.ask("GET", "limits/file")["version"] != file["version"], 30)


def test_limits_on_a_full_disk_are_refused_with_its_folder(tmp_path: Path, disk: SmallDisk) -> None:
    limits = disk.path / "limits.yaml"
    limits.write_text(LIMITS)
    state = tmp_path / "state"
    state.mkdir()
    with running_service(state, limits_path=str(limits)) as service:
        version = service.ask("GET", "limits/file")["version"]
        disk.fill()
        new = LIMITS.replace("gpus: 8", "gpus: 2")
        refused = service.call("POST", "limits/apply", json={"text": new, "base_version": version})
        assert refused.status_code == 507
        assert f"the disk that holds {disk.path} is full" in error_of(refused)["message"]
        assert (limits.read_text(), sorted(path.name for path in disk.path.iterdir())) == (
            LIMITS,
            ["filler", "limits.yaml"],
        )


def test_a_session_that_the_node_cannot_write_down_is_refused_in_words(tmp_path: Path, disk: SmallDisk) -> None:
    """The agent's records lie on the small disk, the ledger does not."""
    ledger = f"sqlite:///{tmp_path}/ledger.sqlite"
    with running_service(disk.path, ledger_url=ledger) as service:
        node = service.node
        runs = node.launch("sleep", "600")
        disk.fill()
        with pytest.raises(Exception, match=f"the disk that holds {disk.path}/agent is full") as refused:
            node.launch("sleep", "600")
        assert "Errno" not in str(refused.value)
        assert node.state(runs) == "running"
        assert service.health() == "ok"
        with pytest.raises(Exception, match="is full"):
            node.stop(runs)
        disk.room()
        eventually(lambda: node.stop(runs) == "exited", 20)
        assert not list((disk.path / "agent").rglob(".*")), "no half-written file is left"
        node.launch("true")
        log = (disk.path / "agent.log").read_text()
        assert "Traceback" not in log


def write_many(ledger: Ledger, first: int) -> None:
    for number in range(first, first + 5000):
        ledger.commit([Change(reservation(f"r{number}", number), None)], 1.0)


def test_what_was_written_after_all_is_not_taken_for_unwritten(tmp_path: Path, disk: SmallDisk) -> None:
    """Nobody can say of a transaction that a disk or a line broke off whether it was written; its number can."""
    ledger = Ledger.open(f"sqlite:///{disk.path}/ledger.sqlite")
    disk.fill()
    with pytest.raises(LedgerSilent):
        write_many(ledger, 1)
    written = len(ledger.live())
    with pytest.raises(LedgerSilent):
        ledger.try_again()
    disk.room()
    assert ledger.trouble is not None
    ledger.try_again()
    assert ledger.trouble is None, "though nobody had anything to write"
    ledger.commit([Change(reservation("after", 9000), None)], 2.0)
    assert len(ledger.live()) == written + 1, "what was known in memory was the truth"

    disk.fill()
    with pytest.raises(LedgerSilent):
        write_many(ledger, 10_000)
    disk.room()
    with sqlite3.connect(disk.path / "ledger.sqlite") as other:
        other.execute("UPDATE meta SET value = value + 1 WHERE key = 'transaction'")
    with pytest.raises(LedgerLost):
        ledger.live()


@pytest.mark.skipif(postgres_bin() is None, reason="no PostgreSQL server is installed")
def test_a_database_that_is_away_is_waited_for_and_what_is_known_is_told(tmp_path: Path) -> None:
    with postgres_server() as server, running_service(tmp_path, ledger_url=server.url) as service:
        pid, over, live = service.process.pid, service.create("ben"), None
        service.ask("POST", f"reservations/{over['id']}/end", json={})
        live = service.create()
        server.stop()
        refused = service.call("POST", "reservations", json={"share": {"cpu_only": True}, "owner": "ben"})
        assert refused.status_code == 503
        assert "the server of the ledger on 127.0.0.1" in error_of(refused)["message"]
        assert "It works again by itself" in error_of(refused)["message"]
        assert service.get(live["id"])["state"] == "granted"
        assert [r["id"] for r in service.ask("GET", "reservations?state=granted")["reservations"]] == [live["id"]]
        assert service.ask("GET", "offers?owner=ada")["offers"]
        assert service.health() == "degraded"
        assert service.call("GET", f"reservations/{over['id']}").status_code == 503, "what is over stands there alone"
        assert service.call("GET", "usage").status_code == 503
        server.start()
        eventually(lambda: service.health() == "ok", 60)
        assert service.get(over["id"])["state"] == "ended"
        assert service.ask("POST", f"reservations/{live['id']}/end", json={})["state"] == "ended"
        assert service.create("ben")["state"] == "granted"
        assert service.process.pid == pid
        log = (tmp_path / "service.log").read_text()
        assert "Traceback" not in log, log[-3000:]
