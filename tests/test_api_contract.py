"""The API against its own description: thousands of requests, good and bad, drawn from the OpenAPI by schemathesis,
with every kind of credential. Each run tells how many operations it reached."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import FULL_STRESS
from hubs import Hub, User, running_hub
from nodes import eventually, marked

from timeshare.reservations.service.__main__ import settings_of
from timeshare.reservations.service.auth import jobagent_key
from timeshare.reservations.service.bounds import CONFIG_FILE

ALL = "examples,coverage,fuzzing"
# Here requests are to be answered, not counted.
BOUNDS = "\n".join(
    f"c.ServiceBounds.{name} = {value}"
    for name, value in {
        "requests_per_s": "1e6",
        "requests_burst": 10**6,
        "submissions_per_minute": "1e6",
        "submissions_burst": 10**6,
        "reports_per_s": "1e6",
        "work_share": "1e6",
        "work_burst_s": "1e6",
        "unknown_tokens_per_s": "1e6",
    }.items()
)
# 422 is a share that this pool could never give, which no description can know.
ACCEPTED = ("2xx", "401", "403", "404", "409", "422", "429")
Operation = tuple[str, str]


@dataclass(frozen=True)
class Credential:
    """``reservation_id``: the one that paths name. ``reaches``: operations that it must at least have reached.
    ``examples``: of each operation; few of those that open little."""

    token: str
    reservation_id: str
    reaches: int
    phases: str = "examples,fuzzing"
    examples: int = 2


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("contract")
    (folder / CONFIG_FILE).write_text(BOUNDS)
    tiny = Path(__file__).with_name("tiny_server.py")
    server = f"c.Spawner.cmd = [{sys.executable!r}, {str(tiny)!r}]\nc.Spawner.args = []\n"
    (folder / "jupyterhub_site.py").write_text(server)
    with running_hub(folder, "--simulate", "a100-40gb[3g.20gb+1g.5gb]:1,t4:2", "--admins", "dora") as found:
        yield found


@pytest.fixture(scope="module")
def ended(hub: Hub) -> str:
    """A reservation of ada that has ended: every operation answers of it at once, and no stream goes on."""
    made = hub.service("POST", "reservations", json={"share": {"cpu_only": True}, "owner": "ada", "server_name": "x"})
    name = str(made.json()["id"])
    hub.service("POST", f"reservations/{name}/end", json={})
    return name


@pytest.fixture(scope="module")
def session(hub: Hub) -> dict[str, str]:
    """The environment of a session of ada that runs."""
    ada: User = hub.login("ada")
    ada.start(cpu_only=True)
    eventually(ada.is_ready, 120)
    (reservation,) = eventually(lambda: [r for r in ada.reservations() if r["state"] == "active"])
    for pid in marked(reservation["id"]):
        text = Path(f"/proc/{pid}/environ").read_bytes().decode()
        found = dict(entry.partition("=")[::2] for entry in text.split("\0") if entry)
        if "JUPYTERHUB_API_TOKEN" in found:
            return found
    raise AssertionError("its server has no token")


def credential(name: str, hub: Hub, ended: str, session: dict[str, str]) -> Credential:
    live = session["TIMESHARE_RESERVATION_ID"]
    everything = ALL if FULL_STRESS else ""
    made = {
        "user": lambda: Credential(hub.login("ada").token, ended, 20, everything or "coverage"),
        "admin": lambda: Credential(hub.login("dora").token, ended, 30, examples=4),
        "deployment": lambda: Credential(hub.deployment.admin_token, ended, 35, everything or "examples,fuzzing", 4),
        "session": lambda: Credential(session["JUPYTERHUB_API_TOKEN"], ended, 18, examples=3),
        "culler": lambda: Credential(hub.deployment.culler_token, ended, 3, examples=1),
        "activity": lambda: Credential(session["TIMESHARE_ACTIVITY_KEY"], live, 2, examples=1),
        "job agent": lambda: Credential(jobagent_key(settings_of(hub.deployment), ended), ended, 2, examples=1),
        "none": lambda: Credential("nobodys", ended, 1, examples=1),
    }
    return made[name]()


def run(hub: Hub, folder: Path, used: Credential) -> set[Operation]:
    """Sends what schemathesis draws; the operations that answered other than 401, 403 and 404 of no such address."""
    accepted, examples = json.dumps(ACCEPTED), "200" if FULL_STRESS else str(used.examples)
    (folder / "schemathesis.toml").write_text(
        f'[parameters]\n"path.id" = "{used.reservation_id}"\n'
        f"[checks.positive_data_acceptance]\nexpected-statuses = {accepted}\n"
    )
    described = f"{hub.url}services/timeshare/api/v1/openapi.json"
    done = subprocess.run(
        [
            *(Path(sys.executable).parent / "schemathesis", "run", described),
            *("--header", f"Authorization: Bearer {used.token}", "--max-examples", examples),
            *("--request-timeout", "70", "--max-response-time", "70"),  # how long is no part of it
            *("--checks", "all", "--phases", used.phases, "--seed", "20261123", "--no-color"),
            *("--report", "har", "--report-har-path", "sent.har"),
        ],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    return reached(hub, json.loads((folder / "sent.har").read_text()))


def reached(hub: Hub, har: dict[str, Any]) -> set[Operation]:
    found = set()
    for entry in har["log"]["entries"]:
        status, asked = entry["response"]["status"], entry["request"]
        assert status < 500, (asked["method"], asked["url"], entry["response"])
        nothing_there = status == 404 and "there is nothing at this address" in json.dumps(entry["response"])
        if status in (401, 403, 405) or nothing_there:
            continue
        path = urlsplit(asked["url"]).path
        found |= {(m, p) for m, p, pattern in patterns(hub) if m == asked["method"] and pattern.fullmatch(path)}
    return found


def patterns(hub: Hub) -> list[tuple[str, str, re.Pattern[str]]]:
    """Method, path and what addresses of it look like, of all operations."""
    described = hub.service("GET", "openapi.json").json()
    base = re.escape(urlsplit(hub.url).path.rstrip("/") + "/services/timeshare/api/v1")
    return [
        (method.upper(), path, re.compile(base + re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))))
        for path, methods in described["paths"].items()
        for method in methods
    ]


SHORT = ("user", "deployment", "session", "job agent")
NAMES = (*SHORT, "admin", "culler", "activity", "none") if FULL_STRESS else SHORT
"""Whose tokens are tried; `make stress` tries all."""


@pytest.mark.hub
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
def test_every_answer_is_one_that_the_description_announces(
    hub: Hub, ended: str, session: dict[str, str], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    used = credential(name, hub, ended, session)
    found, known = run(hub, tmp_path, used), patterns(hub)
    with capsys.disabled():
        print(f"\n  {name}: reached {len(found)} of {len(known)} operations")
    assert len(found) >= used.reaches, sorted({(m, p) for m, p, _ in known} - found)
    assert "Traceback" not in (hub.state_dir / "logs" / "service.log").read_text()
