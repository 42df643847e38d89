"""Run as another account: what it can do to a deployment's sockets, again and again until its input ends.

Arguments: the folder of the sockets, the public address and port. Prints each thing that succeeded once, and whatever
was sent to a socket that it could listen on.
"""

import contextlib
import os
import select
import socket
import sys

FOLDER, IP, PORT = sys.argv[1], sys.argv[2], int(sys.argv[3])
NAMES = ("hub", "service", "agent", "proxy-api", "new")
seen: set[str] = set()
taken: list[socket.socket] = []
rounds = 0


def tried(what: str, name: str) -> None:
    path = f"{FOLDER}/{name}.sock"
    mine = socket.socket(socket.AF_UNIX)
    try:
        if what == "removed":
            os.unlink(path)
        elif what == "moved":
            os.rename(path, f"{path}.old")
        elif what == "replaced":
            os.symlink("/tmp", f"{FOLDER}/{name}")
        elif what == "bound":
            mine.bind(path)
            taken.append(mine)
        else:
            mine.connect(path)
            if name == "agent":  # it would tell everything, and asks who is there only then
                mine.sendall(b'{"method": "inventory"}\n')
                what += mine.recv(100).decode()
        tell(f"{what} {name}")
    except OSError:
        pass
    if mine not in taken:
        mine.close()


def tried_port() -> None:
    for option in (None, socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        mine = socket.socket()
        try:
            if option is not None:
                mine.setsockopt(socket.SOL_SOCKET, option, 1)
            mine.bind((IP, PORT))
            mine.listen()
            tell("bound the public port")
            taken.append(mine)
        except OSError:
            mine.close()


def heard() -> None:
    for listening in select.select(taken, [], [], 0)[0]:
        with contextlib.suppress(OSError):
            tell(f"was told {listening.accept()[0].recv(10000)!r}")


def tell(text: str) -> None:
    if text not in seen:
        seen.add(text)
        print(text, flush=True)


while True:
    for what in ("removed", "moved", "replaced", "bound", "reached"):
        for name in NAMES:
            tried(what, name)
    tried_port()
    heard()
    rounds += 1
    if select.select([sys.stdin], [], [], 0)[0]:
        break
print(f"{rounds} rounds", flush=True)
