"""From a prepared cell to a job: its snapshot and folder are on the disk before the service hears of it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from ..capture import modules, snapshot
from ..capture.preflight import size_text
from ..capture.store import Store
from ..randomness import Streams, in_order, recording
from ..runner.folder import Folder, Job
from ..runner.inside import EXTRA, extra
from .options import BadOption, Options
from .places import REQUEST, Places
from .preparation import CannotGo, Prepared, sources
from .service import Json, Service

CHOSEN = (
    *("LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CONDA_PREFIX", "VIRTUAL_ENV", "PYTHONHASHSEED"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "HF_HOME", "TORCH_HOME", "TRITON_URL"),
    *("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"),
)
"""Environment variables that every job gets as the notebook has them. None of them holds a secret."""
SECRET = ("JUPYTERHUB_", "TIMESHARE_", "JPY_")
SUBMITTED = "submitted.json"


@dataclass(frozen=True)
class Request:
    """What the service is asked for; kept in the job's folder to ask again. ``tasks``: subfolder and digest of each.
    ``points``: what each of them sets. ``function``: the job is a call, and its result what that returns. ``streams``:
    digests of the random streams that the notebook goes on with."""

    id: str
    name: str
    share: dict[str, Any]
    time_limit_s: int | None
    tasks: tuple[tuple[str, str], ...]
    max_parallel: int = 0
    points: tuple[dict[str, Any], ...] = ()
    python: str = sys.executable
    at: float = field(default_factory=time.time)
    trials: int = 0
    direction: str = "minimize"
    function: bool = False
    streams: dict[str, str] = field(default_factory=dict)

    def body(self, places: Places, only: tuple[int, ...] = (), key: str = "") -> Json:
        """For the service. ``only``: these tasks; empty for all. ``key`` of the request; default: the job's id."""
        chosen = only or range(len(self.tasks))
        return {
            "share": self.share,
            "time_limit_s": self.time_limit_s,
            "name": self.name,
            "python": self.python,
            "folder": str(places.jobs / self.id),
            "tasks": [{"subfolder": self.tasks[n][0], "digest": self.tasks[n][1]} for n in chosen],
            "max_parallel": self.max_parallel,
            "client_key": key or self.id,
        }

    def to_json(self) -> str:
        return json.dumps(vars(self))

    @staticmethod
    def from_json(text: str) -> Request:
        """Raises ValueError for anything but a request."""
        try:
            data = json.loads(text)
            return Request(
                **{**data, "tasks": tuple(map(tuple, data["tasks"])), "points": tuple(data["points"])},
            )
        except (TypeError, KeyError) as error:
            raise ValueError(f"this is not a request: {error}") from None


@dataclass(frozen=True)
class Sent:
    """``new`` of ``total`` bytes were not in the store before. ``streams``: those that went along."""

    request: Request
    total: int
    new: int
    streams: Streams

    def text(self) -> str:
        """For people."""
        there = self.total - self.new
        return f"{size_text(self.new)} new" + (f", {size_text(there)} already there" if there else "")


def write(prepared: Prepared, places: Places, main: dict[str, Any], *, function: bool = False) -> Sent:
    """The snapshot and the folder of a job, whole, on the disk. Raises CannotGo and OSError; no folder is left then."""
    job_id = places.new_id()
    try:
        return _write(job_id, prepared, places, main, function)
    except BaseException:  # Ctrl-C too
        shutil.rmtree(places.root / "jobs" / job_id, ignore_errors=True)
        raise


def _write(job_id: str, prepared: Prepared, places: Places, main: dict[str, Any], function: bool) -> Sent:
    options = prepared.options
    environment = environment_of(options)
    points = options.points or (({"trial": options.direction},) * options.trials if options.trials else ())
    # Processes of one node that read the same piece share its pages of memory, unless each must unpack its own.
    store = Store(places.store.folder, pack=not points and options.layout.processes == 1)
    try:
        local = modules.pack(prepared.local_modules, store)
    except modules.TooMuch as error:
        raise CannotGo(str(error)) from None
    more = {**extra(prepared.local_modules), "sources": sources(prepared.values)}
    if options.stage:
        more["stage"] = list(options.stage)
    with recording() as generators:
        written = snapshot.write({**prepared.values, EXTRA: more}, main, store)
    streams = Streams(more["streams"], tuple(in_order(generators)))
    tasks = []
    for number, point in enumerate(points or ({},)):
        subfolder = f"{number:03d}" if points else ""
        job = Job(
            id=f"{job_id}/{subfolder}" if subfolder else job_id,
            cell=prepared.cell,
            snapshot=written.header,
            store=str(store.folder),
            cwd=os.getcwd(),
            path=tuple(sys.path),
            returns=options.out_names,
            environment=environment,
            modules=local,
            packages=modules.packages(prepared.modules),
            point={} if options.trials else point,
            trials=options.direction if options.trials else "",
            launch=options.launch,
            nodes=options.layout.nodes,
            processes=options.layout.processes,
            stream=f"point {number}" if points else "",
        )
        tasks.append((subfolder, Folder.make(places.jobs / job_id / subfolder, job).digest()))
    request = Request(
        id=job_id,
        name=options.name or _first_line(prepared.cell),
        share=options.share,
        time_limit_s=options.time_limit_s,
        tasks=tuple(tasks),
        max_parallel=options.max_parallel,
        points=() if options.trials else options.points,
        trials=options.trials,
        direction=options.direction,
        function=function,
        streams={} if points else streams.left(),
    )
    Folder(places.jobs / job_id).write(REQUEST, request.to_json())
    return Sent(request, written.total, written.new, streams)


def send(request: Request, places: Places, service: Service, only: tuple[int, ...] = (), key: str = "") -> Json:
    """Asks the service, and notes what came of it. A second time, with the same ``key``, it gets the same. Raises
    Refused and Unreachable."""
    told = service.submit(request.body(places, only, key))
    folder = Folder(places.jobs / request.id)
    known = json.loads(folder.read_if_there(SUBMITTED) or "{}")
    chosen = only or range(len(request.tasks))
    known.update({str(n): reservation["id"] for n, reservation in zip(chosen, told["jobs"], strict=True)})
    folder.write(SUBMITTED, json.dumps(known))
    return told


def environment_of(options: Options) -> dict[str, str]:
    """Raises BadOption for a variable that is not there, or that holds this session's secrets."""
    for name in options.environment:
        if name.startswith(SECRET):
            raise BadOption(f"--env {name}: it belongs to this session and may hold its secrets; it stays here")
        if name not in os.environ:
            raise BadOption(f"--env {name}: this kernel has no such variable; set it with os.environ or %env first")
    return {name: os.environ[name] for name in (*CHOSEN, *options.environment) if name in os.environ}


def _first_line(cell: str) -> str:
    lines = (line.strip() for line in cell.splitlines())
    printable = ("".join(c for c in line if c.isprintable()) for line in lines if line and not line.startswith("%"))
    return next(printable, "")[:60]
