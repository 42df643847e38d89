"""The database of the accounting: a MariaDB of our own, on a Unix socket alone, as the user slurm."""

from __future__ import annotations

import subprocess

from slurm_cluster.layout import Layout
from slurm_cluster.machine import PATH
from slurm_cluster.processes import until

AS_SLURM = ("setpriv", "--reuid=slurm", "--regid=slurm", "--clear-groups")

LOG_SIZE = "--innodb-log-file-size=16M"
"""Both when it is made and when it runs: otherwise every start writes it anew."""


def start(layout: Layout) -> None:
    """Makes an empty database and a server that knows one person, slurm, by her user of the operating system."""
    data = layout.folder / "db" / "data"
    ours = {"env": {"PATH": PATH}, "cwd": "/", "check": True, "stdin": subprocess.DEVNULL}
    with open(layout.log_file("mariadbd"), "ab") as log:
        subprocess.run(
            [
                *AS_SLURM,
                "mariadb-install-db",
                "--no-defaults",
                f"--datadir={data}",
                "--auth-root-authentication-method=socket",
                "--auth-root-socket-user=slurm",
                "--skip-test-db",
                LOG_SIZE,
            ],
            stdout=log,
            stderr=log,
            **ours,
        )
        subprocess.run(
            [
                "setsid",
                "--fork",
                *AS_SLURM,
                "mariadbd",
                "--no-defaults",
                f"--datadir={data}",
                f"--socket={layout.database_socket}",
                f"--pid-file={layout.pid_file('mariadbd')}",
                "--skip-networking",
                "--performance-schema=OFF",
                "--innodb-buffer-pool-size=64M",
                LOG_SIZE,
                "--innodb-lock-wait-timeout=900",  # as slurmdbd wants it
                "--innodb-flush-log-at-trx-commit=0",  # thrown away after a crash of the machine anyway
            ],
            stdout=log,
            stderr=log,
            **ours,
        )
    client = [*AS_SLURM, "mariadb", "--no-defaults", f"--socket={layout.database_socket}"]
    create = [*client, "--execute=create database if not exists slurm_acct_db"]
    quiet = {**ours, "check": False, "capture_output": True}
    until(lambda: subprocess.run(create, **quiet).returncode == 0, "an answer of MariaDB")
