"""A backup of a real hub that runs, with its ledger in PostgreSQL, and a state that goes back to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import fresh_schema
from hubs import Hub, command, running_hub
from nodes import eventually, marked

pytestmark = pytest.mark.hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[Hub]:
    options = ("--simulate", "a100-40gb:3", "--ledger", fresh_schema(postgres_url))
    with running_hub(tmp_path_factory.mktemp("site") / "state", *options) as hub:
        yield hub


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([command(), *words], capture_output=True, text=True, timeout=120, check=False)


def test_what_the_older_ledger_knows_goes_on_and_the_rest_is_kept_until_decided(hub: Hub, tmp_path: Path) -> None:
    ada, ben = hub.login("ada"), hub.login("ben")
    state = ("--state", hub.state_dir)
    ada.start(gpus=1)
    first = ada.active()["id"]
    waits = ben.service("POST", "reservations", json={"share": {"gpus": 3}, "server_name": "later"}).json()["id"]

    made = run("backup", *state, "--to", tmp_path)  # while it runs
    assert made.returncode == 0, made.stderr
    (path,) = tmp_path.glob("*.backup")
    assert path.stat().st_mode & 0o777 == 0o600
    ben.service("POST", f"reservations/{waits}/end", json={})

    ben.start(gpus=1)
    second = ben.active()["id"]
    refused = run("restore", *state, "--from", path, "--replace")
    assert refused.returncode == 1
    assert "already runs" in refused.stderr
    pids = {name: marked(name) for name in (first, second)}
    assert all(pids.values())

    hub.end(signal.SIGTERM)
    refused = run("restore", *state, "--from", path)
    assert "--replace" in refused.stderr
    done = run("restore", *state, "--from", path, "--replace")
    assert done.returncode == 0, done.stderr
    hub.start()
    eventually(hub.is_healthy, 60)

    # Hers goes on, and her login is the same.
    eventually(lambda: {r["id"]: r["state"] for r in hub.everybodys()} == {first: "active", waits: "queued"}, 60)
    assert ada.session.get(f"{hub.url}hub/home").url.endswith("/hub/home")
    eventually(lambda: ada.is_ready(), 60)
    assert set(marked(first)) & set(pids[first])

    # The other is kept, shown, and its GPU goes to nobody.
    eventually(lambda: second in run("unaccounted", *state).stdout, 60)
    assert set(marked(second)) & set(pids[second])
    devices = hub.service("GET", "devices").json()["devices"]
    assert sum("does not know" in str(device["cordoned"]) for device in devices) == 1

    ended = run("unaccounted", *state, "--end", second)
    assert ended.returncode == 0, ended.stderr
    eventually(lambda: not marked(second), 60)
    eventually(lambda: all(d["cordoned"] is None for d in hub.service("GET", "devices").json()["devices"]), 60)
    told = json.loads((hub.state_dir / "deployment.json").read_text())
    assert told["ledger_url"].startswith("postgresql")
    (aside,) = hub.state_dir.glob("before-restore-*")
    assert {"ledger.backup", "hub.sqlite", "hub_cookie_secret"} <= set(os.listdir(aside))
