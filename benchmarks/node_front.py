"""What the job agent's front costs: bytes through it beside a direct connection to the same server, on this machine.

``python benchmarks/node_front.py [MIB]``. The server is a process of its own that sends and takes what it is asked to.
"""

from __future__ import annotations

import multiprocessing
import socket
import statistics
import sys
import time
from collections.abc import Callable

from timeshare.reservations.jobagent.front import Front

CHUNK = 256 * 1024
ROUNDS = 5


def serve(listener: socket.socket, mib: int) -> None:
    """Answers each connection by its first byte: ``d`` sends so many MiB, ``u`` takes them, ``p`` answers each byte."""
    block = bytes(CHUNK)
    while True:
        connection, _ = listener.accept()
        with connection:
            asked = connection.recv(1)
            if asked == b"d":
                for _ in range(mib * 4):
                    connection.sendall(block)
            elif asked == b"u":
                while connection.recv(CHUNK):
                    pass
                connection.sendall(b"!")
            elif asked == b"p":
                while byte := connection.recv(1):
                    connection.sendall(byte)


def down(end: socket.socket, mib: int) -> None:
    end.sendall(b"d")
    while end.recv(CHUNK):
        pass


def up(end: socket.socket, mib: int) -> None:
    block = bytes(CHUNK)
    end.sendall(b"u")
    for _ in range(mib * 4):
        end.sendall(block)
    end.shutdown(socket.SHUT_WR)
    end.recv(1)


def pings(end: socket.socket, mib: int) -> None:
    end.sendall(b"p")
    for _ in range(1000):
        end.sendall(b"x")
        end.recv(1)


def took(connect: Callable[[], socket.socket], deed: Callable[[socket.socket, int], None], mib: int) -> float:
    with connect() as end:
        began = time.perf_counter()
        deed(end, mib)
        return time.perf_counter() - began


def main() -> None:
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else 512
    front = Front(None, {})
    inside = socket.socket(socket.AF_UNIX)
    inside.bind(front.lead_to(1))
    inside.listen()
    outside = socket.create_server(("127.0.0.1", 0))
    for listener in (inside, outside):
        multiprocessing.Process(target=serve, args=(listener, mib), daemon=True).start()
    ways: dict[str, Callable[[], socket.socket]] = {
        "direct": lambda: socket.create_connection(outside.getsockname()),
        "through the front": lambda: socket.create_connection(("127.0.0.1", front.port)),
    }
    for name, deed in (("down", down), ("up", up), ("1000 round trips", pings)):
        times = {way: [] for way in ways}
        for _ in range(ROUNDS):  # in turn, so that both see the same machine
            for way, connect in ways.items():
                times[way].append(took(connect, deed, mib))
        medians = {way: statistics.median(each) for way, each in times.items()}
        unit = "ms" if deed is pings else "MB/s"
        shown = {w: t * 1000 if deed is pings else mib * 1.048576 / t for w, t in medians.items()}
        ratio = medians["through the front"] / medians["direct"]
        told = ", ".join(f"{way} {value:.0f} {unit}" for way, value in shown.items())
        print(f"{name}: {told} (ratio of times {ratio:.2f})")
    front.close()


if __name__ == "__main__":
    main()
