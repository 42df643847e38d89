"""The database of the accounting: a MariaDB of our own, on a Unix socket alone, as the user slurm."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from slurm_cluster.layout import Layout
from slurm_cluster.machine import PATH
from slurm_cluster.processes import until

AS_SLURM = ("setpriv", "--reuid=slurm", "--regid=slurm", "--clear-groups")
LOG_SIZE = "--innodb-log-file-size=16M"
"""Both when it is made and when it runs: otherwise every start writes it anew."""


def start(layout: Layout) -> None:
    """Makes an empty database and a server that knows one person, slurm, by her user of the operating system."""
    data = layout.folder / "db" / "data"
    _make(data, layout.log_file("mariadbd"))
    _serve(data, layout)
    client = [*AS_SLURM, "mariadb", "--no-defaults", f"--socket={layout.database_socket}"]
    create = [*client, "--execute=create database if not exists slurm_acct_db"]
    until(lambda: _run(create, check=False, capture_output=True).returncode == 0, "an answer of MariaDB")


def _make(data: Path, log_file: Path) -> None:
    argv = [
        *AS_SLURM,
        "mariadb-install-db",
        "--no-defaults",
        f"--datadir={data}",
        "--auth-root-authentication-method=socket",
        "--auth-root-socket-user=slurm",
        "--skip-test-db",
        LOG_SIZE,
    ]
    with open(log_file, "ab") as log:
        _run(argv, stdout=log, stderr=log)


def _serve(data: Path, layout: Layout) -> None:
    # It has no way into the background of its own. This one writes its pid before it runs.
    in_background = [
        "start-stop-daemon",
        "--start",
        "--background",
        "--make-pidfile",
        f"--pidfile={layout.pid_file('mariadbd')}",
        f"--output={layout.log_file('mariadbd')}",
        "--chuid=slurm:slurm",
        "--exec=/usr/sbin/mariadbd",
        "--",
    ]
    server = [
        "--no-defaults",
        f"--datadir={data}",
        f"--socket={layout.database_socket}",
        f"--pid-file={layout.folder / 'db' / 'pid'}",
        "--skip-networking",
        "--performance-schema=OFF",
        "--innodb-buffer-pool-size=64M",
        LOG_SIZE,
        "--innodb-lock-wait-timeout=900",  # as slurmdbd wants it
        "--innodb-flush-log-at-trx-commit=0",  # thrown away after a crash of the machine anyway
    ]
    _run([*in_background, *server])


def _run(argv: list[str], *, check: bool = True, **more: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(argv, check=check, env={"PATH": PATH}, cwd="/", stdin=subprocess.DEVNULL, **more)
