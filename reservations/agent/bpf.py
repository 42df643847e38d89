"""A device filter for a cgroup of version 2: a tiny eBPF program, loaded and attached by system calls.

Sources: bpf(2); linux/bpf.h for numbers and layouts (BPF_PROG_TYPE_CGROUP_DEVICE, struct bpf_cgroup_dev_ctx).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Sequence
from pathlib import Path

_SYSCALL = {"x86_64": 321, "aarch64": 280}
_LOAD, _ATTACH = 5, 8
_TYPE_CGROUP_DEVICE, _CGROUP_DEVICE = 15, 6
_ALLOW_MULTI = 2
_CHARACTER = 2  # BPF_DEVCG_DEV_CHAR

_LOAD_WORD, _JUMP_NOT_EQUAL, _MOVE, _AND, _EXIT = 0x61, 0x55, 0xB7, 0x57, 0x95


def _instruction(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", code, dst | src << 4, off, imm)


def deny_program(denied: Sequence[tuple[int, int]]) -> bytes:
    """Refuses the character devices (major, minor) of ``denied`` and allows all others."""
    # The context: access_type (its low half is the device type), major, minor; each 32 bits.
    code = [
        _instruction(_LOAD_WORD, 2, 1, 0),
        _instruction(_AND, 2, imm=0xFFFF),
        _instruction(_LOAD_WORD, 3, 1, 4),
        _instruction(_LOAD_WORD, 4, 1, 8),
    ]
    for major, minor in denied:
        code += [
            _instruction(_JUMP_NOT_EQUAL, 2, off=4, imm=_CHARACTER),
            _instruction(_JUMP_NOT_EQUAL, 3, off=3, imm=major),
            _instruction(_JUMP_NOT_EQUAL, 4, off=2, imm=minor),
            _instruction(_MOVE, 0, imm=0),
            _instruction(_EXIT),
        ]
    code += [_instruction(_MOVE, 0, imm=1), _instruction(_EXIT)]
    return b"".join(code)


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


def attach_filter(folder: Path, denied: Sequence[tuple[int, int]]) -> None:
    """Attaches the filter to the cgroup ``folder``; the kernel keeps it as long as the cgroup. Raises OSError."""
    program = deny_program(denied)
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
