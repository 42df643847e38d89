"""A real Slurm for the tests: four virtual nodes on this machine, device nodes as GPUs, accounting, several users.

    cluster = Cluster.start(folder)       # root; a few seconds
    job = cluster.submit("sleep 60", "--gres=gpu:a100:1", user="tsalice")
    cluster.run("squeue", "--json", user="tsalice")
    cluster.stop()

Tests take the fixture ``slurm``; ``make slurm-up`` starts one to look at.
"""

from slurm_cluster.cluster import Cluster
from slurm_cluster.layout import ACCOUNTS, Layout, VirtualNode
from slurm_cluster.machine import obstacle
from slurm_cluster.places import folder_for_tests

__all__ = ["ACCOUNTS", "Cluster", "Layout", "VirtualNode", "folder_for_tests", "obstacle"]
