"""Ports for what ``timeshare up`` starts."""

from __future__ import annotations

import errno
import random
import socket

PORTS = range(10000, 20000)
"""Below those of servers on the nodes of a batch system as docs/slurm.md has them: one of them may be this machine."""


class PortError(Exception):
    """It cannot be listened on; the text says why and what to do."""


def port_is_free(ip: str, port: int) -> bool:
    """Raises PortError where it cannot be listened on though nobody else does."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
        except PermissionError:
            raise PortError(f"port {port} needs root: choose one above 1023") from None
        except (OSError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                return False
            raise PortError(f"{ip}:{port} cannot be listened on: {error}") from None
    return True


def free_port(ip: str, taken: set[int]) -> int:
    """Below those that Linux gives to connections and to whoever asks for any: what is started again, days later, finds
    its port still free. Any where all of these are taken. Raises PortError for an ``ip`` that is not this machine's."""
    found = (port for port in random.sample(PORTS, len(PORTS)) if port not in taken and port_is_free(ip, port))
    return next(found, None) or _any_port(ip, taken)


def _any_port(ip: str, taken: set[int]) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind((ip, 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port
