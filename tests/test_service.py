"""The service's API, asked over HTTP: what it gives, whom it refuses, and in which words."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from nodes import eventually, order, part
from services import Service, running_service

from timeshare.reservations.agent.client import AgentError
from timeshare.reservations.client import ServiceClient
from timeshare.reservations.errors import PublicError
from timeshare.reservations.service.auth import ADMIN_SCOPE, USE_SCOPE, caller_of

LIMITS = "{defaults: {sessions: {at_once: 500}}, start_within: 1h, stop: {save_grace: 1s, term_grace: 1s}}"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    limits = tmp_path / "limits.yaml"
    limits.write_text(LIMITS)
    with running_service(tmp_path, simulate="a100-40gb:2,t4:1", limits_path=str(limits)) as found:
        yield found


def refusal(answer: requests.Response) -> dict[str, Any]:
    body = answer.json()
    assert set(body) == {"error"}, body
    assert set(body["error"]) == {"reason", "message", "details"}
    return dict(body["error"])


def test_offers_count_what_is_free_and_go_down_with_every_grant(service: Service) -> None:
    def free(text: str) -> int:
        offers = service.ask("GET", "offers")["offers"]
        return int(next(offer["free_now"] for offer in offers if text in offer["text"]))

    assert free("1/4 of one a100-40gb") == 8
    service.create(share={"memory_gib": 10, "model": "a100-40gb"})
    assert free("1/4 of one a100-40gb") == 7
    assert free("1 whole a100-40gb") == 1


def test_a_reservation_goes_through_its_states_and_says_why_it_ended(service: Service) -> None:
    made = service.create(share={"memory_gib": 10}, time_limit_s=600)
    assert made["state"] == "granted"
    assert made["placement"][0]["memory_mib"] == 10240
    path = f"reservations/{made['id']}"
    begun = service.ask("POST", f"{path}/starting", json={})
    assert (begun["state"], begun["generation"]) == ("starting", 1)
    service.node.launch("sleep", "300", reservation_id=made["id"])
    active = service.ask("POST", f"{path}/active", json={"generation": 1, "enforcement": "simulated"})
    assert (active["state"], active["enforcement"]) == ("active", "simulated")
    assert service.ask("POST", f"{path}/end", json={})["state"] == "ending"
    ended = eventually(lambda: (r := service.get(made["id"]))["state"] == "ended" and r)
    assert (ended["reason"], ended["detail"]) == ("cancelled", "stopped by an administrator")


def test_a_session_that_dies_frees_its_devices_and_tells_its_exit_code(service: Service, tmp_path: Path) -> None:
    go = tmp_path / "go"
    made = service.create(share={"gpus": 2})
    service.ask("POST", f"reservations/{made['id']}/starting", json={})
    service.node.launch("sh", "-c", f"until test -e {go}; do sleep 0.05; done; exit 5", reservation_id=made["id"])
    service.ask("POST", f"reservations/{made['id']}/active", json={"generation": 1, "enforcement": "simulated"})
    waiting = service.create(owner="ben", share={"gpus": 2})
    assert (waiting["state"], waiting["position"]) == ("queued", 1)
    go.touch()
    ended = eventually(lambda: (r := service.get(made["id"]))["state"] == "ended" and r)
    assert ended["reason"] == "failed"
    assert "code 5" in ended["detail"]
    assert service.get(waiting["id"])["state"] == "granted"


def test_a_time_limit_is_announced_then_kept(tmp_path: Path) -> None:
    limits = tmp_path / "limits.yaml"
    limits.write_text(
        "{defaults: {sessions: {default_time: 60s}}, notices: [55s], stop: {save_grace: 1s, term_grace: 1s}}"
    )
    with running_service(tmp_path, limits_path=str(limits)) as service:
        made = service.create(time_limit_s=60)
        path = f"reservations/{made['id']}"
        service.ask("POST", f"{path}/starting", json={})
        service.node.launch("sleep", "300", reservation_id=made["id"])
        service.ask("POST", f"{path}/active", json={"generation": 1, "enforcement": "simulated"})
        told = eventually(lambda: service.get(made["id"])["notices"], 30)
        assert "This session ends in" in told[0]["text"]
        ended = eventually(lambda: (r := service.get(made["id"]))["state"] == "ended" and r, 90)
        assert ended["reason"] == "time_limit"
        assert "its time limit of 60 s was reached" in ended["detail"]


@pytest.mark.parametrize("seconds", [59, 0, -1, 2.5])
def test_a_time_that_nobody_may_ask_for_is_refused_also_when_it_repeats_a_request(
    service: Service, seconds: float
) -> None:
    body = {"share": {"cpu_only": True}, "owner": "ada", "client_key": "short"}
    made = service.call("POST", "reservations", json=body)
    assert made.status_code in (200, 201)
    refused = service.call("POST", "reservations", json={**body, "time_limit_s": seconds})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith(f"time_limit_s is {seconds}: must be ")


async def test_a_reason_with_what_nobody_sees_is_refused_and_the_hub_writes_it_out(service: Service) -> None:
    made = service.create(share={"cpu_only": True}, owner="ada")["id"]
    refused = service.call("POST", f"reservations/{made}/end", json={"detail": "\u00d7\u009b"})
    assert refused.status_code == 400
    assert "U+009B" in refused.json()["error"]["message"]
    ended = await ServiceClient(service.deployment.service_url, service.deployment.admin_token).end(
        made, "failed", "it said \u009b" + 3000 * "x"
    )
    assert ended["detail"].startswith("it said \\x9bx")
    assert len(ended["detail"]) == 2000


def test_a_client_key_makes_one_reservation_however_often_it_is_sent(service: Service) -> None:
    body = {"share": {"gpus": 1}, "owner": "ada", "client_key": "again"}
    answers = [service.call("POST", "reservations", json=body) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 200, 200]
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_the_queue_and_its_order_survive_a_kill_of_the_service(service: Service) -> None:
    service.create(share={"gpus": 2, "model": "a100-40gb"})
    waiting = [service.create(owner=f"u{i}", share={"gpus": 2, "model": "a100-40gb"})["id"] for i in range(3)]
    service.kill()
    service.start()
    told = [service.get(name) for name in waiting]
    assert [r["position"] for r in told] == [1, 2, 3]
    assert all(r["latest_start"] for r in told)


def test_waiting_by_long_poll_ends_with_the_change(service: Service) -> None:
    first = service.create(share={"gpus": 2, "model": "a100-40gb"})
    second = service.create(owner="ben", share={"gpus": 1, "model": "a100-40gb"})
    threading.Timer(0.5, lambda: service.ask("POST", f"reservations/{first['id']}/end", json={})).start()
    told = service.ask("GET", f"reservations/{second['id']}?unlike=queued&wait_s=30")
    assert told["state"] == "granted"


def test_server_sent_events_tell_every_state_until_the_end(service: Service) -> None:
    made = service.create()
    stream = service.call("GET", f"reservations/{made['id']}/events", stream=True)
    assert stream.headers["Content-Type"] == "text/event-stream"
    data = (json.loads(line[5:]) for line in stream.iter_lines(chunk_size=1) if line.startswith(b"data:"))
    assert next(data)["state"] == "granted"
    service.ask("POST", f"reservations/{made['id']}/end", json={})
    assert [r["state"] for r in data] == ["ended"]


def test_an_extension_is_given_unless_somebody_would_wait_longer(service: Service) -> None:
    made = service.create(share={"gpus": 2, "model": "a100-40gb"}, time_limit_s=600)
    longer = service.ask("POST", f"reservations/{made['id']}/extend", json={"seconds": 600})
    assert longer["time_limit_s"] == 1200
    service.create(owner="ben", share={"gpus": 1, "model": "a100-40gb"})
    refused = service.call("POST", f"reservations/{made['id']}/extend", json={"seconds": 600})
    assert refused.status_code == 409
    assert "1 waiting request would start later" in refusal(refused)["message"]


def test_now_or_not_at_all_is_refused_with_the_time_when_it_could_start(service: Service) -> None:
    service.create(share={"gpus": 1, "model": "t4"})
    refused = service.call(
        "POST", "reservations", json={"share": {"gpus": 1, "model": "t4"}, "owner": "ben", "queue": False}
    )
    assert refused.status_code == 409
    error = refusal(refused)
    assert error["reason"] == "no-capacity"
    assert error["details"]["latest_start"]
    assert "queue set to true" in error["message"]


def test_a_device_that_the_driver_calls_broken_gets_nothing_new(service: Service) -> None:
    health = [{"device": "GPU-simulated-0002", "code": 79, "detail": "XID 79: fell off the bus", "cordon": True}]
    service.node.driver_tells(health=health)

    def cordoned() -> str | None:
        devices = service.ask("GET", "devices")["devices"]
        return next(d["cordoned"] for d in devices if d["uuid"] == "GPU-simulated-0002")

    assert "fell off the bus" in str(eventually(cordoned))
    assert service.create(share={"gpus": 1, "model": "t4"})["state"] == "queued"
    service.ask("POST", "devices/GPU-simulated-0002/uncordon", json={})
    assert service.create(owner="ben", share={"gpus": 1, "model": "t4"})["state"] == "queued"
    states = [r["state"] for r in service.ask("GET", "reservations")["reservations"]]
    assert sorted(states) == ["granted", "queued"]
    service.kill()
    service.start()
    assert cordoned() is None, "the old event put it out of service again"


def test_while_the_agent_is_silent_nothing_ends_and_nothing_is_given_out(service: Service) -> None:
    made = service.create(share={"gpus": 1, "model": "t4"})
    service.ask("POST", f"reservations/{made['id']}/starting", json={})
    service.node.launch("sleep", "300", reservation_id=made["id"])
    service.ask("POST", f"reservations/{made['id']}/active", json={"generation": 1, "enforcement": "simulated"})
    service.node.kill()
    service.ask("POST", f"reservations/{made['id']}/end", json={})
    threading.Event().wait(6)
    assert service.get(made["id"])["state"] == "ending"
    assert service.create(owner="ben", share={"gpus": 1, "model": "t4"})["state"] == "queued"
    service.node.start()
    eventually(lambda: service.get(made["id"])["state"] == "ended")


def test_a_process_of_a_reservation_that_has_ended_is_ended(service: Service) -> None:
    made = service.create(share={"gpus": 1, "model": "t4"})
    service.ask("POST", f"reservations/{made['id']}/end", json={})
    service.node.ids.append(made["id"])
    with contextlib.suppress(AgentError):  # it may be told to stop before its start has been answered
        service.node.ask("launch", **order(made["id"], ["sleep", "300"]))
    eventually(lambda: not any(s["reservation_id"] == made["id"] for s in service.node.ask("sessions")))


def test_an_older_ledger_ends_nobodys_session_and_gives_its_gpu_to_nobody(service: Service, tmp_path: Path) -> None:
    ledger = Path(service.deployment.state_dir) / "ledger.sqlite"
    service.kill()
    with (
        contextlib.closing(sqlite3.connect(ledger)) as source,
        contextlib.closing(sqlite3.connect(tmp_path / "b")) as copy,
    ):
        source.backup(copy)
    service.start()
    made = service.create(share={"gpus": 1, "model": "t4"})
    service.ask("POST", f"reservations/{made['id']}/starting", json={})
    share = [part(15360, True, service.get(made["id"])["placement"][0]["device_uuid"])]
    service.node.launch("sleep", "300", reservation_id=made["id"], share=share)
    service.ask("POST", f"reservations/{made['id']}/active", json={"generation": 1, "enforcement": "simulated"})
    service.kill()
    for name in (ledger, *ledger.parent.glob("ledger.sqlite-*")):
        name.unlink()
    shutil.copy(tmp_path / "b", ledger)
    service.start()

    (stranger,) = eventually(lambda: service.ask("GET", "devices")["unaccounted"])
    assert (stranger["id"], stranger["owner"]) == (made["id"], "ada")
    (out,) = [d for d in service.ask("GET", "devices")["devices"] if d["uuid"] == stranger["devices"][0]]
    assert "a session of ada runs on it that the ledger does not know" in out["cordoned"]
    taken = {h["device_uuid"] for n in range(2) for h in service.create(f"u{n}", share={"memory_gib": 1})["placement"]}
    assert out["uuid"] not in taken
    (running,) = [s for s in service.node.ask("sessions") if s["reservation_id"] == made["id"]]
    assert running["state"] == "running"

    assert service.call("POST", f"devices/unaccounted/{uuid.uuid4()}/end", json={}).status_code == 404
    service.ask("POST", f"devices/unaccounted/{made['id']}/end", json={})
    eventually(lambda: service.ask("GET", "devices")["unaccounted"] == [], 60)
    assert not any(s["reservation_id"] == made["id"] for s in service.node.ask("sessions"))


BAD_SHARES = [
    ({"gpus": 1, "model": "a9000"}, "a9000"),
    ({"gpus": 0}, "gpus is 0"),
    ({"gpus": -1}, "gpus is -1"),
    ({"gpus": 1.5}, "gpus is 1.5"),
    ({"gpus": True}, "gpus is True"),
    ({"memory_gib": 0}, "memory_gib is 0"),
    ({"memory_gib": -4}, "memory_gib is -4"),
    ({"memory_gib": 1e9}, "memory_gib is 1000000000"),
    ({"memory_gib": 100}, "100"),
    ({"memory_gib": "10"}, "memory_gib is '10'"),
    ({"gpus": 1, "memory_gib": 4}, "two shapes at once"),
    ({"mig_profile": "rm -rf"}, "mig_profile is 'rm -rf'"),
    ({"memory_gib": 4, "compute_percent": 101}, "compute_percent is 101"),
    ({}, "no share asked for"),
    ({"gpu": 1}, "no such field"),
    ({"gpus": 3, "model": "t4"}, "3"),
]


@pytest.mark.parametrize(("share", "said"), BAD_SHARES, ids=[str(share) for share, _ in BAD_SHARES])
def test_a_share_that_can_never_be_is_refused_with_value_and_rule(
    shared_service: Service, share: dict[str, Any], said: str
) -> None:
    answer = shared_service.call("POST", "reservations", json={"share": share, "owner": "ada"})
    assert 400 <= answer.status_code < 500
    assert said in refusal(answer)["message"]


BAD_BODIES = [
    (b"{", "not JSON"),
    (b"[]", "JSON array"),
    (b'"x"', "JSON string"),
    (b"null", "JSON null"),
    (b'{"share": {"memory_gib": NaN}}', "NaN"),
    (b'{"share": {"memory_gib": Infinity}}', "Infinity"),
    (b'{"share": {"memory_gib": 1e999}}', "the body holds the number 1e999"),
    (b'{"share": 3}', "share is 3"),
    (b'{"share": {"gpus": 1}, "time_limit_s": -5}', "time_limit_s is -5"),
    (b'{"share": {"gpus": 1}, "time_limit_s": "1h"}', "time_limit_s is '1h'"),
    (b'{"share": {"gpus": 1}, "kind": "party"}', "kind is 'party'"),
    (b'{"share": {"gpus": 1}, "queue": 1}', "queue is 1"),
    (b'{"share": {"gpus": 1}, "server_name": "a\\nb"}', "server_name is 'a\\nb'"),
    (b'{"share": {"gpus": 1}, "owner": "\\ud800"}', "half of a surrogate pair"),
    (b'{"share": {"gpus": 1}, "color": "red"}', "no such field"),
    (b"[" * 20000, "not JSON"),
    (b"\xff\xfe", "not JSON"),
    (b'{"share": {"gpus": ' + b"9" * 5000 + b"}}", "of 5000 digits"),
]


def test_a_time_beyond_the_limits_is_understood_and_refused(shared_service: Service) -> None:
    refused = shared_service.call(
        "POST", "reservations", json={"owner": "ada", "share": {"gpus": 1}, "time_limit_s": 10**9}
    )
    assert refused.status_code == 422
    assert "time_limit_s is 1000000000" in refused.json()["error"]["message"]


@pytest.mark.parametrize(("body", "said"), BAD_BODIES, ids=[repr(body[:60]) for body, _ in BAD_BODIES])
def test_a_body_that_makes_no_sense_is_refused_with_what_is_wrong(
    shared_service: Service, body: bytes, said: str
) -> None:
    if b'"owner"' not in body:
        body = body.replace(b'{"share"', b'{"owner": "ada", "share"', 1)
    answer = shared_service.call("POST", "reservations", data=body)
    assert answer.status_code == 400
    assert said in refusal(answer)["message"]


def test_a_body_that_is_too_large_is_refused_with_the_limit(shared_service: Service) -> None:
    for size in (70_000, 10_000_000):
        answer = shared_service.call("POST", "reservations", data=b" " * size)
        assert answer.status_code == 413
        assert "65536 bytes" in refusal(answer)["message"]


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong-token", "Basic YTpi", "Bearer ä"])
def test_without_a_good_token_nothing_is_told(shared_service: Service, header: str) -> None:
    for path in ("offers", "reservations", "devices", f"reservations/{uuid.uuid4()}"):
        headers = {"Authorization": header.encode("latin-1")}
        answer = requests.get(f"{shared_service.url}/{path}", headers=headers, timeout=10)
        assert answer.status_code in (401, 503)
        refusal(answer)


@pytest.mark.parametrize(
    "name", ["x", "../../etc", "0" * 36, "06b7e94a-0d66-4764-a510-f80d8efe2ebf", "%00", "a" * 3000]
)
def test_an_id_that_there_never_was_is_not_found(shared_service: Service, name: str) -> None:
    answer = shared_service.call("GET", f"reservations/{name}")
    assert answer.status_code == 404
    refusal(answer)


def test_a_token_of_a_user_reaches_her_own_only() -> None:
    caller = caller_of("user", "ada", [USE_SCOPE])
    assert (caller.may_touch("ada"), caller.may_touch("ben")) == (True, False)
    assert caller_of("user", "root", [USE_SCOPE, ADMIN_SCOPE]).may_touch("ben")
    with pytest.raises(PublicError, match="needs the scope"):
        caller_of("user", "ada", ["self", "access:servers"])
    with pytest.raises(PublicError, match="needs the scope"):
        caller_of("service", "culler", [USE_SCOPE])


@pytest.fixture(scope="module")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One for all requests that must change nothing."""
    with running_service(tmp_path_factory.mktemp("service"), simulate="a100-40gb:2,t4:1") as found:
        yield found
        assert found.ask("GET", "reservations")["reservations"] == []


def test_the_description_is_served_without_a_login(shared_service: Service) -> None:
    described = requests.get(f"{shared_service.url}/openapi.json", timeout=10).json()
    assert described["openapi"].startswith("3.1")
    assert "/reservations/{id}/extend" in described["paths"]
