"""Commands in a folder of somebody who planted modules, settings and files of odd kinds there."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hubs import command
from works import Work

from timeshare.notebooks.capture.trial import load_in_a_clean_process
from timeshare.reservations.files import open_plain, write_anew

OTHERS = (
    *("tornado", "yaml", "timeshare", "sqlalchemy", "pydantic", "traitlets", "matplotlib", "numpy", "cloudpickle"),
    *("sitecustomize", "usercustomize", "jupyter_config", "jupyter_server_config", "jupyterhub_config", "ipykernel"),
    *("ipython_config", "ipython_kernel_config", "timeshare_slurm", "timeshare_culler", "jupyterhub_site"),
)
TRACE = "submitted_at,owner,gpus,run_s\n2026-01-05T10:00:00Z,ada,1,60\n2026-01-05T10:01:00Z,ben,1,60\n"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with a module for every name that Python could look for; each of them leaves a file when it runs."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    mark = f"open({str(folder / 'ran')!r}, 'a').write(__name__ + '\\n')\n"
    for name in (*sys.stdlib_module_names, *OTHERS):
        (folder / f"{name}.py").write_text(mark)
    (folder / "profile_default" / "startup").mkdir(parents=True)
    (folder / "profile_default" / "startup" / "00.py").write_text(mark)
    (folder / "matplotlibrc").write_text("planted.key: read\n")
    (folder / "alembic.ini").write_text("[alembic]\nscript_location = planted\n")
    (folder / "limits.yaml").write_text("planted: true\n")
    (folder / "new.yaml").write_text("defaults: {gpus: 1}\n")
    (folder / "old.yaml").write_text("{}\n")
    (folder / "trace.csv").write_text(TRACE)
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, 65534, 65534)
    return folder


def run(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "JUPYTER"))}
    return subprocess.run(
        [command(), *words], capture_output=True, text=True, timeout=120, check=False, env={**env, **more}, cwd=folder
    )


COMMANDS = [
    (["limits", "check", "new.yaml"], 0, "valid"),
    (["limits", "schema"], 0, "properties"),
    (["limits", "show"], 1, "is timeshare started?"),
    (["limits", "explain", "ada"], 1, "is timeshare started?"),
    (["limits", "apply", "new.yaml"], 1, "is timeshare started?"),
    (["usage"], 1, "is timeshare started?"),
    (["ls"], 1, "is timeshare started?"),
    (["doctor", "--simulate", "t4:1"], None, "limits.yaml is valid"),
    (["doctor", "--engine", "slurm"], 1, ""),
    (["batch", "ls"], 2, "this is not a session of timeshare"),
    (["batch", "--help"], 0, ""),
]
TRY = ["limits", "try", "new.yaml", "--against", "old.yaml", "--trace", "trace.csv", "--devices", "t4:2"]


@pytest.mark.parametrize(("words", "code", "said"), COMMANDS, ids=[" ".join(words) for words, _, _ in COMMANDS])
def test_a_command_runs_and_reads_nothing_that_lies_where_it_is_typed(
    hostile: Path, tmp_path: Path, words: list[str], code: int | None, said: str
) -> None:
    done = run(hostile, *words, HOME=str(tmp_path), XDG_STATE_HOME=str(tmp_path / "state"))
    assert not (hostile / "ran").exists(), (hostile / "ran").read_text()
    assert code is None or done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert "planted" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_trying_limits_reads_only_the_files_that_are_named(hostile: Path, tmp_path: Path) -> None:
    """Its second process and the plots look for modules and settings where they stand."""
    done = run(hostile, *TRY, "--output", str(tmp_path / "out.html"), HOME=str(tmp_path))
    assert not (hostile / "ran").exists(), (hostile / "ran").read_text()
    assert done.returncode == 0, done.stderr
    assert "planted" not in done.stderr
    assert (tmp_path / "out.html").read_text().startswith("<!")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another account")
@pytest.mark.parametrize("words", [["doctor", "--engine", "slurm"], ["reconcile"], ["up", "--port", "0"]])
def test_what_lies_in_a_state_folder_of_another_account_is_not_run(
    hostile: Path, tmp_path: Path, words: list[str]
) -> None:
    """timeshare_slurm.py of whoever owned the folder ran as root."""
    done = run(tmp_path, *words, "--state", str(hostile), HOME=str(tmp_path))
    assert not (hostile / "ran").exists(), (hostile / "ran").read_text()
    assert done.returncode == 1
    assert f"{hostile} belongs to nobody" in done.stdout + done.stderr


def test_a_page_is_not_written_through_a_link_that_was_planted(hostile: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("of root")
    (hostile / "limits_try.html").symlink_to(precious)
    done = run(hostile, *TRY, HOME=str(tmp_path))
    assert done.returncode == 1
    assert "it is a link: name a plain file" in done.stderr
    assert precious.read_text() == "of root"


def test_a_link_that_appears_while_a_page_is_written_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """1,000 tries against a thread that puts a link in the page's place as fast as it can."""
    precious, page, over = tmp_path / "precious", tmp_path / "page.html", threading.Event()
    precious.write_text("of root")

    def plant() -> None:
        link = tmp_path / "link"
        while not over.is_set():
            link.symlink_to(precious)
            link.replace(page)

    planter = threading.Thread(target=plant)
    planter.start()
    written = 0
    try:
        for number in range(1000):
            try:
                write_anew(page, str(number))
                written += 1
            except OSError as error:
                assert "it is a link" in str(error.strerror)
    finally:
        over.set()
        planter.join()
    assert precious.read_text() == "of root"


