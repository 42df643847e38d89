"""What would be handed over, found out before it costs anything."""

from __future__ import annotations

import linecache
import types
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..capture.magics import names_of_transformed
from ..capture.modules import edited_since, local_tops, patched
from ..capture.preflight import Verdict, judge, report, size_text
from ..capture.reach import Reach, Reached, reach
from ..runner.inside import PATCHED
from .options import Options

SHELLS_OWN = frozenset({"get_ipython", "display", "exit", "quit", "In", "Out", "_ih", "_oh", "_dh"})
"""Every kernel has its own."""
WARN_BYTES = 1024**3


class CannotGo(Exception):
    """The cell cannot be handed over as it is; the text names each thing, why, and what to do."""


@dataclass(frozen=True)
class Prepared:
    """``reached``: the variables that go. ``warnings``: what may surprise, for people."""

    cell: str
    options: Options
    reached: dict[str, Reached]
    verdicts: list[Verdict]
    warnings: tuple[str, ...] = ()

    @property
    def values(self) -> dict[str, Any]:
        return {name: reached.value for name, reached in self.reached.items()}

    @cached_property
    def modules(self) -> set[str]:
        return {name for verdict in self.verdicts for name in verdict.modules}

    @cached_property
    def local_modules(self) -> list[str]:
        return local_tops(self.modules)

    @property
    def size(self) -> int:
        """Bytes, each variable by itself."""
        return sum(verdict.size for verdict in self.verdicts)

    def table(self) -> str:
        """For people: every variable that goes."""
        if not self.verdicts:
            return "No variables go: the cell reads none."
        return report(self.verdicts)


def prepare(cell: str, options: Options, main: dict[str, Any], more: Mapping[str, Any] | None = None) -> Prepared:
    """``cell`` as it was typed, of a notebook with the globals ``main``; ``more``: variables beside them. Raises
    CannotGo."""
    names = _names(cell)
    if names.refused:
        raise CannotGo("This cell cannot run as a job:\n" + "\n".join(f"  {why}" for why in names.refused))
    given = supplied(options)
    absent = [name for name in options.with_names if name not in main]
    if absent:
        raise CannotGo(f"--with names {', '.join(absent)}, which the notebook does not have")
    reads = names.names.reads | set(options.with_names)
    found, verdicts = _reached(reads, main, dict(more or {}), given | SHELLS_OWN)
    warnings = [
        f"{name} is not defined here" + (f" ({' → '.join(by)} uses it)" if by else "")
        for name, by in found.unknown.items()
        if name not in names.names.writes
    ]
    warnings += [
        f"the cell uses {what}, through which it may use names that cannot be seen: name them with --with"
        for what in names.names.hidden
    ]
    stopped = [verdict for verdict in verdicts if not verdict.goes]
    if stopped:
        raise CannotGo(_refusal(stopped))
    warnings += _shared_memory(found.found)
    if options.share.get("nodes", 1) > 1 and not options.launch:
        warnings.append("the cell runs on the first node alone: --launch torchrun runs it on all of them")
    prepared = Prepared(cell, options, found.found, verdicts)
    warnings += [
        f"{file} was edited after it was imported here: the job gets the file as it is now"
        for file in edited_since(prepared.local_modules)
    ]
    prepared = replace(prepared, warnings=tuple(warnings))
    if prepared.size > WARN_BYTES:
        largest = max(verdicts, key=lambda verdict: verdict.size)
        text = f"{size_text(prepared.size)} go, most of it {largest.name}: a path and a read in the cell may be faster"
        return replace(prepared, warnings=(*warnings, text))
    return prepared


def _reached(
    reads: set[str] | frozenset[str], main: dict[str, Any], more: dict[str, Any], without: frozenset[str]
) -> tuple[Reach, list[Verdict]]:
    """What the cell comes to use; with local modules also what the notebook has set in them."""
    found = reach(reads, main, more=more, without=without)
    verdicts = judge(found.found, main)
    changed = patched(local_tops({name for verdict in verdicts for name in verdict.modules}))
    if not changed:
        return found, verdicts
    found = reach({*reads, PATCHED}, main, more={**more, PATCHED: changed}, without=without)
    return found, judge(found.found, main)


def supplied(options: Options) -> frozenset[str]:
    """Names that the job has without the notebook."""
    swept = {name for point in options.points for name in point}
    return frozenset(swept | ({"trial"} if options.trials else set()) | ({"staged"} if options.stage else set()))


def _names(cell: str) -> Any:
    from IPython.core.inputtransformer2 import TransformerManager

    try:
        return names_of_transformed(TransformerManager().transform_cell(cell))  # type: ignore[no-untyped-call]
    except SyntaxError as error:
        raise CannotGo(f"This cell is not Python: {error.msg} in line {error.lineno}") from None


def _refusal(stopped: list[Verdict]) -> str:
    heads = [f"  {v.name} ({v.kind}) — {v.why}\n    cannot go: {v.problem}\n    instead: {v.fix}" for v in stopped]
    return "Nothing was submitted, for these cannot travel:\n" + "\n".join(heads)


def _shared_memory(reached: Mapping[str, Reached]) -> list[str]:
    """Two arrays over the same memory arrive as two arrays: a view never stays one."""
    arrays = [(name, r.value) for name, r in reached.items() if type(r.value).__module__.partition(".")[0] == "numpy"]
    arrays = [(name, value) for name, value in arrays if hasattr(value, "__array_interface__") and value.nbytes]
    if len(arrays) < 2:
        return []
    from numpy import may_share_memory

    return [
        f"{one} and {other} share memory here; in the job they are two arrays"
        for number, (one, first) in enumerate(arrays)
        for other, second in arrays[number + 1 :]
        if first is not second and may_share_memory(first, second)
    ]


def sources(values: Mapping[str, Any]) -> dict[str, str]:
    """The text of the cells that functions and classes among ``values`` came from, by the name in their tracebacks."""
    found = {}
    todo = list(values.values())
    while todo:
        value = todo.pop()
        if isinstance(value, type) and value.__module__ == "__main__":
            todo += list(vars(value).values())
        elif isinstance(value, types.FunctionType):
            name = value.__code__.co_filename
            lines = [] if name in found or Path(name).exists() else linecache.getlines(name)
            if lines:
                found[name] = "".join(lines)
    return found
