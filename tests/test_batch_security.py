"""What is refused before anything is loaded, and where no secret may stand."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from batches import Notebook, running_notebook
from nodes import eventually, marked

from timeshare.notebooks.batch.job import Job
from timeshare.notebooks.batch.places import Places
from timeshare.notebooks.capture.store import Untrusted
from timeshare.notebooks.runner.folder import Folder

pytestmark = pytest.mark.timeout(240)
OTHER = 65534
SECRET = "a-token-that-is-a-secret-5f1c"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another account")


class Trap:
    """Leaves a mark when it is loaded in a job's kernel; the trial before a submission is none."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return exec, (f"import os, sys\nif 'ipykernel' in sys.modules: os.mkdir({str(self.mark)!r})",)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    with running_notebook(tmp_path_factory.mktemp("secure"), "a100-40gb:2") as notebook:
        yield notebook


@pytest.fixture
def notebook(shared: Notebook) -> Notebook:
    shared.main.clear()
    shared.main["__name__"] = "__main__"
    return shared


@pytest.fixture
def trapped(notebook: Notebook, tmp_path: Path) -> Job:
    """A job that has ended, whose results leave a mark as soon as somebody loads them."""
    deed = f"import os, sys\nif 'pytest' in sys.modules: os.rmdir({str(tmp_path / 'mark')!r})"
    job = notebook.hand(f"class Trap:\n    def __reduce__(self):\n        return exec, ({deed!r},)\nx = Trap()")
    assert job.wait(60)
    (tmp_path / "mark").mkdir()
    return job


def refused(job: Job, tmp_path: Path) -> str:
    """Why its results are not loaded; nothing of them was."""
    with pytest.raises(Untrusted) as error:
        job.results()
    assert (tmp_path / "mark").exists(), "it was loaded all the same"
    return str(error.value)


def result_stream(job: Job) -> Path:
    body = json.loads(json.loads((job.folder / "results.json").read_text())["body"])
    return job._places.store.path(body["snapshot"]["stream"][0])


def test_the_trap_itself_works(trapped: Job, tmp_path: Path) -> None:
    trapped.results()
    assert not (tmp_path / "mark").exists()


@as_root
def test_a_job_folder_of_somebody_else_is_refused(trapped: Job, notebook: Notebook, tmp_path: Path) -> None:
    os.chown(trapped.folder, OTHER, OTHER)
    assert f"belongs to the account with number {OTHER}, not to you" in refused(trapped, tmp_path)
    with pytest.raises(Untrusted, match="not to you"):
        notebook.again(trapped.id)
    os.chown(trapped.folder, 0, 0)


@as_root
@pytest.mark.parametrize("name", ["results.json", "store"])
def test_files_that_somebody_else_owns_or_may_write_are_refused(trapped: Job, tmp_path: Path, name: str) -> None:
    path = trapped.folder / name if name != "store" else result_stream(trapped)
    os.chown(path, OTHER, OTHER)
    assert "not to you" in refused(trapped, tmp_path)
    os.chown(path, 0, 0)
    path.chmod(0o666)
    assert "can be written by others" in refused(trapped, tmp_path)


@as_root
def test_a_data_folder_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    os.chown(tmp_path / "jobs", OTHER, OTHER)
    with pytest.raises(Untrusted, match="not to you"):
        Places(tmp_path).jobs  # noqa: B018


def test_results_that_were_changed_are_refused(trapped: Job, tmp_path: Path) -> None:
    path = trapped.folder / "results.json"
    told = json.loads(path.read_text())
    body = json.loads(told["body"])
    body["snapshot"]["names"] = ["y"]
    path.write_text(json.dumps({**told, "body": json.dumps(body)}))
    assert "not written by this job, or were changed since" in refused(trapped, tmp_path)
    path.write_text("{")
    assert "damaged" in refused(trapped, tmp_path)


def test_pieces_that_were_changed_are_refused(trapped: Job, tmp_path: Path) -> None:
    stream = result_stream(trapped)
    whole = stream.read_bytes()
    stream.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "was changed since it was written" in refused(trapped, tmp_path)
    stream.write_bytes(whole + b".")
    assert f"has {len(whole) + 1} bytes and should have {len(whole)}" in refused(trapped, tmp_path)
    stream.unlink()
    assert "cannot be read" in refused(trapped, tmp_path)


