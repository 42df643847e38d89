"""What never travels, though some of it pickles: by type, with what to do instead."""

from __future__ import annotations

import functools
import io
import os
import sys
import tempfile
import types
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """``what`` it is, ``why`` it cannot travel and the ``fix``, in words."""

    what: str
    why: str
    fix: str


class Refused(Exception):
    """``item`` may not travel, by ``rule``."""

    def __init__(self, item: object, rule: Rule) -> None:
        super().__init__(f"{rule.what}: {rule.why}; {rule.fix}")
        self.item, self.rule = item, rule


GENERATOR = Rule(
    "a generator", "it stands in the middle of running code", "make it inside the cell, or list() it first"
)
LOCK = Rule("a lock", "it guards threads of this process", "make it inside the cell")
THREAD = Rule("a thread or pool", "it runs in this process", "start it inside the cell")
FILE = Rule("an open file", "only this process has it open", "open it by its path inside the cell")
CONNECTION = Rule("an open connection", "its other end knows this process only", "connect inside the cell")
PROCESS = Rule("a process", "it is a child of this one", "start it inside the cell")
STREAM = Rule(
    "an output stream of this kernel", "the job has streams of its own", "use print() or sys.stdout in the cell"
)
ENVIRONMENT = Rule(
    "os.environ", "it holds this session's secrets", "copy the entries that you need: dict(key=os.environ[...])"
)
VIEW = Rule(
    "a memoryview", "it would arrive as a copy of another type", "send bytes(view), or the object that it views"
)
FOLDER = Rule("a temporary folder", "it goes when this process does", "make it inside the cell, or send its path")
CACHED = Rule(
    "a function with a cache",
    "it would be looked for by name and not found",
    "send function.__wrapped__, or decorate in the cell",
)
WEAK = Rule("a weak reference", "what it refers to stays here", "send the object itself")
RUNNING = Rule("a part of running code", "it belongs to this interpreter", "leave it out")
SHELL = Rule("the notebook's shell", "the job has one of its own", "use get_ipython() in the cell")

_BY_TYPE: tuple[tuple[Any, Rule], ...] = (
    ((types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType), GENERATOR),
    ((types.FrameType, types.TracebackType), RUNNING),
    (memoryview, VIEW),
    (tempfile.TemporaryDirectory, FOLDER),
    (functools._lru_cache_wrapper, CACHED),
)
_BY_NAME = {
    ("_thread", "lock"): LOCK,
    ("_thread", "RLock"): LOCK,
    ("threading", "Event"): LOCK,
    ("threading", "Condition"): LOCK,
    ("threading", "Semaphore"): LOCK,
    ("threading", "Barrier"): LOCK,
    ("threading", "Thread"): THREAD,
    ("_thread", "_local"): THREAD,
    ("concurrent.futures.thread", "ThreadPoolExecutor"): THREAD,
    ("concurrent.futures.process", "ProcessPoolExecutor"): THREAD,
    ("concurrent.futures._base", "Future"): THREAD,
    ("multiprocessing.pool", "Pool"): THREAD,
    ("_asyncio", "Task"): THREAD,
    ("_asyncio", "Future"): THREAD,
    ("socket", "socket"): CONNECTION,
    ("ssl", "SSLContext"): CONNECTION,
    ("sqlite3", "Connection"): CONNECTION,
    ("sqlite3", "Cursor"): CONNECTION,
    ("requests.sessions", "Session"): CONNECTION,
    ("subprocess", "Popen"): PROCESS,
    ("weakref", "ReferenceType"): WEAK,
    ("weakref", "WeakKeyDictionary"): WEAK,
    ("weakref", "WeakValueDictionary"): WEAK,
    ("weakref", "WeakSet"): WEAK,
    ("_weakrefset", "WeakSet"): WEAK,
    ("_contextvars", "ContextVar"): RUNNING,
    ("_contextvars", "Context"): RUNNING,
    ("tqdm.std", "tqdm"): Rule("a progress bar", "it draws on this kernel's output", "make it inside the cell"),
}


def rule_for(item: object) -> Rule | None:
    """Why ``item`` may not travel; None when nothing is known against it."""
    if item is os.environ or item is os.environb:
        return ENVIRONMENT
    if item is sys.stdout or item is sys.stderr or item is sys.stdin:
        return STREAM
    for kinds, rule in _BY_TYPE:
        if isinstance(item, kinds):
            return rule
    if isinstance(item, io.IOBase) and not isinstance(item, io.BytesIO | io.StringIO):
        return FILE
    for kind in type(item).__mro__:
        found = _BY_NAME.get((kind.__module__, kind.__qualname__))
        if found is not None:
            return found
    if any(kind.__qualname__ == "InteractiveShell" for kind in type(item).__mro__):
        return SHELL
    return None
