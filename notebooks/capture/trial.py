"""Loads pickles in a clean interpreter and tells which fail there: some are written without complaint and can never be
read, and one of another version can crash whoever tries.

Run as a module it is that interpreter. It speaks lengths and JSON over its own pipes; large buffers are stood in for by
zeros of their size, for only the way back is tried, not the values.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Mapping
from typing import IO

LONGEST_S = 60.0
_LENGTH = struct.Struct(">Q")
Pickled = tuple[bytes, tuple[int, ...]]
"""A stream, and the sizes of the buffers beside it."""


def load_in_a_clean_process(pickles: Mapping[str, Pickled]) -> dict[str, str]:
    """Why each of ``pickles`` cannot be loaded, by name; those that can are not in it."""
    left = dict(pickles)
    errors: dict[str, str] = {}
    while left:
        told = _tried(left)
        errors.update({name: error for name, error in told.items() if error})
        crashed = next((name for name in left if name not in told), None)
        if crashed is None:
            break
        # It took the interpreter with it, or too long: the ones after it are tried by a fresh one.
        errors[crashed] = "the interpreter that tried it did not come back"
        names = list(left)
        left = {name: left[name] for name in names[names.index(crashed) + 1 :]}
    return errors


def _tried(pickles: Mapping[str, Pickled]) -> dict[str, str]:
    """What a child says of each, as far as it came."""
    # It begins in /, because -m looks for Python's own modules in the working folder, and then goes to ours.
    words = [sys.executable, "-m", __name__, os.getcwd(), *(["local"] if "" in sys.path else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path if path)}
    pipe = subprocess.PIPE
    child = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment, cwd="/")
    request = b"".join(_framed(name, *pickled) for name, pickled in pickles.items())
    try:
        output, _ = child.communicate(request, timeout=LONGEST_S)
    except subprocess.TimeoutExpired:
        child.kill()
        output, _ = child.communicate()
    return dict(json.loads(line) for line in output.splitlines())


def _framed(name: str, stream: bytes, buffers: tuple[int, ...]) -> bytes:
    head = json.dumps([name, buffers]).encode()
    return _LENGTH.pack(len(head)) + head + _LENGTH.pack(len(stream)) + stream


def _frames(source: IO[bytes]) -> list[tuple[str, tuple[int, ...], bytes]]:
    found = []
    while length := source.read(_LENGTH.size):
        name, buffers = json.loads(source.read(_LENGTH.unpack(length)[0]))
        found.append((name, tuple(buffers), source.read(_LENGTH.unpack(source.read(_LENGTH.size))[0])))
    return found


def main() -> None:
    """Reads all, loads one after the other, and says after each how it went."""
    from .snapshot import load

    sys.path[:] = [*([""] if "local" in sys.argv[2:] else []), *(path for path in sys.path if path != "/")]
    os.chdir(sys.argv[1])

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what is loaded may print
    for name, buffers, stream in _frames(sys.stdin.buffer):
        error = ""
        try:
            load(io.BytesIO(stream), {"__name__": "__main__"}, [memoryview(mmap.mmap(-1, size)) for size in buffers])
        except BaseException as failure:  # whatever somebody's code raises is what is asked for
            error = f"{type(failure).__name__}: {failure}"[:300]
        answers.write(json.dumps([name, error]) + "\n")


if __name__ == "__main__":
    main()
