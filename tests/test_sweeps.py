"""Many jobs of one cell: scans, trials of Optuna, and what becomes of the points that fail."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from batches import Notebook, running_notebook
from conftest import FULL_STRESS
from nodes import eventually

from timeshare.notebooks.batch.job import JobFailed
from timeshare.notebooks.batch.service import Refused

pytestmark = pytest.mark.timeout(600)
WIDTHS = 6 if FULL_STRESS else 2
"""Of a scan of 16 masses."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    with running_notebook(tmp_path_factory.mktemp("sweeps"), "a100-40gb:8") as notebook:
        yield notebook


@pytest.fixture
def notebook(shared: Notebook) -> Notebook:
    shared.main.clear()
    shared.main["__name__"] = "__main__"
    return shared


def most_at_once(starts: list[dict[str, float]]) -> int:
    """Of intervals with ``began`` and ``ended``."""
    return max(sum(other["began"] <= one["began"] < other["ended"] for other in starts) for one in starts)


@pytest.mark.stress
def test_a_scan_over_8_slots_names_the_3_points_that_crash_and_a_rerun_fixes_them(
    notebook: Notebook, tmp_path: Path
) -> None:
    notebook.run("import numpy as np\nevents = np.arange(200_000.)\ndef count(cut):\n    return events[cut:].sum()")
    cell = f"""
import os, time
print("point", mass, width, flush=True)
if (mass, width) in [(3, 1), (7, {WIDTHS - 1}), (15, 0)] and not os.path.exists({str(tmp_path / "fixed")!r}):
    os.kill(os.getpid(), 9)
result = count(mass) * width
"""
    job = notebook.hand(cell, f"--gpus 1 --sweep mass=0:16 width=0:{WIDTHS} --max-parallel 8")
    points = 16 * WIDTHS
    assert len(job) == points
    assert job.wait(500)
    assert job.state == f"{points - 3} completed, 3 crashed", {status.why for status in job.statuses()}
    outcomes = job.result()
    failed = {str(found) for found in outcomes if isinstance(found, JobFailed)}
    assert len(failed) == 3
    assert all("signal 9" in text for text in failed)
    assert any("(mass=3, width=1)" in text for text in failed)
    frame = job.frame()
    assert list(frame.columns[:3]) == ["mass", "width", "state"]
    events = notebook.main["events"]
    right = [events[mass:].sum() * width for mass, width in zip(frame["mass"], frame["width"], strict=True)]
    done = frame["state"] == "completed"
    assert list(frame["result"][done]) == [value for value, is_done in zip(right, done, strict=True) if is_done]
    told = [json.loads((task.path / "status.json").read_text()) for task in job.tasks]
    assert most_at_once(told) <= 8

    (tmp_path / "fixed").touch()
    again = job.rerun(failed_only=True)
    assert again.id == job.id
    assert again.wait(120)
    assert again.state == f"{points} completed"
    assert list(again.frame()["result"]) == right
    assert "point 3 1" in again.tasks[3 * WIDTHS + 1].text()
    assert (again.tasks[3 * WIDTHS + 1].path / "run-1" / "spool.jsonl").exists(), "its first outputs are kept"
    with pytest.raises(Refused, match="nothing to run again"):
        again.rerun(failed_only=True)


def test_a_sweep_keeps_one_snapshot_for_all_and_its_points_their_tracebacks(notebook: Notebook) -> None:
    notebook.run("import numpy as np\nbig = np.random.default_rng(1).random(1_000_000)")
    handed = notebook.handed("mean = big.mean() * n", "--memory 1 --sweep n=0,1,2")
    assert "7.6 MiB to move" in handed.text
    job = handed.job
    assert job.wait(120)
    assert job.state == "3 completed"
    raising = notebook.hand("assert n, 'no events'\nok = n", "--memory 1 --sweep n=0,1")
    first, second = raising.result(120)
    assert second == {"ok": 1}
    assert isinstance(first.__cause__, AssertionError)
    assert "no events" in raising.tasks[0].text()
    assert "ok = n" in raising.tasks[0].text(), "with the lines around it"


def test_trials_suggest_prune_and_are_resumed_by_a_rerun(notebook: Notebook) -> None:
    cell = """
x = trial.suggest_float("x", -10, 10)
for step in range(3):
    trial.report((x - 2) ** 2 + 3 - step, step)
    if trial.number % 3 == 2:
        import optuna
        raise optuna.TrialPruned("not worth it")
(x - 2) ** 2
"""
    job = notebook.hand(cell, "--memory 1 --trials 6 --parallel 2")
    assert job.wait(120)
    assert job.state == "6 completed"
    frame = job.frame()
    assert sorted(frame["trial"]) == list(range(6))
    assert sorted(frame["state"]) == ["complete"] * 4 + ["pruned"] * 2
    done = frame[frame["state"] == "complete"]
    assert list(done["value"]) == pytest.approx([(x - 2) ** 2 for x in done["x"]])
    pruned = frame[frame["state"] == "pruned"].index[0]
    assert job.tasks[pruned].text() == "timeshare: pruned not worth it\n"
    study = job.study()
    assert study.best_value == min(done["value"])
    assert [len(t.intermediate_values) for t in study.trials if t.state.name == "PRUNED"] == [1, 1]
    more = job.rerun()
    assert more.wait(120)
    assert len(more.study().trials) == 12, "a rerun goes on where the study was"
    assert len(job.study().trials) == 6


def test_a_trial_without_a_number_fails_and_says_what_is_missing(notebook: Notebook) -> None:
    job = notebook.hand("loss = trial.suggest_int('n', 1, 5)", "--memory 1 --trials 1")
    assert job.wait(60)
    assert job.state == "1 failed"
    assert "last line is no number" in job.statuses()[0].why


def test_a_cancelled_sweep_ends_what_runs_and_what_waits(notebook: Notebook) -> None:
    job = notebook.hand("import time\nprint('on', flush=True)\ntime.sleep(60)", "--gpus 1 --sweep n=0:5 --parallel 2")
    eventually(lambda: sum("on" in task.text() for task in job.tasks) == 2, 60)
    time.sleep(1)
    assert job.state == "3 waiting, 2 running"
    job.cancel()
    assert job.wait(60)
    assert job.state == "5 cancelled"
