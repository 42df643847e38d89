"""Backup and restore, without a hub: what comes back, what is refused, and a kill between any two steps."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from conftest import FULL_STRESS, fresh_schema
from databases import free_port, postgres, postgres_bin
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nodes import deployment
from pools import Lab

from timeshare.hub_config.command import parser
from timeshare.hub_config.run.folders import FolderError
from timeshare.hub_config.saved import plan as plans
from timeshare.hub_config.saved.archive import opened
from timeshare.hub_config.saved.making import make_backup
from timeshare.hub_config.saved.manifest import NAME, BackupError
from timeshare.hub_config.saved.restoring import Wish, restore
from timeshare.hub_config.up import run as up_run
from timeshare.reservations.engines.base import EngineSession, SessionState
from timeshare.reservations.engines.reconcile import unaccounted
from timeshare.reservations.errors import PublicError
from timeshare.reservations.ledger import Ledger, LedgerLost, policy, rowcopy, tables
from timeshare.reservations.ledger.store import migrations, open_engine
from timeshare.reservations.reservation import Reason

SECRET = "c" * 64


def filled(folder: Path, url: str) -> None:
    """A ledger with something of everything: what runs, waits, was promised, has ended and was charged."""
    lab = Lab(folder, {}, "a100", "t4", url=url)
    first, second = lab.ask("ada"), lab.ask("ben")
    lab.ask("cleo")
    lab.run(first)
    lab.later(60)
    lab.pool.end(second.id, Reason.COMPLETED, "done")
    lab.pool.cordon("GPU-1", "its fan")
    lab.ledger.close()


def site(folder: Path, url: str = "") -> Path:
    """A state folder as a stopped deployment leaves it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    url = url or f"sqlite:///{folder}/ledger.sqlite"
    filled(folder, url)
    deployment(folder, ledger_url=url, limits_path=str(folder / "limits.yaml"))
    with sqlite3.connect(folder / "hub.sqlite") as hub:
        hub.execute("CREATE TABLE users (name TEXT)")
        hub.execute("INSERT INTO users VALUES ('ada')")
    hub.close()
    for name, text in (("hub_cookie_secret", SECRET), ("limits.yaml", "{}\n"), ("jupyterhub_site.py", "# ours\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    (folder / "agent").mkdir(exist_ok=True)
    (folder / "agent" / "of-now").write_text("")
    return folder


def rows(url: str) -> dict[str, list[str]]:
    """All rows of a ledger but what a restore writes itself."""
    engine = open_engine(url)
    with engine.connect() as connection:
        found = {
            name: sorted(rowcopy.lines(connection, name, names)) for name, names in rowcopy.columns(connection).items()
        }
    engine.dispose()
    found["meta"] = [row for row in found["meta"] if not row.startswith(('["epoch"', '["restored"'))]
    return found


def restored(path: Path, state: Path, url: str = "", replace: bool = False) -> plans.Plan:
    state.mkdir(mode=0o700, exist_ok=True)
    with opened(path) as archive:
        return restore(archive, Wish(state, url, replace))


def epoch(url: str) -> int:
    engine = open_engine(url)
    with engine.connect() as connection:
        found = int(connection.scalar(sa.text("SELECT value FROM meta WHERE key = 'epoch'")) or 0)
    engine.dispose()
    return found


def command(*words: str) -> int:
    options = parser(words[:1]).parse_args(words)
    return int(options.run(options))


@pytest.fixture
def other_url(request: pytest.FixtureRequest, ledger_url: str, tmp_path: Path) -> str:
    """A second ledger of the same kind."""
    if ledger_url.startswith("sqlite"):
        return ""
    return fresh_schema(request.getfixturevalue("postgres_url"))


# --- what comes back


def test_all_that_belongs_together_comes_back(tmp_path: Path, ledger_url: str, other_url: str) -> None:
    old, new = site(tmp_path / "old", ledger_url if "postgres" in ledger_url else ""), tmp_path / "new"
    old_url = json.loads((old / "deployment.json").read_text())["ledger_url"]
    path, manifest = make_backup(old, tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert manifest.rows["reservations"] == 3
    restored(path, new, other_url)
    url = other_url or f"sqlite:///{new}/ledger.sqlite"
    assert rows(url) == rows(old_url)
    with sqlite3.connect(new / "hub.sqlite") as hub:
        assert hub.execute("SELECT name FROM users").fetchall() == [("ada",)]
    hub.close()
    assert (new / "hub_cookie_secret").read_text() == SECRET
    told = json.loads((new / "deployment.json").read_text())
    assert (told["state_dir"], told["limits_path"]) == (str(new), str(new / "limits.yaml"))
    assert (told["ledger_url"], told["signing_key"]) == (url, "signing-key")
    assert not (new / "agent").exists()
    assert {p.name: p.stat().st_mode & 0o077 for p in new.iterdir()} == {p.name: 0 for p in new.iterdir()}
    assert not list(new.glob("restoring"))
    assert not list(tmp_path.glob(".timeshare-backup-*"))
    ledger = Ledger.open(url)  # it goes on: numbers of rows too
    assert len(ledger.live()) == 2
    ledger.close()
    lab = Lab(tmp_path, {}, "a100", "t4", url=url)
    lab.ask("dora")
    lab.ledger.close()


@pytest.mark.parametrize("way", ["there", "back"])
def test_a_ledger_moves_from_one_database_to_the_other(tmp_path: Path, postgres_url: str, way: str) -> None:
    elsewhere = fresh_schema(postgres_url)
    old, new = site(tmp_path / "old", "" if way == "there" else elsewhere), tmp_path / "new"
    path, _ = make_backup(old, tmp_path / "a.backup")
    restored(path, new, elsewhere if way == "there" else "sqlite://")
    file = tmp_path / ("old" if way == "there" else "new") / "ledger.sqlite"
    there, here = rows(elsewhere), rows(f"sqlite:///{file}")
    flags = [[bool(row[-1]) for row in map(json.loads, found.pop("holdings"))] for found in (there, here)]
    assert there == here
    assert flags[0] == flags[1] == [True, True]
    lab = Lab(tmp_path, {}, "a100", "t4", url=elsewhere if way == "there" else f"sqlite:///{file}")
    assert [r.owner for r in lab.pool.live()] == ["ada", "cleo"]
    lab.ledger.close()


def test_an_older_format_is_migrated(tmp_path: Path, ledger_url: str, other_url: str) -> None:
    old = site(tmp_path / "old", ledger_url if "postgres" in ledger_url else "")
    url = json.loads((old / "deployment.json").read_text())["ledger_url"]
    engine = open_engine(url)
    with engine.begin() as connection:
        from alembic import command as alembic

        alembic.downgrade(migrations(connection), "0006")
    engine.dispose()
    path, manifest = make_backup(old, tmp_path)
    assert manifest.revision == "0006"
    assert "promises" not in manifest.columns
    restored(path, tmp_path / "new", other_url)
    ledger = Ledger.open(other_url or f"sqlite:///{tmp_path}/new/ledger.sqlite")
    assert [r.owner for r in ledger.live()] == ["ada", "cleo"]
    ledger.close()


def test_a_hot_backup_is_of_one_moment(tmp_path: Path, ledger_url: str) -> None:
    old = site(tmp_path / "old", ledger_url if "postgres" in ledger_url else "")
    url = json.loads((old / "deployment.json").read_text())["ledger_url"]
    ledger, stop = Ledger.open(url), threading.Event()
    begun = threading.Event()

    def write_on() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with ledger.transaction() as connection:
                policy.add_audit(connection, "root", "count", str(number), 0.0)
                connection.execute(sa.delete(tables.people))
                policy.set_person(connection, str(number), (), 0.0)
            begun.set()

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        assert begun.wait(30)
        found = [make_backup(old, tmp_path / f"{i}.backup")[0] for i in range(5)]
    finally:
        stop.set()
        writer.join()
        ledger.close()
    for path in found:
        with zipfile.ZipFile(path) as whole:
            told = [json.loads(line)[4] for line in whole.read("ledger/audit.jsonl").splitlines() if b'"count"' in line]
            (person,) = [json.loads(line)[0] for line in whole.read("ledger/people.jsonl").splitlines()]
        assert told == [str(number + 1) for number in range(len(told))]
        assert person == told[-1]


def test_the_next_owner_has_a_number_that_no_other_process_has(tmp_path: Path, postgres_url: str) -> None:
    url = fresh_schema(postgres_url)
    state = site(tmp_path / "old", url)
    path, _ = make_backup(state, tmp_path)
    for _ in range(3):
        Ledger.open(url).close()
    runs_on = Ledger.open(url)
    restored(path, state, replace=True)
    Ledger.open(url).close()
    Ledger.open(url).close()
    with pytest.raises((LedgerLost, sa.exc.SQLAlchemyError)):
        runs_on.write_meta("clock", 1)
    runs_on.close()
    assert epoch(url) > 1_700_000_000


VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.sampled_from(["\x00", "{", '{"gpus": NaN}', "é\ud7ff", "[" * 3000]),
)


@settings(max_examples=300 if FULL_STRESS else 40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=5), st.binary(max_size=12))
def test_whatever_is_in_a_ledger_comes_back_as_it_was(
    tmp_path: Path, odd: list[tuple[Any, Any, Any]], raw: bytes
) -> None:
    url = f"sqlite:///{tmp_path}/from.sqlite"
    for name in ("from", "to"):
        (tmp_path / f"{name}.sqlite").unlink(missing_ok=True)
    Ledger.open(url).close()
    with sqlite3.connect(tmp_path / "from.sqlite") as file:
        for number, (text, at, seen) in enumerate(odd):
            values = (f"p{number}", "" if text is None else text, 0 if at is None else at)
            file.execute("INSERT INTO people VALUES (?, ?, ?)", values)
            file.execute("INSERT INTO meta VALUES (?, ?)", (f"k{number}", "" if seen is None else seen))
        file.execute("INSERT INTO meta VALUES ('raw', CAST(? AS TEXT))", (raw,))
    file.close()
    copy(tmp_path / "from.sqlite", tmp_path / "to.sqlite")
    assert stored(tmp_path / "to.sqlite") == stored(tmp_path / "from.sqlite")


def copy(source: Path, to: Path) -> None:
    """Through the lines of a backup."""
    from timeshare.hub_config.saved.making import ledger_engine, reading

    to.touch()
    with reading(f"sqlite:///{source}") as connection:
        names = rowcopy.columns(connection)
        lines = {name: list(rowcopy.lines(connection, name, those)) for name, those in names.items()}
        revision = rowcopy.revision(connection)
    engine = ledger_engine(f"sqlite:///{to}")
    with engine.begin() as connection:
        rowcopy.fill(connection, rowcopy.Filled(revision, names, lines, "r"))
    engine.dispose()


def stored(path: Path) -> list[Any]:
    """With their types, bytes of texts."""
    with sqlite3.connect(path) as file:
        query = "SELECT key, typeof(value), CAST(value AS BLOB) FROM meta WHERE key NOT IN ('epoch', 'restored')"
        found = file.execute(f"{query} ORDER BY key").fetchall()
        people = 'SELECT name, typeof("groups"), CAST("groups" AS BLOB), typeof(seen_at), seen_at FROM people'
        found += file.execute(f"{people} ORDER BY name").fetchall()
    file.close()
    return found


def test_what_is_not_in_it_is_said(tmp_path: Path) -> None:
    state = site(tmp_path / "state")
    (state / "jupyterhub_site.py").write_text('\nc.JupyterHub.db_url = "postgresql://hub@db/hub"\n')
    (state / "certificate.pem").write_text("")
    elsewhere = tmp_path / "limits.yaml"
    elsewhere.write_text("{}\n")
    deployment(state, limits_path=str(elsewhere))
    path, manifest = make_backup(state, tmp_path)
    said = "\n".join(manifest.notes)
    assert "line 2, db_url" in said
    assert "certificate.pem is not in it" in said
    assert str(elsewhere) in said
    assert "agent" not in said
    restored(path, tmp_path / "new")
    assert (tmp_path / "new" / "limits-of-backup.yaml").read_text() == "{}\n"


# --- what is refused


def test_a_backup_overwrites_nothing(tmp_path: Path) -> None:
    state = site(tmp_path / "state")
    (tmp_path / "there").write_text("mine")
    with pytest.raises(BackupError, match="is there already"):
        make_backup(state, tmp_path / "there")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(BackupError, match="is there already"):
        make_backup(state, tmp_path / "link")
    assert (tmp_path / "there").read_text() == "mine"
    assert not list(tmp_path.glob(".timeshare-backup-*"))


@pytest.mark.parametrize("open_to", ["its owner", "all"])
def test_a_folder_that_others_can_change_gets_no_backup(tmp_path: Path, open_to: str) -> None:
    state, folder = site(tmp_path / "state"), tmp_path / "theirs"
    folder.mkdir()
    if open_to == "all":
        folder.chmod(0o777)
    elif os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
    else:
        pytest.skip("only root can give a folder to another account")
    with pytest.raises(FolderError, match=r"theirs, on the way to .*--to"):
        make_backup(state, folder)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_byte_that_names_another_packing_is_damage(tmp_path: Path, method: int) -> None:
    path, _ = make_backup(site(tmp_path / "state"), tmp_path)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\1\2") + 10  # in the directory at the end: how the first part is packed
    assert data[at] == zipfile.ZIP_DEFLATED
    data[at] = method
    path.write_bytes(data)
    with pytest.raises(BackupError, match="damaged"), opened(path) as archive:
        archive.check()


def test_a_state_that_is_not_empty_is_set_aside_when_asked(tmp_path: Path, ledger_url: str) -> None:
    state = site(tmp_path / "state", ledger_url if "postgres" in ledger_url else "")
    url = json.loads((state / "deployment.json").read_text())["ledger_url"]
    path, _ = make_backup(state, tmp_path)
    before = rows(url)
    lab = Lab(state, {}, "a100", "t4", url=url)
    lab.ask("dora")
    lab.ledger.close()
    (state / "hub_cookie_secret").write_text("newer")
    (state / "timeshare_slurm.py").write_text("# came later\n")
    later = rows(url)
    with pytest.raises(BackupError, match=r"is not empty .*--replace"):
        restored(path, state)
    assert rows(url) == later
    plan = restored(path, state, replace=True)
    assert rows(url) == before
    aside = state / plan.aside
    assert (aside / "hub_cookie_secret").read_text() == "newer"
    assert (aside / "timeshare_slurm.py").exists()
    assert not (state / "timeshare_slurm.py").exists()
    assert (state / "agent" / "of-now").exists()
    if "postgres" in url:  # and back again
        restored(aside / "ledger.backup", state, replace=True)
        assert rows(url) == later
        assert (state / "hub_cookie_secret").read_text() == SECRET
    else:
        assert rows(f"sqlite:///{aside}/ledger.sqlite") == later


def changed(path: Path, to: Path, change: Callable[[str, bytes], bytes | None], more: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
        for name, data in more.items():
            new.writestr(name, data)
    to.chmod(0o600)
    return to


def _manifest(**changes: Any) -> Callable[[str, bytes], bytes]:
    return lambda name, data: json.dumps({**json.loads(data), **changes}).encode() if name == NAME else data


DAMAGED: dict[str, tuple[Callable[[str, bytes], bytes | None], dict[str, bytes], str]] = {
    "a byte": (lambda n, d: d.replace(b"c", b"d", 1) if n == "state/hub_cookie_secret" else d, {}, "is not what was"),
    "longer": (lambda n, d: d + b"x" if n == "state/hub.sqlite" else d, {}, "parts are not those"),
    "missing": (lambda n, d: None if n == "ledger/charges.jsonl" else d, {}, "parts are not those"),
    "no manifest": (lambda n, d: None if n == NAME else d, {}, "no manifest"),
    "climbs": (lambda n, d: d, {"../../etc/passwd": b""}, "holds what no backup does"),
    "absolute": (lambda n, d: d, {"/etc/passwd": b""}, "holds what no backup does"),
    "a program": (lambda n, d: d, {"state/proxy": b""}, "holds what no backup does"),
    "later format": (_manifest(format=2), {}, "this version reads 1"),
    "later ledger": (_manifest(revision="9999"), {}, "has format 9999"),
    "a statement": (_manifest(columns={"meta": ['key"; DROP TABLE x; --']}), {}, "not understood"),
    "no text": (_manifest(notes=[3]), {}, "not understood"),
    "nested": (lambda n, d: b"[" * 100_000 if n == NAME else d, {}, "cannot be read"),
}


@pytest.mark.parametrize(
    "line",
    ["[1]", "{}", '["a", {"x": 1}]', '["a", {"bytes": 3}]', '["a", [1]]', f"[1, {2**64}]", "[" * 100_000, "nothing"],
)
def test_rows_that_no_ledger_could_take_are_refused_before_anything_is_promised(line: str) -> None:
    with pytest.raises(ValueError, match=r"meta|Expecting"):
        rowcopy.check(['["epoch", "1"]', line], ["key", "value"], "meta")
    rowcopy.check(['["epoch", {"bytes": "/w=="}]', '["epoch", null]'], ["key", "value"], "meta")


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_is_damaged_or_foreign_changes_nothing(tmp_path: Path, kind: str) -> None:
    path, _ = make_backup(site(tmp_path / "old"), tmp_path / "a.backup")
    change, more, said = DAMAGED[kind]
    new = tmp_path / "new"
    with pytest.raises(BackupError, match=said):
        restored(changed(path, tmp_path / "b.backup", change, more), new)
    assert list(new.iterdir()) == []


@pytest.mark.parametrize("cut", [0, 1, 100, -1, -30])
def test_a_part_of_a_backup_is_none(tmp_path: Path, cut: int) -> None:
    path, _ = make_backup(site(tmp_path / "old"), tmp_path / "a.backup")
    data = path.read_bytes()[:cut]
    (tmp_path / "b.backup").write_bytes(data)
    (tmp_path / "b.backup").chmod(0o600)
    with pytest.raises(BackupError, match="damaged"):
        restored(tmp_path / "b.backup", tmp_path / "new")


def test_a_link_in_the_archive_is_a_file_and_a_bomb_is_none(tmp_path: Path) -> None:
    path, _ = make_backup(site(tmp_path / "old"), tmp_path / "a.backup")
    whole = zipfile.ZipFile(path)
    with whole as old, zipfile.ZipFile(tmp_path / "b.backup", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o120777 << 16
            new.writestr(entry, old.read(name))
    (tmp_path / "b.backup").chmod(0o600)
    restored(tmp_path / "b.backup", tmp_path / "new")
    assert not any(p.is_symlink() for p in (tmp_path / "new").iterdir())

    def large(name: str, data: bytes) -> bytes:
        told = json.loads(data) if name == NAME else {}
        if told:
            told["parts"]["state/hub.sqlite"]["size"] = 1 << 49
            return json.dumps(told).encode()
        return data

    with pytest.raises(BackupError, match="parts are not those"):
        restored(changed(path, tmp_path / "c.backup", large, {}), tmp_path / "other")


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_not_believed(tmp_path: Path, mode: int) -> None:
    path, _ = make_backup(site(tmp_path / "old"), tmp_path / "a.backup")
    path.chmod(mode)
    with pytest.raises(BackupError, match="others can write"):
        restored(path, tmp_path / "new")


@pytest.mark.skipif(os.geteuid() != 0, reason="another account is needed, and only root can be one")
def test_a_file_of_another_account_is_not_believed(tmp_path: Path) -> None:
    path, _ = make_backup(site(tmp_path / "old"), tmp_path / "a.backup")
    os.chown(path, 65534, 65534)
    with pytest.raises(BackupError, match="another account"):
        restored(path, tmp_path / "new")


def test_links_in_the_state_folder_lead_nowhere(tmp_path: Path) -> None:
    state = site(tmp_path / "state")
    path, _ = make_backup(state, tmp_path / "a.backup")
    (tmp_path / "precious").write_text("mine")
    (state / "hub_cookie_secret").unlink()
    (state / "hub_cookie_secret").symlink_to(tmp_path / "precious")
    (state / "restoring").symlink_to(tmp_path)
    with pytest.raises((BackupError, OSError)):
        restored(path, state, replace=True)
    (state / "restoring").unlink()
    restored(path, state, replace=True)
    assert (tmp_path / "precious").read_text() == "mine"
    assert (state / "hub_cookie_secret").read_text() == SECRET
    assert not (state / "hub_cookie_secret").is_symlink()


def test_the_commands_say_what_they_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, new = site(tmp_path / "state"), tmp_path / "new"
    to = tmp_path / "kept"
    to.mkdir()
    assert command("backup", "--state", str(state), "--to", str(to)) == 0
    (path,) = to.iterdir()
    assert "3 reservations" in capsys.readouterr().out
    assert command("restore", "--state", str(new), "--from", str(path), "--check") == 0
    assert not new.exists()
    assert command("restore", "--state", str(new), "--from", str(path)) == 0
    assert "timeshare unaccounted" in capsys.readouterr().out
    assert command("restore", "--state", str(new), "--from", str(path)) == 1
    assert "--replace" in capsys.readouterr().err
    assert command("restore", "--state", str(new), "--finish") == 1
    assert "nothing is to be finished" in capsys.readouterr().err
    assert command("restore", "--state", str(new), "--from", "/nowhere") == 1
    assert command("backup", "--state", str(tmp_path / "none"), "--to", str(to)) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_what_runs_unknown_to_the_ledger_is_not_started_a_second_time(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {}, "a100", "t4")
    ada = lab.ask("ada")
    runs = EngineSession(ada.id, 1, SessionState.RUNNING, None, "", owner="ada", devices=("GPU-1",))
    assert unaccounted(lab.pool.live(), [runs], {ada.id}) == [runs]
    lab.pool.set_unaccounted([runs])
    with pytest.raises(PublicError, match="an administrator has to decide"):
        lab.pool.starting(ada.id)
    lab.pool.set_unaccounted([])
    assert lab.pool.starting(ada.id).generation == 1
    lab.ledger.close()


def test_a_database_that_does_not_answer_is_told_and_nothing_is_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, nobody = site(tmp_path / "state"), f"postgresql+psycopg://timeshare@127.0.0.1:{free_port()}/db"
    path, _ = make_backup(state, tmp_path / "a.backup")
    words = ("restore", "--state", str(tmp_path / "new"), "--from", str(path))
    assert command(*words, "--ledger", nobody) == 1
    assert "does not answer" in capsys.readouterr().err
    assert {p.name for p in (tmp_path / "new").iterdir()} <= {"up.lock"}
    deployment(state, ledger_url=nobody)
    assert command("backup", "--state", str(state), "--to", str(tmp_path)) == 1
    assert "the ledger cannot be read" in capsys.readouterr().err
    assert not list(tmp_path.glob(".timeshare-backup-*"))


@contextmanager
def no_room(size: int) -> Iterator[None]:
    """No file becomes longer than ``size`` bytes, as on a disk that fills."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 500, 5000, 50_000])
def test_a_full_disk_is_told_and_nothing_is_changed(tmp_path: Path, size: int) -> None:
    state = site(tmp_path / "state")
    path, _ = make_backup(state, tmp_path / "a.backup")
    make_later(state)
    before = state_of(state)
    if size < path.stat().st_size:
        with no_room(size), pytest.raises(BackupError):
            make_backup(state, tmp_path / "b.backup")
        assert not list(tmp_path.glob(".timeshare-backup-*"))
        assert not (tmp_path / "b.backup").exists()
    with no_room(size), pytest.raises(BackupError, match="nothing was changed"):
        restored(path, state, replace=True)
    assert state_of(state) == before
    assert not list(state.glob("*restor*"))
    restored(path, state, replace=True)


def test_no_backup_is_made_of_half_a_restore(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = site(tmp_path / "state")
    (state / "restoring").mkdir()
    (state / "restoring" / "plan.json").write_text("{")
    assert command("backup", "--state", str(state), "--to", str(tmp_path)) == 1
    assert command("restore", "--state", str(state), "--finish") == 1
    assert "plan.json is damaged" in capsys.readouterr().err


# --- kills


ACTS = frozenset(
    ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "sqlite3.connect")
)
"""What a process does to files, as Python tells its audit hooks."""


def killed_at(step: int, deed: Callable[[], object]) -> bool:
    """Do it in a process that is killed before its ``step``-th act on files; whether it was."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the server of a database leaves no thread here
        pid = os.fork()
    if pid == 0:
        left = step

        def count(event: str, _arguments: object) -> None:
            nonlocal left
            if event in ACTS:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        code = 1
        try:
            sys.addaudithook(count)
            deed()
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WIFSIGNALED(status)


def steps(deed: Callable[[], object]) -> int:
    """How many acts on files it is."""
    seen, counting = [0], [True]

    def count(event: str, _arguments: object) -> None:
        seen[0] += counting[0] and event in ACTS

    sys.addaudithook(count)
    deed()
    counting[0] = False
    return seen[0]


def some(count: int, few: int) -> list[int]:
    """Steps to be killed at: all of them in the full run, else a few, the last ones among them."""
    if FULL_STRESS:
        return list(range(1, count + 2))
    return sorted({*range(1, count, max(1, count // few)), *range(max(1, count - few), count + 2)})


def state_of(folder: Path) -> dict[str, Any]:
    """What lies there, rows for the ledger."""
    names = ("deployment.json", "hub_cookie_secret", "limits.yaml", "jupyterhub_site.py", "timeshare_slurm.py")
    found: dict[str, Any] = {name: (folder / name).read_text() for name in names if (folder / name).exists()}
    with sqlite3.connect(folder / "hub.sqlite") as hub:
        found["hub"] = hub.execute("SELECT name FROM users ORDER BY name").fetchall()
    hub.close()
    found["ledger"] = rows(json.loads(found["deployment.json"])["ledger_url"])
    return found


def make_later(state: Path) -> None:
    """Some time passes."""
    lab = Lab(state, {}, "a100", "t4", url=json.loads((state / "deployment.json").read_text())["ledger_url"])
    lab.ask("dora")
    lab.ledger.close()
    (state / "hub_cookie_secret").write_text("later")
    (state / "timeshare_slurm.py").write_text("# later")
    with sqlite3.connect(state / "hub.sqlite") as hub:
        hub.execute("PRAGMA journal_mode=WAL")
        hub.execute("INSERT INTO users VALUES ('dora')")
    hub.close()


@pytest.mark.stress
def test_a_restore_that_is_killed_leaves_the_old_state_or_says_what_to_do(tmp_path: Path, ledger_url: str) -> None:
    state = site(tmp_path / "state", ledger_url if "postgres" in ledger_url else "")
    path, _ = make_backup(state, tmp_path / "a.backup")
    older = state_of(state)
    make_later(state)
    later_path, _ = make_backup(state, tmp_path / "b.backup")
    later = state_of(state)

    def deed() -> None:
        restored(path, state, replace=True)

    count = steps(deed)
    assert state_of(state) == older
    seen = set()
    for step in some(count, 3 if "postgres" in ledger_url else 6):
        restored(later_path, state, replace=True)
        for aside in state.glob("before-restore-*"):
            shutil.rmtree(aside)
        assert state_of(state) == later
        killed = killed_at(step, deed)
        if plans.pending(state):
            options = parser(["up"]).parse_args(["up", "--state", str(state)])
            assert up_run(options) == 1  # it says what to do
            further = 3
            while plans.pending(state):  # killed again, and carried on
                killed_at(further, lambda: plans.finish(state, plans.load(state)))
                further += 40
            assert state_of(state) == older
            seen.add("finished")
        else:
            now = state_of(state)
            assert now == (later if now["hub_cookie_secret"] == "later" else older)
            seen.add("later" if now == later else "older")
        assert killed or state_of(state) == older
        aside = next(iter(state.glob("before-restore-*/hub_cookie_secret")), None)
        assert (state_of(state) == later) == (aside is None)  # nothing is lost
        assert aside is None or aside.read_text() == "later"
    assert seen == {"later", "older", "finished"}


@pytest.mark.stress
def test_a_backup_that_is_killed_leaves_none_and_the_next_one_tidies(tmp_path: Path) -> None:
    state, kept = site(tmp_path / "state"), tmp_path / "kept"
    kept.mkdir()
    count = steps(lambda: make_backup(state, tmp_path / "first.backup"))
    for step in some(count, 8):
        target = kept / f"{step}.backup"
        killed = killed_at(step, lambda target=target: make_backup(state, target))  # type: ignore[misc]
        assert target.exists() or killed
        if target.exists():
            with opened(target) as archive:
                archive.check()
    make_backup(state, kept / "last.backup")
    assert all(p.suffix == ".backup" for p in kept.iterdir())


@pytest.mark.skipif(postgres_bin() is None, reason="no PostgreSQL server is installed")
def test_a_database_that_dies_meanwhile_has_all_or_nothing(tmp_path: Path) -> None:
    with postgres() as server:
        url = fresh_schema(server)
        state = site(tmp_path / "state", url)
        path, _ = make_backup(state, tmp_path / "a.backup")
        older = state_of(state)
        make_later(state)
        later = state_of(state)

        def dies(connection: sa.Connection, cursor: Any, statement: str, *_: Any) -> None:
            if statement.startswith("SELECT setval"):  # nearly all is written
                other = psycopg.connect(sa.make_url(server).set(drivername="postgresql").render_as_string())
                other.execute("SELECT pg_terminate_backend(%s)", [cursor.connection.info.backend_pid])
                other.close()

        sa.event.listen(sa.Engine, "before_cursor_execute", dies)
        try:
            with pytest.raises(BackupError, match="nothing was changed"):
                restored(path, state, replace=True)
        finally:
            sa.event.remove(sa.Engine, "before_cursor_execute", dies)
        assert not plans.pending(state)
        assert state_of(state) == later
        restored(path, state, replace=True)
        assert state_of(state) == older


def test_nothing_is_restored_while_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = site(tmp_path / "state")
    path, _ = make_backup(state, tmp_path / "a.backup")
    env = {**os.environ, "TIMESHARE_DEPLOYMENT": str(state / "deployment.json")}
    # As a unit of systemd starts it; it waits for whoever holds the ledger.
    with subprocess.Popen([sys.executable, "-m", "timeshare.reservations.agent"], env=env) as agent:
        try:
            words = ("restore", "--state", str(state), "--from", str(path), "--replace")
            assert command(*words) == 1
            assert f"agent (process {agent.pid})" in capsys.readouterr().err
        finally:
            agent.kill()
    assert command(*words) == 0
