"""What would travel with a cell, told before it costs anything: for each variable its size, why it goes, and if it
cannot, which part of it, why, and what to do.

Three looks, each finds what the one before cannot: pickling it; reading the stream for names that no job will have;
loading it once in a clean interpreter. Nothing is loaded in the notebook's own process.
"""

from __future__ import annotations

import io
import pickletools
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from . import snapshot
from .attributes import attribute, own
from .reach import Reached
from .rules import Refused
from .trial import load_in_a_clean_process

WARN_BYTES = 10 * 1024 * 1024
DEEPEST = 12


@dataclass(frozen=True)
class Verdict:
    """On one variable. ``size`` in bytes; ``stream`` and ``buffers``: how it was pickled alone, and the sizes of its
    large buffers. ``problem``: why it cannot travel, naming the part; empty when it can. ``fix``: what to do.
    ``modules``: what must be there to load it."""

    name: str
    kind: str
    why: str
    size: int = 0
    problem: str = ""
    fix: str = ""
    modules: tuple[str, ...] = ()
    stream: bytes = b""
    buffers: tuple[int, ...] = ()

    @property
    def goes(self) -> bool:
        return not self.problem


def judge(found: Mapping[str, Reached], main: dict[str, Any]) -> list[Verdict]:
    """On every variable, in the same order. ``main``: the notebook's globals."""
    verdicts = [_pickled(reached, main) for reached in found.values()]
    told = load_in_a_clean_process({v.name: (v.stream, v.buffers) for v in verdicts if v.goes and v.stream})
    return [_with_trial(verdict, told.get(verdict.name, "")) for verdict in verdicts]


def _pickled(reached: Reached, main: dict[str, Any]) -> Verdict:
    value = reached.value
    verdict = Verdict(reached.name, _kind(value), reached.why)
    if isinstance(value, types.ModuleType):
        return replace(verdict, modules=(value.__name__,))
    sizes: list[int] = []
    stream = io.BytesIO()
    try:
        snapshot.dump(value, main, stream, lambda view: sizes.append(view.nbytes))
    except Exception:
        # Whatever somebody's __reduce__ raises: it is found again in the smallest part that fails, and told.
        return _explained(verdict, value, main)
    body = stream.getvalue()
    verdict = replace(verdict, size=len(body) + sum(sizes), stream=body, buffers=tuple(sizes))
    names, modules = _globals_named(body)
    if names:
        problem = f"it would look for {names[0]!r} in the job by its name, where nobody has defined it"
        return replace(verdict, problem=problem, fix="define it inside the cell", stream=b"")
    return replace(verdict, modules=modules)


def _with_trial(verdict: Verdict, error: str) -> Verdict:
    if not error:
        return verdict
    problem = f"it can be written but not read again: {error}"
    return replace(verdict, problem=problem, fix="make it inside the cell, from parts that can travel", stream=b"")


# --- what in it fails


def _explained(verdict: Verdict, value: Any, main: dict[str, Any]) -> Verdict:
    path, error = _culprit(verdict.name, value, main, _failure(value, main), 0)
    where = f"{path}: " if path != verdict.name else ""
    if isinstance(error, Refused):
        return replace(verdict, problem=f"{where}{error.rule.what}, {error.rule.why}", fix=error.rule.fix)
    text = f"{type(error).__name__}: {error}"
    return replace(verdict, problem=f"{where}it cannot be pickled ({text[:200]})", fix="make it inside the cell")


def _failure(value: Any, main: dict[str, Any]) -> Exception | None:
    try:
        snapshot.dump(value, main, io.BytesIO(), lambda view: None)
    except Exception as error:  # of any kind: see above
        return error
    return None


def _culprit(
    path: str, value: Any, main: dict[str, Any], error: Exception | None, depth: int
) -> tuple[str, Exception | None]:
    """The smallest part of ``value`` that fails by itself, as an expression that finds it."""
    itself = isinstance(error, Refused) and error.item is value
    if depth < DEEPEST and not itself:
        for further, part in _parts(path, value):
            found = _failure(part, main)
            if found is not None:
                return _culprit(further, part, main, found, depth + 1)
    return path, error


def _parts(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"{path}[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"{path}[{number}]", part) for number, part in enumerate(value))
    elif isinstance(value, set | frozenset):
        yield from ((f"an item of {path}", part) for part in value)
    elif isinstance(value, types.FunctionType):
        names = value.__code__.co_freevars
        for name, cell in zip(names, value.__closure__ or (), strict=True):
            try:
                yield f"{name} inside {path}", cell.cell_contents
            except ValueError:
                continue
        reads = (name for name in value.__code__.co_names if name in value.__globals__)
        yield from ((f"{name} (used by {path})", value.__globals__[name]) for name in reads)
    elif isinstance(value, types.MethodType):
        yield f"{path}.__self__", value.__self__
    else:
        yield from ((f"{path}.{name}", part) for name, part in own(value).items())


# --- what the stream names


def _globals_named(stream: bytes) -> tuple[list[str], tuple[str, ...]]:
    """Names of ``__main__`` that a stream would look for, and the modules that it would import."""
    missing: list[str] = []
    modules: dict[str, None] = {}
    strings: list[str] = []
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"):
            strings = [*strings[-1:], str(argument)]
        elif opcode.name in ("STACK_GLOBAL", "GLOBAL"):
            parts = str(argument).split(" ", 1) if opcode.name == "GLOBAL" else strings
            if len(parts) == 2:
                module, name = parts
                modules[module] = None
                missing += [name] if module == "__main__" else []
        elif opcode.name == "MEMOIZE":
            continue
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            strings = []  # from the memo: known from before
    return missing, tuple(name for name in modules if name not in ("__main__", "builtins"))


def _kind(value: Any) -> str:
    kind = type(value)
    module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    shape = attribute(value, "shape")
    dimensions = f" {shape}" if isinstance(shape, tuple) and shape else ""
    return f"{module}{kind.__qualname__}{dimensions}"


def report(verdicts: list[Verdict]) -> str:
    """A table for people: what cannot go first, then the largest."""
    rows = sorted(verdicts, key=lambda v: (v.goes, -v.size))
    lines = [
        f"{v.name:20} {v.kind[:28]:28} {size_text(v.size):>9}  {'goes' if v.goes else 'CANNOT GO'}: "
        f"{v.why if v.goes else f'{v.problem}. Instead: {v.fix}'}"
        for v in rows
    ]
    return "\n".join(lines)


def size_text(size: float) -> str:
    """``2048`` -> ``2.0 KiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")
