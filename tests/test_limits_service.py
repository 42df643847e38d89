"""Limits through the API of a real service: never exceeded, reloaded, applied, excepted, explained."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from nodes import eventually
from plain_jobs import job_body
from services import Service, running_service

LIMITS = """
weights: {a100-40gb: 2}
defaults:
  gpus: 1.5
  sessions: {at_once: 3, max_time: 4h}
  budgets: [{gpu_hours: 20, every: week}]
stop: {save_grace: 1s, term_grace: 1s}
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    (tmp_path / "limits.yaml").write_text(LIMITS)
    with running_service(tmp_path, simulate="a100-40gb:8", limits_path=str(tmp_path / "limits.yaml")) as found:
        yield found


def limits_file(service: Service) -> Path:
    return Path(service.deployment.limits_path)


def soon(hours: float = 1) -> str:
    return (datetime.now(timezone.utc) + timedelta(hours=hours)).isoformat(timespec="seconds")


def error(service: Service, method: str, path: str, status: int, **body: Any) -> dict[str, Any]:
    answer = service.call(method, path, json=body)
    assert answer.status_code == status, answer.text
    return dict(answer.json()["error"])


def test_under_200_requests_at_once_no_limit_is_exceeded_at_any_commit(service: Service) -> None:
    people = 6  # who may hold 9 GPUs together, of 8: both bounds are met, in whatever order the requests come

    def ask(number: int) -> int:
        share = {"memory_gib": 20} if number % 3 else {"gpus": 1}
        body = {"share": share, "owner": f"owner{number % people}", "server_name": f"s{number}", "time_limit_s": 3600}
        return service.call("POST", "reservations", json=body).status_code

    with ThreadPoolExecutor(32) as threads:
        codes = list(threads.map(ask, range(200)))
    assert set(codes) == {201, 429}
    assert codes.count(201) == 3 * people, "three each"
    for reservation in service.ask("GET", "reservations?limit=500&state=granted")["reservations"]:
        service.ask("POST", f"reservations/{reservation['id']}/end", json={})
    path = Path(service.deployment.state_dir) / "ledger.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as ledger:
        events = ledger.execute(
            "select e.at, r.owner, e.state, json_extract(r.terms, '$.gpus') from events e "
            "join reservations r on r.id = e.reservation_id order by e.id"
        ).fetchall()
    held: dict[str, float] = {}
    most = 0.0
    for at in sorted({row[0] for row in events}):
        for _, owner, state, gpus in (row for row in events if row[0] == at):
            held[owner] = held.get(owner, 0.0) + {"granted": gpus, "ended": -gpus}.get(state, 0.0)
        most = max(most, max(held.values()))
        assert all(gpus <= 1.5 + 1e-6 for gpus in held.values())
        assert sum(held.values()) <= 8 + 1e-6
    assert most > 1, "the limit was never even near"


def test_an_edited_file_is_in_force_without_a_restart_and_what_runs_keeps_what_it_has(service: Service) -> None:
    running = service.create(time_limit_s=4 * 3600)
    limits_file(service).write_text(LIMITS.replace("max_time: 4h", "default_time: 1h, max_time: 1h"))

    eventually(lambda: service.ask("GET", "offers?owner=ben")["limits"]["max_time_s"] == 3600)
    refused = error(service, "POST", "reservations", 422, share={"gpus": 1}, owner="ben", time_limit_s=7200)
    assert "must be from 60 to 3600 seconds (1 h)" in refused["message"]
    assert service.get(running["id"])["time_limit_s"] == 4 * 3600
    assert service.ask("GET", "limits/audit")["audit"][0]["what"] == "limits"


@pytest.mark.parametrize(
    "text", ["defaults: {gpus: many}", "a: &a [1]\nb: *a", "defaults: {", "\x00", "groups: {a: {inherits: a}}", "[]"]
)
def test_a_bad_file_changes_nothing_and_is_told_until_it_is_corrected(service: Service, text: str) -> None:
    before = service.ask("GET", "limits/file")
    limits_file(service).write_text(text)
    told = eventually(lambda: (f := service.ask("GET", "limits/file"))["problem"] and f)
    assert "limits.yaml" in told["problem"]
    assert (told["version"], told["text"]) == (before["version"], before["text"])
    assert service.create(time_limit_s=4 * 3600)["state"] == "granted"
    limits_file(service).write_text(LIMITS)
    eventually(lambda: service.ask("GET", "limits/file")["problem"] == "")


