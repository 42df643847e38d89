"""A limits file that is edited in place, look by look."""

from __future__ import annotations

from pathlib import Path

import pytest
from pools import Lab

from timeshare.reservations.administration import Administration
from timeshare.reservations.errors import PublicError

BEFORE, AFTER = "defaults: {gpus: 1}\n", "defaults: {gpus: 12}\n"


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
    file.write_text("# limits\n")  # valid, and without any limit
    assert gpus(administration) == 1
    file.write_text(AFTER)
    assert gpus(administration) == 1
    assert gpus(administration) == 12
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
    assert (gpus(administration), administration.problem) == (12, "")


def test_a_file_that_is_gone_for_a_moment_is_no_mistake(administration: Administration, file: Path) -> None:
    file.rename(file.with_suffix(".old"))
    assert gpus(administration) == 1
    file.write_text(AFTER)
    assert gpus(administration) == 1
    assert (gpus(administration), administration.problem) == (12, "")
    assert len(administration.audit(10)) == 1


def test_what_was_just_edited_in_place_is_not_overwritten_by_who_did_not_see_it(
    administration: Administration, file: Path
) -> None:
    seen = administration.pool.standing.version
    file.write_text(AFTER)
    gpus(administration)
    with pytest.raises(PublicError, match="has just been edited in place") as refused:
        administration.apply("defaults: {gpus: 3}\n", seen, "dora")
    assert refused.value.reason == "changed-meanwhile"
    assert (file.read_text(), gpus(administration)) == (AFTER, 12)
    administration.apply("defaults: {gpus: 3}\n", administration.pool.standing.version, "dora")
    assert gpus(administration) == 3
