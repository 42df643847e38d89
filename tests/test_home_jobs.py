"""What the home page says of batch: what was handed over together is one job."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batches import Notebook
from hubs import Hub, plain, running_hub
from nodes import eventually

from timeshare.notebooks.batch.states import status_of
from timeshare.spawners.jobs import LISTED, jobs

OVER = {
    "state": "ended",
    "reason": "completed",
    "detail": "its cell ran to the end",
    "ended_at": "2026-11-28T10:00:00Z",
}


def point(array: str, index: int, **changes: Any) -> dict[str, Any]:
    """As the API tells it; by default it runs."""
    folder = f"/home/ada/jobs/{array}/{index:03d}" if index >= 0 else f"/home/ada/jobs/{array}"
    return {
        "id": f"{array}{index}",
        "job": {"name": "scan", "folder": folder, "array": array},
        "state": "active",
        "reason": None,
        "detail": "running",
        "share_text": "1 GiB of one GPU",
        "engine": "local",
        "engine_title": "",
        "simulated": False,
        "remaining_s": 100 + index,
        "why_waiting": "",
        "ended_at": None,
        **changes,
    }


def test_a_sweep_is_one_job_with_the_states_of_its_points() -> None:
    newest = [
        point("1128-b", 4, state="queued", remaining_s=None, why_waiting="others go first"),
        point("1128-b", 3),
        point("1128-b", 2, **{**OVER, "reason": "failed", "detail": "its cell raised an error"}),
        *(point("1128-b", n, **OVER) for n in (1, 0)),
    ]
    (job,) = jobs(newest)
    assert (job["id"], job["live"]) == ("1128-b", True)
    assert job["told"] == "2 completed, 1 failed, 1 running, 1 waiting"
    assert (job["remaining_s"], job["why"], job["detail"]) == (103, "others go first", "its cell raised an error")
    assert job["stop"] == "jobs/1128-b"


def test_what_runs_comes_first_and_what_is_over_says_how_and_when() -> None:
    over, runs = jobs([point("new", -1, **OVER), point("old", -1)])[::-1]
    assert (runs["id"], runs["told"], runs["stop"]) == ("old", "running", "jobs/old")
    assert (over["id"], over["told"], over["detail"]) == ("new", "completed", "its cell ran to the end")
    assert (over["ended_at"], over["stop"]) == (OVER["ended_at"], "")


@pytest.mark.parametrize(
    ("reason", "word"), [("time_limit", "over time"), ("budget", "over budget"), ("lost", "lost"), ("failed", "failed")]
)
def test_ends_have_the_words_of_the_notebook(reason: str, word: str) -> None:
    over = point("a", -1, **{**OVER, "reason": reason})
    assert jobs([over])[0]["told"] == word == status_of({**over, "generation": 1}, None).state


def test_a_job_whose_points_may_not_all_be_known_says_so() -> None:
    found = jobs([point("new", -1), *(point("old", n, **OVER) for n in range(LISTED - 1))])
    assert [job["told"] for job in found] == ["running", f"of its last {LISTED - 1} points: {LISTED - 1} completed"]


def test_what_somebody_else_starts_has_its_own_name() -> None:
    (job,) = jobs([point("", 0, id="r1", job=None, state="queued", remaining_s=None)])
    assert (job["id"], job["name"], job["told"]) == ("r1", "", "waiting")
    assert job["stop"] == "reservations/r1"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with running_hub(tmp_path / "hub", "--simulate", "a100-40gb:1") as found:
        yield found


@pytest.mark.hub
def test_a_job_stands_beside_sessions_and_can_be_stopped_there(hub: Hub, tmp_path: Path) -> None:
    ada = hub.login("ada")
    notebook = Notebook(hub, tmp_path / "data")
    job = notebook.hand("import time; time.sleep(600)", "--memory 1 --name fit")
    eventually(lambda: job.status().state == "running", 30)
    page = ada.page("home").text
    assert re.search(rf"Your batch jobs fit {job.id} : running 1 GiB of one GPU \(simulated\)", plain(page))
    assert "No session is running." in page
    assert 'id="start"' in page, "one can be started"
    assert "Default session" not in page
    scan = notebook.hand("import time; time.sleep(600)", "--memory 1 --sweep x=0:4 --max-parallel 2 --name scan")
    eventually(lambda: f"scan {scan.id} : 2 running, 2 waiting" in plain(ada.page("home").text), 30)
    (stop,) = re.findall(
        r'action="/hub/(timeshare/jobs/[^"]+/end)">(?:(?!</form>).)*job scan', ada.page("home").text, re.S
    )
    ben = hub.login("ben")
    ben.form(stop)
    assert f"scan {scan.id} : 2 running, 2 waiting" in plain(ada.page("home").text), "it is not his"
    assert ada.form(stop).status_code == 302
    eventually(lambda: f"scan {scan.id} : 4 cancelled" in plain(ada.page("home").text), 90)
    assert re.search(rf"fit {job.id} : running", plain(ada.page("home").text))
    (stop,) = re.findall(r'action="/hub/(timeshare/jobs/[^"]+/end)"', ada.page("home").text)
    assert ada.form(stop).status_code == 302
    eventually(lambda: f"fit {job.id} : cancelled" in plain(ada.page("home").text), 90)
    assert "Lately ended" not in plain(ada.page("home").text)
