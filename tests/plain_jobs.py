"""Jobs that run a program of the test's own in place of a cell: they hold a share, and need no notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WAITS = "while :; do sleep 1; done"


def job_body(folder: Path, owner: str, share: dict[str, Any], program: str = WAITS, tasks: int = 1) -> dict[str, Any]:
    """What ``POST jobs`` takes; ``program``: of the shell, started once for each of ``tasks``."""
    place = folder / f"job-of-{owner}"
    place.mkdir(exist_ok=True)
    script = place / "work.sh"
    script.write_text(f"#!/bin/sh\n{program}\n")
    script.chmod(0o755)
    digests = [{"digest": f"{number:064x}"} for number in range(tasks)]
    return {"share": share, "owner": owner, "python": str(script), "folder": str(place), "tasks": digests}
