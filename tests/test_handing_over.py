"""Cells handed over to real jobs: through service, agent and runner, and back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from batches import Notebook, running_notebook
from nodes import eventually

from timeshare.notebooks.batch.job import JobFailed

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    with running_notebook(tmp_path_factory.mktemp("batch"), "a100-40gb:8") as notebook:
        yield notebook


@pytest.fixture
def notebook(shared: Notebook) -> Notebook:
    shared.main.clear()
    shared.main["__name__"] = "__main__"
    return shared


def test_a_cell_goes_out_and_its_variables_come_back(notebook: Notebook) -> None:
    notebook.run("data = [1, 2]\ndef total():\n    return sum(data)")
    job = notebook.hand("data.append(3)\nanswer = total()\nprint('the sum is', answer)")
    assert job.result(60) == {"data": [1, 2, 3], "answer": 6}
    assert job.tasks[0].text() == "the sum is 6\n"
    assert job.bring() == ["back: answer, data"] or notebook.main["answer"] == 6
    eventually(lambda: notebook.reservation(job)["state"] == "ended")
    assert notebook.reservation(job)["reason"] == "completed"
    assert notebook.reservation(job)["kind"] == "batch"


def test_an_exception_comes_back_as_itself_with_the_lines_of_the_cell(notebook: Notebook) -> None:
    job = notebook.hand("def inner():\n    raise KeyError('on purpose')\nhalf = 1\ninner()")
    with pytest.raises(JobFailed, match="failed: KeyError") as failed:
        job.result(60)
    cause = failed.value.__cause__
    assert isinstance(cause, KeyError)
    import traceback

    shown = "".join(traceback.format_exception(cause))
    assert "raise KeyError('on purpose')" in shown
    assert "timeshare/notebooks" not in shown
    job.bring()
    assert notebook.main["half"] == 1


def test_a_job_that_ended_can_be_found_by_its_id_from_an_empty_notebook(notebook: Notebook) -> None:
    job = notebook.hand("found = 7")
    job.wait(60)
    again = notebook.again(job.id[:-1])
    assert (again.state, again.result()) == ("completed", {"found": 7})


def test_a_running_job_is_cancelled(notebook: Notebook) -> None:
    job = notebook.hand("import time\nprint('began', flush=True)\ntime.sleep(60)")
    eventually(lambda: "began" in job.tasks[0].text(), 30)
    job.cancel()
    assert job.wait(30)
    assert job.state == "cancelled"
    with pytest.raises(JobFailed, match="cancelled"):
        job.result()
