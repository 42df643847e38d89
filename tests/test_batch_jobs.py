"""What a job does to the variables of a notebook, and what becomes of jobs that do not end well: all on real ones."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from batches import Notebook, running_notebook
from nodes import eventually

from timeshare.notebooks.batch.job import Job, JobFailed
from timeshare.notebooks.batch.preparation import CannotGo
from timeshare.notebooks.batch.service import Refused
from timeshare.notebooks.batch.submission import SUBMITTED
from timeshare.reservations.host import this_machine

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    with running_notebook(tmp_path_factory.mktemp("jobs"), "a100-40gb:8") as notebook:
        yield notebook


@pytest.fixture(scope="module")
def over_time(shared: Notebook) -> Job:
    """Begun first, for a job's shortest time is a minute."""
    shared.run("state = {'sum': 0}")
    cell = """
from timeshare.notebooks import resumable
import time
for n in resumable(range(1000), state=state):
    state["sum"] += n
    print("step", n, flush=True)
    time.sleep(0 if again else .5)
"""
    shared.run("again = False")
    return shared.hand(cell, "--memory 1 --time 1m")


@pytest.fixture
def notebook(shared: Notebook, over_time: Job) -> Notebook:
    shared.main.clear()
    shared.main["__name__"] = "__main__"
    return shared


def finished(notebook: Notebook, cell: str, options: str = "--memory 1") -> Job:
    job = notebook.hand(cell, options)
    assert job.wait(90)
    assert job.state == "completed", (job.status(), job.tasks[0].text())
    return job


def test_a_job_gets_the_cores_and_the_main_memory_that_it_asks_for_or_the_default(notebook: Notebook) -> None:
    finished(notebook, "x = 1", "--memory 1 --cpus 1 --host-memory 2")
    told = notebook.service.jobs()[0]
    assert (told["cpus"], told["host_memory_mib"]) == (1, 2048)
    assert told["share"] == {"memory_gib": 1, "cpus": 1, "host_memory_gib": 2}
    finished(notebook, "x = 1")
    told = notebook.service.jobs()[0]
    machine = this_machine()
    assert (told["cpus"], told["host_memory_mib"]) == (min(2, machine.cpus), int(machine.memory_mib * 0.8))
    with pytest.raises(Refused, match=r"cpus is 1000: .*; ask for at most"):
        notebook.hand("x = 1", "--memory 1 --cpus 1000")


# --- variables


def test_functions_write_the_globals_that_everybody_reads(notebook: Notebook) -> None:
    notebook.run("counter = 0\nCFG = {'lr': 1}\ndef bump():\n    global counter\n    counter += 1\n    CFG['lr'] = 7")
    job = finished(notebook, "bump(); bump()\nseen = (counter, CFG['lr'])")
    job.bring()
    assert notebook.main["seen"] == (2, 7)
    assert (notebook.main["counter"], notebook.main["CFG"]) == (2, {"lr": 7})
    notebook.run("bump()")
    assert notebook.main["counter"] == 3, "functions here still write the notebook's own variables"


def test_what_is_one_object_stays_one_within_a_job_and_on_the_way_back(notebook: Notebook) -> None:
    notebook.run(
        """
import numpy as np
class Model:
    def __init__(self): self.weights = np.zeros(300_000)
class Optimizer:
    def __init__(self, model): self.model = model
    def step(self): self.model.weights += 1
model = Model(); opt = Optimizer(model); alias = model.weights
"""
    )
    job = finished(notebook, "opt.step()\nok = (opt.model is model, alias is model.weights, float(alias.sum()))")
    old = notebook.main["model"]
    job.bring()
    main = notebook.main
    assert main["ok"] == (True, True, 300_000.0)
    assert main["opt"].model is main["model"]
    assert main["alias"] is main["model"].weights
    assert type(main["model"]) is main["Model"], "an instance of a class of the notebook is still one"
    assert main["model"] is not old