KINDS = [
    ("fifo", "it is a pipe: name a plain file"),
    ("/dev/zero", "it is a device: name a plain file"),
    ("folder", "it is a folder: name a plain file"),
    ("huge", "is longer than 1024 KiB"),
    ("missing", "No such file"),
]


@pytest.mark.parametrize(("kind", "said"), KINDS, ids=[kind for kind, _ in KINDS])
@pytest.mark.parametrize("words", [["limits", "check"], ["limits", "apply"], ["doctor", "--limits"]])
def test_an_odd_file_in_place_of_limits_is_refused_at_once_in_words(
    tmp_path: Path, kind: str, said: str, words: list[str]
) -> None:
    path = odd(tmp_path, kind)
    done = run(tmp_path, *words, path.name, HOME=str(tmp_path))
    assert said in done.stdout + done.stderr
    assert str(path) in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def odd(folder: Path, kind: str) -> Path:
    path = folder / "named.yaml"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    elif kind != "missing":
        path.symlink_to(kind)
    return path


def test_a_trace_that_is_a_pipe_or_beyond_all_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "new.yaml").write_text("{}\n")
    words = ["limits", "try", "new.yaml", "--against", "new.yaml", "--devices", "t4:1", "--trace"]
    os.mkfifo(tmp_path / "pipe")
    assert "it is a pipe" in run(tmp_path, *words, "pipe").stderr
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    assert "and a trace at most 2147483648: cut it in pieces" in run(tmp_path, *words, "huge").stderr


def test_a_link_to_a_plain_file_is_read(tmp_path: Path) -> None:
    """As where a site keeps its limits elsewhere."""
    (tmp_path / "limits.yaml").write_text("{}\n")
    (tmp_path / "link.yaml").symlink_to("limits.yaml")
    with open_plain(tmp_path / "link.yaml") as file:
        assert file.read() == b"{}\n"
    assert run(tmp_path, "limits", "check", "link.yaml").returncode == 0


def test_a_command_in_a_folder_that_is_gone_still_works(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    words = f"cd {gone} && rmdir {gone} && {command()} limits schema"
    done = subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["fifo", "/dev/zero", "folder", "huge", "missing"])
def test_an_odd_file_in_place_of_a_cell_is_refused_at_once_in_words(tmp_path: Path, kind: str) -> None:
    session = {"TIMESHARE_SERVICE_URL": "http://127.0.0.1:1/services/timeshare", "TIMESHARE_TOKEN": "none"}
    path = odd(tmp_path, kind)
    done = run(tmp_path, "batch", "submit", path.name, "--gpus", "1", HOME=str(tmp_path), **session)
    assert done.returncode == 2
    assert f"{path.name} cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


# --- what is started for cells


def test_a_file_handed_over_in_a_hostile_folder_imports_nothing_from_there(hostile: Path, tmp_path: Path) -> None:
    """As `timeshare batch submit FILE` writes it: no "" in its import path, the folder as its working folder."""
    code = "import json, os, tornado, yaml\nwhere = os.getcwd()\nprint(yaml.__name__, tornado.version)"
    work = Work(tmp_path / "work", code, path_first=None, cwd=str(hostile))
    status = work.run()
    assert status["state"] == "completed", work.text() + str(status)
    assert not (hostile / "ran").exists(), (hostile / "ran").read_text()
    assert work.results()[0]["where"] == str(hostile)


def test_a_cell_of_a_notebook_imports_from_its_folder_as_it_did_there(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "mine.py").write_text("value = 7\n")
    work = Work(tmp_path / "work", "import mine\nfound = mine.value", path_first="", cwd=str(folder))
    assert work.run()["state"] == "completed", work.text()
    assert work.results()[0]["found"] == 7


def test_trying_to_load_what_a_file_hands_over_imports_nothing_from_the_folder(
    hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hostile)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert load_in_a_clean_process({"number": (b"\x80\x05K\x07.", ())}) == {}
    assert not (hostile / "ran").exists(), (hostile / "ran").read_text()


def test_trying_to_load_what_a_notebook_hands_over_has_the_notebooks_own_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "planted_once.py").write_text("class Thing: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *(path for path in sys.path if path)])
    stream = b"cplanted_once\nThing\n."
    assert load_in_a_clean_process({"thing": (stream, ())}) == {}
