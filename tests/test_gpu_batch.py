"""The magic in a real kernel, on a real hub, with a person's own token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hubs import Hub, running_hub
from kernels import NotebookKernel, running_kernel
from nodes import eventually

pytestmark = [pytest.mark.hub, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("batch"), "--simulate", "a100-40gb:2,t4:1") as found:
        yield found


@pytest.fixture(scope="module")
def environment(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {
        "TIMESHARE_SERVICE_URL": hub.deployment.service_url,
        "TIMESHARE_TOKEN": hub.login("ada").token,
        "TIMESHARE_DATA": str(tmp_path_factory.mktemp("data")),
    }


@pytest.fixture
def kernel(environment: dict[str, str], tmp_path: Path) -> Iterator[NotebookKernel]:
    with running_kernel(environment, tmp_path) as found:
        found.run("%load_ext timeshare.notebooks")
        yield found


def test_a_cell_is_submitted_and_its_outputs_appear_in_it_while_it_runs(kernel: NotebookKernel) -> None:
    kernel.run("import time\nsteps = 3")
    cell = kernel.run(
        "%%gpu_batch --memory 1 --time 10m\n"
        "for n in range(steps):\n    print('step', n, flush=True)\n    time.sleep(.5)\nlast = n"
    )
    assert "1 GiB of a GPU for 10 min: starts now, at most" in kernel.text(cell)
    assert "step 2" not in kernel.text(cell), "the kernel is free again at once"
    kernel.until(lambda: "completed" in kernel.text(cell))
    assert "step 0\nstep 1\nstep 2\n" in kernel.text(cell)
    shown = kernel.run("%gpu_batch result")
    assert "back: n, last" in kernel.text(shown)
    assert kernel.value("last") == "2"


def test_rich_outputs_updates_and_bars_appear_as_in_a_cell_that_runs_here(kernel: NotebookKernel) -> None:
    cell = kernel.run(
        """%%gpu_batch --memory 1
from IPython.display import HTML, clear_output, display
from tqdm import tqdm
import time
print("will be cleared"); clear_output()
handle = display(HTML("<b>1</b>"), display_id=True)
for n in tqdm(range(40), desc="epoch", ascii=True):
    time.sleep(.03)
