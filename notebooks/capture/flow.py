"""What code has certainly written when it comes to an instruction: definite assignment over its flow, as a compiler's.

A name that was certainly written before it is read is the cell's own; the notebook's value of it is not needed.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import CodeType

READS = frozenset({"LOAD_NAME", "LOAD_GLOBAL", "LOAD_FROM_DICT_OR_GLOBALS"})
WRITES = frozenset({"STORE_NAME", "STORE_GLOBAL"})
DELETES = frozenset({"DELETE_NAME", "DELETE_GLOBAL"})
_JUMPS = frozenset(dis.hasjrel) | frozenset(dis.hasjabs)
_NEVER_GOES_ON = frozenset(
    {
        "JUMP",
        "JUMP_FORWARD",
        "JUMP_ABSOLUTE",
        "JUMP_BACKWARD",
        "JUMP_BACKWARD_NO_INTERRUPT",
        "RETURN_VALUE",
        "RETURN_CONST",
        "RAISE_VARARGS",
        "RERAISE",
        "INTERPRETER_EXIT",
    }
)
Written = frozenset[str]


def written_before(code: CodeType, known: Written, *, owns_names: bool) -> Iterator[tuple[dis.Instruction, Written]]:
    """Every instruction that can be reached, with the names certainly written before it, ``known`` ones included.

    ``owns_names``: names that it stores are the notebook's (a cell's, a function's globals); not so in a class body.
    """
    steps = list(dis.get_instructions(code))
    after = _successors(code, steps)
    place = {step.offset: number for number, step in enumerate(steps)}
    states: list[Written | None] = [None] * len(steps)
    states[0] = known
    todo = [0]
    while todo:
        number = todo.pop()
        before = states[number]
        assert before is not None
        out = _transferred(steps[number], before, owns_names)
        for offset, raised in after[number]:
            # Whatever an instruction does, it may not have done when it raises.
            state = before & out if raised else out
            target = place[offset]
            seen = states[target]
            merged = state if seen is None else seen & state
            if merged != seen:
                states[target] = merged
                todo.append(target)
    yield from ((step, state) for step, state in zip(steps, states, strict=True) if state is not None)


def _transferred(step: dis.Instruction, before: Written, owns_names: bool) -> Written:
    operation = step.opname
    if operation in WRITES and (owns_names or operation == "STORE_GLOBAL"):
        return before | {step.argval}
    if operation in DELETES and (owns_names or operation == "DELETE_GLOBAL"):
        return before - {step.argval}
    return before


def _successors(code: CodeType, steps: list[dis.Instruction]) -> list[list[tuple[int, bool]]]:
    """For each instruction the offsets that may come next, and whether only by an exception."""
    found: list[list[tuple[int, bool]]] = []
    # From 3.11 on a table says which instructions a handler guards; before, an instruction jumps there when it begins.
    guards = [(e.start, e.end, e.target) for e in getattr(dis.Bytecode(code), "exception_entries", ())]
    for number, step in enumerate(steps):
        here: list[tuple[int, bool]] = []
        if step.opname not in _NEVER_GOES_ON and number + 1 < len(steps):
            here.append((steps[number + 1].offset, False))
        if step.opcode in _JUMPS:
            here.append((step.argval, False))
        here += [(target, True) for start, end, target in guards if start <= step.offset < end]
        found.append(here)
    return found
