"""What runs in the job's kernel beside the cell: it brings the variables in and, after the cell, takes them out. The
runner calls both over the kernel's own protocol."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import threading
import types
from importlib import util
from io import BytesIO
from pathlib import Path
from typing import Any

from blake3 import blake3

from .. import randomness
from ..capture import modules, snapshot
from ..capture.preflight import judge
from ..capture.reach import Reached, reach
from ..capture.store import Store
from . import failure, trials
from .folder import PRIVATE, Folder, Job
from .staging import fetched

EXTRA = "__timeshare_extra__"
"""The name, in a snapshot, of what travels with every cell beside its variables."""
PATCHED = "functions set in modules"
"""The name, in a snapshot, of what the notebook has set in local modules; no name that a cell could use."""
STREAMS = "__timeshare_streams__"
"""The name, in the results of a single job, of where its random streams were at its end."""
_LEFT_OUT = frozenset({"In", "Out", "exit", "quit", "get_ipython", "open", "trial", "staged"})

_generators: list[Any] = []
"""Those that the variables of this job hold, in the order of its snapshot."""


def begin(folder: str, main: dict[str, Any], rank: int = 0) -> dict[str, str]:
    """Loads the job's variables into ``main``; what each of them was, to know afterwards what has changed."""
    place = Folder(Path(folder))
    job = place.job()
    store = Store(Path(job.store))
    _bars_as_text()
    for stream in (sys.stdout, sys.stderr):
        _flush_sends(stream)
    # Beside the job's folder, which others may be able to rename, and put another there that is theirs.
    sources = Path(os.environ[PRIVATE]) / "modules"
    modules.unpack(job.modules, store, sources)
    # The cell's own folder ("") counts only if it did so where the cell comes from: not for a file of the terminal.
    sys.path[:] = [str(sources), *job.path, *(p for p in sys.path if p not in (*job.path, "", "/"))]
    os.chdir(job.cwd if job.cwd and Path(job.cwd).is_dir() else place.path)
    with randomness.recording() as generators:
        found = snapshot.read(job.snapshot, store, main)
    _generators[:] = randomness.in_order(generators)
    more = found.pop(EXTRA, {})
    _set_streams(more.get("streams", {}), ", ".join(filter(None, (job.stream, f"rank {rank}" if rank else ""))))
    _set_in_modules(more.get("modules", {}))
    failure.remember(more.get("sources", {}))
    _set_in_modules(found.pop(PATCHED, {}))
    if "stage" in more:
        main["staged"] = fetched(more["stage"], place.path / "staged")
    main.update(found)
    main.update(job.point)
    if job.trials:
        main["trial"] = trials.begin(place, job)
    return {name: _digest(main[name], main) for name in [*found, *job.point]}


def _bars_as_text() -> None:
    """Progress bars of tqdm that would be widgets are drawn as text: widgets need a page that talks to this kernel, and
    what is written is seen by whoever attaches, at any time."""
    if util.find_spec("tqdm") is None:
        return
    for name in ("tqdm.autonotebook", "tqdm.notebook"):
        stands_in = types.ModuleType(name)
        vars(stands_in)["__getattr__"] = _text_bar
        sys.modules[name] = stands_in


def _text_bar(wanted: str) -> Any:
    """What a name of ``tqdm.notebook`` stands for; snapshots name its class ``tqdm_notebook``."""
    names = {"tqdm_notebook": "tqdm", "tnrange": "trange"}
    return getattr(importlib.import_module("tqdm.std"), names.get(wanted, wanted))


def _flush_sends(stream: Any) -> None:
    """``flush`` returns once the text is sent. ipykernel's returns while its thread has yet to send it, which it cannot
    if native code takes the interpreter's lock for hours, or ends the process: the last words would be missing."""
    thread, flush = getattr(stream, "pub_thread", None), stream.flush
    if thread is None:
        return

    def flush_and_send() -> None:
        flush()
        if threading.current_thread() is not thread.thread:
            sent = threading.Event()
            thread.schedule(sent.set)  # behind what flush has scheduled
            sent.wait(stream.flush_timeout)

    stream.flush = flush_and_send


def extra(tops: list[str]) -> dict[str, Any]:
    """In the notebook: states of random generators, and values that were set in local modules."""
    return {"streams": randomness.states(), "modules": modules.values(tops)}


def _set_streams(streams: dict[str, Any], label: str) -> None:
    """``label``: whose streams these are to be; empty: the notebook's go on here."""
    if label:
        randomness.derive(_generators, label)
        streams = randomness.derived(streams, label)
    randomness.set_states(streams)


def _set_in_modules(values: dict[str, dict[str, Any]]) -> None:
    for name, found in values.items():
        # A module that cannot be imported may never be used; if it is, the cell's own import says why it cannot.
        with contextlib.suppress(Exception):
            vars(importlib.import_module(name)).update(found)


def finish(folder: str, main: dict[str, Any], before: dict[str, str], failed: bool) -> None:
    """Keeps what the cell wrote or changed: all that can travel, and of the rest why it cannot. ``failed``: by the last
    exception that the shell showed, which is kept too."""
    place = Folder(Path(folder))
    job = place.job()
    store = Store(Path(job.store))
    changed = {name: main[name] for name in _to_return(job, main, before)}
    error = getattr(sys, "last_value", None) if failed else None
    if error is not None:
        changed[failure.NAME] = failure.packed(error)
    verdicts = judge({name: Reached(name, value) for name, value in changed.items()}, main)
    going = {verdict.name: changed[verdict.name] for verdict in verdicts if verdict.goes}
    if not job.stream:
        going[STREAMS] = randomness.streams_of(_generators)
    header = snapshot.write(going, main, store).header
    left = {
        v.name: {"kind": v.kind, "why": v.problem, "fix": v.fix, "repr": _repr(changed[v.name])}
        for v in verdicts
        if not v.goes
    }
    packages = modules.packages({name for verdict in verdicts for name in verdict.modules})
    body = {"snapshot": json.loads(header.to_json()), "left": left, "packages": packages}
    if job.trials:
        body["trial"] = trials.end(main, error)
    place.write("unsigned.json", json.dumps(body))


def _to_return(job: Job, main: dict[str, Any], before: dict[str, str]) -> list[str]:
    found = []
    for name, value in main.items():
        if name.startswith("_") or name in _LEFT_OUT or isinstance(value, type(sys)):
            continue
        if name in job.returns or name not in before or _digest(value, main) != before[name]:
            found.append(name)
    # With functions goes what they use, if the notebook does not have it: imports of the cell, private helpers.
    used = [name for name in reach(found, main).found if name not in before and name not in found]
    return found + [name for name in used if name not in _LEFT_OUT]


def _digest(value: Any, main: dict[str, Any]) -> str:
    """Of how it pickles; for what does not, something that is never equal: it counts as changed, and is judged like
    everything that returns."""
    stream, buffers = BytesIO(), blake3()
    try:
        snapshot.dump(value, main, stream, buffers.update)
    except Exception:  # somebody's __reduce__ may raise whatever it likes
        return os.urandom(8).hex()
    buffers.update(stream.getvalue())
    return str(buffers.hexdigest())


def _repr(value: Any) -> str:
    try:
        return repr(value)[:500]
    except Exception as error:  # somebody's __repr__
        return f"<{type(value).__name__}: no repr, {type(error).__name__}>"
