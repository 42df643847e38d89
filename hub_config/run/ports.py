"""The public port of ``timeshare up``: chosen, held, and said who else holds it."""

from __future__ import annotations

import errno
import os
import pwd
import random
import socket
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from ...reservations.listening import BACKLOG

PORTS = range(10000, 20000)
"""Below those of servers on the nodes of a batch system as docs/slurm.md has them: one of them may be this machine."""
PATIENCE_S = 3.0
LISTENS = "0A"
"""State TCP_LISTEN in /proc/net/tcp (include/net/tcp_states.h)."""


class PortError(Exception):
    """It cannot be listened on; the text says why and what to do."""


def listen(ip: str, port: int, patience_s: float = PATIENCE_S) -> socket.socket:
    """Listen on a port, for which an earlier holder has ``patience_s`` seconds to go. Raises PortError."""
    until = time.monotonic() + patience_s
    while not port_is_free(ip, port):
        if time.monotonic() > until:
            raise PortError(
                f"port {port} of {ip} is held by {holder(ip, port)}: stop that, or name another port by --port; "
                "people who know the old address would reach whoever listens there"
            )
        time.sleep(0.1)
    made = _socket(ip)
    try:
        made.bind((ip, port))
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise PortError(f"{ip}:{port} cannot be listened on: {error.strerror}") from None
    return made


def port_is_free(ip: str, port: int) -> bool:
    """Raises PortError where it cannot be listened on though nobody else does."""
    with _socket(ip) as probe:
        try:
            probe.bind((ip, port))
        except PermissionError:
            raise PortError(f"port {port} needs root: choose one above 1023") from None
        except (OSError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                return False
            raise PortError(f"{ip}:{port} cannot be listened on: {error}") from None
    return True


def _socket(ip: str) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made


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


def handed_on(given: socket.socket, stated: int | None) -> int:
    """Return the port of a socket that a unit of systemd holds. Raises PortError where ``--port`` names another one."""
    if given.family not in (socket.AF_INET, socket.AF_INET6):
        raise PortError("the socket unit hands on no port: its ListenStream must be such as 127.0.0.1:800")
    port = int(given.getsockname()[1])
    if stated and stated != port:
        raise PortError(
            f"--port is {stated}, and the socket unit listens on port {port}: write the same into both, or leave out "
            "--port; a web server in front that leads to the other one would reach nobody, or somebody else"
        )
    return port


def holder(ip: str, port: int) -> str:
    """Say who keeps ``ip`` from being listened on at a port, as far as this process may know."""
    for uid, inode in _listeners(ip, port):
        try:
            account = pwd.getpwuid(uid).pw_name
        except KeyError:
            account = f"user {uid}"
        pid = _process_with(inode)
        name = _name_of(pid) if pid is not None else None
        return f"a process of {account}" if name is None else f"process {pid} ({name!a}) of {account}"
    return "another process"


def _listeners(ip: str, port: int) -> Iterator[tuple[int, str]]:
    """Yield user and inode of sockets that listen on a port of ``ip``, from proc_net_tcp."""
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if len(fields) <= 9 or fields[3] != LISTENS:
                continue
            address, _, number = fields[1].rpartition(":")
            if int(number, 16) == port and _in_the_way(ip, _address(address)):
                yield int(fields[7]), fields[9]


def _address(text: str) -> IPv4Address | IPv6Address:
    """Read an address of /proc/net/tcp: words of 32 bits, each in the order of this machine."""
    words = [int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8)]
    found = ip_address(b"".join(words))
    return getattr(found, "ipv4_mapped", None) or found


def _in_the_way(ip: str, other: IPv4Address | IPv6Address) -> bool:
    """Whether who listens on ``other`` leaves no room at ``ip``, which may be a name. An address that stands for all
    takes that of the other family too, unless told otherwise."""
    try:
        wanted = ip_address(ip)
    except ValueError:
        return True
    return wanted == other or wanted.is_unspecified or other.is_unspecified


def _name_of(pid: int) -> str | None:
    """Return what a process calls itself; None where it has ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return None


def _process_with(inode: str) -> int | None:
    """Return a process that has a socket open; None where none may be looked into."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if any(os.readlink(place) == f"socket:[{inode}]" for place in (entry / "fd").iterdir()):
                return int(entry.name)
        except OSError:
            continue
    return None


def first_open_port() -> int:
    """Return the first port that accounts without privileges may listen on (ip_sysctl: 1024 unless told otherwise)."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except (OSError, ValueError):
        return 1024


def public_port_advice(port: int, multi_user: bool, first_open: int = 1024) -> str:
    """Return what the admin of a deployment should know about its public port; empty: nothing.

    ``first_open``: the first port that any account may listen on, see ``first_open_port``.
    """
    if not multi_user or port < first_open:
        return ""
    # A web server with TLS on this machine is no cure: it forwards to whoever listens.
    below = f"use a port below {first_open}, also behind a web server of this machine"
    cure = below if first_open > 1 else "let a socket unit of systemd keep the port"
    return (
        f"while timeshare is stopped, any account of this machine can listen on port {port} "
        f"and collect the passwords of people who log in there: {cure}"
    )
