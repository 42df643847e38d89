"""Where Slurm writes what jobs put out: a folder in which nobody else can plant a link."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from timeshare.reservations.engines.slurm.errors import Unreadable
from timeshare.reservations.engines.slurm.log_folders import below, status_argv, unsafe


def told(folder: Path) -> str:
    return subprocess.run(status_argv(str(folder)), capture_output=True, text=True, check=True).stdout


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """As a site has it: everybody may make folders there, and move only what is theirs."""
    path = tmp_path / "scratch"
    path.mkdir()
    path.chmod(0o1777)
    return path


def test_a_folder_of_ones_own_is_fine(scratch: Path) -> None:
    mine = scratch / "ada" / "timeshare with spaces"
    mine.mkdir(parents=True)
    assert unsafe(told(mine), os.getuid()) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes a folder of another account")
def test_a_folder_that_another_account_made_before_is_refused(scratch: Path) -> None:
    planted = scratch / "ada"
    (planted / "timeshare").mkdir(parents=True)
    os.chown(planted, 12345, 12345)
    assert f"{planted} belongs to another account (user id 12345)" in unsafe(told(planted / "timeshare"), os.getuid())


def test_a_folder_that_everybody_may_change_is_refused(scratch: Path) -> None:
    (scratch / "ada" / "timeshare").mkdir(parents=True)
    (scratch / "ada").chmod(0o777)
    assert f"every account may change {scratch / 'ada'}" in unsafe(told(scratch / "ada" / "timeshare"), os.getuid())


def test_a_link_counts_as_what_it_leads_to(scratch: Path, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (scratch / "ada").symlink_to(tmp_path / "open")
    assert "every account may change" in unsafe(told(scratch / "ada"), os.getuid())


def test_an_answer_that_is_not_understood_is_no_answer() -> None:
    for answer in ("nonsense", "0 zz /", "1"):
        with pytest.raises(Unreadable):
            unsafe(answer, 1)


def test_what_lies_in_the_home_folder_needs_no_look() -> None:
    assert below("/home/ada/.timeshare/slurm", "/home/ada")
    assert not below("/scratch/ada/timeshare", "/home/ada")
    assert not below("/home/adam/x", "/home/ada")
