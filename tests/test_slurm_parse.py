"""What Slurm printed is understood, or called unreadable; never read wrongly.

Recordings in tests/data/slurm/22.05 are of a real Slurm. Those of later releases were written by hand, and say so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slurm_examples import DATA

from timeshare.reservations.engines.base import EngineUnknown
from timeshare.reservations.engines.slurm import fields
from timeshare.reservations.engines.slurm.accounting import SlurmEnd, accounting_argv, parse_accounting
from timeshare.reservations.engines.slurm.errors import Unreadable
from timeshare.reservations.engines.slurm.fields import Gres
from timeshare.reservations.engines.slurm.limits import parse_associations, parse_estimate, parse_qos
from timeshare.reservations.engines.slurm.nodes import (
    SlurmNode,
    parse_nodes,
    parse_nodes_json,
    parse_partitions,
    parse_reservations,
)
from timeshare.reservations.engines.slurm.odd import Odd
from timeshare.reservations.engines.slurm.queue import SlurmJob, parse_queue, parse_queue_text, queue_text_argv
from timeshare.reservations.engines.slurm.states import life

REAL = DATA / "22.05"
SEPARATOR = "<0123456789abcdef>"
BY_HAND = ("23.11", "24.11", "25.05")


def read(name: str) -> str:
    return (REAL / name).read_text()


def jobs(text: str) -> dict[str, SlurmJob]:
    """By name; of an array, by name and task."""
    return {
        job.name if job.array_job_id is None else f"{job.name}[{job.array_task_id}]": job for job in parse_queue(text)
    }


def by_hand(release: str) -> dict[str, SlurmJob]:
    return jobs((DATA / release / "squeue_written_by_hand.json").read_text())


def nodes(found: list[SlurmNode]) -> dict[str, SlurmNode]:
    return {node.name: node for node in found}


# Jobs


def test_a_running_job_is_read_with_its_node_times_and_devices() -> None:
    job = jobs(read("squeue.json"))["running_gpu"]
    assert (job.life, job.user, job.partition, job.comment) == ("running", "tsalice", "gpu", "what it is for")
    assert (job.nodes, job.gpu_indices("gpu3")) == (("gpu3",), (0,))
    assert job.end_at is not None
    assert job.start_at is not None
    assert (job.end_at - job.start_at, job.time_limit_s, job.restarts) == (600, 600, 0)
    assert (job.tres["gres/gpu:a100"], job.tres["mem"]) == (1, 500)
    assert (job.reason, job.exit_code, job.array_job_id) == ("", None, None)


def test_shards_and_several_gpus_and_nodes_are_read() -> None:
    found = jobs(read("squeue.json"))
    shards = found["running_shards"]
    assert shards.gres == {"gpu2": (Gres("shard", "", 2, shards.gpu_indices("gpu2")),)}
    assert found["running_several_gpus"].gpu_indices("gpu1") == (0, 1)
    two = found["running_two_nodes"]
    assert two.nodes == ("gpu1", "gpu2")
    assert [len(two.gpu_indices(node) or ()) for node in two.nodes] == [1, 1]
    assert two.gpu_indices("gpu9") is None


def test_what_waits_is_read_with_its_reason_and_estimate() -> None:
    found = jobs(read("squeue.json"))
    assert {job.life for name, job in found.items() if name in ("qos_limit", "resources", "held")} == {"pending"}
    assert found["qos_limit"].reason == "QOSMaxGRESPerUser"
    assert found["node_unavailable"].reason == "ReqNodeNotAvail, UnavailableNodes:gpu1"
    assert found["qos_limit"].start_at is None
    assert found["resources"].start_at is not None


def test_tasks_of_an_array_are_told_apart_and_those_that_wait_are_listed() -> None:
    found = jobs(read("squeue.json"))
    assert (found["array[0]"].life, found["array[1]"].life) == ("running", "running")
    waiting = found["array[None]"]
    assert (waiting.life, waiting.array_job_id, waiting.array_tasks) == ("pending", waiting.job_id, (2, 3))
    assert found["array[0]"].array_tasks == ()


def test_what_is_still_ending_is_not_over() -> None:
    found = jobs(read("squeue_completing.json"))
    assert found["stubborn"].life == "ending"
    assert found["completed"].life == "ended"
    assert (found["failed"].exit_code, found["failed"].signal) == (3, None)
    assert (found["failed_by_signal"].exit_code, found["failed_by_signal"].signal) == (0, 11)
    assert found["array[2]"].exit_code == 2


def test_a_queue_that_shows_nothing_of_others_is_no_error() -> None:
    assert {job.user for job in parse_queue(read("squeue_of_tscarol.json"))} == {"tscarol"}


def test_an_empty_queue_of_a_controller_that_does_not_answer_is_unreadable() -> None:
    told = json.loads(read("answers.json"))["squeue_without_controller"]
    assert told["returncode"] == 0  # Slurm calls it a success
    with pytest.raises(Unreadable, match="slurm_load_jobs"):
        parse_queue(told["stdout"])
    assert parse_queue('{"jobs": [], "errors": []}') == []


@pytest.mark.parametrize("release", BY_HAND)
def test_later_releases_are_read_alike(release: str) -> None:
    found = by_hand(release)
    running = found["timeshare-running.1"]
    assert (running.life, running.nodes, running.restarts) == ("running", ("gpu01", "gpu02"), 1)
    assert (running.gpu_indices("gpu01"), running.gpu_indices("gpu02")) == ((0, 3), (1,))
    assert (running.start_at, running.end_at, running.time_limit_s) == (1795691622, 1795695222, 3600)
    assert (running.tres["mem"], running.exit_code, running.array_job_id) == (16384, None, None)
    lives = {name.partition("-")[2]: job.life for name, job in found.items()}
    assert lives == {
        "running.1": "running",
        "configuring.1": "running",
        "waiting.1": "pending",
        "requeued.2": "pending",
        "ending.1": "ending",
        "array.1[None]": "pending",
        "array.1[0]": "running",
        "failed.1": "ended",
        "killed.1": "ended",
        "endless.1": "running",
        "new.1": "unknown",
    }
    assert found["timeshare-array.1[None]"].array_tasks == (2, 3, 7)
    assert found["timeshare-array.1[0]"].gpu_indices("gpu03") == (1,)
    assert (found["timeshare-failed.1"].exit_code, found["timeshare-failed.1"].signal) == (3, None)
    assert (found["timeshare-killed.1"].exit_code, found["timeshare-killed.1"].signal) == (0, 9)
    assert found["timeshare-endless.1"].time_limit_s is None


def test_a_release_between_both_shapes_is_read() -> None:
    found = by_hand("23.02")
    assert (found["timeshare-running.1"].life, found["timeshare-running.1"].start_at) == ("running", 1795691622)
    assert (found["timeshare-ending.1"].life, found["timeshare-killed.1"].signal) == ("ending", 9)
    assert found["timeshare-failed.1"].exit_code == 3


def test_an_array_whose_tasks_were_cut_off_waits_with_tasks_that_are_not_known() -> None:
    told = json.loads((DATA / "24.11" / "squeue_written_by_hand.json").read_text())
    told["jobs"] = [entry for entry in told["jobs"] if entry["array_task_string"]]
    told["jobs"][0]["array_task_string"] = "0,2,4,6..."
    assert parse_queue(json.dumps(told))[0].array_tasks is None
    told["jobs"][0]["array_task_string"] = "4-10:2%2"
    assert parse_queue(json.dumps(told))[0].array_tasks == (4, 6, 8, 10)


def test_devices_that_cannot_be_given_to_nodes_are_not_told() -> None:
    told = json.loads((DATA / "24.11" / "squeue_written_by_hand.json").read_text())
    told["jobs"][0]["gres_detail"].pop()
    assert parse_queue(json.dumps(told))[0].gpu_indices("gpu01") is None


def test_the_queue_as_text_is_read_like_that_of_json() -> None:
    """Recorded with a job that is called like rows of others."""
    found = {(job.job_id, job.array_task_id): job for job in parse_queue_text(read("squeue_columns.txt"), SEPARATOR)}
    assert len(found) == 15
    names = {job.name for job in found.values()}
    assert "evil\n9|1|timeshare-x.1|RUNNING\n" in names
    assert "timeshare-x.1" not in names
    two = next(job for job in found.values() if job.name == "timeshare-two.1")
    assert (two.life, two.nodes, two.user, two.tres["gres/gpu:v100"]) == ("running", ("gpu1", "gpu2"), "tsalice", 1)
    assert (two.time_limit_s, two.restarts, two.gpu_indices("gpu1")) == (600, 0, None)
    tasks = {
        job.array_task_id: job.life for job in found.values() if job.name == "timeshare-arr.2" and job.life != "ended"
    }
    assert tasks == {0: "running", 3: "pending", 5: "pending"}
    waiting = next(job for job in found.values() if job.name == "timeshare-wait.1" and job.life == "pending")
    assert (waiting.reason, waiting.nodes) == ("BeginTime", ())
    assert waiting.start_at is not None


def test_a_row_of_text_that_is_not_whole_is_left_out_and_counted() -> None:
    whole = read("squeue_columns.txt")
    jobs = parse_queue_text(whole, SEPARATOR)
    assert parse_queue_text("", SEPARATOR) == []
    for text, expected in ((whole[:-200], jobs[:-1]), (whole + "slurm_load_jobs error", jobs)):
        odd = Odd()
        assert parse_queue_text(text, SEPARATOR, odd) == expected
        assert sum(odd.counts.values()) == 1
    for other in (whole.replace(SEPARATOR, "|"), "garbage"):
        with pytest.raises(Unreadable):
            parse_queue_text(other, SEPARATOR)


def test_a_job_with_a_column_that_was_cut_off_is_unknown_unless_that_is_for_people() -> None:
    whole = read("squeue_columns.txt")
    odd, jobs = Odd(), parse_queue_text(whole, SEPARATOR)
    found = parse_queue_text(re.sub(r"gpu\[1-2\] +<", "a" * 2048 + "<", whole), SEPARATOR, odd)
    unknown = [job for job in found if job.life == "unknown"]
    on_both = [job for job in jobs if job.nodes == ("gpu1", "gpu2")]
    assert [(job.job_id, job.name) for job in unknown] == [(job.job_id, job.name) for job in on_both] != []
    assert [job for job in found if job not in unknown] == [job for job in jobs if job not in on_both]
    assert odd.counts == {"squeue": len(unknown)}
    assert "cut off" in odd.first["squeue"]
    cut = [job for job in parse_queue_text(whole, SEPARATOR) if job.comment.startswith("long")]
    assert len(cut[0].comment) in (255, 256)


def test_separators_are_long_enough_not_to_be_guessed() -> None:
    assert SEPARATOR in queue_text_argv(SEPARATOR)[-1]
    for wrong in ("|", "%j,State", "<a b c d e>"):
        with pytest.raises(ValueError, match="separator"):
            queue_text_argv(wrong)
        with pytest.raises(ValueError, match="separator"):
            accounting_argv(wrong, [1])


# States


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        *((state, "pending") for state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")),
        *((state, "running") for state in ("RUNNING", "CONFIGURING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING")),
        *((state, "ending") for state in ("COMPLETING", "STAGE_OUT")),
        *((state, "ended") for state in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL")),
        *((state, "ended") for state in ("BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY", "CANCELLED by 1001")),
        *((state, "unknown") for state in ("", "REVOKED", "SOMETHING", "RUNNING+SOMETHING", "LAUNCH_FAILED", "+")),
        ("COMPLETED+COMPLETING", "ending"),
        ("PENDING+REQUEUED", "pending"),
        ("NODE_FAIL+REQUEUED", "pending"),
        ("FAILED+REQUEUE_HOLD+LAUNCH_FAILED", "pending"),
        ("RUNNING+CONFIGURING+POWER_UP_NODE", "running"),
        ("running", "running"),
    ],
)
def test_every_state_has_its_place_in_a_life(state: str, expected: str) -> None:
    assert life(state) == expected


@given(st.text())
def test_a_word_that_nobody_knows_is_unknown(word: str) -> None:
    assert life(f"X{word}X") == "unknown"


# Nodes


def test_nodes_are_read_alike_from_text_and_json() -> None:
    for scene in ("idle", "busy", "down"):
        of_text, of_json = (
            nodes(parse_nodes(read(f"nodes_{scene}.txt"))),
            nodes(parse_nodes_json(read(f"sinfo_{scene}.json"))),
        )
        assert of_text == of_json
        assert set(of_text) == {"cpu1", "gpu1", "gpu2", "gpu3"}


def test_a_node_is_read_with_what_it_has_and_what_is_held() -> None:
    node = nodes(parse_nodes(read("nodes_busy.txt")))["gpu2"]
    assert (node.configured(), node.taken()) == ({"v100": 4}, {"v100": 3})
    assert node.configured("shard") == {"v100": 16}
    assert node.shards_used == 4  # where GresUsed has 1
    assert node.taken_indices() == {0, 1, 2, 3}
    assert (node.address, node.cpus, node.memory_mib, node.partitions) == ("127.0.0.1", 16, 64000, ("gpu",))
    assert node.cpus_used > 1
    assert (node.memory_used_mib, node.open) == (node.cpus_used * 500, True)


def test_a_node_without_gpus_has_none() -> None:
    node = nodes(parse_nodes(read("nodes_busy.txt")))["cpu1"]
    assert (node.configured(), node.taken_indices()) == ({}, frozenset())


def test_nodes_that_start_nothing_are_known_with_their_reason() -> None:
    busy, down = nodes(parse_nodes(read("nodes_busy.txt"))), nodes(parse_nodes(read("nodes_down.txt")))
    assert (busy["gpu1"].states, busy["gpu1"].open, busy["gpu1"].reason) == ({"MIXED", "DRAIN"}, False, "fan")
    assert (down["gpu1"].open, down["gpu1"].reason) == (False, "power")


def test_nodes_of_later_releases_are_read() -> None:
    found = nodes(parse_nodes_json((DATA / "24.11" / "nodes_written_by_hand.json").read_text()))
    assert {name: node.open for name, node in found.items()} == {
        "gpu01": True,
        "gpu02": False,
        "gpu03": False,
        "gpu04": False,
        "gpu05": True,
    }
    assert found["gpu01"].used[1] == Gres("shard", "a100", 5, None, (None, (4, 4), (1, 4), None))
    assert found["gpu01"].taken_indices() is None
    assert found["gpu05"].configured() == {"a100_1g.5gb": 7, "a100_3g.20gb": 2}
    assert found["gpu01"].features == ("ampere",)


def test_a_reason_that_looks_like_a_state_is_a_reason() -> None:
    found = nodes(parse_nodes((DATA / "24.11" / "nodes_written_by_hand.txt").read_text()))
    assert found["gpu02"].states == {"IDLE", "DRAIN", "RESERVED"}
    assert found["gpu02"].partitions == ("gpu", "long")
    assert found["gpu03"].states == {"DOWN", "NOT_RESPONDING", "CLOUD"}
    assert found["gpu03"].reason == "Not responding"
    assert found["gpu01"].used[1].per_gpu == (None, (4, 4), (1, 4), None)


def test_a_summary_of_nodes_is_not_taken_for_nodes() -> None:
    with pytest.raises(Unreadable, match="no list of nodes"):
        parse_nodes_json((DATA / "24.11" / "sinfo_written_by_hand.json").read_text())


def test_partitions_are_read_with_their_times_and_whether_they_are_up() -> None:
    gpu, cpu = parse_partitions(read("partitions.txt"))
    assert (gpu.name, gpu.nodes, gpu.default, gpu.up) == ("gpu", ("gpu1", "gpu2", "gpu3"), True, True)
    assert (gpu.max_time_s, gpu.default_time_s, gpu.accounts) == (2 * 86400, 600, None)
    assert (cpu.up, cpu.state) == (False, "DOWN")
    closed = (
        read("partitions.txt")
        .replace("AllowAccounts=ALL", "AllowAccounts=lab,other")
        .replace("2-00:00:00", "UNLIMITED")
    )
    assert parse_partitions(closed)[0].accounts == ("lab", "other")
    assert parse_partitions(closed)[0].max_time_s is None


def test_reservations_for_maintenance_are_known() -> None:
    upgrade, course = parse_reservations(read("reservations.txt"))
    assert (upgrade.name, upgrade.maintenance, upgrade.ends_at - upgrade.begins_at) == ("upgrade", True, 3600)
    assert upgrade.nodes == ("cpu1", "gpu1", "gpu2", "gpu3")
    assert (course.maintenance, course.users) == (False, ("tsalice",))
    assert parse_reservations("No reservations in the system\n") == []


# Accounting


def ends(name: str) -> dict[str, list[SlurmEnd]]:
    found: dict[str, list[SlurmEnd]] = {}
    for end in parse_accounting(read(name)):
        found.setdefault(end.name, []).append(end)
    return found


def test_ends_are_read_with_exit_code_signal_and_who_cancelled() -> None:
    found = ends("sacct_duplicates.txt")
    told = {name: (of[0].state, of[0].exit_code, of[0].signal, of[0].cancelled_by) for name, of in found.items()}
    assert told["completed"] == ("COMPLETED", 0, None, None)
    assert told["failed"] == ("FAILED", 3, None, None)
    assert told["failed_by_signal"] == ("FAILED", 0, 11, None)
    assert told["out_of_memory"] == ("OUT_OF_MEMORY", 0, 125, None)
    assert told["timeout"][0] == "TIMEOUT"
    assert told["node_fail"][0] == "NODE_FAIL"
    assert told["cancelled_by_root"] == ("CANCELLED", 0, None, 0)
    assert told["still_running"] == ("RUNNING", None, None, None)
    assert told["cancelled"][3] == told["cancelled_waiting"][3] != 0
    assert found["cancelled_waiting"][0].started_at is None
    assert found["still_running"][0].ended_at is None
    assert found["steps"][0].tres["gres/gpu:a100"] == 1
    assert {end.array_task_id: end.exit_code for end in found["array"]} == {0: 0, 1: 1, 2: 2}


def test_each_attempt_of_what_was_started_again_is_told_apart() -> None:
    found = ends("sacct_duplicates.txt")
    for name, first in {"preempted": "PREEMPTED", "requeued": "REQUEUED", "node_fail_requeued": "NODE_FAIL"}.items():
        assert [end.attempt for end in found[name]] == [0, 1]
        assert (found[name][0].state, found[name][0].life) == (first, "ended")
        assert (found[name][0].submitted_at or 0) < (found[name][1].submitted_at or 0)
    assert found["requeued"][1].state == "COMPLETED"
    assert [end.attempt for end in ends("sacct.txt")["preempted"]] == [0]


def test_names_of_several_lines_do_not_make_rows() -> None:
    found = {end.job_id: end for end in parse_accounting(read("sacct_separated.txt"), SEPARATOR)}
    assert found[50].name == "evil\n9|1|timeshare-x.1|RUNNING\n"
    assert (found[55].name, found[55].exit_code) == ("fails\n1|2", 4)
    assert (found[53].array_job_id, found[53].array_task_id, found[53].life) == (53, None, "pending")
    assert "timeshare-x.1" not in {end.name for end in found.values()}


def test_an_accounting_that_has_not_heard_of_it_says_nothing() -> None:
    header = read("sacct.txt").partition("\n")[0] + "\n"
    assert parse_accounting(header) == []
    for garbage in ("", "\n", "JobID|State\n1|COMPLETED\n", header + "1|1|x\n"):
        with pytest.raises(Unreadable):
            parse_accounting(garbage)


# Limits and estimates


def test_limits_of_users_and_qos_are_read() -> None:
    (alice,) = parse_associations(read("associations_of_tsalice.txt"))
    assert (alice.account, alice.user, alice.default_qos) == ("lab", "tsalice", "normal")
    assert alice.qos == ("interactive", "normal", "scav", "single")
    other = next(of for of in parse_associations(read("associations.txt")) if (of.account, of.user) == ("other", ""))
    assert other.total == {"gres/gpu": 2}
    qos = {one.name: one for one in parse_qos(read("qos.txt"))}
    interactive = qos["interactive"]
    assert (interactive.of_user, interactive.max_submit, interactive.max_wall_s) == ({"gres/gpu": 2}, 4, 3600)
    assert (qos["single"].max_jobs, qos["single"].flags) == (1, {"DenyOnLimit"})
    assert (qos["normal"].max_jobs, qos["normal"].max_wall_s) == (None, None)


def test_an_estimate_is_read_from_what_sbatch_says() -> None:
    told = json.loads(read("sbatch_test_only.json"))
    estimate = parse_estimate(told["starts_later"]["stderr"])
    assert (estimate.nodes, estimate.partition) == (("gpu3",), "gpu")
    assert estimate.start_at > 1795000000
    for text in ("", told["refused"]["stderr"], "sbatch: Job 1 to start at Unknown using 1 processors on nodes a"):
        with pytest.raises(Unreadable):
            parse_estimate(text)


# Pieces


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", ["a"]),
        ("a[1-3,7],b1", ["a1", "a2", "a3", "a7", "b1"]),
        ("gpu[008-010,12]", ["gpu008", "gpu009", "gpu010", "gpu12"]),
        ("r[1-2]n[01-02]-ib", ["r1n01-ib", "r1n02-ib", "r2n01-ib", "r2n02-ib"]),
        ("a.example.org,b[0-1].example.org", ["a.example.org", "b0.example.org", "b1.example.org"]),
        ("(null)", []),
        ("None assigned", []),
    ],
)
def test_lists_of_hosts_are_expanded(text: str, expected: list[str]) -> None:
    assert list(fields.hosts(text)) == expected


@pytest.mark.parametrize(
    "text", ["a[1-3", "a]", "a[3-1]", "a[1-99999999]", "a[[1]]", "a,,b", "a[1-2,]", "a b", "a[x]", ","]
)
def test_lists_of_hosts_that_are_none_are_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        fields.hosts(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 600), ("01:30", 90), ("01:00:00", 3600), ("2-00:00:00", 172800), ("1-12", 129600), ("UNLIMITED", None)],
)
def test_durations_are_seconds(text: str, seconds: int | None) -> None:
    assert fields.duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu:4", [Gres("gpu", "", 4)]),
        ("gpu:a100:4(S:0-1)", [Gres("gpu", "a100", 4)]),
        ("gpu:a100:3(IDX:0-1,3),shard:2(IDX:2)", [Gres("gpu", "a100", 3, (0, 1, 3)), Gres("shard", "", 2, (2,))]),
        ("gpu:a100_1g.5gb:7", [Gres("gpu", "a100_1g.5gb", 7)]),
        ("gpu:0,shard:0", [Gres("gpu", "", 0), Gres("shard", "", 0)]),
        ("gpu:p100:0(IDX:N/A)", [Gres("gpu", "p100", 0, ())]),
        ("tmp:no_consume:7K", [Gres("tmp", "", 7168)]),
        ("gres:gpu:a100:1", [Gres("gpu", "a100", 1)]),
        ("(null)", []),
    ],
)
def test_resources_are_read(text: str, expected: list[Gres]) -> None:
    assert list(fields.gres(text)) == expected


@pytest.mark.parametrize("text", ["gpu:a:b:1", "gpu:a100:2(IDX:0", "gpu:a100:2(IDX:x)", ",", "gpu::1", "shard:3(a/b)"])
def test_resources_that_are_none_are_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        fields.gres(text)


def test_amounts_are_read_with_their_units() -> None:
    assert fields.tres("cpu=16,mem=62.50G,gres/gpu:a100=4,gres/tmp=7T") == {
        "cpu": 16,
        "mem": 64000,
        "gres/gpu:a100": 4,
        "gres/tmp": 7 * 2**40,
    }
    assert fields.tres("mem=500") == {"mem": 500}
    for wrong in ("cpu", "cpu=x", "=1", "mem=1X"):
        with pytest.raises(Unreadable):
            fields.tres(wrong)


def test_numbers_are_read_as_every_release_writes_them() -> None:
    assert [fields.number(value) for value in (5, 5.0, {"set": True, "infinite": False, "number": 5})] == [5, 5, 5]
    nothing: list[Any] = [None, 4294967294, {"set": False, "infinite": False, "number": 0}]
    nothing += [{"set": False, "infinite": True, "number": 0}, {"set": True, "infinite": True, "number": 7}]
    assert [fields.number(value) for value in nothing] == [None] * 5
    assert fields.number(65534) == 65534
    for wrong in ("5", True, [5], float("nan"), {"set": True, "number": "5"}):
        with pytest.raises(Unreadable):
            fields.number(wrong)


# Garbage

READERS: dict[str, tuple[Callable[[str], object], Path]] = {
    "queue": (parse_queue, REAL / "squeue.json"),
    "queue as text": (lambda text: parse_queue_text(text, SEPARATOR), REAL / "squeue_columns.txt"),
    "nodes": (parse_nodes, REAL / "nodes_busy.txt"),
    "nodes as JSON": (parse_nodes_json, REAL / "sinfo_busy.json"),
    "partitions": (parse_partitions, REAL / "partitions.txt"),
    "reservations": (parse_reservations, REAL / "reservations.txt"),
    "accounting": (parse_accounting, REAL / "sacct_duplicates.txt"),
    "associations": (parse_associations, REAL / "associations.txt"),
    "qos": (parse_qos, REAL / "qos.txt"),
    "estimate": (parse_estimate, REAL / "version.txt"),
}
SILENT_WHEN_EMPTY = {"queue as text"}


@pytest.mark.parametrize("name", sorted(set(READERS) - SILENT_WHEN_EMPTY))
def test_nothing_at_all_is_unreadable(name: str) -> None:
    for text in ("", "\n", "null", "[]", "{}", "slurm_load error: something\n"):
        with pytest.raises(Unreadable):
            READERS[name][0](text)


@given(name=st.sampled_from(sorted(READERS)), text=st.text())
def test_garbage_is_unreadable_or_nothing_and_no_other_error(name: str, text: str) -> None:
    try:
        found = READERS[name][0](text)
    except Unreadable as error:
        assert isinstance(error, EngineUnknown)
        assert len(str(error)) < 2000
    else:
        assert found == []


@given(name=st.sampled_from(sorted(READERS)), data=st.data())
def test_a_damaged_answer_is_read_or_unreadable_and_no_other_error(name: str, data: st.DataObject) -> None:
    reader, path = READERS[name]
    text = path.read_text()
    at = data.draw(st.integers(0, len(text)))
    damaged = (
        text[:at]
        + data.draw(st.sampled_from(["", "x", "\n", '"', "]", "=", "|", "null", "-1", "(", "\0"]))
        + text[at + 1 :]
    )
    for one in (damaged, text[:at]):
        try:
            reader(one)
        except Unreadable:
            continue
