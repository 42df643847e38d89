"""The Slurm of the tests is a real one: it holds jobs to their GPUs and memory, knows limits, and survives crashes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from conftest import FULL_STRESS
from slurm_cluster import Cluster, folder_for_tests
from slurm_cluster.processes import until

from timeshare.reservations.engines.slurm.nodes import NODES_ARGV, PARTITIONS_ARGV, parse_nodes, parse_partitions
from timeshare.reservations.engines.slurm.queue import parse_queue, parse_queue_text, queue_argv, queue_text_argv

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(180)]
WHY_NOT = "what Slurm itself does is waited out for a quarter of a minute: `make stress` does"

SEPARATOR = "<0123456789abcdef>"
OPEN_ALL = textwrap.dedent("""\
    echo "visible=$CUDA_VISIBLE_DEVICES gpus=$SLURM_JOB_GPUS shards=$SLURM_SHARDS_ON_NODE node=$SLURMD_NODENAME"
    for device in {devices}; do
        if why=$( (exec 3<$device) 2>&1 ); then echo "opened $device"; else echo "refused $device: $why"; fi
    done
""")


@pytest.fixture(autouse=True)
def cleared(slurm: Cluster) -> Iterator[None]:
    yield
    slurm.clear()


def opened(slurm: Cluster, model: str, *options: str) -> tuple[str, list[str], list[str]]:
    """What a job says of its environment; which of its node's GPUs it could open, and which it was refused."""
    node = slurm.node(model)
    job = slurm.submit(OPEN_ALL.format(devices=" ".join(node.devices)), *options, user="tsalice")
    slurm.wait(job, "COMPLETED")
    about, *lines = slurm.output(job, "tsalice").splitlines()
    refused = [line for line in lines if line.startswith("refused")]
    assert all("Operation not permitted" in line for line in refused), refused
    return about, [line.split("-")[-1] for line in lines if line.startswith("opened")], refused


@pytest.mark.parametrize("model", ["p100", "v100", "a100"])
def test_a_job_can_open_its_own_gpu_and_no_other_one_of_its_node(slurm: Cluster, model: str) -> None:
    about, own, refused = opened(slurm, model, f"--gres=gpu:{model}:1")
    assert f"gpus={own[0]}" in about
    assert f"node={slurm.node(model).name}" in about
    assert (len(own), len(refused)) == (1, 3)


def test_a_job_of_two_gpus_can_open_two(slurm: Cluster) -> None:
    _, own, refused = opened(slurm, "a100", "--gres=gpu:a100:2")
    assert (len(own), len(refused)) == (2, 2)


def test_a_job_without_gpus_can_open_none(slurm: Cluster) -> None:
    _, own, refused = opened(slurm, "p100", f"--nodelist={slurm.node('p100').name}")
    assert (len(own), len(refused)) == (0, 4)


def test_jobs_with_shards_get_one_gpu_together(slurm: Cluster) -> None:
    first = slurm.submit("sleep 60", "--gres=shard:2", user="tsbob")
    slurm.wait(first, "RUNNING")
    about, own, refused = opened(slurm, "v100", "--gres=shard:2")
    assert own == ["0"]
    assert len(refused) == 3
    assert "visible=0 gpus=0 shards=2" in about
    assert slurm.job(first)["GRES"].startswith("shard:2")


def test_a_job_that_takes_more_memory_than_it_asked_for_is_ended(slurm: Cluster) -> None:
    job = slurm.submit("python3 -c 'bytearray(300 << 20)'", "--mem=50M", user="tsalice")
    slurm.wait(job, "OUT_OF_MEMORY")


def test_accounting_tells_what_a_job_held(slurm: Cluster) -> None:
    job = slurm.submit("true", "--gres=gpu:a100:2", user="tsbob")
    slurm.wait(job, "COMPLETED")
    fields = slurm.accounted(job, "State,User,Account,AllocTRES")
    assert fields[:3] == ["COMPLETED", "tsbob", "lab"]
    assert "gres/gpu:a100=2" in fields[3].split(",")


def test_a_job_over_the_limit_of_its_qos_waits_and_says_so(slurm: Cluster) -> None:
    slurm.wait(slurm.submit("sleep 60", "--qos=interactive", "--gres=gpu:2", user="tsalice"), "RUNNING")
    third = slurm.submit("sleep 60", "--qos=interactive", "--gres=gpu:1", user="tsalice")
    other = slurm.submit("sleep 60", "--qos=interactive", "--gres=gpu:1", user="tsbob")
    slurm.wait(other, "RUNNING")
    assert slurm.job(third)["Reason"] == "QOSMaxGRESPerUser"


