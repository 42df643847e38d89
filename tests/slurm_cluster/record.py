"""``python -m slurm_cluster.record``: what this machine's Slurm really says, for the tests of what reads it.

Writes tests/data/slurm/VERSION/. Jobs are called after what they show: ``qos_limit`` waits for a limit of its QOS,
``timeout`` ended by its time limit. Names of this machine and this run are replaced: nodes are ``gpu1``, the cluster
``testcl``, the host ``testhost``, its folder ``/cluster``.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from slurm_cluster import Cluster, folder_for_tests
from slurm_cluster.processes import until

DATA = Path(__file__).parent.parent / "data" / "slurm"
ACCOUNTING_FIELDS = (
    "JobID,JobIDRaw,JobName,User,Account,Partition,QOS,State,ExitCode,DerivedExitCode,Reason,Submit,Eligible,Start,End,"
    "ElapsedRaw,TimelimitRaw,NodeList,NCPUS,ReqMem,ReqTRES,AllocTRES,MaxRSS,Comment,SystemComment"
)
JOB_WITHOUT_END = "trap '' TERM; while true; do sleep 1; done"
REQUESTS = {
    # Two of them are accepted: they wait for ever.
    "no_association": ("nobody", ()),
    "wrong_account": ("tsalice", ("--account=other",)),
    "unknown_account": ("tsalice", ("--account=nothing",)),
    "unknown_qos": ("tsalice", ("--qos=nothing",)),
    "unknown_partition": ("tsalice", ("--partition=nothing",)),
    "unknown_gres": ("tsalice", ("--gres=foo:1",)),
    "malformed_gres": ("tsalice", ("--gres=gpu:a100:many",)),
    "unknown_gpu_model": ("tsalice", ("--gres=gpu:h100:1",)),
    "more_gpus_than_a_node_has": ("tsalice", ("--gres=gpu:a100:5",)),
    "more_nodes_than_there_are": ("tsalice", ("--nodes=9",)),
    "more_memory_than_a_node_has": ("tsalice", ("--mem=900G",)),
    "more_cpus_than_a_node_has": ("tsalice", ("--cpus-per-task=64",)),
    "gpu_in_a_partition_without": ("tsalice", ("--partition=cpu", "--gres=gpu:a100:1")),
    "time_over_the_partitions": ("tsalice", ("--time=9-00:00:00",)),
    "time_over_the_qos": ("tsalice", ("--qos=interactive", "--time=02:00:00")),
    "time_over_the_qos_that_denies": ("tsalice", ("--qos=single", "--time=02:00:00")),
    "malformed_time": ("tsalice", ("--time=soon",)),
    "unknown_node": ("tsalice", ("--nodelist=nothing",)),
    "unknown_feature": ("tsalice", ("--constraint=nothing",)),
    "unknown_reservation": ("tsalice", ("--reservation=nothing",)),
    "unknown_option": ("tsalice", ("--nothing",)),
    "past_deadline": ("tsalice", ("--deadline=2020-01-01",)),
    "missing_dependency": ("tsalice", ("--dependency=afterok:999999",)),
    "as_another_user": ("tsalice", ("--uid=tsbob",)),
}


@dataclass(frozen=True)
class Recorder:
    cluster: Cluster
    folder: Path
    jobs: list[str] = field(default_factory=list)
    """Numbers of those submitted in this scene."""

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(self.clean(text))

    def output(self, name: str, *argv: str, user: str = "root") -> None:
        self.write(name, self.cluster.run(*argv, user=user).stdout)

    def clean(self, text: str) -> str:
        system = os.uname()
        replaced = {
            str(self.cluster.layout.folder): "/cluster",
            str(self.cluster.layout.folder).replace("/", r"\/"): r"\/cluster",  # as Slurm writes it in JSON
            f"{self.cluster.layout.name}-": "",
            self.cluster.layout.name: "testcl",
            f"{system.release} {system.version}": "6.1.0 #1 SMP",
        }
        for found, instead in replaced.items():
            text = text.replace(found, instead)
        return re.sub(rf"\b{re.escape(socket.gethostname())}\b", "testhost", text)

    def job(self, name: str, *options: str, script: str = "sleep 900", user: str = "tsalice") -> str:
        self.jobs.append(self.cluster.submit(script, f"--job-name={name}", *options, user=user))
        return self.jobs[-1]


def answers(to: Recorder) -> None:
    told = {}
    for name, (user, options) in REQUESTS.items():
        argv = ("sbatch", "--parsable", "--wrap=true", *options)
        told[name] = _told(to, *argv, user=user)
    to.cluster.clear()
    full = ("sbatch", "--parsable", "--qos=interactive", "--hold", "--wrap=true")
    for _ in range(4):
        to.cluster.run(*full, user="tsalice")
    told["more_jobs_than_the_qos_allows"] = _told(to, *full, user="tsalice")
    to.cluster.clear()
    strangers = to.job("strangers", user="tsbob")
    told["cancel_job_of_another"] = _told(to, "scancel", strangers, user="tsalice")
    told["hold_job_of_another"] = _told(to, "scontrol", "hold", strangers, user="tsalice")
    told["show_job_of_another"] = _told(to, "scontrol", "show", "job", strangers, user="tsalice")
    told["queue_of_unknown_job"] = _told(to, "squeue", "-j", "999999", user="tsalice")
    told["show_unknown_job"] = _told(to, "scontrol", "show", "job", "999999", user="tsalice")
    told["cancel_unknown_job"] = _told(to, "scancel", "999999", user="tsalice")
    to.cluster.clear()
    to.cluster.stop_ctl()
    for name, argv in {
        "sbatch": ("sbatch", "--wrap=true"),
        "squeue": ("squeue", "--json"),
        "sinfo": ("sinfo",),
    }.items():
        told[f"{name}_without_controller"] = _told(to, *argv, user="tsalice")
    to.cluster.start_ctl()
    to.cluster.kill_dbd()
    told["sacct_without_database"] = _told(to, "sacct", user="tsalice")
    told["sbatch_without_database"] = _told(to, "sbatch", "--hold", "--wrap=true", user="tsalice")
    to.cluster.start_dbd()
    to.cluster.clear()
    to.write("answers.json", json.dumps(told, indent=1) + "\n")


def _told(to: Recorder, *argv: str, user: str) -> dict[str, object]:
    done = to.cluster.run(*argv, user=user, check=False)
    return {"user": user, "argv": argv, "returncode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def queue(to: Recorder) -> None:
    cluster = to.cluster
    a100, single = "--gres=gpu:a100:", "--qos=single"
    running = [
        to.job("running_gpu", f"{a100}1", "--comment=what it is for"),
        to.job("running_shards", "--gres=shard:2", "--time=01:00:00"),
        to.job("running_cpu", "--partition=cpu", "--cpus-per-task=2"),
        to.job("running_several_gpus", "--gres=gpu:p100:2", "--qos=scav", user="tsbob"),
        to.job("running_two_nodes", "--nodes=2", "--gres=gpu:1", user="tsbob"),
        to.job("first_of_single", single),
        to.job("first_of_interactive", "--qos=interactive", "--gres=gpu:v100:2"),
        to.job("suspended", "--partition=cpu", user="tsbob"),
    ]
    for job in running:
        cluster.wait(job, "RUNNING")
    cluster.run("scontrol", "suspend", running[-1])
    to.job("qos_limit", "--qos=interactive", "--gres=gpu:1")
    to.job("qos_jobs", single)
    to.job("group_limit", "--gres=gpu:3", user="tscarol")
    to.job("dependency", f"--dependency=afterok:{running[0]}")
    to.job("begin", "--begin=now+1hour")
    to.job("held", "--hold")
    cluster.run("scontrol", "hold", to.job("held_by_admin", "--begin=now+1hour"))
    failed = to.job("failed_before", "--partition=cpu", script="false")
    cluster.wait(failed, "FAILED")
    to.job("dependency_never", f"--dependency=afterok:{failed}")
    cluster.run("scontrol", "update", f"nodename={cluster.node('p100').name}", "state=drain", "reason=fan")
    to.job("node_unavailable", f"--nodelist={cluster.node('p100').name}", "--gres=gpu:3")
    cluster.run("scontrol", "update", "partitionname=cpu", "state=down")
    to.job("partition_down", "--partition=cpu")
    to.job("array", "--array=0-3%2", "--gres=shard:1")
    to.job("resources", f"{a100}4", "--exclusive")
    to.job("priority", f"{a100}4", "--nice=100")
    until(lambda: "None" not in cluster.run("squeue", "-h", "-t", "PD", "-o", "%r").stdout, "reasons of all that waits")
    time.sleep(5)  # starts are estimated by the backfill scheduler, in its own time
    to.output("squeue.json", "squeue", "--json")
    to.output("squeue_of_tscarol.json", "squeue", "--json", user="tscarol")
    to.output("squeue_start.txt", "squeue", "--start")
    to.output("jobs.txt", "scontrol", "show", "job", "-d", "-o")
    to.output("partitions.txt", "scontrol", "show", "partition", "-o")
    nodes(to, "busy")
    test_only(to)
    cluster.run("scontrol", "update", "partitionname=cpu", "state=up")
    cluster.run("scontrol", "update", f"nodename={cluster.node('p100').name}", "state=resume")
    cluster.clear()
    nodes(to, "idle")


def nodes(to: Recorder, name: str) -> None:
    to.output(f"nodes_{name}.txt", "scontrol", "show", "node", "-d", "-o")
    to.output(f"sinfo_{name}.json", "sinfo", "--json")
    to.output(
        f"sinfo_{name}.txt", "sinfo", "-N", "-h", "-O", "NodeList:30,StateLong:30,Partition:30,Gres:50,GresUsed:90"
    )


def test_only(to: Recorder) -> None:
    """Estimates come on the standard error output, of success and of failure."""
    requests = {
        "starts_now": ("--gres=gpu:v100:1",),
        "starts_later": ("--gres=gpu:a100:4",),
        "refused": ("--gres=gpu:h100:1",),
    }
    told = {
        name: _told(to, "sbatch", "--test-only", "--wrap=true", *options, user="tscarol")
        for name, options in requests.items()
    }
    to.write("sbatch_test_only.json", json.dumps(told, indent=1) + "\n")


def ends(to: Recorder) -> None:
    cluster = to.cluster
    over_time = to.job("timeout", "--time=1", "--partition=cpu")
    for name, script in {"completed": "true", "failed": "exit 3", "failed_by_signal": "kill -SEGV $$"}.items():
        to.job(name, "--partition=cpu", script=script)
    to.job("steps", "--gres=gpu:a100:1", "--comment=with steps", script="srun true; srun false; sleep 6")
    to.job("out_of_memory", "--mem=50M", "--partition=cpu", script="python3 -c 'bytearray(300 << 20)'")
    to.job("array", "--array=0-2", "--partition=cpu", script="exit $SLURM_ARRAY_TASK_ID")
    cancelled = to.job("cancelled", "--partition=cpu")
    cancelled_by_root = to.job("cancelled_by_root", "--partition=cpu", user="tsbob")
    waiting = to.job("cancelled_waiting", "--hold")
    to.job("deadline", "--time=1", "--deadline=now+70seconds", "--partition=cpu", "--exclusive")
    preempted = to.job("preempted", "--gres=gpu:v100:4", "--qos=scav", user="tsbob")
    requeued = to.job(
        "requeued", "--partition=cpu", script="sleep ${SLURM_RESTART_COUNT:+0}${SLURM_RESTART_COUNT:-900}"
    )
    lost = to.job("node_fail", "--gres=gpu:p100:1", "--no-requeue")
    lost_and_requeued = to.job("node_fail_requeued", "--gres=gpu:p100:1")
    stubborn = to.job("stubborn", "--partition=cpu", script=JOB_WITHOUT_END)
    for job in (cancelled, cancelled_by_root, preempted, requeued, lost, lost_and_requeued, stubborn):
        cluster.wait(job, "RUNNING")
    cluster.run("scancel", stubborn, user="tsalice")
    cluster.wait(stubborn, "COMPLETING", "CANCELLED")
    to.output("squeue_completing.json", "squeue", "--json")
    cluster.run("scancel", cancelled, waiting, user="tsalice")
    cluster.run("scancel", cancelled_by_root)
    cluster.run("scontrol", "requeue", requeued)
    strong = to.job("preempts", "--gres=gpu:v100:1", "--qos=interactive", script="sleep 20")
    cluster.wait(strong, "RUNNING")
    cluster.fail_node(cluster.node("p100").name)
    nodes(to, "down")
    cluster.start_node(cluster.node("p100").name)
    to.job("still_running", "--partition=cpu")
    cluster.wait(strong, "COMPLETED")
    cluster.wait(requeued, "COMPLETED")
    cluster.wait(over_time, "TIMEOUT", seconds=180)
    time.sleep(3)  # the accounting hears a little later
    # By number: without it, jobs are left out that were never eligible, such as those that were held and cancelled.
    fields = ("-j", ",".join(to.jobs), "-o", ACCOUNTING_FIELDS)
    to.output("sacct.txt", "sacct", "-X", "-P", *fields)
    to.output("sacct_steps.txt", "sacct", "-P", *fields)
    to.output("sacct_duplicates.txt", "sacct", "-X", "-D", "-P", *fields)
    to.output("sacct_duplicates.json", "sacct", "-D", "-j", ",".join(to.jobs), "--json")
    cluster.clear()


def accounts(to: Recorder) -> None:
    to.output("associations.txt", "sacctmgr", "show", "assoc", "-P")
    to.output("associations_of_tsalice.txt", "sacctmgr", "show", "assoc", "user=tsalice", "-P", user="tsalice")
    to.output("qos.txt", "sacctmgr", "show", "qos", "-P")
    to.output("shares.txt", "sshare", "-a", "-l", "-P")
    to.output("config.txt", "scontrol", "show", "config")
    to.output("version.txt", "sinfo", "--version")


def main() -> None:
    with folder_for_tests() as folder:
        cluster = Cluster.start(folder)
        try:
            version = re.search(r"\d+\.\d+", cluster.run("sinfo", "--version").stdout)
            assert version is not None
            to = Recorder(cluster, DATA / version[0])
            to.folder.mkdir(parents=True, exist_ok=True)
            for scene in (accounts, ends, queue, answers):
                print(scene.__name__, file=sys.stderr)
                to.jobs.clear()
                scene(to)
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
