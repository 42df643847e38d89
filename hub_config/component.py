"""Becomes one process of a deployment: ``python -I -m timeshare.hub_config.component NAME``.

For the units of systemd in ``systemd/``, which hold the listening sockets and hand them on as sd_listen_fds(3) has it:
nothing is forked, so pid and descriptors stay those that systemd speaks of. ``timeshare up`` supervises the same.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ..reservations.deployment import DeploymentError, current_deployment
from .up import components


def command(argv: Sequence[str]) -> list[str]:
    """Return the words to execute. ``argv`` is a program by its path, or a module with its arguments."""
    return list(argv) if os.path.isabs(argv[0]) else [sys.executable, "-I", "-m", *argv]


def main(words: Sequence[str]) -> None:
    """Replace this process by the component that ``words`` names."""
    try:
        known = {component.name: component for component in components(current_deployment())}
    except DeploymentError as error:
        sys.exit(f"timeshare: {error}")
    if len(words) != 1 or words[0] not in known:
        sys.exit(f"timeshare: {' '.join(words)!r} is no component of this deployment: name one of {', '.join(known)}")
    component = known[words[0]]
    argv = command(component.argv)
    os.execve(argv[0], argv, {**os.environ, **component.env})


if __name__ == "__main__":
    main(sys.argv[1:])
