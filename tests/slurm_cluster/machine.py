"""What a cluster takes from the machine around it: packages, users, device nodes, control groups."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
from pathlib import Path

from slurm_cluster.layout import ACCOUNTS, Layout
from slurm_cluster.processes import until

PACKAGES = {
    "munged": "munge",
    "mariadbd": "mariadb-server-core",
    "mariadb": "mariadb-client-core",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurmdbd": "slurmdbd",
    "sbatch": "slurm-client",
}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("memory", "devices", "freezer", "cpuset", "cpuacct")
CONSOLE_MAJOR, FIRST_MINOR = 4, 40
"""Virtual consoles that nobody uses: character devices that really open, so that a refusal is seen."""


def obstacle() -> str | None:
    """Why no cluster can be started here, and what would help; None if it can."""
    if os.geteuid() != 0:
        return "a Slurm cluster is started as root: its jobs run as other users"
    missing = sorted({package for program, package in PACKAGES.items() if shutil.which(program, path=PATH) is None})
    if missing:
        return f"these Debian packages are missing: {' '.join(missing)}. `make system` installs them"
    absent = [name for name in ("memory", "devices", "freezer") if not os.access(CGROUPS / name / "tasks", os.W_OK)]
    if absent:
        return f"Slurm holds jobs by control groups, version 1; not mounted or not writable: {', '.join(absent)}"
    return None


def make_users() -> None:
    """Those of ``ACCOUNTS``. They stay: another run on this machine may be using them."""
    for name in (user for users in ACCOUNTS.values() for user in users):
        with contextlib.suppress(KeyError):
            pwd.getpwnam(name)
            continue
        made = subprocess.run(
            ["useradd", "--create-home", "--shell", "/bin/bash", name],
            capture_output=True,
            text=True,
            env={"PATH": PATH},
        )
        # Another run may have been faster.
        if made.returncode and _unknown(name):
            raise OSError(f"useradd {name}: {made.stderr.strip()}")


def _unknown(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return True
    return False


def make_devices(layout: Layout) -> None:
    layout.devices.mkdir(exist_ok=True)
    paths = [path for node in layout.nodes for path in node.devices]
    for minor, path in enumerate(paths, FIRST_MINOR):
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(CONSOLE_MAJOR, minor))
        os.chmod(path, 0o666)  # whatever the umask


def end_jobs(node: str) -> None:
    """Ends all that the node's jobs left running, and takes its control groups away."""
    trees = [CGROUPS / controller / f"slurm_{node}" for controller in CONTROLLERS]
    until(
        lambda: not [tree for tree in trees if tree.exists() and not _emptied(tree)], f"the end of the jobs of {node}"
    )


def _emptied(tree: Path) -> bool:
    """Kills what is in the control group and removes it; False if something has not ended yet."""
    for group, _, _ in os.walk(tree, topdown=False):
        with contextlib.suppress(OSError):
            for pid in Path(group, "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            os.rmdir(group)
    return not tree.exists()
