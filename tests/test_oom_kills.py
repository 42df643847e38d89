"""Whose processes Linux has killed for their memory, by the files of its two kinds of cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from timeshare.notebooks.runner.oom_kills import OomKills, oom_kills

VERSION_2 = {
    "proc/self/cgroup": "0::/job/step\n",
    "sys/fs/cgroup/job/step/memory.events": "low 0\nhigh 0\nmax 4\noom 2\noom_kill 1\noom_group_kill 0\n",
}
NOT_ITS_OWN = {**VERSION_2, "proc/self/cgroup": "0::/job/step/devices\n"}
VERSION_1 = {
    "proc/self/cgroup": "5:devices:/elsewhere\n4:cpu,memory:/job\n0::/\n",
    "sys/fs/cgroup/memory/job/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
}
MACHINE = {"proc/vmstat": "nr_free_pages 12\noom_kill 30\n"}


def found(root: Path, files: dict[str, str]) -> OomKills:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return oom_kills(root)


@pytest.mark.parametrize(
    ("files", "number"),
    [
        ({**VERSION_2, **MACHINE}, 1),
        ({**NOT_ITS_OWN, **MACHINE}, 1),
        ({**VERSION_1, **MACHINE}, 2),
        ({"proc/self/cgroup": "0::/seen/from/outside\n", **MACHINE}, 30),
        (MACHINE, 30),
        ({}, 0),
    ],
    ids=[
        "version 2",
        "counted by the one above",
        "version 1",
        "a container that hides its own",
        "no cgroups",
        "no word",
    ],
)
def test_kills_of_its_own_cgroup_count_and_of_the_machine_where_none_is_known(
    tmp_path: Path, files: dict[str, str], number: int
) -> None:
    assert found(tmp_path, files).number == number


def test_files_that_count_differently_are_not_compared(tmp_path: Path) -> None:
    before = found(tmp_path / "before", VERSION_2)
    assert not found(tmp_path / "moved", MACHINE).more_than(before)
    assert OomKills(before.counted_by, 2).more_than(before)
    assert not before.more_than(before)