def test_in_place_the_objects_that_are_here_take_the_new_state(notebook: Notebook) -> None:
    notebook.run(
        "import numpy as np\nweights = np.zeros(3)\nhistory = []\ntable = {'a': 1}\n"
        "class Holder:\n    pass\nholder = Holder()\nholder.history = history\nkept = weights"
    )
    job = finished(notebook, "weights += 2\nhistory.append(1)\ntable['b'] = 2")
    notes = job.bring()
    assert "kept still refers to the weights of before" in notes
    assert any("holder still refers to the history of before" in note for note in notes)
    notebook.run("weights = kept\nhistory = holder.history")
    assert job.bring(in_place=True) == ["back: history, table, weights"]
    assert list(notebook.main["kept"]) == [2, 2, 2]
    assert notebook.main["holder"].history == [1]
    assert notebook.main["table"] == {"a": 1, "b": 2}


def test_in_place_goes_into_what_containers_and_objects_hold(notebook: Notebook) -> None:
    notebook.run(
        "import numpy as np\nclass Model:\n    pass\nmodel = Model()\nmodel.weights = np.zeros(3)\nmodel.itself = model"
        "\nweights = model.weights\nstate = {'epoch': 0, 'model': model}"
    )
    job = finished(notebook, "model.weights += 1\nmodel.new = 5\nstate['epoch'] = 7")
    model, weights = notebook.main["model"], notebook.main["weights"]
    job.bring(in_place=True)
    assert notebook.main["state"] == {"epoch": 7, "model": model}
    assert model.weights is weights
    assert (list(weights), model.new, model.itself is model) == ([1, 1, 1], 5, True)


def test_the_second_submission_of_the_same_arrays_moves_almost_nothing(notebook: Notebook) -> None:
    notebook.run("import numpy as np\nbig = np.random.default_rng(1).random(8_000_000)")
    first = notebook.handed("a = big.sum()")
    second = notebook.handed("b = big.mean()")
    assert "61.0 MiB to move" in first.text
    assert "61.0 MiB there already" in second.text
    assert re.search(r"; [\d.]+ KiB to move, 61", second.text), "the random numbers that it goes on with"
    assert second.job.result(60)["b"] == pytest.approx(0.5, abs=0.01)


