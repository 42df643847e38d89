"""A person's data below a folder that others may write: names change hands between any look and any use.

The other account is real where the tests run as root: a process of ``nobody`` that swaps as fast as it can.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from works import Work

from timeshare.notebooks.batch.places import Places
from timeshare.notebooks.capture.own import OwnFolder, Untrusted, open_own
from timeshare.notebooks.capture.store import Store
from timeshare.notebooks.runner.folder import Folder
from timeshare.notebooks.runner.spool import Spool, SpoolReader, read_lines
from timeshare.notebooks.server.status import progress

TRIES = 1000
OTHER = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a process of another account")
SWAP = """
import ctypes, os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
one, other = map(os.fsencode, sys.argv[1:])
print("ready", flush=True)
rename, here, exchange = ctypes.CDLL(None).renameat2, -100, 2
while rename(here, one, here, other, exchange) == 0:
    pass
"""


@contextlib.contextmanager
def swapped(name: Path, other: Path) -> Iterator[None]:
    """While another account exchanges the two names (renameat2), all the time."""
    mine = name.stat().st_ino
    with subprocess.Popen([sys.executable, "-I", "-c", SWAP, name, other], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield
            assert process.poll() is None, "it could not exchange them"
        finally:
            process.kill()
    if name.stat().st_ino != mine:
        for source, target in ((name, name.with_name("aside")), (other, name), (name.with_name("aside"), other)):
            source.rename(target)


def tries(enough: Callable[[], int]) -> Iterator[int]:
    """1,000, and more as long as the other account was never in time."""
    for number in range(50 * TRIES):
        if number >= TRIES and enough():
            return
        yield number


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that everybody can write to, as of a project, where no sticky bit keeps names to their owners."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="timeshare-shared-") as place:
        os.chmod(place, 0o777)
        yield Path(place)


def planted(folder: Path, **files: str) -> Path:
    """A folder of the other account with these files."""
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, OTHER, OTHER)
    return folder


def line(text: str) -> str:
    content = {"name": "stdout", "text": text}
    return json.dumps({"seq": 1, "at": 0.0, "kind": "stream", "content": content}) + "\n"


@as_root
def test_what_is_read_of_a_job_is_its_owners_however_often_its_folder_is_swapped(shared: Path) -> None:
    own = shared / "job"
    own.mkdir(mode=0o700)
    Folder(own).write("status.json", '{"state": "mine"}')
    (own / "spool.jsonl").write_text(line("mine"))
    (own / "spool.jsonl").chmod(0o600)
    planted(shared / "theirs", status_json='{"state": "theirs"}', spool_jsonl=line("theirs"))
    seen: dict[str, int] = {}
    with swapped(own, shared / "theirs"):
        for _ in tries(lambda: seen.get("refused", 0)):
            for look in (lambda: Folder(own).status(), lambda: list(read_lines(own / "spool.jsonl"))):
                try:
                    told = json.dumps(look())
                    outcome = "theirs" if "theirs" in told else "mine" if "mine" in told else "nothing"
                except Untrusted:
                    outcome = "refused"
                seen[outcome] = seen.get(outcome, 0) + 1
    assert seen.get("theirs", 0) == 0, seen
    assert seen.get("mine", 0) > 0, seen
    assert seen.get("refused", 0) > 0, f"the other account was never in time: {seen}"


@as_root
def test_a_folder_that_was_looked_at_stays_the_one_that_is_written_to(shared: Path) -> None:
    own = shared / "job"
    own.mkdir(mode=0o700)
    theirs = planted(shared / "theirs")
    refused: list[int] = []
    with swapped(own, theirs):
        for number in tries(refused.__len__):
            try:
                Folder(own).write("status.json", json.dumps({"state": "x", "number": number}))
            except (Untrusted, FileNotFoundError):
                refused.append(number)
    assert refused, "the other account was never in time"
    assert list(theirs.iterdir()) == []
    assert (own / "status.json").exists()


@as_root
def test_sweeping_removes_nothing_outside_of_the_jobs_and_the_store(shared: Path, tmp_path: Path) -> None:
    """The other account puts folders there whose links lead to the owner's own files: to her keys, to her work."""
    home = tmp_path / "home"
    for name in (".ssh", ".config"):
        (home / name).mkdir(parents=True)
        (home / name / "precious").write_text("x")
        os.utime(home / name / "precious", (0, 0))
    root = shared / "data"
    places = Places(root)
    job = places.jobs / "1130-00000000"
    job.mkdir()
    Store(root / "store").put(b"x" * 100)
    theirs = planted(shared / "theirs")
    (theirs / "jobs").symlink_to(home)
    (theirs / "store").mkdir()
    (theirs / "store" / "aa").symlink_to(home / ".ssh")
    refused: list[int] = []
    with swapped(root, theirs):
        for number in tries(refused.__len__):
            try:
                places.sweep(1e12)
                Places(root).ids()
            except (Untrusted, FileNotFoundError, FileExistsError):
                refused.append(number)
    assert refused, "the other account was never in time"
    assert sorted(str(path.relative_to(home)) for path in home.rglob("precious")) == [
        ".config/precious",
        ".ssh/precious",
    ]


