"""Pieces that compress well are written compressed: most data of detectors and simulations has far fewer bits in it
than bytes, and a disk takes fewer bytes sooner.

A packed file is a head (magic, bytes of the piece, bytes of the file) and frames of Blosc, each of which says its own
sizes and may have its bytes as they were. How a piece is packed is tried on parts of it first: what would not become
much smaller is written as it is, for random bits cost time and save nothing.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from functools import cache

import blosc

FRAME = 4 * 1024 * 1024
"""Bytes of a piece in one frame."""
WORTH = 1.5
"""A piece that would not shrink by this factor is written as it is."""
_HEAD = struct.Struct("<8sQQ")
HEAD_SIZE = _HEAD.size
_MAGIC = b"tspack\0\1"
_PARTS, _PART = 8, 32 * 1024
"""How many parts, of how many bytes, are tried."""
_LEVEL, _CODEC = 1, "lz4"
_FRAME_HEAD = 16
"""Bytes of a Blosc frame before its data; its sizes are in them."""

# Two pieces are packed at a time, and the notebook's other threads go on.
blosc.set_releasegil(True)


class Damaged(ValueError):
    """What was read is no packed piece, or not a whole one."""


@dataclass(frozen=True)
class Packing:
    """``element``: bytes of a number, whose first, second … bytes (or bits, by ``shuffle``) are brought together."""

    element: int
    shuffle: int

    def packed(self, data: memoryview | bytes) -> bytes:
        """One frame, of at most FRAME bytes of a piece."""
        return bytes(blosc.compress(data, self.element, _LEVEL, self.shuffle, _CODEC))


# Whole bytes are the faster to bring together: they are tried first, and kept unless bits are clearly better.
_KINDS = [Packing(element, shuffle) for shuffle in (blosc.SHUFFLE, blosc.BITSHUFFLE) for element in (4, 8, 2)]
_CLEARLY = 1.1


def choose(view: memoryview) -> Packing | None:
    """How ``view`` (bytes) becomes smallest, or None if that is not worth it."""
    step = max(view.nbytes // _PARTS, _PART) // 8 * 8
    sample = b"".join(view[begin : begin + _PART] for begin in range(0, step * _PARTS, step))
    best, least = None, len(sample) / WORTH
    for kind in _KINDS:
        size = len(kind.packed(sample))
        if size * _CLEARLY < least or (best is None and size < least):
            best, least = kind, float(size)
    return best


@cache
def as_it_is(size: int) -> bytes:
    """What makes a frame of the ``size`` bytes that follow it, at most FRAME."""
    return bytes(blosc.compress(bytes(size), 1, 0, blosc.NOSHUFFLE, _CODEC)[:_FRAME_HEAD])


def head(size: int, stored: int) -> bytes:
    """Begins a file of ``stored`` bytes, itself included, with a piece of ``size`` bytes."""
    return _HEAD.pack(_MAGIC, size, stored)


def sizes(begin: bytes) -> tuple[int, int]:
    """Bytes of the piece and of its file, from what the file begins with. Raises Damaged."""
    if len(begin) < HEAD_SIZE:
        raise Damaged("it ends within its head")
    magic, size, stored = _HEAD.unpack(begin[:HEAD_SIZE])
    if magic != _MAGIC:
        raise Damaged("it does not begin as a packed piece does")
    return size, stored


def unpack(file: memoryview, size: int) -> memoryview:
    """The piece of ``size`` bytes in a packed ``file``, as memory of our own. Raises Damaged."""
    found, stored = sizes(bytes(file[:HEAD_SIZE]))
    if found != size or stored != file.nbytes:
        raise Damaged(f"it has {file.nbytes} bytes for {found} and should have {stored} for {size}")
    whole = memoryview(mmap.mmap(-1, size))
    at, done = HEAD_SIZE, 0
    while done < size:
        frame = _frame(file, at)
        try:
            data = blosc.decompress(frame)
        except Exception as error:  # Blosc raises its own kind for each fault
            raise Damaged(f"the frame at byte {at} cannot be unpacked ({error})") from None
        if len(data) > size - done:
            raise Damaged(f"it has more than {size} bytes in it")
        whole[done : done + len(data)] = data
        at, done = at + len(frame), done + len(data)
    return whole


def _frame(file: memoryview, at: int) -> bytes:
    head = bytes(file[at : at + _FRAME_HEAD])
    if len(head) < _FRAME_HEAD:
        raise Damaged(f"it ends at byte {file.nbytes}, within a frame")
    content, packed, _ = blosc.get_cbuffer_sizes(head)
    if not (_FRAME_HEAD <= packed <= file.nbytes - at and 0 < content <= FRAME):
        raise Damaged(f"the frame at byte {at} cannot have {packed} bytes for {content}")
    return bytes(file[at : at + packed])