@pytest.mark.stress
@pytest.mark.skipif(not FULL_STRESS, reason=WHY_NOT)
def test_a_job_that_is_preempted_is_queued_again_and_runs_later(slurm: Cluster) -> None:
    script = "echo start ${SLURM_RESTART_COUNT:-0}; sleep ${SLURM_RESTART_COUNT:+0}${SLURM_RESTART_COUNT:-60}"
    weak = slurm.submit(script, "--qos=scav", "--gres=gpu:a100:4", "--open-mode=append", user="tsbob")
    slurm.wait(weak, "RUNNING")
    strong = slurm.submit("sleep 2", "--qos=interactive", "--gres=gpu:a100:1", user="tsalice")
    slurm.wait(strong, "COMPLETED")
    slurm.wait(weak, "COMPLETED")
    assert slurm.job(weak)["Restarts"] == "1"
    assert [line for line in slurm.output(weak, "tsbob").splitlines() if line.startswith("start")] == [
        "start 0",
        "start 1",
    ]


@pytest.mark.stress
@pytest.mark.skipif(not FULL_STRESS, reason=WHY_NOT)
@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_the_controller_started_again_has_lost_nothing(slurm: Cluster, end: str) -> None:
    ending = slurm.submit("sleep 9; echo done", "--gres=gpu:a100:1", user="tsalice")
    running = slurm.submit("sleep 60", "--gres=gpu:a100:3", user="tsalice")
    slurm.wait(running, "RUNNING")
    slurm.wait(ending, "RUNNING")
    waiting = slurm.submit("sleep 60", "--gres=gpu:a100:4", user="tsbob")
    before = slurm.job(running)
    if end == "killed":
        slurm.wait_saved()
        slurm.kill_ctl()
    else:
        slurm.stop_ctl()
    try:
        assert "Unable to contact slurm controller" in slurm.run("squeue", check=False).stderr
    finally:
        slurm.start_ctl()
    assert slurm.wait(running, "RUNNING")["StartTime"] == before["StartTime"]
    slurm.wait(waiting, "PENDING")
    slurm.wait(ending, "COMPLETED")
    assert slurm.output(ending, "tsalice") == "done\n"


@pytest.fixture
def hidden(slurm: Cluster) -> Iterator[None]:
    slurm.run("scontrol", "update", "partitionname=gpu", "hidden=yes")
    yield
    slurm.run("scontrol", "update", "partitionname=gpu", "hidden=no")


@pytest.mark.usefixtures("hidden")
def test_a_job_in_a_hidden_partition_is_not_taken_for_gone(slurm: Cluster) -> None:
    job = slurm.submit("sleep 60", "--gres=gpu:a100:1", user="tsalice")
    slurm.wait(job, "RUNNING")

    def answer(argv: Sequence[str]) -> str:
        return slurm.run(*argv, user="tsalice").stdout

    assert job not in answer(("squeue", "-h", "-o", "%A")).split()
    text = answer(queue_text_argv(SEPARATOR))
    for found in (parse_queue(answer(queue_argv())), parse_queue_text(text, SEPARATOR)):
        assert [one.state for one in found if one.job_id == int(job)] == ["RUNNING"]
    assert {one.name for one in parse_nodes(answer(NODES_ARGV))} == {one.name for one in slurm.nodes}
    assert {one.name for one in parse_partitions(answer(PARTITIONS_ARGV))} == set(slurm.partitions)


def started_by_backfill(slurm: Cluster) -> str:
    """A job that runs, and of whose start slurmctld writes nothing as long as nothing else happens: it was submitted
    when that could be written at once, and the backfill scheduler was the first to find its place. (After ten that the
    main scheduler was faster with, whose starts are written, one of those.)"""
    state = slurm.layout.folder / "state" / "job_state"

    def long_ago() -> bool:
        return not state.exists() or time.time() - state.stat().st_mtime > 6

    for attempt in range(10):
        slurm.wait_saved()
        until(
            lambda: not state.exists() or time.time() - state.stat().st_mtime > 6,
            "a slurmctld that has nothing to write",
        )
        job = slurm.submit("sleep 300", "--gres=gpu:p100:1", user="tsalice")
        slurm.wait(job, "RUNNING")
        if slurm.job(job)["Scheduler"] == "Backfill" or attempt == 9:
            break
        slurm.run("scancel", job)
    return job


