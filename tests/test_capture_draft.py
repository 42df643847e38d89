"""New files are on the disk, whole, when they are left, whatever way their bytes went there."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeshare.notebooks.capture.draft import CHUNK, Backlog, Draft

MEMORY = Path("/dev/shm")
PARTS = st.lists(st.integers(0, 3 * CHUNK).map(lambda size: bytes([size % 251]) * size), max_size=6)


def written(path: Path, parts: list[bytes], begin: bytes, *, direct: bool) -> Backlog:
    backlog = Backlog()
    with Draft(path, backlog, direct=direct) as draft:
        for part in parts:
            draft.write(part)
        draft.finish(begin)
        assert draft.size == sum(map(len, parts))
    return backlog


@pytest.mark.parametrize("direct", [True, False])
@given(parts=PARTS, begin=st.binary(max_size=30))
def test_parts_of_any_size_make_a_whole_file(
    tmp_path_factory: pytest.TempPathFactory, direct: bool, parts: list[bytes], begin: bytes
) -> None:
    path = tmp_path_factory.mktemp("draft") / "file"
    backlog = written(path, parts, begin, direct=direct)
    whole = b"".join(parts)
    assert path.read_bytes() == begin + whole[len(begin) :]
    assert backlog.size == 0
    path.unlink()


def test_what_cannot_be_written_around_the_page_cache_goes_through_it() -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder) / "file"
        written(path, [b"a" * (CHUNK + 5)], b"b", direct=True)
        assert path.read_bytes() == b"b" + b"a" * (CHUNK + 4)


def test_what_was_given_may_change_at_once(tmp_path: Path) -> None:
    with Draft(tmp_path / "file", Backlog(), direct=True) as draft:
        given_data = bytearray(b"a" * CHUNK)
        for letter in b"abcdefghij":
            given_data[:] = bytes([letter]) * CHUNK
            draft.write(given_data)
        draft.finish()
    assert (tmp_path / "file").read_bytes() == b"".join(bytes([letter]) * CHUNK for letter in b"abcdefghij")


FULL = """
import os, resource, sys
from pathlib import Path
from timeshare.notebooks.capture.store import LARGE, Store
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    Store(Path(sys.argv[1]), pack=False).put(os.urandom(LARGE + 1))
except OSError as error:
    print(error.strerror)
"""


@pytest.mark.parametrize("limit", [3 * CHUNK, 64 * 2**20])
def test_what_the_disk_does_not_take_is_told_and_leaves_nothing(tmp_path: Path, limit: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), str(limit)], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("File too large\n", "")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
