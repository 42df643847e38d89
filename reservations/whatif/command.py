"""``timeshare limits try``: what other limits would have done to what really happened."""

from __future__ import annotations

import asyncio
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ..client import ServiceClient, ServiceUnreachable
from ..clock import rfc3339
from ..deployment import FILE_NAME, Deployment, DeploymentError, load_deployment
from ..devices.model import Device, MigInstance
from ..devices.simulated import parse_spec
from ..errors import PublicError
from ..files import from_start, write_anew
from ..limits.load import LimitsError, LimitsFile, limits_in_force, read_limits
from .compare import Comparison, Figures, figures
from .history import from_ledger, read_history
from .replay import Progress, Scenario, replay
from .trace import Arrival, TraceError, read_trace

EXAMPLE = "t4:10,p100-16gb:8"


class TryError(Exception):
    """It cannot be tried; the text says what would work."""


def add_try(kinds: Any, state: Callable[[ArgumentParser], None], folder: Callable[[Namespace], Path]) -> None:
    """Adds ``try`` to the sub-commands of ``limits``. ``state`` adds the option that names the deployment, ``folder``
    finds its folder."""
    tries = kinds.add_parser("try", help="what a file would have changed in what really came", description=__doc__)
    state(tries)
    add = tries.add_argument
    add("file", type=from_start, metavar="NEW.yaml", help="the limits to try")
    source = tries.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--trace", type=from_start, default="", metavar="FILE", help="arrivals as CSV; see docs/admin_guide.md"
    )
    source.add_argument("--history", action="store_true", help="arrivals of this deployment's own past")
    add("--days", type=float, default=90, metavar="N", help="with --history: the last N days; default 90")
    add(
        "--against", type=from_start, default="", metavar="OLD.yaml", help="compared with; default: the limits in force"
    )
    add("--devices", default="", metavar="SPEC", help=f"such as {EXAMPLE}; default: this deployment's own")
    add("--checkpoints", action="store_true", help="preempted jobs go on where they were; default: they begin again")
    add("--output", type=from_start, default="limits_try.html", metavar="HTML", help="default limits_try.html")
    tries.set_defaults(run=run_try, folder=folder)


def run_try(options: Namespace) -> int:
    """Replays, prints the table and writes the page. The exit code; every error is told in words."""
    try:
        new = read_limits(Path(options.file))
        old, scenario, about = _prepared(options)
        from . import report  # matplotlib takes a second to load: no other command should wait for it

        comparison = compared(scenario, old, new, about, progress_bar("both limits"))
        text, page = report.as_text(comparison), report.as_html(comparison)
        write_anew(Path(options.output), page)
    except (LimitsError, TraceError, TryError, DeploymentError, PublicError) as error:
        return _failed(str(error))
    except ServiceUnreachable:
        return _failed("timeshare is not running: start it with `timeshare up`, or give --devices and --against")
    except ImportError as error:
        return _failed(f"{error}: install what draws the plots with pip install 'timeshare[report]'")
    except OSError as error:
        return _failed(f"{options.output}: cannot be written: {error.strerror}")
    print(f"{text}\n\nWritten with plots: {options.output}")
    return 0


def _failed(text: str) -> int:
    print(f"timeshare limits try: {text}", file=sys.stderr)
    return 1


def _prepared(options: Namespace) -> tuple[LimitsFile, Scenario, list[str]]:
    here = _Here(options)
    old = read_limits(Path(options.against)) if options.against else here.limits()
    if options.trace:
        arrivals = read_trace(Path(options.trace))
        source = options.trace
    else:
        if not 0 < options.days <= 36600:
            raise TryError(f"--days is {options.days:g}: it must be above 0 and at most 36600")
        now = time.time()
        history = read_history(here.deployment().ledger_url, now - options.days * 86400)
        arrivals = from_ledger(history, old.limits, now)
        source = "the past of this deployment"
    devices = parse_spec(options.devices) if options.devices else here.devices()
    if not devices:
        raise TryError(f"this deployment has no devices: name some with --devices, such as {EXAMPLE}")
    against = options.against or "in force"
    about = [f"{options.file} (new) and the limits {against} (now), tried on {source}", extent(arrivals, devices)]
    return old, Scenario(devices, arrivals, checkpoints=options.checkpoints), about


def extent(arrivals: list[Arrival], devices: tuple[Device, ...]) -> str:
    """What was tried, in words."""
    people = len({arrival.owner for arrival in arrivals})
    times = [arrival.at for arrival in arrivals]
    when = f"{rfc3339(min(times))} to {rfc3339(max(times))}"
    return f"{len(arrivals)} requests of {people} people on {len(devices)} devices, {when}"


def compared(
    scenario: Scenario, old: LimitsFile, new: LimitsFile, about: list[str], progress: Progress | None = None
) -> Comparison:
    """Both limits tried, at once on two cores where there are two."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other_core:
        now = other_core.submit(_tried, scenario, old)  # both take the same time
        then = _tried(scenario, new, progress)
        return Comparison(about, now.result(), then)


def _tried(scenario: Scenario, file: LimitsFile, progress: Progress | None = None) -> dict[str, Figures]:
    return figures(scenario, file.limits, replay(scenario, file.limits, progress))


def progress_bar(what: str, width: int = 30) -> Progress | None:
    """Draws on standard error; None when nobody looks at it."""
    if not sys.stderr.isatty():
        return None

    def show(part: float) -> None:
        done = round(width * part)
        end = "\n" if part >= 1 else ""
        print(f"\r{'█' * done}{'░' * (width - done)} {100 * part:3.0f} %  {what}", end=end, file=sys.stderr, flush=True)

    return show


@dataclass
class _Here:
    """The deployment that is meant, looked at only where an option does not say it."""

    options: Namespace

    def deployment(self) -> Deployment:
        return load_deployment(self.options.folder(self.options) / FILE_NAME)

    def _ask(self, path: str) -> dict[str, Any]:
        here = self.deployment()
        return asyncio.run(ServiceClient(here.service_url, here.admin_token).call("GET", path))

    def limits(self) -> LimitsFile:
        text = str(self._ask("limits/file")["text"])
        return limits_in_force(text, "the limits in force")

    def devices(self) -> tuple[Device, ...]:
        return tuple(device(item, order) for order, item in enumerate(self._ask("devices")["devices"]))


def device(item: dict[str, Any], order: int) -> Device:
    """A device as the service shows it; in a what-if it is in service."""
    instances = tuple(MigInstance(i["uuid"], i["profile"], i["memory_mib"]) for i in item["instances"])
    return Device(item["uuid"], item["model"], item["memory_mib"], item["node"], order, instances=instances)
