"""Acts on files as an account of the machine, so that root's rights open nothing that the account could not."""

from __future__ import annotations

import ctypes
import os
import platform
import pwd
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
LIBC = ctypes.CDLL(None, use_errno=True)
_SETGROUPS = {"x86_64": 116, "aarch64": 159, "ppc64le": 81}
"""Numbers of setgroups(2): the C library's own function changes all threads of a process, the system call only its
caller. setfsuid(2) and setfsgid(2) are the caller's alone anyway."""


def as_account(user: str | None, act: Callable[[int], T]) -> T:
    """Return what ``act``, given the account's user id, returns with the account's rights to files; None: our own.

    It runs in a thread of its own, which ends with it: nothing has to be set back. Raises what ``act`` raises, KeyError
    when there is no such account, OSError when its rights cannot be taken on.
    """
    if user is None or os.geteuid() != 0:
        return act(os.geteuid() if user is None else pwd.getpwnam(user).pw_uid)
    account = pwd.getpwnam(user)
    groups = os.getgrouplist(user, account.pw_gid)
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            _take_on(account, groups)
            results.append(act(account.pw_uid))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="account", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _take_on(account: pwd.struct_passwd, groups: list[int]) -> None:
    """The rest of this thread's life it reaches the files that the account reaches. Raises OSError."""
    number = _SETGROUPS.get(platform.machine())
    if number is None:
        raise OSError(f"the rights of another account cannot be taken on: {platform.machine()} is not known here")
    numbers = (ctypes.c_uint32 * len(groups))(*groups)
    if LIBC.syscall(ctypes.c_long(number), ctypes.c_long(len(groups)), numbers) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    LIBC.setfsgid(account.pw_gid)
    LIBC.setfsuid(account.pw_uid)  # also gives up the right to pass over permissions: see capabilities(7)
    if LIBC.setfsuid(-1) != account.pw_uid or LIBC.setfsgid(-1) != account.pw_gid:
        raise OSError("the rights of another account cannot be taken on")
