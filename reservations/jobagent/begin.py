"""Turns into the server. Run as a script with ``python -I -S begin.py PARENT REPORT_FD CWD PROGRAM [ARGUMENT …]``; its
environment is the server's. What goes wrong is told on REPORT_FD."""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG, SIGKILL = 1, 9
FAILED = 127


def main() -> None:
    parent, report = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(report, False)
    # Without its agent nobody could say what the server does, nor end it: it dies with it.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return  # the agent died before that was arranged
    os.setsid()
    enter_folder(sys.argv[3])
    argv = sys.argv[4:]
    try:
        os.execvp(argv[0], argv)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        os.write(report, f"{argv[0]} cannot be run: {why}".encode(errors="replace")[:500])


def enter_folder(wanted: str) -> None:
    """A folder that is missing is no reason to lose the session: home, or else / is taken, and the log says so."""
    home = os.environ.get("HOME", "/")
    for folder in (wanted or home, home, "/"):
        try:
            os.chdir(folder)
            return
        except OSError as error:
            message = f"timeshare: the working folder {folder} cannot be entered ({error.strerror}); using another\n"
            os.write(2, message.encode(errors="replace"))


if __name__ == "__main__":
    main()
    os._exit(FAILED)