def test_a_file_that_is_gone_or_half_written_changes_nothing(service: Service) -> None:
    limits_file(service).unlink()
    gone = eventually(lambda: service.ask("GET", "limits/file")["problem"])
    limits_file(service).write_text(LIMITS[: len(LIMITS) // 2])
    eventually(lambda: service.ask("GET", "limits/file")["problem"] not in ("", gone))
    assert service.ask("GET", "limits/file")["text"] == LIMITS
    limits_file(service).write_text(LIMITS)
    eventually(lambda: service.ask("GET", "limits/file")["problem"] == "")


def test_limits_are_applied_at_once_by_whoever_read_the_latest(service: Service) -> None:
    version = service.ask("GET", "limits/file")["version"]
    new = LIMITS.replace("gpus: 1.5", "gpus: 3")
    assert service.ask("POST", "limits/check", json={"text": new})["valid"]
    after = service.ask("POST", "limits/apply", json={"text": new, "base_version": version})
    assert after["version"] != version
    assert limits_file(service).read_text() == new
    late = error(service, "POST", "limits/apply", 409, text=LIMITS, base_version=version)
    assert late["reason"] == "changed-meanwhile"
    bad = error(service, "POST", "limits/apply", 422, text="defaults: {gpus: x}", base_version=after["version"])
    assert "line 1" in bad["message"]
    assert limits_file(service).read_text() == new
    service.kill()
    service.start()
    assert service.ask("GET", "limits/file")["version"] == after["version"]


def test_running_work_is_cut_only_when_the_administrator_says_so(service: Service) -> None:
    running = service.create(time_limit_s=4 * 3600)
    shorter = LIMITS.replace("max_time: 4h", "default_time: 1h, max_time: 1h")
    version = service.ask("GET", "limits/file")["version"]
    kept = service.ask("POST", "limits/apply", json={"text": shorter, "base_version": version})
    assert service.get(running["id"])["remaining_s"] > 3 * 3600
    body = {"text": shorter + "# again\n", "base_version": kept["version"], "cut_running": True}
    service.ask("POST", "limits/apply", json=body)
    assert service.get(running["id"])["remaining_s"] <= 3600


def test_an_exception_holds_until_its_end_is_explained_and_audited(service: Service) -> None:
    wish = {"share": {"gpus": 2}, "owner": "ada"}
    assert service.call("POST", "reservations", json=wish).status_code == 403
    body = {"name": "ada", "limits": {"gpus": 2}, "extra_gpu_hours": 5, "until": soon(), "why": "a talk on Friday"}
    made = service.ask("POST", "limits/exceptions", json=body)
    mine = service.ask("GET", "limits?owner=ada")
    assert [e["why"] for e in mine["exceptions"]] == ["a talk on Friday"]
    assert next(row for row in mine["limits"] if row["key"] == "gpus")["value"] == "2"
    assert mine["budgets"][0]["gpu_hours"] == 25
    assert service.ask("POST", "reservations", json=wish)["state"] == "granted"
    service.kill()
    service.start()
    assert service.ask("GET", "limits?owner=ada")["exceptions"]
    assert service.ask("POST", f"limits/exceptions/{made['id']}/end", json={})["in_force"] is False
    assert service.call("POST", "reservations", json={**wish, "server_name": "b"}).status_code == 403
    audit = [entry["what"] for entry in service.ask("GET", "limits/audit")["audit"]]
    assert audit[:2] == ["exception-ended", "exception"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"until": soon(-1)}, "must lie ahead"),
        ({"until": soon(24 * 400)}, "at most a year"),
        ({"until": "Friday"}, "until is 'Friday'"),
        ({"why": ""}, "why is ''"),
        ({"limits": {"gpu": 1}}, "limits.gpu"),
        ({"limits": {"gpus": -1}}, "limits.gpus"),
        ({"limits": {}}, "must say what is different"),
        ({"scope": "group", "name": "nobody"}, "no such group"),
        ({"scope": "all"}, "scope is 'all'"),
        ({"extra_gpu_hours": -1}, "extra_gpu_hours is -1"),
        ({"extra": 1}, "no such field"),
    ],
)
def test_a_wrong_exception_is_refused_in_words(service: Service, change: dict[str, Any], said: str) -> None:
    body = {"name": "ada", "limits": {"gpus": 2}, "until": soon(), "why": "a talk", **change}
    answer = service.call("POST", "limits/exceptions", json=body)
    assert answer.status_code in (400, 422), answer.text
    assert said in answer.json()["error"]["message"]


