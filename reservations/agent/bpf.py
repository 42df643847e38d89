"""A device filter for a cgroup of version 2: a tiny eBPF program, loaded and attached by system calls.

Sources: bpf(2); linux/bpf.h for numbers and layouts (BPF_PROG_TYPE_CGROUP_DEVICE, struct bpf_cgroup_dev_ctx).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

_SYSCALL = {"x86_64": 321, "aarch64": 280}
_LOAD, _ATTACH = 5, 8
_TYPE_CGROUP_DEVICE, _CGROUP_DEVICE = 15, 6
_ALLOW_MULTI = 2
_CHARACTER = 2  # BPF_DEVCG_DEV_CHAR

_LOAD_WORD, _JUMP_NOT_EQUAL, _MOVE, _AND, _EXIT = 0x61, 0x55, 0xB7, 0x57, 0x95


def _instruction(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", code, dst | src << 4, off, imm)


def device_program(
    denied: Iterable[tuple[int, int]], allowed: Iterable[tuple[int, int]] = (), majors: Iterable[int] = ()
) -> bytes:
    """Allows the character devices (major, minor) of ``allowed``, refuses those of ``denied`` and all others of
    ``majors``, and allows everything else."""
    # The context: access_type (its low half is the device type), major, minor; each 32 bits.
    code = [
        _instruction(_LOAD_WORD, 2, 1, 0),
        _instruction(_AND, 2, imm=0xFFFF),
        _instruction(_LOAD_WORD, 3, 1, 4),
        _instruction(_LOAD_WORD, 4, 1, 8),
    ]
    for verdict, numbers in ((1, allowed), (0, denied)):
        for major, minor in numbers:
            code += _answer(verdict, ((2, _CHARACTER), (3, major), (4, minor)))
    for major in majors:
        code += _answer(0, ((2, _CHARACTER), (3, major)))
    code += [_instruction(_MOVE, 0, imm=1), _instruction(_EXIT)]
    return b"".join(code)


def _answer(verdict: int, conditions: Sequence[tuple[int, int]]) -> list[bytes]:
    """Ends with ``verdict`` when every register of ``conditions`` has its value; else goes on behind."""
    last = len(conditions) + 1
    code = [_instruction(_JUMP_NOT_EQUAL, register, off=last - i, imm=v) for i, (register, v) in enumerate(conditions)]
    return [*code, _instruction(_MOVE, 0, imm=verdict), _instruction(_EXIT)]


def _bpf(command: int, attributes: bytes) -> int:
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(f"no eBPF call is known for {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = int(libc.syscall(ctypes.c_long(number), command, buffer, len(attributes)))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def attach_filter(folder: Path, program: bytes) -> None:
    """Attaches ``program`` to the cgroup ``folder``; the kernel keeps it as long as the cgroup. Raises OSError."""
    code = ctypes.create_string_buffer(program, len(program))
    licence = ctypes.create_string_buffer(b"GPL")
    load = struct.pack(
        "<IIQQIIQII",
        _TYPE_CGROUP_DEVICE,
        len(program) // 8,
        ctypes.addressof(code),
        ctypes.addressof(licence),
        *(0,) * 5,
    )
    program_fd = _bpf(_LOAD, load)
    try:
        cgroup_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _bpf(_ATTACH, struct.pack("<IIII", cgroup_fd, program_fd, _CGROUP_DEVICE, _ALLOW_MULTI))
        finally:
            os.close(cgroup_fd)
    finally:
        os.close(program_fd)
