"""One hand-over from end to end: for the magic, the terminal and Python alike."""

from __future__ import annotations

import functools
import os
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..capture import snapshot
from ..capture.preflight import size_text
from . import disk, pages
from .housekeeping import make_room
from .job import Job
from .options import Options, parse
from .places import Places
from .preparation import CannotGo, Prepared, prepare
from .service import Json, Refused, Service, Unreachable
from .submission import Sent, send, write

CALL = "returned = called()"
MOST_BYTES = 16 * 1024 * 1024
"""Of a file that is handed over as a cell."""
TRIES_S = (0.5, 1.0, 2.0, 4.0)
"""How often, and after how long, the service is asked again while it does not answer: it may be restarting."""


@dataclass(frozen=True)
class Handed:
    """A submitted job, and one line on what it takes and costs."""

    job: Job
    text: str
    warnings: tuple[str, ...]


def check(cell: str, options: Options, main: dict[str, Any], places: Places, service: Service) -> str:
    """What a submission would say, for ``--dry-run``. Raises CannotGo, Refused and Unreachable."""
    prepared = prepare(cell, options, main)
    with disk.in_words(places.root):
        total, new = snapshot.measure(prepared.values, main, places.store)
    return pages.pre_flight(prepared, _estimate(options, service), _moved(total, new))


def hand_over(
    cell: str,
    options: Options,
    main: dict[str, Any],
    places: Places,
    service: Service,
    *,
    call: Callable[[], Any] | None = None,
) -> Handed:
    """Submits; ``call`` instead of a cell. Raises CannotGo, Refused and Unreachable; then nothing was submitted, unless
    it says otherwise."""
    more = {} if call is None else {"called": call}
    prepared = prepare(cell if call is None else CALL, options, main, more)
    estimate = _estimate(options, service)
    if not estimate["possible"]:
        raise Refused(f"Nothing was submitted: {estimate['why']}")
    with disk.in_words(places.root, "Nothing was submitted: "):
        make_room(places, estimate)
        sent = write(prepared, places, main, function=call is not None)
    _sent(sent, places, service)
    sent.streams.move_on(sent.request.id)
    job = Job(sent.request, places, service, main)
    own = f"; each {'trial' if options.trials else 'point'} draws random numbers of its own" if job.is_sweep else ""
    return Handed(job, f"{pages.offer(options, estimate)}; {_moved(sent.total, sent.new)}{own}", prepared.warnings)


def submit(work: str | Callable[..., Any], *arguments: Any, options: str | Options = "", **named: Any) -> Job:
    """Hands over a cell's text, or a call of ``work`` with ``arguments``; ``options`` as after ``%%gpu_batch``.

    ``submit(train, model, lr=1e-3, options="--gpus 2 --time 8h").result()`` is what ``train`` returns; of a text it is
    the variables that it wrote or changed, by name. Raises CannotGo, BadOption, Refused and Unreachable.
    """
    main = notebook()
    chosen = options if isinstance(options, Options) else parse(options, "submit")
    places, service = Places.own(), Service.of_session()
    if isinstance(work, str):
        return hand_over(work, chosen, main, places, service).job
    called = functools.partial(work, *arguments, **named)
    return hand_over("", chosen, main, places, service, call=called).job


def attach(job_id: str = "") -> Job:
    """The job with this id, or the newest. Raises NoSuchJob, Untrusted and Refused."""
    return Job.find(job_id, Places.own(), Service.of_session(), notebook())


def notebook() -> dict[str, Any]:
    """The globals of the notebook, or of the program that this runs in."""
    return vars(sys.modules["__main__"])


def run_file(path: Path, options: Options, places: Places, service: Service) -> Handed:
    """A file as a cell, with no variables. Raises CannotGo for one that cannot be read."""
    return hand_over(read_cell(path), options, {"__name__": "__main__"}, places, service)


def read_cell(path: Path) -> str:
    """The text of a plain file. Raises CannotGo, without waiting where it is a pipe."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CannotGo(f"{path} cannot be read: it is no plain file")
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise CannotGo(f"{path} cannot be read: it is longer than {size_text(MOST_BYTES)}, as no program is")
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise CannotGo(f"{path} cannot be read: {error}") from None


def _sent(sent: Sent, places: Places, service: Service) -> None:
    for seconds in (*TRIES_S, None):
        try:
            send(sent.request, places, service)
            return
        except Refused:
            places.remove(sent.request.id)
            raise
        except Unreachable as error:
            if seconds is None:
                again = f"the job is kept: %gpu_batch rerun {sent.request.id} submits it, once"
                raise Unreachable(f"{error}; {again}") from None
            time.sleep(seconds)


def _estimate(options: Options, service: Service) -> Json:
    count = len(options.points) or options.trials or 1
    return service.estimate({"share": options.share, "time_limit_s": options.time_limit_s, "count": count})


def _moved(total: int, new: int) -> str:
    return f"{size_text(new)} to move" + (f", {size_text(total - new)} there already" if total > new else "")


__all__ = ["CannotGo", "Prepared", "attach", "check", "hand_over", "submit"]
