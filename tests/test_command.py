"""The command: what it says to people, and what it keeps running."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hubs import command
from nodes import deployment, gpus_here

from timeshare.hub_config import ls
from timeshare.hub_config.run import ports
from timeshare.hub_config.up import HERE
from timeshare.reservations.deployment import DeploymentError, load_deployment
from timeshare.reservations.limits.effective import BUILT_IN, said
from timeshare.reservations.limits.load import load_limits
from timeshare.reservations.limits.schema import Limits


def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    everything = {**os.environ, **(env or {})}
    return subprocess.run([command(), *words], capture_output=True, text=True, timeout=90, check=False, env=everything)


BAD_STARTS = [
    (["--simulate", "a100:none"], "'a100:none'"),
    (["--simulate", "a100-40gb:0"], "from 1 to 1024 devices"),
    (["--simulate", "mystery:1"], "its memory is not known"),
    (["--limits", "/nonexistent.yaml"], "/nonexistent.yaml"),
    (["--state", "/proc/nowhere"], "name another by --state"),
]


@pytest.mark.parametrize(("options", "said"), BAD_STARTS, ids=[said for _, said in BAD_STARTS])
def test_a_start_that_cannot_work_says_why_and_starts_nothing(tmp_path: Path, options: list[str], said: str) -> None:
    state = [] if "--state" in options else ["--state", str(tmp_path / "state")]
    done = run("up", *state, *options)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "state" / "deployment.json").exists()


def test_wrong_limits_are_told_with_key_value_and_rule(tmp_path: Path) -> None:
    limits = tmp_path / "limits.yaml"
    limits.write_text("defaults: {sessions: {max_time: soon}}\nnonsense: 1\n")
    done = run("up", "--state", str(tmp_path / "state"), "--limits", str(limits))
    assert done.returncode == 1
    assert "max_time" in done.stderr
    assert "'soon'" in done.stderr
    assert "nonsense: no such key" in done.stderr


def test_the_shipped_limits_are_the_defaults_and_name_every_key() -> None:
    shipped = HERE / "limits.yaml"
    limits = load_limits(shipped)
    assert {key: sorted(v, key=str) if key == "shapes" else v for key, v in said(limits.defaults).items()} == {
        key: sorted(v, key=str) if key == "shapes" else v for key, v in BUILT_IN.items()
    }
    assert limits.model_copy(update={"defaults": Limits().defaults}) == Limits()
    scopes = {"groups", "users", "pools", "fair_share", "events", "maintenance"}
    assert set(yaml.safe_load(shipped.read_text())) == set(Limits.model_fields) - scopes


@pytest.mark.parametrize("name", ["limits_small_lab.yaml", "limits_lab.yaml"])
def test_the_shipped_examples_are_valid(name: str) -> None:
    limits = load_limits(HERE / name)
    assert limits.groups
    assert limits.pools


def test_doctor_says_what_the_machine_can_enforce(tmp_path: Path) -> None:
    done = run("doctor", "--state", str(tmp_path), "--simulate", "t4:1", "--json")
    findings: list[dict[str, Any]] = json.loads(done.stdout)
    said = {finding["what"]: finding for finding in findings}
    assert done.returncode == 0, done.stdout
    assert {f"device filter {name}" for name in ("systemd", "cgroup-v2", "cgroup-v1", "bubblewrap")} <= set(said)
    assert "simulated" in said["GPUs"]["detail"]
    assert said["parking"]["detail"].startswith("possible (experimental)")
    assert "parking.host_memory_gib" in said["parking"]["advice"]
    plain = run("doctor", "--state", str(tmp_path), "--simulate", "t4:1").stdout
    assert all(line.startswith(("ok ", "note", "warn", "fail", " ")) for line in plain.splitlines())


def test_doctor_says_why_nothing_can_be_parked(tmp_path: Path) -> None:
    if gpus_here().devices:
        pytest.skip("there is a GPU here: tests/gpu shows that it can be done")
    findings = json.loads(run("doctor", "--state", str(tmp_path), "--json").stdout)
    (said,) = [finding for finding in findings if finding["what"] == "parking"]
    assert said["level"] == "note"
    assert "cuda-core is not installed" in said["detail"] or "no NVIDIA driver was found" in said["detail"]


def test_doctor_fails_when_something_must_be_repaired(tmp_path: Path) -> None:
    (tmp_path / "limits.yaml").write_text("defaults: {sessions: {max_time: 1s}}\n")
    done = run("doctor", "--state", str(tmp_path), "--limits", str(tmp_path / "limits.yaml"))
    assert done.returncode == 1
    assert "fail  limits" in done.stdout


def test_ls_without_a_deployment_says_how_to_start_one(tmp_path: Path) -> None:
    done = run("ls", "--state", str(tmp_path))
    assert done.returncode == 1
    assert "timeshare up" in done.stderr
    deployment(tmp_path)
    done = run("ls", "--state", str(tmp_path))
    assert done.returncode == 1
    assert "is not running" in done.stderr


def test_the_table_shows_who_has_what_and_who_waits() -> None:
    common = {"server_name": "", "reason": None, "enforcement": "", "ended_at": None}
    rows = [
        {
            **common,
            "owner": "ada",
            "state": "active",
            "share_text": "1 whole t4",
            "enforcement": "hardware",
            "placement": [{"device_uuid": "GPU-1"}],
            "remaining_s": 5400,
        },
        {
            **common,
            "owner": "ben",
            "state": "queued",
            "share_text": "1 whole t4",
            "placement": [],
            "remaining_s": None,
            "position": 1,
            "latest_start_in_s": 600,
        },
    ]
    text = ls.table(rows)
    assert "ada    (default)  active  1 whole t4  GPU-1  hardware  1 h 30 min left" in text
    assert "position 1, starts within 10 min" in text


def test_the_deployment_file_is_private_and_a_broken_one_is_explained(tmp_path: Path) -> None:
    made = deployment(tmp_path)
    assert made.path.stat().st_mode & 0o077 == 0
    assert load_deployment(made.path) == made
    made.path.write_text("{")
    with pytest.raises(DeploymentError, match="stop timeshare and start it again"):
        load_deployment(made.path)


def test_ports_that_it_chooses_are_kept_free_by_linux_until_the_next_start(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: set[int] = set()
    for _ in range(5):
        chosen.add(ports.free_port("127.0.0.1", chosen))
    assert len(chosen) == 5
    assert max(chosen) < 32768, "from there on Linux gives them to connections, unless told otherwise"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(ports, "PORTS", range(taken.getsockname()[1], taken.getsockname()[1] + 1))
        assert ports.free_port("127.0.0.1", set()) not in ports.PORTS, "where all are taken, any will do"


def test_an_address_of_another_machine_is_refused_in_words() -> None:
    with pytest.raises(ports.PortError, match=r"192\.0\.2\.1:\d+ cannot be listened on"):
        ports.free_port("192.0.2.1", set())
