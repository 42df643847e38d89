"""``cuda_keeper.py MIB FOLDER``: holds MIB of GPU memory with known content, counts in ``beat`` as long as it runs, and
for each file ``ask.N`` writes ``hash.N``: the digest of all that it holds, read from the GPU.

CUDA's driver API by ctypes, so that nothing has to be installed for it. In ``ready`` stands how fast a plain copy from
the device is.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
import time
from pathlib import Path

from blake3 import blake3

BLOCK = 64 * 1024 * 1024
COPIED = 16


def call(name: str, *arguments: object) -> None:
    code = getattr(CUDA, name)(*arguments)
    if code:
        sys.exit(f"{name} failed with {code}")


def fill(blocks: list[ctypes.c_uint64], host: ctypes.c_void_p) -> None:
    """Random bytes, and in front of each block its number."""
    content = os.urandom(BLOCK)
    ctypes.memmove(host, content, BLOCK)
    for number, block in enumerate(blocks):
        call("cuMemcpyHtoD_v2", block, host, ctypes.c_size_t(BLOCK))
        call("cuMemsetD32_v2", block, ctypes.c_uint(number), ctypes.c_size_t(1))


def digest(blocks: list[ctypes.c_uint64], host: ctypes.c_void_p) -> str:
    found = blake3(max_threads=blake3.AUTO)
    view = (ctypes.c_char * BLOCK).from_address(host.value or 0)
    for block in blocks:
        call("cuMemcpyDtoH_v2", host, block, ctypes.c_size_t(BLOCK))
        found.update(view)
    return found.hexdigest()


def copy_gb_s(blocks: list[ctypes.c_uint64], host: ctypes.c_void_p) -> float:
    """Of pinned memory."""
    began = time.monotonic()
    for number in range(COPIED):
        call("cuMemcpyDtoH_v2", host, blocks[number % len(blocks)], ctypes.c_size_t(BLOCK))
    return COPIED * BLOCK / 1e9 / (time.monotonic() - began)


def beat(folder: Path) -> None:
    number = 0
    while True:
        number += 1
        (folder / "beat.new").write_text(str(number))
        (folder / "beat.new").replace(folder / "beat")
        time.sleep(0.1)


def main() -> None:
    size, folder = int(sys.argv[1]) * 1024 * 1024, Path(sys.argv[2])
    device, context, host = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuCtxCreate_v2", ctypes.byref(context), 0, device)
    call("cuMemAllocHost_v2", ctypes.byref(host), ctypes.c_size_t(BLOCK))
    blocks = [ctypes.c_uint64() for _ in range(size // BLOCK)]
    for block in blocks:
        call("cuMemAlloc_v2", ctypes.byref(block), ctypes.c_size_t(BLOCK))
    fill(blocks, host)
    threading.Thread(target=beat, args=(folder,), daemon=True).start()
    told = {"hash": digest(blocks, host), "copy_gb_s": copy_gb_s(blocks, host)}
    (folder / "ready.new").write_text(json.dumps(told))
    (folder / "ready.new").replace(folder / "ready")
    answered = 0
    while True:
        if (folder / f"ask.{answered}").exists():
            (folder / "hash.new").write_text(digest(blocks, host))
            (folder / "hash.new").replace(folder / f"hash.{answered}")
            answered += 1
        time.sleep(0.05)


CUDA = ctypes.CDLL("libcuda.so.1")

if __name__ == "__main__":
    main()