def test_a_start_that_slurm_does_not_save_by_itself_is_saved_before_its_controller_is_killed(slurm: Cluster) -> None:
    job = started_by_backfill(slurm)
    before = slurm.job(job)
    slurm.wait_saved()
    slurm.kill_ctl()
    slurm.start_ctl()
    after = slurm.job(job)
    assert (after["JobState"], after["StartTime"]) == ("RUNNING", before["StartTime"])


def test_a_nodes_daemon_killed_and_started_again_loses_nothing(slurm: Cluster) -> None:
    node = slurm.node("v100").name
    go = slurm.work("tsalice") / "go-on"
    job = slurm.submit(f"until test -e {go}; do sleep .2; done; echo done", "--gres=shard:1", user="tsalice")
    slurm.wait(job, "RUNNING")
    slurm.kill_node(node)
    slurm.start_node(node)
    go.touch()
    slurm.wait(job, "COMPLETED")
    go.unlink()
    assert slurm.output(job, "tsalice") == "done\n"


@pytest.mark.stress
@pytest.mark.skipif(not FULL_STRESS, reason=WHY_NOT)
def test_a_node_that_loses_power_loses_its_jobs_and_those_that_may_are_queued_again(slurm: Cluster) -> None:
    node = slurm.node("p100").name
    lost = slurm.submit("sleep 600", "--gres=gpu:p100:1", "--no-requeue", user="tsalice")
    again = slurm.submit("sleep 600", "--gres=gpu:p100:1", user="tsalice")
    slurm.wait(lost, "RUNNING")
    slurm.wait(again, "RUNNING")
    slurm.fail_node(node)
    slurm.wait(lost, "NODE_FAIL")
    slurm.wait(again, "PENDING")
    slurm.start_node(node)
    slurm.wait(again, "RUNNING")


def test_people_see_their_own_jobs_alone(slurm: Cluster) -> None:
    jobs = {user: slurm.submit("sleep 60", user=user) for user in ("tsalice", "tsbob")}
    for user, job in jobs.items():
        assert slurm.run("squeue", "-h", "-o", "%A", user=user).stdout.split() == [job]
    assert sorted(slurm.run("squeue", "-h", "-o", "%A").stdout.split()) == sorted(jobs.values())
    refused = slurm.run("scancel", jobs["tsbob"], user="tsalice", check=False)
    assert "Access/permission denied" in refused.stderr


def test_an_array_runs_as_many_at_once_as_it_may(slurm: Cluster) -> None:
    array = slurm.submit("sleep 1; echo $SLURM_ARRAY_TASK_ID", "--array=0-3%2", "--gres=gpu:p100:1", user="tsalice")
    for task in range(4):
        slurm.wait(f"{array}_{task}", "COMPLETED")
        assert slurm.output(f"{array}_{task}", "tsalice") == f"{task}\n"


LEFT_BEHIND = textwrap.dedent("""\
    import os
    from slurm_cluster import Cluster, folder_for_tests
    with folder_for_tests() as folder:
        cluster = Cluster.start(folder)
        cluster.wait(cluster.submit("sleep 600", user="tsalice"), "RUNNING")
        print(folder, flush=True)
        os.kill(os.getpid(), 9)
""")


def test_the_cluster_of_a_crashed_run_is_ended_by_the_next_and_disturbs_no_other(slurm: Cluster) -> None:
    job = slurm.submit("sleep 120", user="tsalice")
    slurm.wait(job, "RUNNING")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    crashed = subprocess.run([sys.executable, "-c", LEFT_BEHIND], env=env, stdout=subprocess.PIPE, text=True)
    assert crashed.returncode == -signal.SIGKILL
    folder = Path(crashed.stdout.strip())
    left = Cluster.load(folder)
    assert left is not None
    assert left.complete()
    with folder_for_tests():
        assert not folder.exists()
    assert not left.complete()
    assert not left.layout.devices.exists()
    assert processes_of(folder) == []
    assert slurm.complete()
    slurm.wait(job, "RUNNING")


def processes_of(folder: Path) -> list[str]:
    """Daemons and jobs of the cluster in the folder: each has its SLURM_CONF."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(folder).encode() in environ.read_bytes():
                found.append(environ.parent.joinpath("comm").read_text())
        except OSError:
            continue
    return found
