"""Jobs of several nodes on the Slurm of the tests, handed to it as the engine does."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from slurm_cluster import Cluster
from works import Work

USER = "tsalice"
TWO_NODES = ("--nodes=2", "--ntasks-per-node=1", "--gres=gpu:2", "--cpus-per-task=1", "--mem=2000M")
Launch = Callable[..., tuple[Work, str]]


class OwnersWork(Work):
    """Its folder belongs to who runs it, and outputs are read as that account: nobody reads those of another, root
    neither."""

    def lines(self, rank: int = 0) -> list[dict[str, Any]]:
        os.seteuid(self.folder.path.stat().st_uid)
        try:
            return super().lines(rank)
        finally:
            os.seteuid(0)


@contextlib.contextmanager
def launching(slurm: Cluster) -> Iterator[Launch]:
    """Gives what hands a cell to Slurm: the runner takes the place of the batch script."""
    slurm.run("true", user=USER)  # makes her folder
    place = slurm.work(USER) / "jobs"

    def launched(cell: str, notebook: str = "", names: str = "", **fields: Any) -> tuple[Work, str]:
        place.mkdir(mode=0o700, exist_ok=True)
        job = {"launch": "torchrun", "nodes": 2, "processes": 2, **fields}
        work = OwnersWork(place, cell, notebook, names, **job)
        words = [sys.executable, "-m", "timeshare.notebooks.runner", str(work.folder.path)]
        words += ["--digest", work.folder.digest(), "--key-stdin"]
        given_to(USER, place)
        nodes = ",".join(slurm.node(model).name for model in ("p100", "v100"))
        script = f"export TIMESHARE_STOP_GRACE_S=15\nexec {shlex.join(words)} <<'END'\n\nEND"
        return work, slurm.submit(script, *TWO_NODES, f"--nodelist={nodes}", f"--output={place}/log", user=USER)

    try:
        yield launched
    finally:
        slurm.clear()
        shutil.rmtree(place, ignore_errors=True)


def given_to(user: str, place: Path) -> None:
    """Nobody reads a job of somebody else's."""
    for path in (place, *place.rglob("*")):
        shutil.chown(path, user, user)


def ended(slurm: Cluster, work: Work, job: str, state: str) -> dict[str, str]:
    """What Slurm says of the job, whose folder is then ours to look at."""
    told = slurm.wait(job, "COMPLETED", "FAILED", "CANCELLED", seconds=120)
    given_to("root", work.folder.path.parent)
    log = (work.folder.path.parent / "log").read_text()
    assert told["JobState"] == state, (work.folder.status(), log)
    return told
