"""Jobs without a service: a folder, and the real runner in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from timeshare.notebooks.capture import snapshot
from timeshare.notebooks.capture.snapshot import Header
from timeshare.notebooks.capture.store import Store
from timeshare.notebooks.runner.document import outputs
from timeshare.notebooks.runner.folder import Folder, Job, folder_of
from timeshare.notebooks.runner.inside import STREAMS
from timeshare.notebooks.runner.signing import verified
from timeshare.notebooks.runner.spool import read_lines


class Work:
    """A job and its folder. ``prefix``: of the command that runs it. ``path_first``: what stands first in the import
    path of where the cell comes from; "": its working folder, as in a notebook. ``cwd``: that folder."""

    prefix: tuple[str, ...] = ()

    def __init__(
        self,
        tmp_path: Path,
        cell: str,
        notebook: str = "",
        names: str = "",
        *,
        path_first: str | None = None,
        cwd: str = "",
        **fields: Any,
    ) -> None:
        self.store = Store(tmp_path / "store")
        self.main: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(notebook, "<notebook>", "exec"), self.main)
        header = snapshot.write({name: self.main[name] for name in names.split()}, self.main, self.store).header
        path = (*(() if path_first is None else (path_first,)), *(entry for entry in sys.path if entry))
        job = Job("job-1", cell, header, str(self.store.folder), cwd or str(tmp_path), path, **fields)
        self.folder = Folder.make(tmp_path / "job", job)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, grace_s: float = 30, **variables: str) -> subprocess.Popen[bytes]:
        # ipykernel takes this one as a sign to leave file descriptors alone.
        env = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        env |= {"TIMESHARE_STOP_GRACE_S": str(grace_s), **variables}
        words = [*self.prefix, sys.executable, "-m", "timeshare.notebooks.runner", str(self.folder.path)]
        self.process = subprocess.Popen(words, env=env)
        return self.process

    def run(self) -> dict[str, Any]:
        self.start().wait(60)
        return self.status()

    def status(self) -> dict[str, Any]:
        found = self.folder.status()
        assert found is not None
        return found

    def lines(self, rank: int = 0) -> list[dict[str, Any]]:
        return list(read_lines(folder_of(self.folder.path, rank) / "spool.jsonl"))

    def text(self, rank: int = 0) -> str:
        return "".join(o["text"] for o in outputs(self.lines(rank)) if o["output_type"] == "stream")

    def errors(self, rank: int = 0) -> list[str]:
        """Of the exceptions that it shows, the words."""
        return [f"{o['ename']}: {o['evalue']}" for o in outputs(self.lines(rank)) if o["output_type"] == "error"]

    def results(self) -> tuple[dict[str, Any], dict[str, Any]]:
        told = verified(self.folder.read("results.json"), "job-1", "")
        found = snapshot.read(Header.from_json(json.dumps(told["snapshot"])), self.store, self.main)
        found.pop(STREAMS, None)
        return found, told["left"]
