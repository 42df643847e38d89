"""Jobs that are started again: preempted ones by themselves, lost ones by hand; both go on where they were."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from batches import LIMITS, Notebook, running_notebook
from hubs import Hub, running_hub
from nodes import eventually, marked

pytestmark = [pytest.mark.hub, pytest.mark.timeout(240)]
PREEMPTING = (
    LIMITS
    + """
groups:
  cms: {members: [ada], quota: 1}
  atlas: {members: [ben], quota: 1}
pools:
  all: {preempt: {after: 1s, grace: 5s}}
"""
)
STEPS = 60
LOOP = f"""
import os, time
from timeshare.notebooks import resumable
for n in resumable(range({STEPS}), state=state):
    state["steps"].append(n)
    print("step", n, flush=True)
    time.sleep(.02 if os.path.exists(hurry) else .4)
"""
"""Slow until there is a file ``hurry``: it is not to end before it has been stopped."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    (tmp_path / "limits.yaml").write_text(PREEMPTING)
    with running_hub(tmp_path, "--simulate", "a100-40gb:2", "--limits", str(tmp_path / "limits.yaml")) as found:
        yield found


@pytest.fixture
def notebook(tmp_path: Path) -> Iterator[Notebook]:
    with running_notebook(tmp_path, "a100-40gb:1") as found:
        yield found


def crash_node(notebook: Notebook, reservation_id: str) -> None:
    """Everything of it is gone at once, and nobody was left to write down how it ended."""
    node = notebook.server.node
    node.kill()
    for pid in marked(reservation_id):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    node.start()


def test_a_preempted_job_gives_way_waits_and_goes_on_at_its_step(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    notebook = Notebook(hub, tmp_path / "ada")
    hurry = tmp_path / "hurry"
    notebook.run(f"state = {{'steps': []}}; hurry = {str(hurry)!r}")
    holds = notebook.hand("import time; time.sleep(60)", "--gpus 1")
    eventually(lambda: holds.state == "running", 30)
    job = notebook.hand(LOOP, "--gpus 1")
    eventually(lambda: "step 3" in job.tasks[0].text(), 30)
    ben = Notebook(hub, tmp_path / "ben", "ben")
    urgent = ben.hand("import time; time.sleep(2)\nx = 1", "--gpus 1")
    eventually(lambda: job.state == "waiting", 30)
    assert "preempted, it starts again (attempt 2)" in job.status().why
    hurry.touch()
    assert urgent.result(60) == {"x": 1}
    assert job.wait(60)
    assert (job.state, job.status().attempt) == ("completed", 2)
    text = job.tasks[0].text()
    assert re.findall(r"^step (\d+)$", text, re.MULTILINE) == [str(n) for n in range(STEPS)], (
        "no step twice, none left out"
    )
    assert "timeshare: stopped after step" in text
    assert "timeshare: started again, attempt 2" in text
    assert job.result()["state"] == {"steps": list(range(STEPS))}
    holds.cancel()
    assert holds.wait(60)


def test_a_job_whose_node_was_lost_says_so_and_a_rerun_goes_on_at_its_checkpoint(
    notebook: Notebook, tmp_path: Path
) -> None:
    hurry = tmp_path / "hurry"
    notebook.run(f"state = {{'steps': []}}; hurry = {str(hurry)!r}")
    cell = LOOP.replace("state=state", "state=state, every_s=0")
    job = notebook.hand(cell, "--gpus 1")
    eventually(lambda: "step 5" in job.tasks[0].text(), 30)
    crash_node(notebook, job.reservation_ids()[0])
    assert job.wait(60)
    assert job.state == "lost"
    hurry.touch()
    again = job.rerun()
    assert again.wait(60)
    assert again.state == "completed"
    begun = int(re.findall(r"^step (\d+)$", again.tasks[0].text(), re.MULTILINE)[0])
    assert begun >= 5
    assert again.result()["state"] == {"steps": list(range(STEPS))}
