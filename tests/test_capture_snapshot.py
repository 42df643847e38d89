"""Variables out of one interpreter and into another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from timeshare.notebooks.capture import snapshot
from timeshare.notebooks.capture.snapshot import Header, VersionMismatch
from timeshare.notebooks.capture.store import Store, Untrusted

SENDER = """
import json, sys
from pathlib import Path
from timeshare.notebooks.capture import snapshot
from timeshare.notebooks.capture.store import Store
source, names, folder = sys.argv[1:]
exec(compile(source, "<notebook>", "exec"), globals())
found = snapshot.write({n: globals()[n] for n in names.split()}, globals(), Store(Path(folder)))
Path(folder, "header.json").write_text(found.header.to_json())
"""
READER = """
import sys
from pathlib import Path
from timeshare.notebooks.capture import snapshot
from timeshare.notebooks.capture.store import Store
source, folder = sys.argv[1:]
header = snapshot.Header.from_json(Path(folder, "header.json").read_text())
globals().update(snapshot.read(header, Store(Path(folder)), globals()))
exec(compile(source, "<job>", "exec"), globals())
"""


def sent(folder: Path, notebook: str, names: str, job: str) -> str:
    """What ``job`` prints in a fresh interpreter that has ``names`` of ``notebook``."""
    for script, words in ((SENDER, (notebook, names)), (READER, (job,))):
        words = tuple(textwrap.dedent(word) for word in words)
        done = subprocess.run(
            [sys.executable, "-c", script, *words, str(folder)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_function_writes_the_globals_that_everybody_reads(tmp_path: Path) -> None:
    notebook = """
        counter, CFG = 0, {"lr": 1}
        def bump():
            global counter
            counter += 1
            CFG["lr"] = 7
    """
    job = "bump(); bump(); print(counter, CFG, bump.__globals__ is globals())"
    assert sent(tmp_path, notebook, "counter CFG bump", job) == "2 {'lr': 7} True"


def test_what_a_function_uses_comes_with_it(tmp_path: Path) -> None:
    notebook = """
        scale = 3
        def inner(x): return scale * x
        def outer(x): return inner(x) + 1
    """
    assert sent(tmp_path, notebook, "outer inner scale", "scale = 5\nprint(outer(2))") == "11"


def test_two_names_for_one_thing_stay_so(tmp_path: Path) -> None:
    notebook = """
        import numpy as np
        class Model:
            def __init__(self): self.weights = np.zeros(4)
        class Optimizer:
            def __init__(self, model): self.model = model
        model = Model(); opt = Optimizer(model); same = model.weights
        big = np.ones(1_000_000); again = big
    """
    job = "print(opt.model is model, same is model.weights, big is again, isinstance(opt, Optimizer))"
    assert sent(tmp_path, notebook, "model opt same big again Optimizer", job) == "True True True True"


def test_large_arrays_travel_beside_the_stream_and_can_be_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    array = np.arange(1_000_000.0)
    turned = np.asfortranarray(array.reshape(1000, 1000))
    first = snapshot.write({"a": array, "copy": array.copy(), "f": turned}, {}, store)
    assert [size for _, size in first.header.buffers] == [8_000_000] * 3
    assert first.new < 16_100_000 < first.total  # the same bytes are kept once
    again = snapshot.write({"other": array}, {}, store)
    assert again.new < 1000
    found = snapshot.read(first.header, store, {})
    found["a"][0] = 5.0
    assert snapshot.read(first.header, store, {})["a"][0] == 0.0
    assert found["f"].flags.f_contiguous


@pytest.mark.parametrize("array", [np.arange(24.0)[::3], np.array(["a", None], dtype=object), np.float32(2.5)])
def test_what_cannot_travel_beside_it_travels_in_it(tmp_path: Path, array: Any) -> None:
    store = Store(tmp_path)
    found = snapshot.read(snapshot.write({"a": array}, {}, store).header, store, {})["a"]
    assert np.array_equal(found, array)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"python": (3, 9, 1)}, "written by CPython 3.9 and this is CPython 3."),
        ({"cloudpickle": "2.0.0"}, "cloudpickle 2.0 and this is 3."),
        ({"format": 99}, "format 99"),
    ],
)
def test_another_version_is_refused_before_anything_is_loaded(tmp_path: Path, change: Any, told: str) -> None:
    store = Store(tmp_path)
    header = snapshot.write({"a": 1}, {}, store).header
    for file in tmp_path.glob("*/*"):
        file.unlink()  # whoever tried to load would find nothing
    with pytest.raises(VersionMismatch, match=told):
        snapshot.read(replace(header, **change), store, {})


def test_a_header_is_plain_json_and_nothing_else_is_one(tmp_path: Path) -> None:
    header = snapshot.write({"a": 1}, {}, Store(tmp_path)).header
    assert Header.from_json(header.to_json()) == header
    for text in ("", "[]", json.dumps({**json.loads(header.to_json()), "more": 1}), '{"format": 1}'):
        with pytest.raises(ValueError, match=r".+"):
            Header.from_json(text)


# --- the store


def test_changed_bytes_are_not_loaded(tmp_path: Path) -> None:
    store = Store(tmp_path)
    blob = store.put(b"x" * 100)
    path = store.path(blob.digest)
    path.write_bytes(b"x" * 99 + b"y")
    with pytest.raises(Untrusted, match="was changed since it was written"):
        store.get(blob.digest, blob.size)
    path.write_bytes(b"x")
    with pytest.raises(Untrusted, match="has 1 bytes and should have 100"):
        store.get(blob.digest, blob.size)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    blob = store.put(b"x" * 100)
    path = store.path(blob.digest)
    elsewhere = tmp_path / "elsewhere"
    path.replace(elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(Untrusted):
        store.get(blob.digest, blob.size)
    (tmp_path / "linked").symlink_to(tmp_path / "store")
    with pytest.raises(Untrusted, match="not a plain file or folder"):
        Store(tmp_path / "linked")


def test_what_others_can_write_is_not_loaded(tmp_path: Path) -> None:
    store = Store(tmp_path)
    blob = store.put(b"x" * 100)
    store.path(blob.digest).chmod(0o666)
    with pytest.raises(Untrusted, match="can be written by others"):
        store.get(blob.digest, blob.size)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another account")
def test_what_belongs_to_somebody_else_is_not_loaded(tmp_path: Path) -> None:
    store = Store(tmp_path)
    blob = store.put(b"x" * 100)
    os.chown(store.path(blob.digest), 65534, 65534)
    with pytest.raises(Untrusted, match="belongs to the account with number 65534"):
        store.get(blob.digest, blob.size)


@pytest.mark.parametrize("digest", ["../../etc/passwd", "", "A" * 64, "0" * 63])
def test_only_digests_are_looked_up(tmp_path: Path, digest: str) -> None:
    with pytest.raises(Untrusted, match="is no digest"):
        Store(tmp_path).get(digest, 1)


def test_a_store_is_for_its_owner_only(tmp_path: Path) -> None:
    store = Store(tmp_path / "new")
    blob = store.put(b"secret")
    for path in (store.folder, store.path(blob.digest).parent, store.path(blob.digest)):
        assert path.stat().st_mode & 0o077 == 0
