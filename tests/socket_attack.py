"""Run as another account: what it can do to the sockets in a folder, which is its argument. Prints what succeeded."""

import os
import socket
import sys

folder = sys.argv[1]
NAMES = ("hub", "service", "agent", "proxy-api")


def tried(what: str, name: str) -> None:
    path = f"{folder}/{name}.sock"
    try:
        with socket.socket(socket.AF_UNIX) as mine:
            if what == "removed":
                os.unlink(path)
            elif what == "moved":
                os.rename(path, f"{path}.old")
            elif what == "replaced":
                os.symlink("/tmp", f"{folder}/{name}")
            else:
                (mine.bind if what == "bound" else mine.connect)(path)
        print(what, name)
    except OSError:
        pass


for what in ("removed", "moved", "replaced", "bound", "reached"):
    for name in (*NAMES, "new"):
        tried(what, name)
