"""The variables of a notebook as one snapshot: a header in plain JSON, one pickle stream, and large buffers beside it.

One stream for all of them keeps what they share: two names for one array stay two names for one array, an optimizer
keeps the model that it optimizes. Functions of the notebook keep the notebook's own globals: the stream names these as
a whole, and whoever loads it says what they are, so ``global counter`` in a function writes the variable that everybody
reads. What such a function reads is therefore a variable like others, which travels only if it is asked for. The
header tells what wrote the stream and is read, and judged, before anything is unpickled.
"""

from __future__ import annotations

import io
import json
import pickle
import platform
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import cloudpickle

from ..randomness import reduced
from .rules import Refused, rule_for
from .store import Blob, Store
from .tensors import Tensors

FORMAT = 1
OUT_OF_BAND = 1024 * 1024
"""Buffers of this many bytes and more are kept beside the stream, each once for all snapshots."""
THREADS = 4
"""Pieces at a time: while some wait for the disk, others are packed and digested."""
_MAIN = "timeshare: the globals of the notebook"


class VersionMismatch(Exception):
    """What wrote a snapshot is not what would read it; loading it could crash the interpreter."""


@dataclass(frozen=True)
class Header:
    """``python``: major, minor and patch of the writer. ``names``: the variables. ``stream`` and ``buffers``: digest
    and size of each piece."""

    names: tuple[str, ...]
    stream: tuple[str, int]
    buffers: tuple[tuple[str, int], ...]
    python: tuple[int, int, int] = sys.version_info[:3]
    implementation: str = platform.python_implementation()
    cloudpickle: str = cloudpickle.__version__
    format: int = FORMAT

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Header:
        """Raises ValueError for anything but a header."""
        data = json.loads(text)
        if not isinstance(data, dict) or set(data) != set(Header.__dataclass_fields__):
            raise ValueError("this is not the header of a snapshot")
        return Header(
            names=tuple(str(name) for name in data["names"]),
            stream=_piece(data["stream"]),
            buffers=tuple(_piece(piece) for piece in data["buffers"]),
            python=tuple(int(part) for part in data["python"]),  # type: ignore[arg-type]
            implementation=str(data["implementation"]),
            cloudpickle=str(data["cloudpickle"]),
            format=int(data["format"]),
        )


@dataclass(frozen=True)
class Written:
    """What a snapshot came to, in bytes: ``new`` of ``total`` were not in the store before."""

    header: Header
    total: int
    new: int


def write(variables: Mapping[str, Any], main: dict[str, Any], store: Store) -> Written:
    """Keeps ``variables``, whose functions have ``main`` as their globals. Raises what pickling raises."""
    stream = io.BytesIO()
    with ThreadPoolExecutor(THREADS) as pool:
        puts: list[Future[Blob]] = []
        try:
            dump(dict(variables), main, stream, lambda view: puts.append(pool.submit(store.put, view)))
            body = store.put(stream.getbuffer())
            blobs = [put.result() for put in puts]
        except BaseException:  # Ctrl-C too: what was not begun is left
            pool.shutdown(cancel_futures=True)
            raise
    buffers = tuple((blob.digest, blob.size) for blob in blobs)
    header = Header(tuple(variables), (body.digest, body.size), buffers)
    pieces = [*blobs, body]
    return Written(header, sum(p.size for p in pieces), sum(p.size for p in pieces if p.new))


def measure(variables: Mapping[str, Any], main: dict[str, Any], store: Store) -> tuple[int, int]:
    """What ``write`` would come to, in bytes: in all, and new; nothing is kept."""
    sizes: list[tuple[int, bool]] = []
    stream = io.BytesIO()
    dump(dict(variables), main, stream, lambda view: sizes.append((view.nbytes, store.has(view))))
    sizes.append((len(stream.getbuffer()), False))
    return sum(size for size, _ in sizes), sum(size for size, there in sizes if not there)


def read(header: Header, store: Store, main: dict[str, Any]) -> dict[str, Any]:
    """The variables of a snapshot; their functions get ``main`` as their globals. Raises VersionMismatch, Untrusted,
    and what unpickling raises."""
    check_versions(header)
    with ThreadPoolExecutor(THREADS) as pool:
        buffers = list(pool.map(lambda piece: store.get(*piece), header.buffers))
    stream = store.get(*header.stream)
    found: dict[str, Any] = load(io.BytesIO(stream), main, buffers)
    return found


def check_versions(header: Header) -> None:
    """Raises VersionMismatch unless this interpreter may load what ``header`` describes."""
    here = Header((), ("", 0), ())
    if header.format != FORMAT:
        raise VersionMismatch(
            f"this snapshot has format {header.format} and this timeshare reads {FORMAT}: use the other"
        )
    for what, theirs, ours in (
        ("", (header.implementation, header.python[:2]), (here.implementation, here.python[:2])),
        ("cloudpickle ", _minor(header.cloudpickle), _minor(here.cloudpickle)),
    ):
        if theirs != ours:
            message = f"it was written by {what}{_text(theirs)} and this is {_text(ours)}: use the same environment"
            raise VersionMismatch(f"{message}; functions and classes of one crash the other")


def dump(value: object, main: dict[str, Any], file: io.BytesIO, keep: Callable[[memoryview], object] | None) -> None:
    """Pickles ``value`` into ``file``; large buffers are handed to ``keep`` (None: they stay in the stream)."""
    _Pickler(file, main, keep).dump(value)


def load(file: io.BytesIO, main: dict[str, Any], buffers: Iterable[memoryview]) -> Any:
    return _Unpickler(file, main, buffers).load()


class _Globals(dict[str, object]):
    """Stands for the notebook's globals in a stream."""


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO, main: dict[str, Any], keep: Callable[[memoryview], object] | None) -> None:
        super().__init__(file, protocol=5, buffer_callback=None if keep is None else self._offered)
        self._keep = keep
        self._tensors = Tensors()
        self._main = _Globals(main=True)
        self.globals_ref[id(main)] = self._main

    def reducer_override(self, item: object) -> Any:
        """Raises Refused for what must not travel, wherever it is found."""
        rule = rule_for(item)
        if rule is not None:
            raise Refused(item, rule)
        tensor = self._tensors.reduced(item)
        if tensor is not None:
            return tensor
        return reduced(item) or super().reducer_override(item)

    def _dynamic_function_reduce(self, function: types.FunctionType) -> Any:
        """cloudpickle would add the globals that a function reads, and loading it would write them into ours."""
        reduced = super()._dynamic_function_reduce(function)
        if self.globals_ref.get(id(function.__globals__)) is self._main:
            reduced[2][1]["__globals__"] = {}
        return reduced

    def persistent_id(self, item: object) -> str | None:
        return _MAIN if item is self._main else None

    def _offered(self, buffer: pickle.PickleBuffer) -> bool:
        """Whether a buffer stays in the stream."""
        assert self._keep is not None
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if view.nbytes < OUT_OF_BAND:
            return True
        self._keep(view)
        return False


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, main: dict[str, Any], buffers: Iterable[memoryview]) -> None:
        super().__init__(file, buffers=buffers)
        self._main = main

    def persistent_load(self, name: object) -> dict[str, Any]:
        if name != _MAIN:
            raise pickle.UnpicklingError(f"the stream names {name!r}, which is nothing that a snapshot has")
        return self._main


def _piece(given: Any) -> tuple[str, int]:
    digest, size = given
    return str(digest), int(size)


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _text(value: object) -> str:
    if isinstance(value, tuple):
        name, (major, minor) = value
        return f"{name} {major}.{minor}"
    return str(value)