@pytest.mark.parametrize("name", ["results.json", "store", "folder"])
def test_links_are_not_followed(trapped: Job, tmp_path: Path, name: str) -> None:
    path = {"results.json": trapped.folder / name, "store": result_stream(trapped), "folder": trapped.folder}[name]
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    said = refused(trapped, tmp_path)
    assert "not a plain file" in said or "cannot be read as a plain file (Too many levels of symbolic links)" in said
    path.unlink()
    if name == "folder":
        shutil.move(tmp_path / "elsewhere", path)


def test_results_of_another_job_are_refused(trapped: Job, notebook: Notebook, tmp_path: Path) -> None:
    other = notebook.hand("x = 1")
    assert other.wait(60)
    shutil.copy(trapped.folder / "results.json", other.folder / "results.json")
    assert "not written by this job" in refused(other, tmp_path)
    sweep = notebook.hand("x = n", "--memory 1 --sweep n=0,1")
    assert sweep.wait(60)
    shutil.copy(sweep.tasks[0].path / "results.json", sweep.tasks[1].path / "results.json")
    with pytest.raises(Untrusted, match="belong to a different job"):
        sweep.results(1)


@pytest.mark.parametrize("what", ["snapshot", "job.json", "link", "owner"])
def test_a_job_that_was_tampered_with_while_it_waited_does_not_load_anything(
    notebook: Notebook, tmp_path: Path, what: str
) -> None:
    if what == "owner" and os.geteuid() != 0:
        pytest.skip("only root can give a file to another account")
    holding = notebook.hand("import time; time.sleep(60)", "--gpus 2")
    eventually(lambda: holding.state == "running", 30)
    notebook.main.update(trap=Trap(tmp_path / "mark"), os=os)
    waiting = notebook.hand("print('it runs', trap)", "--memory 1")
    assert waiting.state == "waiting"
    stream = notebook.places.store.path(Folder(waiting.folder).job().snapshot.stream[0])
    if what == "snapshot":
        stream.write_bytes(stream.read_bytes()[:-1] + b"!")
    elif what == "job.json":
        path = waiting.folder / what
        path.write_text(path.read_text().replace("it runs", "changed"))
    elif what == "link":
        stream.rename(tmp_path / "piece")
        stream.symlink_to(tmp_path / "piece")
    else:
        os.chown(stream, OTHER, OTHER)
    holding.cancel()
    assert waiting.wait(60)
    assert waiting.state in ("failed", "crashed"), waiting.status()
    assert not (tmp_path / "mark").exists(), "it was loaded all the same"
    assert "it runs" not in waiting.tasks[0].text()
    assert "changed" not in waiting.tasks[0].text().replace("was changed since", "")
    if what != "job.json":
        words = {"snapshot": "was changed since", "link": "cannot be read", "owner": "not to you"}
        assert words[what] in waiting.status().why


def test_no_secret_stands_in_words_environments_snapshots_or_logs(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", SECRET)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    go = tmp_path / "go"
    waits = f"while not os.path.exists({str(go)!r}):\n    time.sleep(.1)"
    job = notebook.hand(f"import os, time\nprint(dict(os.environ), flush=True)\n{waits}")
    eventually(lambda: "PATH" in job.tasks[0].text(), 30)
    name = job.reservation_ids()[0]
    key = notebook.service.key(name)
    assert len(key) == 64, "what is looked for below is the real one"
    pids = marked(name)
    assert len(pids) >= 3, "launcher, runner and kernel"
    seen = []
    for pid in pids:
        for what in ("cmdline", "environ"):
            with contextlib.suppress(FileNotFoundError, PermissionError):
                seen.append(Path(f"/proc/{pid}/{what}").read_bytes())
    go.touch()
    assert job.wait(60)
    eventually(lambda: notebook.reservation(job)["state"] == "ended", 30)
    state = Path(notebook.server.deployment.state_dir)
    files = [*notebook.places.root.rglob("*"), *state.rglob("*")]
    ledger = re.compile(r"ledger\.sqlite.*")
    seen += [path.read_bytes() for path in files if path.is_file() and not ledger.fullmatch(path.name)]
    assert not any(SECRET.encode() in text for text in seen)
    assert not any(key.encode() in text for text in seen)
    assert any(b"PATH=" in text for text in seen), "environments were looked at"
    for path in (notebook.places.jobs, notebook.places.store.folder, job.folder):
        assert path.stat().st_mode & 0o077 == 0, f"{path} can be read by others"
