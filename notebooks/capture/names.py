"""Which names of the notebook a cell reads and writes: read from its bytecode, without running it.

Bytecode is what runs, so nothing is misjudged that an own reading of the source would have to follow: ``x += 1`` is a
read and a write, a comprehension's variable is neither, ``global`` in a nested function is a write of the notebook's
name. When it is unsure whether a read comes after a write of the same cell, it counts as a read: to send too much is
dear, to send too little is wrong.
"""

from __future__ import annotations

import ast
import dis
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from inspect import CO_OPTIMIZED
from types import CodeType

from .flow import DELETES, READS, WRITES, Written, written_before

_HIDING = {"eval": "eval()", "exec": "exec()", "globals": "globals()", "locals": "locals()", "vars": "vars()"}
_TEXT_READERS = frozenset({"query", "eval"})
"""Methods, of data frames above all, whose text names variables as ``@name``."""


@dataclass(frozen=True)
class Names:
    """``reads``, ``writes`` and ``deletes`` of the notebook's names. ``hidden``: what in the code may use names that
    cannot be seen, such as ``eval()``."""

    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    deletes: frozenset[str] = frozenset()
    hidden: tuple[str, ...] = ()

    def __or__(self, other: Names) -> Names:
        hidden = tuple(dict.fromkeys((*self.hidden, *other.hidden)))
        return Names(self.reads | other.reads, self.writes | other.writes, self.deletes | other.deletes, hidden)


def names_of_source(source: str, filename: str = "<cell>") -> Names:
    """Of Python source as a cell has it (top-level ``await`` included). Raises SyntaxError."""
    code = compile(source, filename, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    return names_of_code(code)


def names_of_code(code: CodeType) -> Names:
    """Of compiled code: a cell's, or a function's, which then reads and writes the globals of its module."""
    walk = _Walk()
    walk.enter(code, frozenset(), outermost=True)
    return Names(
        frozenset(filter(_is_users, walk.reads)),
        frozenset(filter(_is_users, walk.writes)),
        frozenset(filter(_is_users, walk.deletes)),
        tuple(dict.fromkeys(walk.hidden)),
    )


def _is_users(name: str) -> bool:
    return not (name.startswith("__") and name.endswith("__"))


@dataclass
class _Walk:
    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    deletes: set[str] = field(default_factory=set)
    hidden: list[str] = field(default_factory=list)

    def enter(self, code: CodeType, known: Written, *, outermost: bool = False) -> None:
        """``known``: names that the cell has certainly written when this code is made."""
        owns_names = outermost or bool(code.co_flags & CO_OPTIMIZED)
        for instruction, written in written_before(code, known, owns_names=owns_names):
            self._one(instruction, written, owns_names)
        self._texts(code)

    def _one(self, instruction: dis.Instruction, written: Written, owns_names: bool) -> None:
        name, operation = instruction.argval, instruction.opname
        if operation in READS or (operation in DELETES and owns_names):
            if name not in written:
                self.reads.add(name)
            if name in _HIDING:
                self.hidden.append(_HIDING[name])
        if operation == "STORE_GLOBAL" or (operation in WRITES and owns_names):
            self.writes.add(name)
        elif operation == "DELETE_GLOBAL" or (operation in DELETES and owns_names):
            self.deletes.add(name)
        elif operation == "IMPORT_STAR" or (operation == "CALL_INTRINSIC_1" and instruction.argrepr.endswith("STAR")):
            self.hidden.append("import *")
        elif isinstance(name, CodeType):
            self.enter(name, written)

    def _texts(self, code: CodeType) -> None:
        if _TEXT_READERS.isdisjoint(code.co_names):
            return
        for text in _strings(code.co_consts):
            self.reads.update(re.findall(r"@([A-Za-z_]\w*)", text))


def _strings(constants: Iterable[object]) -> Iterator[str]:
    for constant in constants:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, tuple):
            yield from _strings(constant)