def test_random_generators_directory_and_chosen_environment_are_the_notebooks(
    notebook: Notebook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import random

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHOSEN_ONE", "yes")
    monkeypatch.setenv("A_SECRET", "no")
    random.seed(5)
    state = random.getstate()
    options = "--memory 1 --env CHOSEN_ONE"
    job = finished(notebook, "import os, random\nfound = (random.random(), os.getcwd(), dict(os.environ))", options)
    number, cwd, environment = job.result()["found"]
    random.setstate(state)
    assert (number, cwd) == (random.random(), str(tmp_path))
    assert environment["CHOSEN_ONE"] == "yes"
    assert "A_SECRET" not in environment
    assert not [name for name in environment if "TOKEN" in name or "KEY" in name]


def test_local_modules_travel_as_they_are_now(
    notebook: Notebook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "my_analysis"
    package.mkdir()
    (package / "__init__.py").write_text("from .cuts import select\nthreshold = 1\n")
    (package / "cuts.py").write_text("import my_analysis\ndef select(x):\n    return x > my_analysis.threshold\n")
    notebook.run("import my_analysis\nmy_analysis.threshold = 5")
    job = notebook.hand("kept = [x for x in range(8) if my_analysis.select(x)]\nfile = my_analysis.__file__")
    (package / "cuts.py").write_text("raise RuntimeError('edited after the submission')\n")
    assert job.result(60)["kept"] == [6, 7]
    file = job.result()["file"]
    assert not file.startswith(str(tmp_path))
    assert file.endswith("/modules/my_analysis/__init__.py")


def test_functions_that_were_set_in_a_local_module_go_with_what_they_use(
    notebook: Notebook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "my_patched.py"
    file.write_text("def select(x):\n    return False\n")
    notebook.run("import my_patched\nlimit = 3\ndef mine(x):\n    return x > limit\nmy_patched.select = mine")
    handed = notebook.handed("kept = [x for x in range(6) if my_patched.select(x)]")
    assert handed.job.result(60)["kept"] == [4, 5]
    assert "my_patched" not in " ".join(handed.warnings)
    notebook.run("import importlib\nimportlib.reload(my_patched)")
    file.write_text("def select(x):\n    return True\n")
    assert "my_patched.py was edited after it was imported here" in " ".join(notebook.handed("my_patched").warnings)


def test_asked_for_variables_go_and_return_though_nothing_shows_why(notebook: Notebook) -> None:
    notebook.run("hidden = 4\nsame = 1")
    job = finished(notebook, "seen = eval('hid' + 'den')", "--memory 1 --with hidden,same --out same")
    assert job.result() == {"seen": 4, "same": 1}
    assert any("eval()" in text for text in notebook.handed("eval('1')").warnings)


def test_views_are_told_to_lose_their_memory(notebook: Notebook) -> None:
    notebook.run("import numpy as np\nwhole = np.zeros(10)\npart = whole[:5]")
    handed = notebook.handed("whole[0] = 1; part")
    assert any("share memory" in text for text in handed.warnings)


def test_inputs_are_fetched_before_the_cell(notebook: Notebook, tmp_path: Path) -> None:
    (tmp_path / "events.txt").write_text("1 2 3")
    url = f"file://{tmp_path}/events.txt"
    job = finished(notebook, f"text = open(staged[{url!r}]).read()", f"--memory 1 --stage {url}")
    assert job.result() == {"text": "1 2 3"}
    failed = notebook.hand("1", f"--memory 1 --stage file://{tmp_path}/absent.root")
    failed.wait(60)
    assert "absent.root could not be fetched" in failed.status().why


def test_what_cannot_go_is_named_with_what_to_do(notebook: Notebook) -> None:
    notebook.run("import functools\n@functools.lru_cache\ndef slow(x):\n    return x\ndef uses(x):\n    return slow(x)")
    with pytest.raises(CannotGo) as refused:
        notebook.hand("uses(1)")
    assert "slow" in str(refused.value)
    assert "uses uses it" in str(refused.value)
    assert "instead: " in str(refused.value)


# --- jobs that do not end well


def test_memory_that_is_used_up_has_its_own_word(notebook: Notebook) -> None:
    job = notebook.hand("print('before', flush=True)\nimport numpy as np\nx = np.ones(10**14)")
    job.wait(60)
    assert job.state == "out of memory"
    assert job.tasks[0].text().startswith("before\n")


@pytest.mark.parametrize(
    ("cell", "word", "why"),
    [
        ("import os; os._exit(3)", "crashed", "exit status 3"),
        ("import os; os.kill(os.getpid(), 9)", "crashed", "signal 9"),
        ("import ctypes; ctypes.string_at(0)", "crashed", "SIGSEGV"),
        ("import sys; sys.exit(3)", "failed", "SystemExit: 3"),
        ("input()", "failed", "StdinNotImplementedError"),
        ("import no_such_module", "failed", "No module named 'no_such_module'"),
    ],
)
def test_every_bad_end_has_its_word_and_its_last_output(notebook: Notebook, cell: str, word: str, why: str) -> None:
    job = notebook.hand(f"print('last words', flush=True)\nimport time; time.sleep(.2)\n{cell}")
    job.wait(60)
    assert job.state == word
    assert why in job.status().why
    assert job.tasks[0].text().startswith("last words\n")
    with pytest.raises(JobFailed, match=job.id):
        job.result()


def test_a_killed_runner_ends_its_kernel_and_its_job(notebook: Notebook) -> None:
    job = notebook.hand("import os\nprint(os.getpid(), os.getppid(), flush=True)\nimport time; time.sleep(60)")
    eventually(lambda: len(job.tasks[0].text().split()) == 2, 30)
    kernel, runner = map(int, job.tasks[0].text().split())
    os.kill(runner, signal.SIGKILL)
    assert job.wait(30)
    assert (job.state, "signal 9" in job.status().why) == ("crashed", True)
    eventually(lambda: not Path(f"/proc/{kernel}").exists())


def test_a_service_that_is_killed_finds_its_jobs_again(notebook: Notebook, tmp_path: Path) -> None:
    told = tmp_path / "told"
    counting = "print(n, flush=True)\n    n += 1\n    time.sleep(.2)"
    job = notebook.hand(f"import os, time\nn = 0\nwhile not os.path.exists({str(told)!r}):\n    {counting}")
    eventually(lambda: "2\n" in job.tasks[0].text(), 30)
    notebook.server.kill()
    assert job.state == "unknown"
    assert not job.done()
    notebook.server.start()
    assert job.state == "running"
    told.touch()
    assert job.wait(60)
    assert job.state == "completed"
    lines = job.tasks[0].text().split()
    assert lines == [str(n) for n in range(len(lines))]


def test_a_submission_that_was_cut_off_is_found_and_never_runs_twice(notebook: Notebook) -> None:
    from timeshare.notebooks.batch.submission import send

    job = notebook.hand("import time; time.sleep(1)\nx = 1")
    (job.folder / SUBMITTED).unlink()
    again = notebook.again(job.id)
    assert again.reservation_ids() == {0: job_reservation(notebook, job)}
    send(again.request, notebook.places, notebook.service)
    assert again.reservation_ids() == {0: job_reservation(notebook, job)}
    assert again.result(60) == {"x": 1}


def job_reservation(notebook: Notebook, job: Job) -> str:
    (found,) = [r["id"] for r in notebook.service.jobs() if r["job"]["folder"] == str(job.folder)]
    return str(found)


def test_logs_and_state_are_told_by_the_api_too(notebook: Notebook) -> None:
    job = finished(notebook, "print('by the API')")
    name = job.reservation_ids()[0]
    told = notebook.service.lines(name, 0)
    assert json.loads(told["text"].splitlines()[0])["content"]["text"] == "by the API\n"
    assert notebook.service.lines(name, told["next"])["text"] == ""


def test_without_an_id_the_one_that_was_submitted_last_is_meant(notebook: Notebook) -> None:
    first = notebook.hand("import time; time.sleep(3)")
    second = notebook.hand("2")
    assert first.wait(60)
    assert second.wait(60)
    assert notebook.places.ids()[:2] == [second.id, first.id]


@pytest.mark.parametrize("module", ["tqdm", "tqdm.auto", "tqdm.notebook", "tqdm.autonotebook"])
def test_progress_bars_of_every_kind_are_text_that_anybody_can_read(notebook: Notebook, module: str) -> None:
    cell = f"from {module} import tqdm, trange\nfor n in tqdm(range(5), desc='epoch'):\n    pass"
    text = finished(notebook, cell).tasks[0].text()
    assert "epoch: 100%" in text
    assert "Warning" not in text


def test_a_bar_that_the_notebook_imported_is_text_in_the_job(notebook: Notebook) -> None:
    notebook.run("from tqdm.notebook import tqdm, trange")
    text = finished(notebook, "for n in tqdm(trange(5), desc='epoch'):\n    pass").tasks[0].text()
    assert "epoch: 100%" in text


def test_how_a_cell_ended_is_what_the_kernel_says_and_not_which_messages_came(notebook: Notebook) -> None:
    wrong = notebook.hand("x = 1\n%no_such_magic\nx = 2")
    assert wrong.wait(90)
    assert wrong.state == "failed"
    assert "no_such_magic" in wrong.status().why
    shown = "try:\n    1 / 0\nexcept ZeroDivisionError:\n    get_ipython().showtraceback()\nafter = 1"
    assert finished(notebook, shown).result(60) == {"after": 1}


KEYS = """
class AttrDict(dict):
    __getattr__ = dict.__getitem__
class Slots:
    __slots__ = ("kept",)
    def __getattr__(self, name):
        raise KeyError(name)
config, slots, holder = AttrDict(lr=0.1), Slots(), [AttrDict(a=1)]
def step():
    config["lr"] = config.lr * 2
"""


def test_objects_that_answer_for_missing_attributes_with_other_errors_go_and_come(notebook: Notebook) -> None:
    notebook.run(KEYS)
    held = notebook.main["config"]
    with pytest.raises(CannotGo, match=r"(?s)slots \(Slots\).*cannot be pickled .KeyError"):
        notebook.hand("slots")
    job = finished(notebook, "step()\nholder[0]['a'] = 2")
    job.bring(in_place=True)
    assert notebook.main["config"]["lr"] == 0.2
    assert notebook.main["config"] is held
    assert notebook.main["holder"] == [{"a": 2}]


def test_a_removed_job_leaves_nothing_and_listings_know_sizes(notebook: Notebook) -> None:
    from timeshare.notebooks.batch.pages import listing
    from timeshare.notebooks.capture.preflight import size_text

    notebook.run("import numpy as np\narray = np.random.default_rng(1).random(500_000)\nsteps = np.arange(500_000)")
    job = finished(notebook, "array.sum() + steps[-1]")
    places = notebook.places
    assert size_text(places.size(job.id) + sum(places.pieces(job.id).values())) in listing([job], places)
    assert 4_000_000 < sum(places.pieces(job.id).values()) < 5_000_000  # the steps are packed
    shared = {digest for other in places.ids() if other != job.id for digest in places.pieces(other)}
    pieces = set(places.pieces(job.id)) - shared
    assert pieces
    notebook.places.remove(job.id)
    notebook.places.sweep(time.time() + 7200)
    assert not any(notebook.places.store.stored(digest) for digest in pieces)


def test_more_than_the_limits_allow_is_refused_with_the_largest_named(tmp_path: Path) -> None:
    from timeshare.notebooks.batch.housekeeping import make_room
    from timeshare.notebooks.batch.places import Places
    from timeshare.notebooks.batch.service import Refused

    places = Places(tmp_path)
    (places.jobs / "1124-aaaa").mkdir()
    (places.jobs / "1124-aaaa" / "spool.jsonl").write_bytes(bytes(5_000_000))
    with pytest.raises(Refused, match=r"your jobs take 4\.8 MiB and may take 1\.0 MiB.*1124-aaaa"):
        make_room(places, {"space": {"keep_s": 3600, "bytes": 1024**2}})
    (places.jobs / "1124-aaaa" / "status.json").write_text("{}")
    make_room(places, {"space": {"keep_s": 3600, "bytes": 1024**2}}, now=time.time() + 7200)
    assert places.ids() == []


def test_while_there_is_plenty_of_room_not_every_submission_goes_through_all_jobs(tmp_path: Path) -> None:
    from timeshare.notebooks.batch.housekeeping import make_room
    from timeshare.notebooks.batch.places import Places

    def old_job(size: int) -> None:
        (places.jobs / "1124-aaaa").mkdir()
        (places.jobs / "1124-aaaa" / "spool.jsonl").write_bytes(bytes(size))
        (places.jobs / "1124-aaaa" / "status.json").write_text("{}")

    places, limits, now = Places(tmp_path / "new"), {"space": {"keep_s": 0, "bytes": 1024**2}}, time.time() + 60
    make_room(places, limits, now)
    old_job(900_000)
    make_room(places, limits, now + 1)
    assert places.ids() == ["1124-aaaa"]
    make_room(places, limits, now + 3600)
    assert places.ids() == []
    old_job(900_000)
    make_room(places, {"space": {"keep_s": 10**6, "bytes": 1024**2}}, now + 7200)
    make_room(places, limits, now + 7201)
    assert places.ids() == [], "little room is left: it is looked for every time"


# --- over time, and on again: last, for it takes a minute


def test_a_job_over_its_time_keeps_its_steps_and_a_rerun_goes_on_there(shared: Notebook, over_time: Job) -> None:
    job = over_time
    assert job.wait(120)
    assert job.state == "over time"
    steps = [int(line.split()[1]) for line in job.tasks[0].text().splitlines() if line.startswith("step")]
    assert steps == list(range(len(steps)))
    assert len(steps) < 200
    again = job.rerun()
    assert again.id != job.id
    first = eventually(lambda: re.search(r"^step (\d+)\n", again.tasks[0].text(), re.MULTILINE), 30)
    assert int(first[1]) == len(steps)
    again.cancel()
    assert again.wait(30)
    assert again.results().values["state"]["sum"] >= sum(range(len(steps)))
