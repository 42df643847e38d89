"""The same warnings by the command, the API, doctor, health and the log of a real service that knows its devices."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hubs import command
from nodes import eventually
from services import Service, running_service
from test_limits_service import soon

LIMITS = """\
users:
  ada: {gpus: 2}
pools:
  nights:
    models: ["a100-80gb"]
    kinds: [batch]
"""
SAID = [
    "line 4: pools.nights: has no device: nothing here is what it names: what it says of groups, kinds and max_time",
    "line 5: pools.nights.models.0: no device here is of the model 'a100-80gb'; models here: a100-40gb; did you mean",
]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    (tmp_path / "limits.yaml").write_text(LIMITS)
    with running_service(tmp_path, simulate="a100-40gb:2", limits_path=str(tmp_path / "limits.yaml")) as found:
        yield found


def run(service: Service | Path, *words: str) -> subprocess.CompletedProcess[str]:
    folder = service if isinstance(service, Path) else service.deployment.state_dir
    words = (*words, "--state", str(folder))
    return subprocess.run([command(), *words], capture_output=True, text=True, timeout=90, check=False)


def all_said(text: str) -> bool:
    return all(said in text for said in SAID)


def test_a_restriction_without_devices_is_told_everywhere_and_lets_nobody_in(service: Service) -> None:
    folder = Path(service.deployment.state_dir)
    file = service.ask("GET", "limits/file")
    assert all_said("\n".join(file["warnings"]))
    assert service.ask("GET", "health")["limits_warnings"] == 2
    eventually(lambda: all_said((folder / "service.log").read_text()))
    answer = service.call("POST", "reservations", json={"share": {"gpus": 1}, "owner": "ben"})
    assert answer.status_code == 403
    assert "the pool nights takes no sessions (it names no device of its own" in answer.json()["error"]["message"]
    checked = run(service, "limits", "check", str(folder / "limits.yaml"))
    assert checked.returncode == 0
    assert all_said(checked.stderr)
    assert "; 2 warnings" in checked.stdout
    doctor = json.loads(run(service, "doctor", "--json").stdout)
    warned = [one["detail"] for one in doctor if one["what"] == "limits" and one["level"] == "warn"]
    assert all_said("\n".join(warned))


def test_a_change_is_applied_with_its_warnings_and_corrected_without(service: Service) -> None:
    folder = Path(service.deployment.state_dir)
    (folder / "new.yaml").write_text(LIMITS.replace("80gb", "40gb") + "weights:\n  v100: 2\n")
    applied = run(service, "limits", "apply", str(folder / "new.yaml"))
    assert applied.returncode == 0, applied.stderr
    assert f"warning: {folder}/new.yaml, line 8: weights.v100: no device here is of the model" in applied.stderr
    (folder / "new.yaml").write_text(LIMITS.replace("80gb", "40gb"))
    applied = run(service, "limits", "apply", str(folder / "new.yaml"))
    assert applied.stderr == ""
    assert service.ask("GET", "health")["limits_warnings"] == 0
    assert service.ask("GET", "limits/file")["warnings"] == []


def test_all_faults_are_told_by_check_and_apply_of_command_and_api(service: Service) -> None:
    folder = Path(service.deployment.state_dir)
    (folder / "new.yaml").write_text("defaults: {gpus: x}\npools:\n  p:\n    groups: [y]\nstop: {save_grace: never}\n")
    told = [f"{folder}/new.yaml, line {n}: " for n in (1, 4, 5)]
    for what in ("check", "apply"):
        done = run(service, "limits", what, str(folder / "new.yaml"))
        assert done.returncode == 1
        assert [line for line in told if line in done.stderr] == told
    body = {"text": (folder / "new.yaml").read_text(), "base_version": "x"}
    assert len(service.ask("POST", "limits/check", json={"text": body["text"]})["errors"]) == 3
    refused = service.call("POST", "limits/apply", json=body).json()["error"]
    assert len(refused["details"]["errors"]) == 3


def test_check_says_what_it_cannot_know_where_nothing_runs(tmp_path: Path) -> None:
    (tmp_path / "limits.yaml").write_text(LIMITS)
    done = run(tmp_path, "limits", "check", str(tmp_path / "limits.yaml"))
    assert done.returncode == 0
    assert done.stderr == ""
    assert "Devices, nodes and people are not known: whether rules match those was not checked." in done.stdout


# --- doctor looks at the deployment's own file


def limits_of_doctor(folder: Path, *words: str) -> list[dict[str, str]]:
    found = json.loads(run(folder, "doctor", "--json", *words).stdout)
    return [one for one in found if one["what"] == "limits"]


def test_doctor_reads_the_file_that_the_deployment_goes_by(service: Service, tmp_path: Path) -> None:
    service.close()
    (tmp_path / "limits.yaml").write_text("defaults:\n  gpus: x\nfoo: 1\n")
    found = limits_of_doctor(tmp_path)
    assert [one["level"] for one in found if one["level"] == "fail"] == ["fail", "fail"]
    assert f"{tmp_path}/limits.yaml, line 2: defaults.gpus: must be a number" in found[0]["detail"]
    (tmp_path / "limits.yaml").write_text(LIMITS)
    assert all_said("\n".join(one["detail"] for one in limits_of_doctor(tmp_path))), "with the devices that it sees"


def test_doctor_reads_the_file_of_a_deployment_that_never_ran(tmp_path: Path) -> None:
    (told,) = limits_of_doctor(tmp_path, "--simulate", "t4:1")[:1]
    assert told["level"] == "note"
    assert "has none yet" in told["detail"]
    (tmp_path / "limits.yaml").write_text("defaults: {largest: 4, gpus: 1}\n")
    found = limits_of_doctor(tmp_path, "--simulate", "t4:1")
    assert any(one["level"] == "warn" and "defaults.gpus: largest is 4 and gpus is 1" in one["detail"] for one in found)


def test_doctor_says_who_else_can_change_the_limits(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    (folder / "limits.yaml").write_text("{}\n")
    os.chmod(folder / "limits.yaml", 0o666)
    found = limits_of_doctor(folder, "--simulate", "t4:1")
    assert any("has mode 666: others can change everybody's limits" in one["detail"] for one in found)


# --- exceptions


def test_a_misspelt_key_of_an_exception_is_told_with_the_known_ones(service: Service) -> None:
    def said(*pairs: str) -> str:
        sets = [word for pair in pairs for word in ("--set", pair)]
        done = run(service, "limits", "override", "ada", *sets, "--until", soon(), "--because", "a talk")
        assert done.returncode == 1
        return done.stderr

    assert "limits.gpu: no such key; known keys: shapes" in (both := said("gpu=4", "largest=x"))
    assert "did you mean gpus?" in both
    assert "limits.largest: must be a number" in both
    assert "did you mean sessions.max_time or jobs.max_time?" in said("max_time=4h")
    assert "limits.idle.then: is park, and parking.host_memory_gib is 0" in said("idle.then=park")
    assert "sessions was given a value before" in said("sessions=1", "sessions.max_time=2h")


def test_an_exception_for_somebody_unknown_is_told_while_the_hub_is_silent(service: Service) -> None:
    words = ("--set", "gpus=4", "--until", soon(), "--because", "a talk")
    done = run(service, "limits", "override", "adda", *words)
    assert done.returncode == 0
    assert "nobody called adda is known here, and JupyterHub cannot be asked now; did you mean ada?" in done.stderr
    assert "(UTC)" in done.stdout
    assert run(service, "limits", "override", "ada", *words).stderr == ""
    group = run(service, "limits", "override", "cmss", "--group", *words)
    assert group.returncode == 1
    assert "no such group in the limits; known: none" in group.stderr
