"""Many jobs of one cell: their results as rows, and running again what did not complete."""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runner.folder import Folder
from ..runner.trials import JOURNAL
from .places import REQUEST, Places
from .service import Refused, Service
from .states import COMPLETED
from .submission import Request, send

if TYPE_CHECKING:
    from .job import Job

CELL_SIZED = (int, float, complex, str, bool, type(None))
KEPT = ("checkpoint.json", "trial.json")
"""Files of a job that its rerun begins with."""


def rows(job: Job) -> list[dict[str, Any]]:
    """One for each point: what it set, its state, why, and the plain values that came back."""
    found = []
    for task, status in zip(job.tasks, job.statuses(), strict=True):
        results = job.results(task.number) if status.ended else None
        values = {} if results is None else results.values
        trial = {} if results is None else results.trial
        shown = {name: value for name, value in values.items() if isinstance(value, CELL_SIZED) or _scalar(value)}
        about_trial = {"trial": trial["number"], **trial["params"], "value": trial["value"]} if trial else {}
        state = str(trial.get("state", status.state)) if status.state == COMPLETED or trial else status.state
        found.append({**task.point, **about_trial, "state": state, "why": status.why, **shown})
    return found


def _scalar(value: Any) -> bool:
    return getattr(value, "shape", None) == () and hasattr(value, "item")


def again(job: Job, places: Places, service: Service) -> None:
    """Submits what ended without completing. Their first outputs are kept beside the new ones. Raises Refused."""
    wrong = [
        task.number
        for task, status in zip(job.tasks, job.statuses(), strict=True)
        if status.ended and status.state != COMPLETED
    ]
    if not wrong:
        raise Refused(f"nothing of {job.id} failed: there is nothing to run again")
    for number in wrong:
        _begin_afresh(job.tasks[number].path)
    send(job.request, places, service, tuple(wrong), f"{job.id}.{secrets.token_hex(4)}")


def _begin_afresh(path: Path) -> None:
    """Moves what the last run left out of the way."""
    folder = Folder(path)
    path = folder.at("")
    number = 1
    while (path / f"run-{number}").exists():
        number += 1
    old = path / f"run-{number}"
    old.mkdir(mode=0o700)
    for name in ("status.json", "results.json", "spool.jsonl", "job.ipynb", "resumable", "ranks"):
        if (path / name).exists():
            (path / name).replace(old / name)


def copy_of(job: Job, places: Places) -> Request:
    """The job once more, under a new id and with the checkpoints of the old one; its request, not yet sent."""
    new_id = places.new_id()
    tasks = []
    for task, (subfolder, _) in zip(job.tasks, job.request.tasks, strict=True):
        described = replace(Folder(task.path).job(), id=f"{new_id}/{subfolder}" if subfolder else new_id)
        path = places.jobs / new_id / subfolder
        folder = Folder.make(path, described)
        for name in KEPT:
            text = Folder(task.path).read_if_there(name)
            if text is not None:
                folder.write(name, text)
        tasks.append((subfolder, folder.digest()))
    journal = job.folder / JOURNAL
    if journal.exists():
        shutil.copyfile(journal, places.jobs / new_id / journal.name)
    request = replace(job.request, id=new_id, tasks=tuple(tasks), at=os.stat(places.jobs / new_id).st_mtime)
    Folder(places.jobs / new_id).write(REQUEST, request.to_json())
    return request
