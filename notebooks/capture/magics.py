"""What magics and shell lines in a cell read and write. IPython turns them into calls with plain strings, so their code
is looked for there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from string import Formatter

from .names import Names, names_of_source

_TIMED = re.compile(r"^(?:\s*-\w+(?:\s+\d+)?)*\s*")
_CODE_LINES = frozenset({"time", "timeit", "prun"})
_CODE_CELLS = frozenset({"time", "timeit", "prun", "capture"})
REFUSED = {
    "run": "%run brings names that cannot be seen: import what you need from the file instead",
    "load_ext": "%load_ext changes the kernel: do it in a cell of its own, and keep it out of the batch cell",
    "reload_ext": "%reload_ext changes the kernel: keep it out of the batch cell",
    "autoreload": "%autoreload has no use in a job: take it out of the cell",
    "debug": "%debug waits for somebody at the keyboard: take it out of the cell",
    "pdb": "%pdb waits for somebody at the keyboard: take it out of the cell",
    "load": "%load changes the cell itself: run it here first",
    "macro": "%macro uses your history, which a job does not have",
    "recall": "%recall uses your history, which a job does not have",
    "rerun": "%rerun uses your history, which a job does not have",
    "store": "%store reads your profile: assign the variable before, it travels with the cell",
    "gpu_batch": "a batch cell cannot hand over another one: submit them one after the other",
}
"""Magics that mean nothing in a job, and what to do instead."""


@dataclass(frozen=True)
class CellNames:
    """``names`` of the cell with its magics; ``refused``: why it cannot run as a job, with what to do."""

    names: Names
    refused: tuple[str, ...] = ()


def names_of_transformed(source: str) -> CellNames:
    """Of a cell that IPython has turned into Python (``TransformerManager().transform_cell``). Raises SyntaxError."""
    names = names_of_source(source)
    refused: list[str] = []
    for call in _magic_calls(ast.parse(source)):
        more, why = _of_call(call)
        names |= more
        refused += [why] if why else []
    reads = names.reads - {"get_ipython"}
    return CellNames(Names(reads, names.writes, names.deletes, names.hidden), tuple(dict.fromkeys(refused)))


def _magic_calls(tree: ast.AST) -> Iterator[tuple[str, list[str]]]:
    """The method of each ``get_ipython().method("…")``, and its strings."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Call)
            and isinstance(node.func.value.func, ast.Name)
            and node.func.value.func.id == "get_ipython"
        ):
            texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            yield node.func.attr, texts


def _of_call(call: tuple[str, list[str]]) -> tuple[Names, str]:
    method, texts = call
    if method in ("system", "getoutput") and texts:
        return _of_shell(texts[0]), ""
    if method == "run_line_magic" and len(texts) == 2:
        magic, line = texts
        if magic in REFUSED:
            return Names(), REFUSED[magic]
        return (_of_code(_TIMED.sub("", line)) if magic in _CODE_LINES else _of_shell(line)), ""
    if method == "run_cell_magic" and len(texts) == 3:
        return _of_cell_magic(*texts)
    return Names(), ""


def _of_cell_magic(magic: str, line: str, body: str) -> tuple[Names, str]:
    if magic in REFUSED:
        return Names(), REFUSED[magic]
    if magic not in _CODE_CELLS:
        return _of_shell(line), ""
    names = _of_code(body)
    if magic == "capture" and line.split():
        return names | Names(writes=frozenset(word for word in line.split()[:1] if word.isidentifier())), ""
    return names, ""


def _of_code(source: str) -> Names:
    """Of code in a magic's string; what is no Python there fails when it runs, as it does here."""
    try:
        return names_of_source(source)
    except SyntaxError:
        return Names()


def _of_shell(line: str) -> Names:
    """IPython fills in ``{expression}`` and ``$name``."""
    found = Names(reads=frozenset(re.findall(r"(?<!\$)\$([A-Za-z_]\w*)", line)))
    try:
        fields = [name for _, name, _, _ in Formatter().parse(line) if name]
    except ValueError:  # lone braces: the shell's own
        return found
    for name in fields:
        found |= _of_code(name)
    return found