def test_use_is_told_by_person_model_kind_and_reason(service: Service, tmp_path: Path) -> None:
    made = service.create(owner="ada", time_limit_s=3600)
    service.ask("POST", "jobs", json=job_body(tmp_path, "ben", {"memory_gib": 20}))
    time.sleep(1.1)
    service.ask("POST", f"reservations/{made['id']}/end", json={})
    rows = service.ask("GET", "usage?by=owner,kind,reason,model")["usage"]
    found = {(row["owner"], row["kind"], row["reason"], row["model"]): row for row in rows}
    assert set(found) == {("ada", "session", "cancelled", "a100-40gb"), ("ben", "batch", "running", "a100-40gb")}
    ada = found[("ada", "session", "cancelled", "a100-40gb")]
    assert ada["gpu_hours"] > 1 / 3600 * 0.9
    assert ada["weighted_gpu_hours"] == pytest.approx(2 * ada["gpu_hours"], rel=0.5)
    assert "by is 'colour'" in error(service, "GET", "usage?by=colour", 400)["message"]


def test_the_explanation_names_every_limit_with_its_source(service: Service) -> None:
    found = service.ask("GET", "limits?owner=ada")
    rows = {row["key"]: row for row in found["limits"]}
    assert (rows["sessions.max_time"]["value"], rows["sessions.max_time"]["from"]) == ("4 h", "defaults")
    assert (rows["jobs.max_time"]["value"], rows["jobs.max_time"]["from"]) == ("72 h", "built in")
    assert found["budgets"][0]["left"] == 20
    for _ in range(2):
        service.create(server_name=str(_), time_limit_s=3600)
    waits = service.ask("GET", "limits?owner=ada")["waiting"][0]
    assert waits["why"].startswith("you hold 1 of the 1.5 GPUs")


def test_offers_respect_the_limits_of_who_asks(service: Service) -> None:
    offers = {offer["text"]: offer for offer in service.ask("GET", "offers?owner=ada")["offers"]}
    assert offers["1 whole a100-40gb"]["possible"]
    two = offers["2 whole a100-40gb"]
    assert not two["possible"]
    assert "your limit (GPUs at once) is 1.5" in two["why"]
    assert two["max_time_s"] == 4 * 3600


def test_limits_are_tried_on_what_really_came_and_change_nothing(service: Service) -> None:
    new = limits_file(service).read_text() + "\nfair_share: {}\n"
    nothing = error(service, "POST", "limits/try", 409, text=new)
    assert nothing["reason"] == "nothing-to-try"
    for owner in ("ada", "ben"):
        service.create(owner)
    before = service.ask("GET", "limits/file")
    table = service.ask("POST", "limits/try", json={"text": new, "days": 7})["table"]
    assert table.startswith("2 requests of 2 people on 8 devices")
    assert service.ask("GET", "limits/file") == before


def test_what_cannot_be_tried_is_told(service: Service) -> None:
    wrong = error(service, "POST", "limits/try", 422, text="defaults: {gpus: lots}")
    assert "line 1: defaults.gpus: must be a number" in wrong["message"]
    assert "at most 366 days" in error(service, "POST", "limits/try", 400, text="", days=0)["message"]
