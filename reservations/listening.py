"""Listening sockets that a process inherits instead of opening them itself, by the protocol of sd_listen_fds(3).

Who holds such a socket for the whole life of a deployment (``timeshare up``, or a socket unit of systemd) leaves no
moment in which another account could listen in its place, and connections wait while a component is restarted.
"""

from __future__ import annotations

import functools
import os
import socket

FIRST = 3
BACKLOG = 4096
"""Connections that wait until a component that is being restarted takes them; the kernel has a bound of its own
(net.core.somaxconn, 4096 since Linux 5.4)."""


def inherited(name: str) -> socket.socket | None:
    """Return the listening socket that was handed to this process as ``name``; None when there is none."""
    return _inherited().get(name)


@functools.cache
def _inherited() -> dict[str, socket.socket]:
    """Return all of them. They are not passed on to children, nor is what the environment says of them."""
    pid, count, names = (os.environ.pop(f"LISTEN_{what}", "") for what in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()) or not count.isdigit():
        return {}
    found = {}
    for descriptor, name in zip(range(FIRST, FIRST + int(count)), names.split(":"), strict=False):
        os.set_inheritable(descriptor, False)
        found[name] = socket.socket(fileno=descriptor)
        found[name].setblocking(False)
    return found
