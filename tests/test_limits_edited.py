"""A limits file that is edited in place, look by look."""

from __future__ import annotations

from pathlib import Path

import pytest
from pools import Lab

from timeshare.reservations.administration import Administration

BEFORE, AFTER = "defaults: {gpus: 1}\n", "defaults: {gpus: 2}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "limits.yaml"
    path.write_text(BEFORE)
    return path


@pytest.fixture
def administration(tmp_path: Path, file: Path) -> Administration:
    lab = Lab(tmp_path, {"defaults": {"gpus": 1}}, "a100-40gb")
    return Administration(lab.pool, lab.ledger, file)


def gpus(administration: Administration) -> float:
    administration.reload_if_changed()
    return administration.pool.limits.defaults.gpus


def test_a_file_of_which_only_a_part_is_written_is_left_for_the_next_look(
    administration: Administration, file: Path
) -> None:
    file.write_text("# who may have what\n")  # valid, and without any limit
    assert gpus(administration) == 1
    file.write_text(AFTER)
    assert gpus(administration) == 1
    assert gpus(administration) == 2
    assert [entry["what"] for entry in administration.audit(10)] == ["limits"]


def test_a_file_that_stays_empty_changes_nothing(administration: Administration, file: Path) -> None:
    file.write_text("")
    assert [gpus(administration) for _ in range(3)] == [1, 1, 1]
    assert "is empty" in administration.problem


def test_a_mistake_that_stays_is_told_until_it_is_corrected(administration: Administration, file: Path) -> None:
    file.write_text("defaults: {")
    assert (gpus(administration), administration.problem) == (1, "")
    assert gpus(administration) == 1
    assert "is not YAML" in administration.problem
    file.write_text(AFTER)
    assert gpus(administration) == 1
    assert (gpus(administration), administration.problem) == (2, "")


def test_a_file_that_is_gone_for_a_moment_is_no_mistake(administration: Administration, file: Path) -> None:
    file.rename(file.with_suffix(".old"))
    assert gpus(administration) == 1
    file.write_text(AFTER)
    assert gpus(administration) == 1
    assert (gpus(administration), administration.problem) == (2, "")
    assert len(administration.audit(10)) == 1
