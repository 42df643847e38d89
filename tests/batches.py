"""A person with a notebook whose cells are handed over to a real service, agent and runner."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hubs import Hub
from nodes import eventually
from services import Service as TestService
from services import running_service

from timeshare.notebooks.batch.handing import Handed, check, hand_over
from timeshare.notebooks.batch.job import Job
from timeshare.notebooks.batch.options import parse
from timeshare.notebooks.batch.places import Places
from timeshare.notebooks.batch.service import Service

LIMITS = """
defaults:
  gpus: 8
  waiting: 200
  jobs: {at_once: 100}
  sessions: {at_once: 4}
  budgets: [{gpu_hours: 1000, every: week}]
stop: {save_grace: 10s, term_grace: 5s}
"""


class Notebook:
    """``main``: its globals. ``hand`` submits a cell."""

    def __init__(self, server: TestService | Hub, folder: Path, owner: str = "ada") -> None:
        self.place, self.owner = server, owner
        self.places = Places(folder)
        self.service = Service(server.deployment.service_url, server.deployment.admin_token, owner)
        self.main: dict[str, Any] = {"__name__": "__main__"}

    @property
    def server(self) -> TestService:
        assert isinstance(self.place, TestService)
        return self.place

    def run(self, source: str) -> None:
        exec(compile(source, "<notebook>", "exec"), self.main)

    def hand(self, cell: str, options: str = "--memory 1") -> Job:
        return self.handed(cell, options).job

    def handed(self, cell: str, options: str = "--memory 1") -> Handed:
        return hand_over(cell, parse(options), self.main, self.places, self.service)

    def check(self, cell: str, options: str = "--memory 1") -> str:
        return check(cell, parse(options), self.main, self.places, self.service)

    def again(self, job_id: str) -> Job:
        """The same job as somebody finds it who knows nothing but its id, with an empty notebook."""
        return Job.find(job_id, self.places, self.service, {"__name__": "__main__"})

    def reservation(self, job: Job, number: int = 0) -> dict[str, Any]:
        return dict(self.server.get(job.reservation_ids()[number]))


@contextlib.contextmanager
def running_notebook(tmp_path: Path, simulate: str = "a100-40gb:2", limits: str = LIMITS) -> Iterator[Notebook]:
    state = tmp_path / "service"
    state.mkdir()
    (state / "limits.yaml").write_text(limits)
    # ipykernel takes this one as a sign to leave file descriptors alone; the jobs inherit it from agent and service.
    mark = os.environ.pop("PYTEST_CURRENT_TEST", None)
    try:
        with running_service(state, simulate=simulate, limits_path=str(state / "limits.yaml")) as server:
            notebook = Notebook(server, tmp_path / "data")
            yield notebook
            for reservation in notebook.service.jobs():
                if reservation["state"] != "ended":
                    notebook.service.end(reservation["id"])
            eventually(lambda: all(r["state"] == "ended" for r in notebook.service.jobs()), 30)
    finally:
        if mark is not None:
            os.environ["PYTEST_CURRENT_TEST"] = mark
