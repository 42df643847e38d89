"""A real Slurm takes the configuration that ``timeshare cluster describe`` writes, and holds jobs to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from described_slurm import described, files
from nodes import kept_from_others
from slurm_cluster import Cluster, Layout, folder_for_tests, obstacle

from timeshare.hub_config import slurm_findings as judge
from timeshare.hub_config.findings import OK
from timeshare.reservations.engines.slurm.cluster import ClusterFacts, devices_of, snapshot_of
from timeshare.reservations.engines.slurm.config import CONFIG_FILE, read_pools
from timeshare.reservations.engines.slurm.nodes import parse_nodes, parse_partitions
from timeshare.reservations.engines.slurm.request import sbatch_options
from timeshare.reservations.engines.slurm.settings import parse_config
from timeshare.reservations.shares import parse_share

pytestmark = pytest.mark.slurm

OPENS = 'for gpu in /dev/timeshare-{name}/{model}-[0-3]; do : <"$gpu" && echo "opens ${{gpu##*-}}"; done; true'


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("described")


@pytest.fixture(scope="module")
def cluster(place: Path) -> Iterator[Cluster]:
    """A Slurm of its own, for its configuration is another one than that of the other tests."""
    if reason := obstacle() or kept_from_others():
        pytest.skip(reason)
    with folder_for_tests() as folder:

        def written(layout: Layout) -> dict[str, str]:
            return files(layout, described(layout, place))

        try:
            yield Cluster.start(folder, written)
        finally:
            if found := Cluster.load(folder):
                found.stop()


def lines(cluster: Cluster, script: str, *options: str) -> list[str]:
    job = cluster.submit(script, "--partition=gpu", "--mem=100M", *options, user="tsalice")
    assert cluster.wait(job, "COMPLETED", "FAILED")["JobState"] == "COMPLETED"
    return cluster.output(job, "tsalice").split("\n")


def test_nodes_are_taken_with_the_gpus_shards_and_memory_that_were_found(cluster: Cluster) -> None:
    nodes = {node.name: node for node in parse_nodes(cluster.run("scontrol", "show", "node", "-d", "-o").stdout)}
    p100, v100, cpu = (nodes[cluster.node(model).name] for model in ("p100", "v100", None))
    assert p100.configured() == {"p100-16gb": 4}
    assert (v100.configured(), sum(v100.configured("shard").values())) == ({"v100-16gb": 4}, 16)
    assert not cpu.configured()
    assert all(node.open and node.cpus == 16 and not node.unread for node in nodes.values())


def test_a_job_gets_its_gpu_and_opens_no_other(cluster: Cluster) -> None:
    script = f"echo has $SLURM_JOB_GPUS\n{OPENS.format(name=cluster.layout.name, model='a100')}"
    told = lines(cluster, script, "--gres=gpu:a100-40gb:1")
    (number,) = [line.split()[1] for line in told if line.startswith("has ")]
    assert [line.split()[1] for line in told if line.startswith("opens ")] == [number]


def test_a_job_gets_a_shard(cluster: Cluster) -> None:
    told = lines(cluster, "echo $SLURM_JOB_GPUS $SLURM_SHARDS_ON_NODE $SLURMD_NODENAME", "--gres=shard:2")
    assert told[0].split() == ["0", "2", cluster.node("v100").name]


def test_timeshare_reads_it_with_the_pools_that_were_written(cluster: Cluster, place: Path) -> None:
    nodes = parse_nodes(cluster.run("scontrol", "show", "node", "-d", "-o").stdout)
    facts = ClusterFacts(nodes, parse_partitions(cluster.run("scontrol", "show", "partition", "-o").stdout))
    assert (place / "out" / CONFIG_FILE).exists()
    snapshots = {pool.name: snapshot_of(pool, facts, 0.0) for pool in read_pools(place / "out")}
    assert {name: (len(devices_of(one, name, False)), one.away) for name, one in snapshots.items()} == {
        "gpu": (12, ""),
        "cpu": (0, ""),
    }
    assert not any(device.cordoned for device in devices_of(snapshots["gpu"], "gpu", False))
    asked = parse_share({"memory_gib": 7, "model": "v100-16gb", "engine": "gpu"})
    options = sbatch_options(asked, snapshots["gpu"].site)
    assert "--gres=shard:2" in options
    told = lines(cluster, "echo $SLURM_SHARDS_ON_NODE", *options)
    assert told[0] == "2"


def test_the_doctor_finds_nothing_to_repair_in_it(cluster: Cluster, place: Path) -> None:
    config = parse_config(cluster.run("scontrol", "show", "config").stdout)
    nodes = parse_nodes(cluster.run("scontrol", "show", "node", "-d", "-o").stdout)
    partitions = parse_partitions(cluster.run("scontrol", "show", "partition", "-o").stdout)
    for pool in read_pools(place / "out"):
        mine = [node for node in nodes if bool(node.configured()) == (pool.name == "gpu")]
        found = [judge.version(config), judge.partition(pool, partitions), judge.open_nodes(mine)]
        found += [judge.part_limits(config), judge.confinement(config), judge.requeue(config), judge.kill_wait(config)]
        found += [*judge.gpus(pool, mine), judge.sharing(pool, mine, config)] if pool.name == "gpu" else []
        assert [one for one in found if one.level != OK] == []