@as_root
def test_code_of_the_other_account_is_not_imported_by_a_job(shared: Path) -> None:
    """The sources that travel with a cell lie where only its owner can rename them; here the job's folder is swapped
    for good, once the cell has begun."""
    ran = shared / "ran"
    code = (
        "import os, sys, time\n"
        f"open({str(shared / 'begun')!r}, 'w').close()\n"
        f"while not os.path.exists({str(shared / 'swapped')!r}): time.sleep(.01)\n"
        "try:\n    import mine_later\n    found = mine_later.value\nexcept ImportError:\n    found = 'missing'\n"
    )
    source = b"value = 'mine'\n"
    store = Store(shared / "work" / "store")
    blob = store.put(source)
    work = Work(shared / "work", code, modules={"mine_later.py": (blob.digest, blob.size)})
    theirs = planted(shared / "theirs")
    (theirs / "modules").mkdir()
    (theirs / "modules" / "mine_later.py").write_text(f"open({str(ran)!r}, 'w')\nvalue = 'theirs'\n")
    process = work.start()
    while not (shared / "begun").exists():
        assert process.poll() is None, work.text()
    own = work.folder.path
    own.rename(own.with_name("aside"))
    theirs.rename(own)
    (shared / "swapped").touch()
    process.wait(60)
    assert not ran.exists()
    # Runner and kernel go on in the folder that they hold, whatever has its name.
    assert Folder(own.with_name("aside")).status() is not None
    assert not (own / "status.json").exists()


@pytest.mark.parametrize("kind", ["fifo", "link", "folder", "group", "others"])
def test_an_odd_file_in_place_of_a_spool_is_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "spool.jsonl"
    if kind == "fifo":
        os.mkfifo(path, 0o600)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        (tmp_path / "elsewhere").write_text(line("x"))
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.write_text(line("x"))
        path.chmod(0o620 if kind == "group" else 0o602)
    for look in (lambda: list(read_lines(path)), lambda: SpoolReader(path).new()):
        with pytest.raises(Untrusted, match=r"it is not loaded"):
            look()
    with pytest.raises((Untrusted, OSError)):
        Spool(path)
    assert progress(tmp_path) == (None, "")


@as_root
@pytest.mark.parametrize("odd", ["mode", "owner", "link", "file"])
def test_a_folder_that_is_not_ours_is_not_held(tmp_path: Path, odd: str) -> None:
    folder = tmp_path / "folder"
    if odd == "file":
        folder.touch()
    elif odd == "link":
        folder.symlink_to(tmp_path)
    else:
        folder.mkdir(mode=0o700)
    if odd == "mode":
        folder.chmod(0o770)
    if odd == "owner":
        os.chown(folder, OTHER, OTHER)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Untrusted):
        OwnFolder(folder)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_pipe_in_place_of_a_piece_or_of_a_jobs_file_is_refused_without_waiting(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    blob = store.put(b"x" * 100)
    store.path(blob.digest).unlink()
    os.mkfifo(store.path(blob.digest))
    with pytest.raises(Untrusted):
        store.get(blob.digest, blob.size)
    folder = tmp_path / "job"
    folder.mkdir(mode=0o700)
    os.mkfifo(folder / "status.json")
    with pytest.raises(Untrusted):
        Folder(folder).status()
    with pytest.raises(Untrusted):
        open_own(folder / "status.json")


def test_what_is_told_of_a_file_names_it_as_people_know_it(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir(mode=0o700)
    (folder / "status.json").write_text("{}")
    (folder / "status.json").chmod(0o666)
    with pytest.raises(Untrusted) as refused:
        Folder(folder).status()
    assert str(folder / "status.json") in str(refused.value)
    assert "/proc/" not in str(refused.value)


def test_descriptors_of_folders_are_given_back(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir(mode=0o700)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(TRIES):
        Folder(folder)
        Store(tmp_path / "store")
    assert len(os.listdir("/proc/self/fd")) <= before
