"""The words that start the ranks on the nodes of a Slurm job: one step, with a task for each rank."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence

from .torchrun import Layout

ANSWER_S = 10.0
# Of the job's own first task; the step's words say these anew, and two words for memory exclude each other.
_OF_THE_JOB = (
    *("SLURM_MEM_PER_", "SLURM_CPU_BIND", "SLURM_CPUS_PER_TASK", "SLURM_NTASKS_PER_"),
    *("SLURM_TRES_PER_TASK", "SLURM_GPU_BIND", "SLURM_GPUS_PER_TASK"),
)


class NoStep(Exception):
    """The ranks cannot be started; the text is for people."""


def words(layout: Layout, command: Sequence[str]) -> list[str]:
    """Task 0 is there because nodes have the same number of tasks each; the runner is rank 0 already."""
    return [
        *("srun", f"--nodes={layout.nodes}", f"--ntasks={layout.size}", f"--ntasks-per-node={layout.processes}"),
        # Beside the runner's kernel, with all that the job has on each node, GPUs and memory: LOCAL_RANK picks.
        *("--overlap", "--overcommit", "--mem=0", "--cpu-bind=none", "--distribution=block"),
        *("--mpi=none", "--export=ALL", "--kill-on-bad-exit=1", "--wait=0"),
        *command,
    ]


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """For srun."""
    return {name: value for name, value in variables.items() if not name.startswith(_OF_THE_JOB)}


def check(layout: Layout) -> None:
    """Raises NoStep unless this is a Slurm job with as many nodes."""
    if "SLURM_JOB_ID" not in os.environ:
        raise NoStep(f"it needs {layout.nodes} nodes and was begun on one: hand it to an engine that gives several")
    nodes = os.environ.get("SLURM_JOB_NUM_NODES") or os.environ.get("SLURM_NNODES") or "1"
    if int(nodes) != layout.nodes:
        raise NoStep(f"it needs {layout.nodes} nodes, and its Slurm job has {nodes}")
    if shutil.which("srun") is None:
        raise NoStep(f"there is no srun in PATH ({os.environ.get('PATH', '')}), which starts processes on other nodes")


def place() -> tuple[int, int]:
    """Node and number on it of this task, both from 0."""
    return int(os.environ["SLURM_NODEID"]), int(os.environ["SLURM_LOCALID"])


def node_name() -> str:
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def address() -> str:
    """Of this node, as other nodes reach it: its name where names are known, else what Slurm has for it."""
    name = node_name()
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return _known_to_slurm(name) or socket.gethostname()
    return name


def _known_to_slurm(name: str) -> str:
    try:
        done = subprocess.run(
            ["scontrol", "show", "node", "-o", name], capture_output=True, text=True, timeout=ANSWER_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"\bNodeAddr=(\S+)", done.stdout)
    return found[1] if found else ""
