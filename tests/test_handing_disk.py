"""A disk that takes nothing more: told in words, and nothing is left half done."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from batches import Notebook, running_notebook
from hubs import running_hub
from kernels import running_kernel
from nodes import eventually

from timeshare.notebooks.batch.handing import CannotGo
from timeshare.notebooks.batch.places import Places

pytestmark = pytest.mark.timeout(180)
ROOM = "big = np.random.default_rng(1).random(4 * 2**20)"
"""32 MiB of random bits."""


def mount(*words: object) -> bool:
    return subprocess.run(["mount", *map(str, words)], capture_output=True, check=False).returncode == 0


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", place):
        pytest.skip("a small file system can only be mounted by root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_disk_is_told_leaves_no_job_and_one_with_room_takes_it(tmp_path: Path, small: Path) -> None:
    with running_notebook(tmp_path) as elsewhere:
        notebook = Notebook(elsewhere.server, small / "data")
        notebook.run(f"import numpy as np\n{ROOM}")
        with pytest.raises(
            CannotGo, match=r"^Nothing was submitted: the disk of .*/small/data is full \(no space"
        ) as no:
            notebook.hand("print(big.sum())")
        assert "%gpu_batch rm ID removes one; or set TIMESHARE_DATA" in str(no.value)
        assert (notebook.places.ids(), list(small.rglob("drafts/*"))) == ([], [])
        assert mount("-o", "remount,size=64m", small)
        assert notebook.hand("total = big.sum()").result(60).keys() == {"total"}


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, small: Path) -> None:
    with running_notebook(tmp_path) as elsewhere:
        notebook = Notebook(elsewhere.server, small / "data")
        job = notebook.hand("x = 1")
        job.wait(60)
        eventually(lambda: notebook.reservation(job)["state"] == "ended")
        assert mount("-o", "remount,ro", small)
        with pytest.raises(CannotGo, match=r"^Nothing was submitted: .*/small/data.* cannot be written \(read-only"):
            notebook.hand("x = 2")
        assert Places(small / "data").ids() == [job.id]


@pytest.mark.hub
def test_no_traceback_is_shown_in_a_notebook(tmp_path: Path, small: Path) -> None:
    with running_hub(tmp_path / "hub", "--simulate", "a100-40gb:2") as hub:
        environment = {
            "TIMESHARE_SERVICE_URL": hub.deployment.service_url,
            "TIMESHARE_TOKEN": hub.login("ada").token,
            "TIMESHARE_DATA": str(small / "data"),
        }
        with running_kernel(environment, tmp_path) as kernel:
            kernel.run(f"%load_ext timeshare.notebooks\nimport numpy as np\n{ROOM}")
            cell = kernel.run("%%gpu_batch --memory 1\nprint(big.sum())")
            assert kernel.text(cell).startswith("UsageError: Nothing was submitted: the disk of")
