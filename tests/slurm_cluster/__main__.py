"""``python -m slurm_cluster up|down FOLDER``: a cluster that stays, to look at. ``up`` prints how to speak to it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from slurm_cluster import Cluster, obstacle


def main(argv: list[str]) -> str | None:
    """Returns what to say when it failed."""
    match argv:
        case ["up", path]:
            return up(Path(path).absolute())
        case ["down", path]:
            return down(Path(path).absolute())
    return "usage: python -m slurm_cluster up|down FOLDER"


def up(folder: Path) -> str | None:
    if reason := obstacle():
        return reason
    cluster = Cluster.load(folder)
    if cluster is None or not cluster.complete():
        cluster = Cluster.start(folder)
    print(f"export SLURM_CONF={cluster.env['SLURM_CONF']}")
    print(f"# Users: {', '.join(cluster.users)}. A command as one of them: runuser -u {cluster.users[0]} -- squeue")
    return None


def down(folder: Path) -> str | None:
    cluster = Cluster.load(folder)
    if cluster is None:
        return f"no Slurm cluster was started in {folder}"
    cluster.stop()
    shutil.rmtree(folder)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
