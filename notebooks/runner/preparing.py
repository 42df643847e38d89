"""What a process that runs a job's cell does first, be it the runner or one more rank."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..capture.modules import differences
from ..capture.snapshot import VersionMismatch, check_versions
from .folder import Folder, Job
from .spool import Spool

INSIDE = "import timeshare.notebooks.runner.inside as __timeshare_inside"


def attempt() -> int:
    """Which start of the job this is, from 1."""
    return int(os.environ.get("TIMESHARE_GENERATION", "1"))


def check(job: Job) -> None:
    """Raises VersionMismatch unless this Python can load the variables; says what else differs."""
    check_versions(job.snapshot)
    missing, other = differences(job.packages)
    if missing:
        raise VersionMismatch(f"this Python has no {', '.join(missing)}: use the notebook's environment")
    for text in other:
        print(f"timeshare: {text}", file=sys.stderr)


def spool(path: Path, attempt: int) -> Spool:
    """Where outputs go; what an earlier attempt put out stays there."""
    found = Spool(path)
    if attempt > 1:
        text = f"timeshare: started again, attempt {attempt}\n"
        found.add("stream", {"name": "stderr", "text": text})
    return found


def environment(job: Job, folder: Folder) -> dict[str, str]:
    """Of the kernel."""
    ours = {name: value for name, value in os.environ.items() if name not in job.environment or "TIMESHARE" in name}
    given = {name: value for name, value in job.environment.items() if not name.startswith("TIMESHARE_")}
    return {
        **given,
        **ours,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path not in ("", "/")),
        "TIMESHARE_JOB_ID": job.id,
        "TIMESHARE_JOB_FOLDER": str(folder.path),
        "TIMESHARE_RUNNER_PID": str(os.getpid()),
    }
