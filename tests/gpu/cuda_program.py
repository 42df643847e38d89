"""``cuda_program.py MIB LOG``: holds MIB of GPU memory, and checks over and over that it holds what was written there.

CUDA's driver API by ctypes, so that nothing has to be installed for it.
"""

from __future__ import annotations

import ctypes
import sys
import time

CHECKED = 1024


def main() -> None:
    size, log = int(sys.argv[1]) * 1024 * 1024, open(sys.argv[2], "w", buffering=1)  # noqa: SIM115
    cuda = ctypes.CDLL("libcuda.so.1")

    def call(name: str, *arguments: object) -> None:
        code = getattr(cuda, name)(*arguments)
        if code:
            log.write(f"{name} failed with {code}\n")
            sys.exit(1)

    device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuCtxCreate_v2", ctypes.byref(context), 0, device)
    call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(size))
    log.write("allocated\n")
    for number in range(100_000):
        call("cuMemsetD32_v2", memory, ctypes.c_uint(number), ctypes.c_size_t(size // 4))
        found = (ctypes.c_uint * CHECKED)()
        call("cuMemcpyDtoH_v2", found, memory, ctypes.c_size_t(4 * CHECKED))
        log.write(f"checked {number}\n" if set(found) == {number} else "WRONG\n")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
