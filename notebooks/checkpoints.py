"""A loop that a job can leave at the end of a step, and enter again there: ``for epoch in resumable(range(100),
state=(model, optimizer))``. In a notebook it is the plain loop."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from . import randomness
from .batch.results import updated
from .capture import snapshot
from .capture.snapshot import Header
from .capture.store import Store
from .runner.folder import Folder

T = TypeVar("T")
EVERY_S = 60.0
_loops: list[_Loop] = []
"""Of this job, in the order in which they were begun."""


class JobStopped(BaseException):
    """The job was asked to end and has kept its state; no Exception, so that no ``except`` of a loop swallows it."""


def resumable(items: Iterable[T], state: Any = (), *, every_s: float = EVERY_S) -> Iterator[T]:
    """The ``items``, but in a job that was started again only those that were not done before.

    ``state``: an object, or several in a list, tuple or dict, that hold what the steps have come to: models,
    optimizers, arrays, dicts, lists. They are kept between steps, every ``every_s`` seconds and when the job is asked
    to end, and get back what was kept, in place, before the first step. States of the random generators go along.

    In a cell that runs as several ranks, rank 0 keeps its state and decides when to end; all of them begin with that.

    Raises TypeError for a state that cannot be kept or updated in place, and JobStopped in a job that has to end.
    """
    folder = os.environ.get("TIMESHARE_JOB_FOLDER")
    if folder is None:
        yield from items
        return
    loop = _Loop(Folder(Path(folder)), state)
    _loops.append(loop)
    iterator = iter(items)
    for _ in range(loop.done):
        next(iterator, None)
    kept_at = time.monotonic()
    for item in iterator:
        yield item
        loop.done += 1
        if not _leads():
            continue
        stop = loop.folder.at("stop").exists()
        if stop or time.monotonic() - kept_at >= every_s:
            _keep(loop.folder)
            kept_at = time.monotonic()
        if stop:
            raise JobStopped(f"after step {loop.done}; the next start goes on there")


def _leads() -> bool:
    return os.environ.get("RANK", "0") == "0"


class _Loop:
    """``done``: how many of its steps."""

    def __init__(self, folder: Folder, state: Any) -> None:
        self.folder = folder
        self.parts = _parts(state)
        self.done = 0
        _check(self.parts)
        kept = _kept(folder)
        if len(kept) > len(_loops):
            self.done, states = kept[len(_loops)]
            for part, new in zip(self.parts, states, strict=True):
                if not updated(part, new):
                    raise TypeError(f"the state kept of a {type(part).__name__} does not fit the one that is here now")
            if self.done:
                print(f"timeshare: goes on after step {self.done}", file=sys.stderr)
        if _leads():  # from now on a stop waits for the end of a step
            folder.at("resumable").touch(mode=0o600)


def _parts(state: Any) -> list[Any]:
    """A dict is one part: it holds plain values too."""
    return list(state) if type(state) in (list, tuple) and not _plain(state) else [state]


def _plain(state: Any) -> bool:
    return type(state) is list and all(isinstance(part, int | float | str) for part in state)


def _check(parts: list[Any]) -> None:
    for part in parts:
        if isinstance(part, int | float | complex | str | bytes | bool | type(None)):
            raise TypeError(f"the state {part!r} is a plain value, which cannot be updated: keep it in a dict")
        try:
            snapshot.dump(part, _main(), BytesIO(), lambda view: None)
        except Exception as error:  # whatever its __reduce__ raises
            raise TypeError(f"the state {type(part).__name__} cannot be kept: {error}") from None


def _main() -> dict[str, Any]:
    return vars(sys.modules["__main__"])


def _keep(folder: Folder) -> None:
    """All loops so far in one snapshot: they may share their state."""
    kept = {"loops": [(loop.done, loop.parts) for loop in _loops], "random": randomness.states()}
    written = snapshot.write(kept, _main(), Store(Path(folder.job().store)))
    folder.write("checkpoint.json", written.header.to_json())


def _kept(folder: Folder) -> list[tuple[int, list[Any]]]:
    text = folder.read_if_there("checkpoint.json")
    if text is None:
        return []
    kept = snapshot.read(Header.from_json(text), Store(Path(folder.job().store)), _main())
    randomness.set_states(kept["random"])
    found: list[tuple[int, list[Any]]] = kept["loops"]
    return found
