"""Becomes one component of a deployment: ``python -I begin.py RECORD SOCKETS -m MODULE …`` or ``… -- PROGRAM …``.

Executed by path, by the supervisor, and imports nothing of timeshare: what runs here runs before anything else may be
found on a path. RECORD is the file in which the process writes down which one it is (see ``leftovers``); SOCKETS the
listening sockets that it inherits, such as ``hub=7`` or ``public=5,proxy-api=9``, empty for none.
"""

from __future__ import annotations

import fcntl
import os
import sys

FIRST = 3
"""The first descriptor that is handed on (sd_listen_fds(3))."""


def record(path: str) -> None:
    """Write pid, start time in clock ticks and boot id, at once or not at all.

    The process itself does so before it is the component: whenever its supervisor is killed, no component runs that
    is not recorded.
    """
    with open("/proc/self/stat", "rb") as file:
        ticks = file.read().rpartition(b")")[2].split()[19].decode()
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    draft = f"{path}.new"
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(f"{os.getpid()} {ticks} {boot}\n")
    os.replace(draft, path)


def hand_on(sockets: str) -> None:
    """Move the inherited sockets to where sd_listen_fds(3) has them, and say so in the environment as systemd does."""
    named = [pair.split("=") for pair in sockets.split(",") if pair]
    # Out of the way first: one may be where another has to be.
    apart = [fcntl.fcntl(int(number), fcntl.F_DUPFD_CLOEXEC, FIRST + 100) for _, number in named]
    for number in {int(number) for _, number in named}:
        os.close(number)
    for place, descriptor in enumerate(apart, FIRST):
        os.dup2(descriptor, place, inheritable=True)
        os.close(descriptor)
    if named:
        os.environ["LISTEN_PID"] = str(os.getpid())
        os.environ["LISTEN_FDS"] = str(len(named))
        os.environ["LISTEN_FDNAMES"] = ":".join(name for name, _ in named)


def main() -> None:
    here, path, sockets, kind, *words = sys.argv
    # Only -I, which leaves out a user's own packages too, keeps Python from putting the folder of this file there.
    folder = os.path.dirname(os.path.abspath(here))
    sys.path[:] = [entry for entry in sys.path if entry not in ("", folder)]
    record(path)
    hand_on(sockets)
    if kind == "--":
        os.execv(words[0], words)
    import runpy

    sys.argv = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