handle.update(HTML("<b>2</b>"))
7 * 6
"""
    )
    kernel.until(lambda: "completed" in kernel.text(cell))
    shown = kernel.shown(cell)
    assert [o["data"]["text/html"] for o in shown if o.get("data", {}).get("text/html", "").startswith("<b>")] == [
        "<b>2</b>"
    ]
    assert any(o.get("data", {}).get("text/plain") == "42" for o in shown)
    assert "will be cleared" not in kernel.text(cell)
    bars = [o["text"] for o in shown if o.get("name") == "stderr" and "epoch" in o["text"]]
    assert len(bars) == 1
    assert "40/40" in bars[0]
    assert "39/40" not in bars[0], "a redrawn line shows only its last state"


def test_a_job_outlives_its_kernel_and_is_attached_to_from_another(
    kernel: NotebookKernel, environment: dict[str, str], tmp_path: Path
) -> None:
    kernel.run("start = 5")
    cell = kernel.run(
        "%%gpu_batch --memory 1\nimport time\n"
        "for n in range(start):\n    print('line', n, flush=True)\n    time.sleep(.6)\ndone = True"
    )
    kernel.until(lambda: "line 1" in kernel.text(cell))
    kernel.kill()
    with running_kernel(environment, tmp_path) as other:
        other.run("%load_ext timeshare.notebooks")
        attached = other.run("%gpu_batch attach")
        other.until(lambda: "completed" in other.text(attached))
        assert "line 0\nline 1\nline 2\nline 3\nline 4\n" in other.text(attached)
        other.run("%gpu_batch result")
        assert other.value("(done, n)") == "(True, 4)"


def test_a_sweep_that_ended_says_how_to_go_on_and_what_it_names_is_there(
    kernel: NotebookKernel, environment: dict[str, str], tmp_path: Path
) -> None:
    cell = kernel.run("%%gpu_batch --memory 1 --sweep rate=1,0\nspeed = 1 / rate")
    kernel.until(lambda: "1 completed, 1 failed; " in kernel.text(cell))
    job_id = kernel.value("_job.id").strip("'")
    assert f"%gpu_batch status {job_id} says why, rerun {job_id} --failed runs only" in kernel.text(cell)
    assert "001  failed         rate=0  ZeroDivisionError" in kernel.text(kernel.run("%gpu_batch status"))
    with running_kernel(environment, tmp_path) as other:
        other.run("%load_ext timeshare.notebooks")
        assert "_job.frame() is a table of its points" in other.text(other.run(f"%gpu_batch result {job_id}"))
        point = other.run(f"%gpu_batch attach {job_id}/0")
        other.until(lambda: f"%gpu_batch result {job_id}/000 brings its variables" in other.text(point))
        assert other.value("_job.result()[0]") == "{'speed': 1.0}"
        assert other.value("list(_job.frame()['state'])") == "['completed', 'failed']"


def test_with_wait_variables_return_by_themselves_and_a_failure_stops_the_notebook(kernel: NotebookKernel) -> None:
    kernel.run("%%gpu_batch --memory 1 --wait\nx = 3")
    assert kernel.value("x") == "3"
    failed = kernel.run("%%gpu_batch --memory 1 --wait\nhalf = 1\n1 / 0")
    errors = [o for o in kernel.shown(failed) if o["output_type"] == "error"]
    assert [e["ename"] for e in errors] == ["ZeroDivisionError", "JobFailed"]
    assert kernel.value("half") == "1"


def test_what_cannot_go_is_refused_by_name_and_nothing_is_submitted(kernel: NotebookKernel) -> None:
    before = kernel.text(kernel.run("%gpu_batch ls"))
    kernel.run("import threading\nsteps = (n for n in range(3))\nheld = {'a': [threading.Lock()]}")
    refused = kernel.text(kernel.run("%%gpu_batch\nsum(steps); held"))
    assert "UsageError" in refused or "steps (generator)" in refused
    assert "steps (generator)" in refused
    assert "held['a'][0]: a lock" in refused
    assert kernel.text(kernel.run("%gpu_batch ls")) == before


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("%%gpu_batch --gpus many\n1", "--gpus is 'many': must be a whole number from 1 to 64"),
        ("%%gpu_batch --gpus 99\n1", "must be a whole number from 1 to 64"),
        ("%%gpu_batch --memory 1 --gpus 1\n1", "--gpus and --memory exclude each other"),
        ("%%gpu_batch --time soon\n1", "--time is 'soon': must be a time such as 90m"),
        ("%%gpu_batch --nonsense\n1", "unrecognized arguments: --nonsense"),
        ("%%gpu_batch --memory 1000\n1", "Nothing was submitted"),
        ("%%gpu_batch --engine condor\n1", "engine is 'condor': must be one of the engines of this site"),
        ("%%gpu_batch --nodes 2\n1", "this machine is one node"),
        ("%%gpu_batch --with nobody\n1", "--with names nobody, which the notebook does not have"),
        ("%%gpu_batch --env JUPYTERHUB_API_TOKEN\n1", "may hold its secrets"),
        ("%%gpu_batch --sweep lr\n1", "must be NAME=VALUE"),
        ("%%gpu_batch --sweep a=0:100 b=0:100\n1", "at most 256 in one sweep"),
        ("%%gpu_batch\nif True print(1)", "This cell is not Python"),
        ("%%gpu_batch\n%run other.py", "import what you need from the file instead"),
        ("%gpu_batch result nothing", "there is no job 'nothing'"),
        ("%gpu_batch run In[99]", "there is no cell In[99]"),
        ("%gpu_batch frobnicate", "invalid choice: 'frobnicate'"),
    ],
)
def test_a_mistake_is_told_with_its_value_and_what_would_work(kernel: NotebookKernel, cell: str, told: str) -> None:
    shown = kernel.text(kernel.run(cell))
    assert told in shown
    assert "Traceback" not in shown


def test_a_dry_run_shows_what_would_go_and_what_it_costs(kernel: NotebookKernel) -> None:
    kernel.run("import numpy as np\nbig = np.ones(300_000)\nscale = 2.0\ndef work():\n    return big * scale")
    shown = kernel.text(kernel.run("%%gpu_batch --gpus 1 --time 2h --dry-run\ny = work()"))
    assert "work → " not in shown
    for text in (
        "numpy.ndarray (300000,)",
        "work uses it",
        "the cell reads it",
        "at most 2 GPU-hours",
        "2.3 MiB to move",
    ):
        assert text in shown
    assert "Nothing was submitted" in shown


def test_a_cell_of_before_is_handed_over_by_its_number(kernel: NotebookKernel) -> None:
    kernel.run("z = 6 * 7")
    number = int(kernel.value("len(In)")) - 2
    cell = kernel.run(f"%gpu_batch run In[{number}] --memory 1")
    kernel.until(lambda: "completed" in kernel.text(cell))
    kernel.run("del z")
    kernel.run("%gpu_batch result")
    assert kernel.value("z") == "42"


def test_a_cell_runs_as_a_process_for_each_gpu_and_each_has_its_logs(kernel: NotebookKernel) -> None:
    kernel.run("x = 5")
    cell = kernel.run(
        "%%gpu_batch --gpus 2 --model a100-40gb --launch torchrun\nimport os\nprint('rank', os.environ['RANK'], x)"
    )
    assert "2 a100-40gb as 2 processes for" in kernel.text(cell)
    kernel.until(lambda: "completed" in kernel.text(cell))
    assert "rank 0 5\n" in kernel.text(cell)
    assert "rank 1" not in kernel.text(cell)
    assert kernel.text(kernel.run("%gpu_batch logs --rank 1")) == "rank 1 5\n\n"
    assert "--rank is '2': must be a whole number from 0 to 1" in kernel.text(kernel.run("%gpu_batch logs --rank 2"))


def test_a_rank_that_fails_is_named_where_the_cell_was_handed_over(kernel: NotebookKernel) -> None:
    failed = kernel.run(
        "%%gpu_batch --gpus 2 --model a100-40gb --launch torchrun --wait\nimport os, time\n"
        "if os.environ['RANK'] == '1':\n    {}['lost']\ntime.sleep(600)"
    )
    errors = [o for o in kernel.shown(failed) if o["output_type"] == "error"]
    assert [e["ename"] for e in errors] == ["KeyError", "JobFailed"]
    assert "failed: rank 1: KeyError: 'lost'" in kernel.text(failed)


def test_flags_commands_and_jobs_are_completed(kernel: NotebookKernel) -> None:
    def matches(code: str) -> list[str]:
        reply = kernel.client.complete(code, len(code), reply=True, timeout=30)
        return list(reply["content"]["matches"])

    assert "--time" in matches("%%gpu_batch --t")
    assert "cancel" in matches("%gpu_batch c")
    assert "torchrun" in matches("%%gpu_batch --launch ")
    eventually(lambda: "local" in matches("%%gpu_batch --engine "))  # without an answer in 2 s there are none
    eventually(lambda: "local" in matches("%%gpu_batch --engine lo"))


def test_a_python_program_hands_over_calls(kernel: NotebookKernel) -> None:
    kernel.run(
        "from timeshare.notebooks import submit, attach\nfactor = 3\n"
        "def train(x, *, plus):\n    return x * factor + plus"
    )
    kernel.run("job = submit(train, 5, plus=1, options='--memory 1')")
    assert kernel.value("job.result(60)") == "16"
    assert kernel.value("await job") == "16"
    assert kernel.value("attach(job.id).done()") == "True"


def test_nobody_else_can_see_or_end_a_job(hub: Hub, kernel: NotebookKernel) -> None:
    kernel.run("%%gpu_batch --memory 1\nimport time; time.sleep(5)")
    name = kernel.value("_job.reservation_ids()[0]").strip("'")
    ben, ada = hub.login("ben"), hub.login("ada")
    for path in (f"jobs/{name}/key", f"jobs/{name}/lines", f"reservations/{name}"):
        assert ben.service("GET", path).status_code == 404
        assert ada.service("GET", path).status_code == 200
    assert ben.service("POST", f"reservations/{name}/end", json={}).status_code == 404
    assert name not in ben.service("GET", "reservations").text
    assert name in ada.service("GET", "reservations").text


def test_the_same_in_a_terminal(hub: Hub, environment: dict[str, str], tmp_path: Path) -> None:
    import os
    import subprocess

    def timeshare(*words: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **environment}
        env.pop("PYTEST_CURRENT_TEST", None)
        return subprocess.run(
            [hub.command, "batch", *words], env=env, capture_output=True, text=True, timeout=90, check=False
        )

    (tmp_path / "train.py").write_text("print('from a file')\nloss = 0.5\n")
    done = timeshare("submit", str(tmp_path / "train.py"), "--memory", "1", "--wait")
    assert (done.returncode, "from a file\n" in done.stdout) == (0, True), done
    listed = timeshare("ls").stdout
    job_id = listed.splitlines()[1].split()[0]
    assert "completed" in listed.splitlines()[1]
    assert timeshare("logs", job_id).stdout == "from a file\n\n"
    assert "loss = 0.5" in timeshare("result", job_id).stdout
    assert "from a file" in timeshare("attach", job_id).stdout
    (tmp_path / "sweep.py").write_text("loss = 1 / rate\n")
    swept = timeshare("submit", str(tmp_path / "sweep.py"), "--memory", "1", "--sweep", "rate=2,0", "--wait")
    sweep_id = swept.stdout.partition(":")[0]
    assert swept.returncode == 1
    told = timeshare("result", sweep_id).stdout
    assert f"timeshare batch result {sweep_id}/0 shows what its first point left" in told
    assert f"timeshare batch status {sweep_id} says why" in told
    assert "loss = 0.5" in timeshare("result", f"{sweep_id}/0").stdout
    wrong = timeshare("result", "nothing")
    assert (wrong.returncode, "there is no job 'nothing'" in wrong.stderr) == (2, True)
