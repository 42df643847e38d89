"""What people read: lists of jobs, and the offer before a submission."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ..capture.preflight import size_text
from .job import Job
from .options import Options
from .places import Places
from .preparation import Prepared
from .service import Json
from .states import COMPLETED, duration

MAGIC = "%gpu_batch"
HEADS = ("JOB", "NAME", "STATE", "SUBMITTED", "SIZE")


def listing(jobs: Sequence[Job], places: Places) -> str:
    """Of ``jobs``, the newest first, with what each takes on the disk."""
    if not jobs:
        return "No jobs. %%gpu_batch as the first line of a cell makes one."
    counted: set[str] = set()
    rows = [HEADS]
    for job in jobs:
        pieces = {digest: size for digest, size in places.pieces(job.id).items() if digest not in counted}
        counted |= set(pieces)
        size = places.size(job.id) + sum(pieces.values())
        when = time.strftime("%m-%d %H:%M", time.localtime(job.request.at))
        rows.append((job.id, job.request.name[:30], _state(job), when, size_text(size)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, f"{size_text(places.total())} in all, in {_short(places.root)}"])


def _short(path: Path) -> str:
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)


def _state(job: Job) -> str:
    status = job.status()
    where = f" on {status.placement}" if status.placement else ""
    progress = "" if job.is_sweep or status.ended else job.tasks[0].progress()
    left = f", {duration(status.left_s)} left" if status.left_s is not None else ""
    return ", ".join(part for part in (f"{status.state}{where}{left}", status.where, progress) if part)


def next_steps(job: Job, number: int | None, prog: str) -> str:
    """What can be done with what has ended, in one line. ``number``: which of a sweep's points; None: all of it.
    ``prog``: how commands begin."""
    if number is not None:
        return f"{prog} result {job.tasks[number].id} brings its variables"
    came = "_job.result() is a list of what its points left"
    if prog != MAGIC:
        came = f"{prog} result {job.id}/0 shows what its first point left"
    elif find_spec("pandas") is not None:
        came = "_job.frame() is a table of its points, _job.result() a list"
    if all(status.state == COMPLETED for status in job.statuses()):
        return came
    return f"{came}; {prog} status {job.id} says why, rerun {job.id} --failed runs only what did not complete"


def offer(options: Options, estimate: Json) -> str:
    """When it starts and what it costs at most, in one line."""
    count = max(1, len(options.points) or options.trials)
    what = f"{count} × {share_text(options.share)}" if count > 1 else share_text(options.share)
    what += f" as {options.layout.size} processes" if options.launch else ""
    what += f" at {estimate['engine_title']}" if estimate["engine_title"] else ""
    start = estimate["latest_start_in_s"]
    soon = (
        "now" if start == 0 else f"within {duration(start)}" if start is not None else "at a time nobody can tell yet"
    )
    sure = "" if estimate["firm"] or start in (0, None) else ", if nobody comes before"
    if estimate["engine_title"] and start != 0 and estimate["why"]:
        sure += f" ({estimate['why']})"
    hours = estimate["gpu_hours"]
    purse = _budget(estimate["budgets"], hours)
    cost = f"at most {hours:g} GPU-hours{purse}" if hours else "no GPU-hours"
    return f"{what} for {duration(estimate['time_limit_s'])}: starts {soon}{sure}, {cost}"


def _budget(budgets: Sequence[Json], hours: float) -> str:
    """The tightest budget: what share of its rest this would take."""
    open_budgets = [budget for budget in budgets if budget["left"] is not None and "batch" in budget["kinds"]]
    if not open_budgets:
        return ""
    tightest = min(open_budgets, key=lambda budget: float(budget["left"]))
    left = float(tightest["left"])
    return f", {100 * hours / left:.0f} % of the {left:g} left in your budget" if left else ", and your budget is empty"


def share_text(share: Json) -> str:
    """``{"gpus": 2, "model": "t4"}`` -> ``2 t4``; with ``"nodes": 3``, ``2 t4 on each of 3 nodes``."""
    nodes = share.get("nodes", 1)
    return _share_text(share) + _beside(share) + (f" on each of {nodes} nodes" if nodes > 1 else "")


def _beside(share: Json) -> str:
    told = [f"{share['cpus']:g} core{'' if share['cpus'] == 1 else 's'}"] if "cpus" in share else []
    told += [f"{share['host_memory_gib']:g} GiB of main memory"] if "host_memory_gib" in share else []
    return f" with {' and '.join(told)}" if told else ""


def _share_text(share: Json) -> str:
    model = share.get("model", "")
    if "memory_gib" in share:
        return f"{share['memory_gib']:g} GiB of {model or 'a GPU'}"
    if "mig_profile" in share:
        return f"{share['mig_profile']} of {model or 'a GPU'}"
    if "cpu_only" in share:
        return "no GPU"
    return f"{share['gpus']} {model or ('GPU' if share['gpus'] == 1 else 'GPUs')}"


def pre_flight(prepared: Prepared, estimate: Json, moved: str) -> str:
    """For ``--dry-run``."""
    lines = [prepared.table(), *(f"Note: {text}" for text in prepared.warnings)]
    if prepared.local_modules:
        lines.append(f"Local modules that go as files: {', '.join(prepared.local_modules)}")
    lines.append(f"{moved}.")
    lines.append(
        offer(prepared.options, estimate) + "." if estimate["possible"] else f"Not possible: {estimate['why']}"
    )
    return "\n".join([*lines, "Nothing was submitted (--dry-run)."])
