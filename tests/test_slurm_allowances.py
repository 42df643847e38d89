"""What Slurm itself allows whom: read from its accounting, shown to people, and told where it stops them."""

from __future__ import annotations

from dataclasses import replace
from zoneinfo import ZoneInfo

import pytest
from slurm_examples import DATA
from test_slurm_outlook import NOW, cluster

from timeshare.reservations.engines.slurm.allowances import Book, Place, concerning, rows, value
from timeshare.reservations.engines.slurm.explain import Known, value_for, why_waiting
from timeshare.reservations.engines.slurm.limit_names import limit_name, value_in
from timeshare.reservations.engines.slurm.limits import Limits, parse_associations, parse_qos
from timeshare.reservations.engines.slurm.nodes import parse_partitions
from timeshare.reservations.engines.slurm.queue import SlurmJob
from timeshare.reservations.engines.slurm.words import refusal

RECORDED = DATA / "22.05"
BOOK = Book(
    parse_associations((RECORDED / "associations.txt").read_text()),
    {one.name: one for one in parse_qos((RECORDED / "qos.txt").read_text())},
    NOW,
)
INTERACTIVE = Place(qos="interactive", partition="gpu")


def shown(owner: str, place: Place) -> list[tuple[str, str, str, str]]:
    return [(one.of, one.what, one.value, one.name) for one in rows(concerning(BOOK, owner, place))]


def told(name: str, owner: str, place: Place = INTERACTIVE) -> str:
    found = limit_name(name)
    assert found is not None
    return value(found, BOOK, owner, place)


def test_a_person_sees_the_limits_of_the_qos_that_her_jobs_get() -> None:
    assert shown("tsalice", INTERACTIVE) == [
        ("QOS interactive", "at once, each person", "2 GPUs", "MaxTRESPerUser"),
        ("QOS interactive", "jobs that run or wait, each person", "4", "MaxSubmitJobsPerUser"),
        ("QOS interactive", "time of one job", "1 h", "MaxWall"),
    ]
    assert shown("tsalice", Place()) == []  # her default QOS has none


def test_a_person_sees_the_limits_of_her_account_and_nobody_elses() -> None:
    assert shown("tscarol", Place()) == [("account other", "at once, all users together", "2 GPUs", "GrpTRES")]
    assert shown("stranger", Place()) == []
    assert shown("tscarol", Place(account="lab")) == []


def test_the_qos_of_a_partition_counts_too() -> None:
    partitions = (RECORDED / "partitions.txt").read_text().replace("QoS=N/A", "QoS=single", 1)
    assert [one.own_qos for one in parse_partitions(partitions)] == ["single", ""]
    assert shown("tsalice", Place(partition_qos="single")) == [
        ("QOS single", "running jobs, each person", "1", "MaxJobsPerUser"),
        ("QOS single", "time of one job", "30 min", "MaxWall"),
    ]


@pytest.mark.parametrize(
    ("name", "owner", "says"),
    [
        ("QOSMaxGRESPerUser", "tsalice", "2 GPUs in QOS interactive"),
        ("QOSMaxSubmitJobPerUserLimit", "tsalice", "4 jobs in QOS interactive"),
        ("QOSMaxWallDurationPerJobLimit", "tsalice", "1 h in QOS interactive"),
        ("AssocGrpGRES", "tscarol", "2 GPUs for the account other"),
        ("AssocGrpGRES", "tsalice", ""),  # nobody limits hers
        ("QOSMaxCpuPerUserLimit", "tsalice", ""),  # no such limit is there
        ("QOSMinGRES", "tsalice", ""),  # it is not asked for
        ("AssocGrpGRESMinutes", "tscarol", ""),
    ],
)
def test_a_limit_that_slurm_names_has_its_value(name: str, owner: str, says: str) -> None:
    assert told(name, owner) == says


def test_every_kind_of_limit_is_found_where_it_is_kept() -> None:
    mine = Limits(
        "ada",
        account="lab",
        user="ada",
        total={"gres/gpu:a100": 1},
        of_job={"cpu": 8, "mem": 65536},
        max_jobs=1,
        max_submit=5,
        total_submit=9,
        total_wall_s=7200,
        max_wall_s=3600,
    )
    qos = Limits("long", of_account={"node": 2}, max_jobs_of_account=3, total={"gres/shard": 8, "billing": 5})
    expected = {
        "AssocGrpGRES": "1 a100 GPU",
        "AssocMaxCpuPerJobLimit": "8 CPUs",
        "AssocMaxMemPerJob": "64 GiB of memory",
        "AssocMaxJobsLimit": "1 job",
        "AssocMaxSubmitJobLimit": "5 jobs",
        "AssocGrpSubmitJobsLimit": "9 jobs",
        "AssocGrpWallLimit": "2 h",
        "AssocMaxWallDurationPerJobLimit": "1 h",
        "QOSMaxNodePerAccount": "2 nodes",
        "QOSMaxJobsPerAccountLimit": "3 jobs",
        "QOSGrpGRES": "8 shards",
        "QOSGrpBilling": "5 billed resources",
    }
    for name, says in expected.items():
        found = limit_name(name)
        assert found is not None, name
        assert value_in(found, qos if found.qos else mine) == says, name


def test_a_job_that_waits_for_a_limit_is_told_its_name_and_its_value() -> None:
    known = Known(cluster(), INTERACTIVE, ZoneInfo("UTC"), BOOK)
    job = SlurmJob(1, "x", "tsalice", "PENDING", "QOSMaxGRESPerUser")
    assert why_waiting(job, known, NOW) == (
        "your jobs hold all the GPUs that its QOS allows (Slurm's limit QOSMaxGRESPerUser: 2 GPUs in QOS interactive); "
        "it starts when others end"
    )
    unreadable = why_waiting(job, replace(known, book=None), NOW)
    assert "(Slurm's limit QOSMaxGRESPerUser)" in unreadable


def test_a_refusal_names_the_limit_and_its_value() -> None:
    known = Known(cluster(), INTERACTIVE, ZoneInfo("UTC"), BOOK)
    said = "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates …"
    error = refusal(said, value_for("tsalice", known))
    assert error.reason == "too-many-waiting"
    assert "you have as many jobs as its QOS allows; end one of them first" in error.message
    assert "Slurm's limit QOSMaxSubmitJobPerUserLimit: 4 jobs in QOS interactive" in error.message
    assert "Slurm's limit" not in refusal(said).message
