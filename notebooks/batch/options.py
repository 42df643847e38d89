"""What ``%%gpu_batch`` and ``timeshare batch submit`` are told, as typed options. Flags are as
Slurm's users know them."""

from __future__ import annotations

import argparse
import ast
import itertools
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ..runner.torchrun import LAUNCHES, Layout

MOST_POINTS = 256
MOST_NODES = 64
LOCAL = "local"
"""What the service calls this machine, where it names engines."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
EXAMPLES = """\
examples:
  %%gpu_batch                              one GPU, for the time that your limits give by default
  %%gpu_batch --memory 10 --time 2h        10 GiB of a GPU, for two hours
  %%gpu_batch --sweep lr=1e-3,1e-2 --sweep seed=0:5    ten jobs that share one snapshot
  %%gpu_batch --trials 100 --parallel 8    Optuna; the cell has `trial`, and its last line is the value
  %%gpu_batch --engine slurm --gpus 4      on the cluster, in its own queue
  %%gpu_batch --gpus 4 --launch torchrun   the cell as four processes that can speak to each other
afterwards: %gpu_batch ls | attach | logs | status | result | cancel | rerun [ID]
"""


class BadOption(ValueError):
    """The text names the option, the value, and what would work."""


@dataclass(frozen=True)
class Options:
    """``share``: as the service's API has it. ``time_limit_s`` None: the default of the limits. ``points``: of a sweep;
    empty: one job. ``trials``: of Optuna, 0: none. ``max_parallel`` 0: as many at once as the limits allow.
    ``launch``: as several processes, see ``runner.torchrun``; empty: as one."""

    share: dict[str, Any]
    time_limit_s: int | None = None
    name: str = ""
    with_names: tuple[str, ...] = ()
    out_names: tuple[str, ...] = ()
    wait: bool = False
    dry_run: bool = False
    points: tuple[dict[str, Any], ...] = ()
    max_parallel: int = 0
    trials: int = 0
    direction: str = "minimize"
    stage: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    launch: str = ""

    @property
    def layout(self) -> Layout:
        """Of the processes that ``launch`` makes: one for each GPU; without GPUs one on each node."""
        return Layout(self.share.get("nodes", 1), self.share.get("gpus", 1)) if self.launch else Layout()


class HelpShown(Exception):
    """Somebody asked for help; the text is it."""


class Parser(argparse.ArgumentParser):
    """Raises instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise BadOption(f"{self.prog}: {message}; {self.prog} --help tells all")

    def print_help(self, file: Any = None) -> None:
        raise HelpShown(self.format_help())


def parser(prog: str = "%%gpu_batch") -> Parser:
    """Of the options of a submission; without a default for what the service decides."""
    made = Parser(
        prog=prog,
        description="Run this cell as a job with GPUs of its own; its variables go along, and come back.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--gpus", "-G", metavar="N", help="whole GPUs; default 1")
    add("--memory", metavar="GIB", help="instead: this many GiB of one GPU, shared with others")
    add("--mig", metavar="PROFILE", help="instead: a MIG instance, such as 1g.10gb")
    add("--cpu", action="store_true", help="instead: no GPU at all")
    add("--cpus", "-c", metavar="N", help="cores beside it, such as 4; default: your limits' own")
    memory = "GiB of main memory beside it, such as 32; default: your limits' own"
    add("--host-memory", metavar="GIB", help=memory)
    add("--model", "-C", default="", metavar="M", help="only this model, such as a100-40gb; default any")
    add("--engine", default="", metavar="E", help="an engine of this site, such as slurm; default: this machine")
    add("--nodes", "-N", metavar="N", help="of an engine, N nodes with such a share each; default 1, at most 64")
    launch = "torchrun: one process for each GPU (with --cpu, each node), with its environment; default: one process"
    add("--launch", default="", metavar="HOW", help=launch)
    add("--time", "-t", default="", metavar="T", help="such as 90m, 8h, 2d or 1-12:00:00; default: your limits' own")
    add("--name", "-J", default="", metavar="S", help="for lists; default: the cell's first line")
    add("--with", dest="with_names", default="", metavar="A,B", help="variables that go too, though nothing shows why")
    add("--out", dest="out_names", default="", metavar="C,D", help="variables that return even if they did not change")
    add("--wait", "-W", action="store_true", help="stay here until it ends, then bring its variables back")
    add("--dry-run", action="store_true", help="show what would go and what it would cost, and submit nothing")
    add(
        "--sweep",
        action="extend",
        nargs="+",
        default=[],
        metavar="X=V",
        help="a job for each value: 1,2,3 or 0:5; may repeat",
    )
    add("--max-parallel", "--parallel", default="0", metavar="N", help="of a sweep, at most N at once; default: limits")
    add("--trials", default="0", metavar="N", help="N trials by Optuna; the cell has `trial`, its last line the value")
    add("--maximize", action="store_true", help="the larger a trial's value, the better; default: the smaller")
    stage = "files fetched before the cell; staged[URL] is the path of each; may repeat"
    add("--stage", action="extend", nargs="+", default=[], metavar="URL", help=stage)
    add("--env", action="append", default=[], metavar="NAME", help="an environment variable that goes too; may repeat")
    return made


