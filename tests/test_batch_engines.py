"""Where a job runs, in the words of who hands it over. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from timeshare.notebooks.batch import pages
from timeshare.notebooks.batch.options import BadOption, parse
from timeshare.notebooks.batch.places import Places
from timeshare.notebooks.batch.states import status_of
from timeshare.notebooks.server.status import job_rows

HELD = {"model": "a100", "device_uuid": "", "instance_uuid": "", "memory_mib": 40_000, "compute": 1000, "whole": True}
WAITING: dict[str, Any] = {
    "state": "queued",
    "reason": None,
    "detail": "",
    "generation": 0,
    "requeues": 0,
    "position": None,
    "firm": False,
    "latest_start_in_s": 300,
    "why_waiting": "others have a higher priority",
    "remaining_s": None,
    "placement": [],
    "simulated": False,
    "engine": "slurm",
    "engine_title": "The cluster",
    "external_job": "4711",
    "external_node": "",
}
RUNNING = {**WAITING, "state": "active", "generation": 1, "remaining_s": 60, "placement": [HELD, HELD]}


def test_what_waits_at_an_engine_says_where_and_what_the_engine_says() -> None:
    status = status_of(WAITING, None)
    assert (status.state, status.where) == ("waiting", "The cluster, job 4711")
    assert status.why == "is expected to start within 5 min, others have a higher priority"


def test_what_runs_at_an_engine_says_on_which_node_and_its_number_there_also_when_it_has_ended() -> None:
    there = {**RUNNING, "external_node": "a1"}
    assert (status_of(there, None).placement, status_of(there, None).where) == ("2 × a100", "The cluster, a1, job 4711")
    ended = {**there, "state": "ended", "reason": "failed", "detail": "its node failed", "placement": []}
    assert status_of(ended, None).where == "The cluster, a1, job 4711"


def test_what_runs_here_says_nothing_of_engines() -> None:
    here = {**RUNNING, "engine": "local", "engine_title": "", "external_job": ""}
    assert status_of(here, None).where == ""
    assert status_of(None, None).where == ""


def test_the_panel_says_at_which_engine_a_job_is_and_of_a_sweep_at_which_its_points_are(tmp_path: Path) -> None:
    def point(index: int, **more: Any) -> dict[str, Any]:
        job = {"name": "fit", "folder": str(places.jobs / "one" / str(index)), "array": "a", "index": index}
        times = dict.fromkeys(("submitted_at", "started_at", "ended_at"))
        return {**RUNNING, **times, "id": f"r{index}", "job": job, "external_node": "a1", **more}

    places = Places(tmp_path)
    (row,) = job_rows([point(0)], places)
    assert row["where"] == "The cluster, a1, job 4711"
    (sweep,) = job_rows([point(0), point(1), point(2, engine="local", engine_title="")], places)
    assert sweep["where"] == "The cluster"
    (here,) = job_rows([point(0, engine="local", engine_title="", external_job="")], places)
    assert here["where"] == ""


@pytest.mark.parametrize(
    ("words", "share"),
    [
        ("", {"gpus": 1}),
        ("--engine slurm", {"gpus": 1, "engine": "slurm"}),
        ("--engine local --gpus 2", {"gpus": 2}),
        ("--engine slurm --memory 4 --model a100", {"memory_gib": 4.0, "model": "a100", "engine": "slurm"}),
        ("--engine slurm --gpus 2 -N 3", {"gpus": 2, "engine": "slurm", "nodes": 3}),
        ("--engine slurm --cpu --nodes 2", {"cpu_only": True, "engine": "slurm", "nodes": 2}),
    ],
)
def test_engine_and_nodes_are_a_part_of_the_share(words: str, share: dict[str, Any]) -> None:
    assert parse(words).share == share


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--nodes 2", "--nodes is '2': this machine is one node"),
        ("--engine local --nodes 2", "this machine is one node"),
        ("--engine slurm --nodes many", "--nodes is 'many': must be a whole number from 1 to 64"),
        ("--engine slurm --nodes 65", "must be a whole number from 1 to 64"),
    ],
)
def test_a_mistake_names_the_value_and_what_would_work(words: str, told: str) -> None:
    with pytest.raises(BadOption, match=told):
        parse(words)


def test_the_offer_says_where_and_what_to_expect() -> None:
    estimate = {
        "possible": True,
        "why": "2 wait before you",
        "latest_start_in_s": 600,
        "firm": False,
        "time_limit_s": 3600,
        "gpu_hours": 4.0,
        "budgets": [],
        "engine": "slurm",
        "engine_title": "The cluster",
    }
    options = parse("--engine slurm --gpus 2 --nodes 2 --model a100")
    assert pages.offer(options, estimate) == (
        "2 a100 on each of 2 nodes at The cluster for 1 h: starts within 10 min, if nobody comes before "
        "(2 wait before you), at most 4 GPU-hours"
    )
