"""A session is a session and batch is a job: no reservation of one kind is used as the other."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from hubs import Hub, running_hub
from nodes import eventually
from plain_jobs import job_body
from pools import Lab
from services import Service, running_service

from timeshare.reservations.errors import PublicError
from timeshare.reservations.kind import Kind
from timeshare.reservations.shares import parse_share
from timeshare.reservations.submission import Submission

SHARE = {"memory_gib": 4}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("kinds"), simulate="a100-40gb:2") as found:
        yield found


def refused(answer: requests.Response, status: int) -> str:
    assert answer.status_code == status, (answer.status_code, answer.text)
    return str(answer.json()["error"]["message"])


def submit(service: Service, folder: Path, **more: Any) -> dict[str, Any]:
    (made,) = service.ask("POST", "jobs", json={**job_body(folder, "ada", SHARE), **more})["jobs"]
    return dict(made)


def test_batch_without_a_job_is_refused_and_told_what_works(service: Service) -> None:
    for more in ({}, {"server_name": "x"}, {"queue": False}, {"client_key": "k"}):
        body = {"share": SHARE, "owner": "ada", "kind": "batch", **more}
        assert "POST jobs" in refused(service.call("POST", "reservations", json=body), 403)
    assert service.ask("GET", "reservations?kind=batch&owner=ada")["reservations"] == []


def test_the_ledger_never_holds_batch_without_a_job_whoever_asks(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {}, "a100-40gb")
    with pytest.raises(PublicError, match="by submitting a job"):
        lab.pool.submit(Submission("ada", parse_share({"gpus": 1}), 600, Kind.BATCH))
    assert list(lab.pool.live()) == []


def test_no_server_starts_on_a_job_whatever_asks_for_it(service: Service, tmp_path: Path) -> None:
    made = submit(service, tmp_path)
    eventually(lambda: service.get(made["id"])["state"] == "active")
    order = {"generation": 1, "argv": ["/bin/true"], "env": {}}
    for what, body in (("starting", {}), ("active", {"generation": 1, "enforcement": "simulated"}), ("order", order)):
        told = refused(service.call("POST", f"reservations/{made['id']}/{what}", json=body), 409)
        assert "no server starts on a batch reservation" in told
    now = service.get(made["id"])
    assert (now["state"], now["generation"]) == ("active", 1)
    service.ask("POST", f"reservations/{made['id']}/end", json={})
    eventually(lambda: service.get(made["id"])["state"] == "ended")


def test_a_key_given_for_one_kind_or_server_gets_nothing_of_another(service: Service, tmp_path: Path) -> None:
    job = submit(service, tmp_path, client_key="mine")
    session = service.create(share=SHARE, client_key="other#0", server_name="one")
    wish = {"share": SHARE, "owner": "ada"}
    for body in ({"client_key": "mine#0"}, {"client_key": "other#0"}, {"client_key": "other#0", "server_name": "two"}):
        told = refused(service.call("POST", "reservations", json={**wish, **body}), 409)
        assert "client_key was given before" in told
    refused(service.call("POST", "jobs", json={**job_body(tmp_path, "ada", SHARE), "client_key": "other"}), 409)
    again = service.create(share=SHARE, client_key="other#0", server_name="one")
    assert again["id"] == session["id"]
    for one in (job, session):
        service.ask("POST", f"reservations/{one['id']}/end", json={})


def test_no_session_is_read_or_kept_as_a_job_and_no_job_as_a_session(service: Service, tmp_path: Path) -> None:
    session = service.create(share=SHARE, server_name="plain")
    for what in ("key", "lines"):
        assert "not a job" in refused(service.call("GET", f"jobs/{session['id']}/{what}"), 404)
    job = submit(service, tmp_path)
    eventually(lambda: service.get(job["id"])["state"] == "active")
    keep = {"key": "k", "seconds": 60, "why": "a talk"}
    refused(service.call("POST", f"reservations/{job['id']}/keep", json=keep), 409)
    for what in ("give_back", "ask_again"):
        assert 400 <= service.call("POST", f"reservations/{job['id']}/{what}", json={}).status_code < 500
        assert service.get(job["id"])["state"] == "active"
    for one in (job, session):
        service.ask("POST", f"reservations/{one['id']}/end", json={})


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("hub"), "--simulate", "a100-40gb:2") as found:
        yield found


@pytest.mark.hub
def test_a_person_gets_no_server_on_a_job_or_on_another_servers_session(hub: Hub, tmp_path: Path) -> None:
    ada = hub.login("ada")
    body = {key: value for key, value in job_body(tmp_path, "ada", SHARE).items() if key != "owner"}
    (job,) = ada.service("POST", "jobs", json={**body, "client_key": "k"}).json()["jobs"]
    other = ada.service("POST", "reservations", json={"share": SHARE, "server_name": "other"}).json()
    for options in (
        {"reservation_id": job["id"]},
        {"reservation_id": other["id"]},
        {"reservation_id": str(uuid.uuid4())},
        {**SHARE, "client_key": "k#0"},
    ):
        assert 400 <= ada.start(**options).status_code < 500, options
        eventually(ada.has_no_servers, 60)
    assert ada.service("GET", f"reservations/{job['id']}").json()["generation"] <= 1
    for what in ("starting", "active", "order"):
        refused(ada.service("POST", f"reservations/{job['id']}/{what}", json={}), 403)
        refused(ada.service("POST", f"reservations/{other['id']}/{what}", json={}), 403)
