"""``python -m timeshare.notebooks.runner.launch -f FILE``: the job's kernel. It ends with its runner, however that
ends: nobody would hear what it says any more, and its GPU would be lost."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """From now on this process is killed when ``parent``, which started it, ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it was over before
        sys.exit(1)


if __name__ == "__main__":
    die_with(int(os.environ.pop("TIMESHARE_RUNNER_PID")))
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance()