def parse(words: Sequence[str] | str, prog: str = "%%gpu_batch") -> Options:
    """Raises BadOption and HelpShown."""
    try:
        given = parser(prog).parse_args(shlex.split(words) if isinstance(words, str) else list(words))
    except ValueError as error:
        if isinstance(error, BadOption):
            raise
        raise BadOption(f"{prog}: {error}: close the quotes") from None
    trials = whole("--trials", given.trials, 0, MOST_POINTS)
    points = tuple(sweep_points(given.sweep))
    if trials and points:
        raise BadOption("--trials and --sweep exclude each other: let the trial suggest what the sweep would vary")
    share = _share(given)
    return Options(
        share=share,
        launch=_launch(given.launch, share, trials),
        time_limit_s=seconds_of(given.time) if given.time else None,
        name=given.name,
        with_names=names("--with", given.with_names),
        out_names=names("--out", given.out_names),
        wait=given.wait,
        dry_run=given.dry_run,
        points=points,
        max_parallel=whole("--max-parallel", given.max_parallel, 0, MOST_POINTS),
        trials=trials,
        direction="maximize" if given.maximize else "minimize",
        stage=tuple(given.stage),
        environment=tuple(name for text in given.env for name in names("--env", text)),
    )


def _share(given: argparse.Namespace) -> dict[str, Any]:
    host = {"cpus": ("--cpus", given.cpus), "host_memory_gib": ("--host-memory", given.host_memory)}
    beside = {key: _positive(option, text) for key, (option, text) in host.items() if text is not None}
    return {**_device_share(given), **beside}


def _device_share(given: argparse.Namespace) -> dict[str, Any]:
    shapes = {
        "--gpus": given.gpus is not None,
        "--memory": given.memory is not None,
        "--mig": given.mig is not None,
        "--cpu": given.cpu,
    }
    chosen = [name for name, is_given in shapes.items() if is_given]
    if len(chosen) > 1:
        raise BadOption(f"{' and '.join(chosen)} exclude each other: keep one")
    where = _where(given)
    if given.cpu:
        return {"cpu_only": True, **where}
    model = {**({"model": given.model} if given.model else {}), **where}
    if given.memory is not None:
        return {"memory_gib": _positive("--memory", given.memory, "of GiB "), **model}
    if given.mig is not None:
        return {"mig_profile": given.mig, **model}
    return {"gpus": whole("--gpus", given.gpus or "1", 1, 64), **model}


def _positive(option: str, text: str, unit: str = "") -> float:
    """Raises BadOption."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < 1e6:
        raise BadOption(f"{option} is {text!r}: must be a number {unit}above 0, such as 10 or 7.5")
    return number


def _where(given: argparse.Namespace) -> dict[str, Any]:
    engine = "" if given.engine == LOCAL else given.engine
    nodes = {} if given.nodes is None else {"nodes": whole("--nodes", given.nodes, 1, MOST_NODES)}
    if nodes and not engine:
        raise BadOption(f"--nodes is {given.nodes!r}: this machine is one node; name one with several by --engine")
    return {**({"engine": engine} if engine else {}), **nodes}


def _launch(text: str, share: dict[str, Any], trials: int) -> str:
    if text not in LAUNCHES:
        raise BadOption(f"--launch is {text!r}: must be {' or '.join(filter(None, LAUNCHES))}, or left out")
    if text and not {"gpus", "cpu_only"} & set(share):
        raise BadOption(f"--launch {text} needs whole GPUs (--gpus) or none (--cpu): a part of one is one process")
    if text and trials:
        raise BadOption(f"--launch {text} and --trials exclude each other: a trial is one process; use --sweep")
    return text


def whole(option: str, text: str, least: int, most: int) -> int:
    """Raises BadOption."""
    if not re.fullmatch(r"\d{1,9}", text) or not least <= int(text) <= most:
        raise BadOption(f"{option} is {text!r}: must be a whole number from {least} to {most}")
    return int(text)


def names(option: str, text: str) -> tuple[str, ...]:
    """``a,b`` as names. Raises BadOption."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    wrong = next((name for name in found if not name.isidentifier()), None)
    if wrong is not None:
        raise BadOption(f"{option} has {wrong!r}: must be names of variables, separated by commas")
    return found


def seconds_of(text: str) -> int:
    """``90m``, ``1h30m``, ``8h``, or Slurm's ``[days-]hours:minutes[:seconds]``. Raises BadOption."""
    if re.fullmatch(r"(\d{1,6}[smhd])+", text):
        return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([smhd])", text))
    match = re.fullmatch(r"(?:(\d{1,3})-)?(\d{1,4}):([0-5]\d)(?::([0-5]\d))?", text)
    if match is None:
        raise BadOption(f"--time is {text!r}: must be a time such as 90m, 8h, 2d, 1h30m or 1-12:00:00")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def sweep_points(given: Sequence[str]) -> list[dict[str, Any]]:
    """Every combination of the axes ``x=1e-3,1e-2`` (values are Python's, else text) and ``seed=0:5``. Raises
    BadOption."""
    axes: dict[str, list[Any]] = {}
    for text in given:
        name, equals, values = text.partition("=")
        if not equals or not name.isidentifier() or not values:
            raise BadOption(f"--sweep has {text!r}: must be NAME=VALUE,VALUE… such as lr=1e-3,1e-2 or seed=0:5")
        if name in axes:
            raise BadOption(f"--sweep has {name!r} twice: give all its values at once")
        axes[name] = _values(values)
    points = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())] if axes else []
    if len(points) > MOST_POINTS:
        raise BadOption(f"--sweep comes to {len(points)} jobs: at most {MOST_POINTS} in one sweep; submit it in parts")
    return points


def _values(text: str) -> list[Any]:
    span = re.fullmatch(r"(-?\d{1,9}):(-?\d{1,9})(?::(-?[1-9]\d{0,8}))?", text)
    if span is not None:
        found: list[Any] = list(range(int(span[1]), int(span[2]), int(span[3] or 1)))
        if not found:
            raise BadOption(f"--sweep has {text!r}: this range is empty; the end is not part of it, as in Python")
        return found
    return [_value(part) for part in text.split(",")]


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
