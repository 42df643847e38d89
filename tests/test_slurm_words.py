"""What Slurm says, in sentences."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slurm_examples import DATA

from timeshare.reservations.engines.slurm.accounting import parse_accounting
from timeshare.reservations.engines.slurm.queue import parse_queue
from timeshare.reservations.engines.slurm.words import ending, refusal, why_waiting
from timeshare.reservations.reservation import Reason

ANSWERS = json.loads((DATA / "22.05" / "answers.json").read_text())


@pytest.mark.parametrize(
    ("reason", "says", "starts"),
    [
        ("Resources", "what it asks for is not free yet", True),
        ("Priority", "others are before it", True),
        ("(Priority)", "others are before it", True),
        (
            "QOSMaxGRESPerUser",
            "your jobs hold all the GPUs that its QOS allows (Slurm's limit QOSMaxGRESPerUser)",
            True,
        ),
        ("AssocGrpGRES", "the jobs of your account hold all the GPUs that your account allows", True),
        ("AssocMaxJobsLimit", "as many running jobs as your account allows each person", True),
        ("QOSMaxJobsPerUserLimit", "as many running jobs as its QOS allows each person", True),
        ("QOSGrpCpuLimit", "the jobs of this QOS hold all the CPUs that its QOS allows", True),
        ("QOSGrpGRESRunMinutes", "as much time on GPUs before it as is allowed", True),
        ("AssocGrpGRESMinutes", "the time on GPUs that your account has been given is used up", False),
        ("QOSMaxWallDurationPerJobLimit", "more time than its QOS allows for one job", False),
        ("QOSMaxGRESPerNode", "more GPUs than its QOS allows for one node", False),
        ("QOSMaxMemoryPerUser", "your jobs hold all the memory that its QOS allows", True),
        ("QOSMinGRES", "less GPUs than its QOS wants a job to have", False),
        ("ReqNodeNotAvail, UnavailableNodes:gpu[1-2]", "set aside for maintenance (gpu[1-2])", True),
        ("ReqNodeNotAvail, Reserved for maintenance", "(Reserved for maintenance)", True),
        ("BeginTime", "earliest start", True),
        ("JobHeldUser", "held back", False),
        ("JobHeldAdmin", "an administrator holds it", False),
        ("launch failed requeued held", "could not be started", False),
        ("launch_failed_requeued_held", "could not be started", False),
        ("DependencyNeverSatisfied", "did not end as it would have to", False),
        ("PartitionTimeLimit", "longer than its partition allows", False),
        ("", "has not looked at it yet", True),
        ("SomethingNew", "Slurm says: SomethingNew", True),
        ("Nodes required for job are DOWN, DRAINED", "Slurm says: Nodes required for job are DOWN, DRAINED", True),
    ],
)
def test_a_reason_to_wait_is_a_sentence(reason: str, says: str, starts: bool) -> None:
    waiting = why_waiting(reason)
    assert says in waiting.text
    assert waiting.starts is starts


def test_every_reason_that_a_real_slurm_gave_has_words_of_its_own() -> None:
    jobs = parse_queue((DATA / "22.05" / "squeue.json").read_text())
    reasons = {job.reason for job in jobs if job.life == "pending"}
    assert len(reasons) > 10
    assert [reason for reason in reasons if "Slurm says" in why_waiting(reason).text] == []


@given(st.text())
def test_any_reason_has_words(reason: str) -> None:
    assert why_waiting(reason).text


@pytest.mark.parametrize(
    ("name", "reason", "status", "says"),
    [
        ("no_association", "no-account", 409, "you have no account"),
        ("unknown_qos", "no-qos", 409, "may not use the QOS"),
        ("unknown_partition", "no-partition", 409, "does not exist"),
        ("unknown_gres", "impossible", 422, "choose another share"),
        ("unknown_gpu_model", "too-large", 422, "choose a smaller share or another model"),
        ("more_nodes_than_there_are", "too-large", 422, "ask for fewer"),
        ("more_memory_than_a_node_has", "too-large", 422, "more memory than a node has"),
        ("more_cpus_than_a_node_has", "too-large", 422, "more CPUs than a node has"),
        ("time_over_the_partitions", "too-long", 422, "more time than its partition allows"),
        ("time_over_the_qos_that_denies", "too-long", 422, "ask for less"),
        ("unknown_feature", "impossible", 422, "tell an administrator"),
        ("unknown_reservation", "no-reservation", 409, "is not there now"),
        ("more_jobs_than_the_qos_allows", "too-many-waiting", 409, "end one of them first"),
        ("malformed_time", "refused", 409, "Invalid --time specification"),
        ("as_another_user", "refused", 409, "--uid only permitted by root user"),
    ],
)
def test_a_refusal_says_what_it_means_and_what_slurm_said(name: str, reason: str, status: int, says: str) -> None:
    error = refusal(ANSWERS[name]["stderr"])
    assert (error.reason, error.status) == (reason, status)
    assert says in error.message
    assert "sbatch: error" not in error.message
    assert error.details["slurm"] in error.message


def test_a_refusal_by_a_limit_without_a_row_is_explained_by_its_name() -> None:
    error = refusal("sbatch: error: AssocMaxCpuPerJobLimit\nsbatch: error: Batch job submission failed: Job violates …")
    assert (error.reason, error.status) == ("limit", 409)
    assert "more CPUs than your account allows for one job" in error.message
    assert refusal("").message == "Slurm refused it: it did not say why"


def test_ends_in_the_accounting_of_a_real_slurm_are_told_in_our_words() -> None:
    told = {}
    for end in parse_accounting((DATA / "22.05" / "sacct_duplicates.txt").read_text()):
        if end.life == "ended" and end.array_task_id is None:
            told.setdefault(end.name, ending(end.state, end.exit_code, end.signal, end.cancelled_by, owner=1001))
    assert told["completed"] == (Reason.COMPLETED, "")
    assert told["failed"] == (Reason.FAILED, "it ended with exit code 3")
    assert told["failed_by_signal"] == (Reason.FAILED, "it was ended by SIGSEGV")
    assert told["timeout"] == (Reason.TIME_LIMIT, "it reached Slurm's time limit")
    assert told["cancelled"] == (Reason.CANCELLED, "it was cancelled in Slurm by its owner")
    assert told["cancelled_by_root"] == (Reason.CANCELLED, "it was cancelled in Slurm by an administrator")
    assert told["out_of_memory"][0] is Reason.FAILED
    assert "out of memory" in told["out_of_memory"][1]
    assert told["node_fail"] == (Reason.LOST, "its node failed")
    assert told["preempted"][0] is Reason.PREEMPTED
    assert told["requeued"] == (Reason.PREEMPTED, "it was put back into the queue")
    assert told["deadline"][0] is Reason.TIME_LIMIT


def test_what_could_not_be_opened_on_the_node_is_said() -> None:
    assert "could not be opened" in ending("FAILED", 0, 53)[1]
    assert ending("FAILED", 0, 99)[1] == "it was ended by signal 99"
    assert ending("CANCELLED by 1002")[1] == "it was cancelled in Slurm"
    assert ending("CANCELLED", cancelled_by=1002, owner=1001)[1] == "it was cancelled in Slurm by user 1002"


def test_what_is_not_over_has_no_end() -> None:
    for state in ("RUNNING", "PENDING", "COMPLETING", "SOMETHING", "REVOKED"):
        with pytest.raises(ValueError, match="it is not over"):
            ending(state)
