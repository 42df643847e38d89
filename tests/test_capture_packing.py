"""Pieces that compress well are kept packed, and come back as they were."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeshare.notebooks.batch.places import SETTLED_S, Places
from timeshare.notebooks.capture import packing, snapshot
from timeshare.notebooks.capture.packing import Damaged, Packing
from timeshare.notebooks.capture.store import BEHIND, LARGE, PACKED_FROM, Store, Untrusted

MIB = 2**20
RNG = np.random.default_rng(5)
COUNTS = RNG.poisson(3, MIB).astype(np.int32)
NOISE = RNG.integers(0, 2**63, MIB // 2)


def view(array: Any) -> memoryview:
    return memoryview(array).cast("B")


def file_of(folder: Path, size: int) -> Path:
    """The only large file there."""
    [found] = [path for path in folder.glob("*/*") if path.stat().st_size > size]
    return found


@given(data=st.binary(min_size=1, max_size=5000), repeat=st.integers(1, 3000), element=st.sampled_from([1, 2, 4, 8]))
def test_any_bytes_come_back_as_they_were(data: bytes, repeat: int, element: int) -> None:
    piece = memoryview(data * repeat)
    kind = Packing(element, 1 + len(data) % 2)
    frames = b"".join(kind.packed(piece[at : at + packing.FRAME]) for at in range(0, piece.nbytes, packing.FRAME))
    file = packing.head(piece.nbytes, packing.HEAD_SIZE + len(frames)) + frames
    assert packing.unpack(memoryview(file), piece.nbytes) == piece


@given(data=st.binary(max_size=300), at=st.integers(0, 200), size=st.integers(1, 10**6))
def test_what_is_damaged_is_told_and_crashes_nothing(data: bytes, at: int, size: int) -> None:
    piece = bytes(range(256)) * 40
    frame = Packing(4, 2).packed(piece)
    whole = packing.head(len(piece), packing.HEAD_SIZE + len(frame)) + frame
    spoiled = whole[:at] + data + whole[at + len(data) :]
    for file, wanted in ((spoiled, len(piece)), (whole, size), (data, size)):
        try:
            found = packing.unpack(memoryview(file), wanted)
        except Damaged:
            continue
        assert found.nbytes == wanted  # its digest is the store's to check


@pytest.mark.parametrize(
    "array",
    [
        COUNTS,
        COUNTS.astype(float),
        (200 + RNG.normal(0, 4, 2 * MIB)).astype(np.uint16),
        np.cumsum(RNG.exponential(1000, MIB // 2)).astype(np.int64),
        RNG.random(MIB) < 0.01,
        np.zeros(MIB),
    ],
    ids=["counts", "counts as floats", "pulse heights", "times", "a mask", "zeros"],
)
def test_numbers_with_few_bits_in_them_take_less_than_two_thirds(tmp_path: Path, array: Any) -> None:
    store = Store(tmp_path)
    blob = store.put(view(array))
    assert blob.size == array.nbytes
    assert blob.new
    assert 0 < store.stored(blob.digest) < array.nbytes / packing.WORTH
    assert store.get(blob.digest, blob.size) == view(array)


@pytest.mark.parametrize("array", [NOISE, RNG.normal(size=MIB // 2), COUNTS[: PACKED_FROM // 8]])
def test_what_would_save_little_is_written_as_it_is(tmp_path: Path, array: Any) -> None:
    store = Store(tmp_path)
    blob = store.put(view(array))
    assert store.path(blob.digest).read_bytes() == array.tobytes()


def test_what_is_packed_is_not_sent_again(tmp_path: Path) -> None:
    first = snapshot.write({"a": COUNTS}, {}, Store(tmp_path))
    assert first.new > COUNTS.nbytes
    for store in (Store(tmp_path), Store(tmp_path, pack=False)):
        assert store.has(view(COUNTS))
        assert snapshot.write({"b": COUNTS.copy()}, {}, store).new < 1000
        assert np.array_equal(snapshot.read(first.header, store, {})["a"], COUNTS)


def test_a_piece_for_many_processes_is_written_as_it_is(tmp_path: Path) -> None:
    store = Store(tmp_path, pack=False)
    blob = store.put(view(COUNTS))
    assert store.path(blob.digest).stat().st_size == COUNTS.nbytes


@pytest.mark.parametrize(("behind", "packed"), [(0, True), (2**60, False), (BEHIND, None)])
def test_a_large_piece_is_packed_while_the_disk_is_behind(tmp_path: Path, behind: int, packed: bool | None) -> None:
    array = np.tile(COUNTS, 1 + LARGE // COUNTS.nbytes)[:-1]
    store = Store(tmp_path, behind=behind)
    blob = store.put(view(array))
    assert store.get(blob.digest, blob.size) == view(array)
    assert snapshot.write({"b": array.copy()}, {}, Store(tmp_path)).new < 1000
    if packed is not None:  # else as this disk is
        assert (store.stored(blob.digest) < array.nbytes) is packed
    assert not list((tmp_path / "drafts").iterdir())


def test_what_was_unpacked_can_be_written_and_changes_nothing(tmp_path: Path) -> None:
    written = snapshot.write({"a": COUNTS}, {}, Store(tmp_path))
    found = snapshot.read(written.header, Store(tmp_path), {})["a"]
    found[:] = 0
    assert np.array_equal(snapshot.read(written.header, Store(tmp_path), {})["a"], COUNTS)


def test_a_packed_piece_that_was_cut_off_is_refused_and_can_be_sent_anew(tmp_path: Path) -> None:
    store = Store(tmp_path)
    blob = store.put(view(COUNTS))
    file = file_of(tmp_path, 1000)
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(Untrusted, match=r"is damaged: it has .* and should have .*: submit the cell again"):
        store.get(blob.digest, blob.size)
    assert Store(tmp_path).put(view(COUNTS)).new
    assert store.get(blob.digest, blob.size) == view(COUNTS)


def test_a_packed_piece_whose_bytes_were_changed_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    blob = store.put(view(COUNTS))
    other = Store(tmp_path / "other").put(view(COUNTS[::-1].copy()))
    stranger = file_of(tmp_path / "other", 1000)
    assert other.size == blob.size
    file = next(path for path in tmp_path.glob("??/*") if path.name.startswith(blob.digest))
    stranger.replace(file)
    with pytest.raises(Untrusted, match="was changed since it was written"):
        store.get(blob.digest, blob.size)


def test_a_packed_piece_of_others_or_behind_a_link_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    blob = store.put(view(COUNTS))
    file = file_of(tmp_path / "store", 1000)
    file.chmod(0o622)
    with pytest.raises(Untrusted, match="can be written by others"):
        store.get(blob.digest, blob.size)
    file.chmod(0o600)
    file.replace(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Untrusted, match="cannot be read as a plain file"):
        store.get(blob.digest, blob.size)


def test_packed_pieces_are_swept_when_no_job_refers_to_them(tmp_path: Path) -> None:
    places = Places(tmp_path)
    blob = places.store.put(view(COUNTS))
    file = file_of(places.store.folder, 1000)
    size = file.stat().st_size
    assert places.total() >= size
    assert places.sweep(time.time()) == 0  # its job may be about to be written
    assert places.sweep(time.time() + SETTLED_S + 60) == size
    assert places.store.stored(blob.digest) == 0
