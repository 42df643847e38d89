"""What somebody who asks a cluster now can expect: nodes that are out, set aside, in use or free. Answers recorded from
a real Slurm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from slurm_examples import DATA
from traitlets.config import Config

from timeshare.reservations.devices.model import MIB_PER_GIB
from timeshare.reservations.elsewhere import Outlook
from timeshare.reservations.engines.slurm.allowances import Place
from timeshare.reservations.engines.slurm.cluster import ClusterFacts, Snapshot, devices_of, snapshot_of
from timeshare.reservations.engines.slurm.config import SlurmPool
from timeshare.reservations.engines.slurm.explain import Known, why_waiting
from timeshare.reservations.engines.slurm.nodes import SlurmReservation, parse_nodes, parse_partitions
from timeshare.reservations.engines.slurm.outlook import Ask, announced, outlook_of
from timeshare.reservations.engines.slurm.queue import SlurmJob
from timeshare.reservations.engines.slurm.settings import Timing, timing_of
from timeshare.reservations.shares import Shape, ShareRequest

NOW = 1796140800.0  # 2026-12-01 16:00 UTC
HOUR = 3600.0
A100 = ShareRequest(Shape.WHOLE, count=1, model="a100")
UTC = ZoneInfo("UTC")


def pool(**traits: Any) -> SlurmPool:
    gpus = {"v100": {"model": "v100", "memory_gib": 16, "shards": 4}}
    return SlurmPool("slurm", Config(SlurmPool={"partition": "gpu", "fraction": "shard", "gpus": gpus, **traits}))


def read(name: str) -> str:
    return (DATA / "22.05" / name).read_text()


def cluster(*reservations: SlurmReservation, scene: str = "idle", **traits: Any) -> Snapshot:
    nodes, partitions = parse_nodes(read(f"nodes_{scene}.txt")), parse_partitions(read("partitions.txt"))
    return snapshot_of(pool(**traits), ClusterFacts(nodes, partitions, reservations), NOW)


def set_aside(begins_h: float, ends_h: float, *nodes: str, flags: str = "MAINT", **more: Any) -> SlurmReservation:
    begins, ends = NOW + begins_h * HOUR, NOW + ends_h * HOUR
    return SlurmReservation("fix", begins, ends, nodes or ("gpu1", "gpu2", "gpu3"), frozenset(flags.split(",")), **more)


def told(snapshot: Snapshot, hours: float = 2, share: ShareRequest = A100, **ask: Any) -> Outlook:
    return outlook_of(snapshot, ask.pop("jobs", ()), Ask(share, seconds=hours * HOUR, grace_s=45, **ask), NOW)


def test_what_is_free_and_not_set_aside_starts_now_for_as_long_as_wanted() -> None:
    assert told(cluster()) == Outlook(4)


def test_before_maintenance_only_what_ends_in_time_starts_now() -> None:
    soon = cluster(set_aside(1, 3))
    short = told(soon, hours=0.5)
    assert (short.free, short.start_in_s(1800)) == (4, 0.0)
    long = told(soon, hours=2)
    assert (long.free, long.free_for_s) == (4, HOUR - 45)
    assert long.said == "maintenance from 2026-12-01 17:00 to 19:00 (UTC)"
    assert long.start_in_s(2 * 3600) == 3 * HOUR
    assert told(soon, hours=1).start_in_s(3600) == 3 * HOUR  # with what its stop may take it would run into it
    assert told(soon, hours=1 - 45 / 3600).start_in_s(3600 - 45) == 0.0


def test_a_node_without_maintenance_takes_what_others_cannot() -> None:
    any_model = replace(A100, model="")
    assert told(cluster(set_aside(1, 3, "gpu1", "gpu2")), share=any_model) == Outlook(4)


def test_in_maintenance_nothing_is_free_and_the_end_is_told() -> None:
    during = told(cluster(set_aside(-1, 2)))
    assert (during.free, during.closed, during.expected_in_s) == (0, False, 2 * HOUR)
    assert during.said == "maintenance from 2026-12-01 15:00 to 18:00 (UTC); nobody else waits"


def test_what_slurm_marks_for_maintenance_is_closed_unless_its_end_is_known() -> None:
    nodes = [
        replace(node, states=node.states | {"MAINTENANCE", "RESERVED"}) for node in parse_nodes(read("nodes_idle.txt"))
    ]
    partitions = parse_partitions(read("partitions.txt"))
    unknown = told(snapshot_of(pool(), ClusterFacts(nodes, partitions), NOW))
    assert (unknown.closed, unknown.said) == (True, "gpu3: maintenance")
    known = told(snapshot_of(pool(), ClusterFacts(nodes, partitions, [set_aside(-1, 2)]), NOW))
    assert (known.closed, known.expected_in_s) == (False, 2 * HOUR)


def test_between_two_maintenances_only_what_fits_starts() -> None:
    twice = cluster(set_aside(-1, 1), set_aside(2, 4))
    assert told(twice, hours=0.5).expected_in_s == HOUR
    assert told(twice, hours=3).expected_in_s == 4 * HOUR


def test_a_session_without_a_gpu_waits_for_the_end_of_maintenance_too() -> None:
    cpu = ShareRequest(Shape.CPU)
    assert told(cluster(set_aside(-1, 2)), share=cpu).expected_in_s == 2 * HOUR
    assert told(cluster(set_aside(1, 2)), share=cpu, hours=0.5).free == 1


def test_what_is_in_use_and_would_run_into_maintenance_starts_after_it() -> None:
    busy = cluster(set_aside(1.5, 3), scene="busy")
    job = SlurmJob(1, "x", "bob", "RUNNING", nodes=("gpu2",), end_at=NOW + HOUR)
    busy = replace(busy, timing=Timing(kill_wait_s=0))
    both = told(busy, share=ShareRequest(Shape.WHOLE, count=2, model="v100"), jobs=[job])
    assert both.expected_in_s == 3 * HOUR
    assert both.said == (
        "In use; the first ends in 1 h at the latest; "
        "maintenance from 2026-12-01 17:30 to 19:00 (UTC); nobody else waits"
    )


def test_a_job_may_hold_its_node_for_longer_than_its_time_limit() -> None:
    job = SlurmJob(1, "x", "bob", "RUNNING", nodes=("gpu2",), end_at=NOW + HOUR)
    both = ShareRequest(Shape.WHOLE, count=2, model="v100")
    over = timing_of({"KillWait": "30 sec", "OverTimeLimit": "5 min"})
    assert told(replace(cluster(scene="busy"), timing=over), share=both, jobs=[job]).expected_in_s == HOUR + 330
    endless = timing_of({"OverTimeLimit": "UNLIMITED"})
    assert told(replace(cluster(scene="busy"), timing=endless), share=both, jobs=[job]).expected_in_s is None


@pytest.mark.parametrize(
    ("reservation", "free"),
    [
        (set_aside(-1, 2, "gpu3", flags="SPEC_NODES", users=("tsalice",)), 0),
        (set_aside(-1, 2, "gpu3", flags="SPEC_NODES", users=("tsalice",), cpus=16), 0),
        (set_aside(-1, 2, "gpu3", flags="SPEC_NODES", users=("tsalice",), cpus=2), 4),
        (set_aside(-1, 2, "gpu3", flags="MAGNETIC", users=("tsalice",)), 4),
        (set_aside(-1, 2, "gpu3", flags="MAGNETIC", users=("tsbob",)), 0),
        (set_aside(-2, -1), 4),
    ],
)
def test_nodes_that_are_kept_for_others_are_not_free(reservation: SlurmReservation, free: int) -> None:
    assert told(cluster(reservation), owner="tsalice").free == free


def test_a_pool_in_a_reservation_has_its_nodes_and_its_time() -> None:
    school = set_aside(-1, 3, "gpu3", flags="SPEC_NODES")
    mine = {"reservation": "fix"}
    assert told(cluster(school, **mine)).free == 4
    assert told(cluster(school, **mine), share=replace(A100, model="p100")).closed
    over = told(cluster(school, **mine), hours=4)
    assert (over.free_for_s, over.start_in_s(4 * 3600)) == (3 * HOUR - 45, None)
    assert over.said == "outside the reservation fix from 2026-12-01 19:00 on (UTC)"
    early = told(cluster(set_aside(1, 3, "gpu3", flags="SPEC_NODES"), **mine), hours=1)
    assert (early.free, early.expected_in_s) == (0, HOUR)
    gone = told(cluster(**mine))
    assert (gone.closed, gone.said) == (True, "Slurm has no reservation 'fix' now")


def test_drained_and_down_nodes_do_not_count() -> None:
    nodes = parse_nodes(read("nodes_idle.txt"))
    partitions = parse_partitions(read("partitions.txt"))

    def with_gpu3(state: str, reason: str = "") -> Outlook:
        changed = [replace(n, states=frozenset({state}), reason=reason) if n.name == "gpu3" else n for n in nodes]
        return told(snapshot_of(pool(), ClusterFacts(changed, partitions), NOW))

    for state in ("DRAIN", "DRAINED", "DOWN", "FAIL", "NOT_RESPONDING"):
        assert (with_gpu3(state).free, with_gpu3(state).closed) == (0, True)
    assert with_gpu3("DRAIN", "fan").said == "gpu3: drain (fan)"
    any_model = replace(A100, model="")
    down = snapshot_of(pool(), ClusterFacts(parse_nodes(read("nodes_down.txt")), partitions), NOW)
    out = [node for node in down.nodes if not node.open]
    assert [node.name for node in out] == ["gpu1"]
    assert told(down, share=any_model).free == sum(
        4 - sum(node.taken().values()) for node in down.nodes if node.name != "gpu1"
    )


def test_slices_are_counted_as_such() -> None:
    mig = {"mig": {"a100": {"profile": "1g.5gb", "model": "a100-40gb"}}}
    sliced = cluster(**mig)
    assert told(sliced, share=ShareRequest(Shape.MIG, profile="1g.5gb")).free == 4
    assert told(sliced, share=ShareRequest(Shape.WHOLE, count=1)).free == 8  # of the other two nodes
    assert told(sliced, share=ShareRequest(Shape.FRACTION, memory_mib=4 * MIB_PER_GIB), units=1).free == 16


def test_devices_of_nodes_that_are_set_aside_are_out_of_service() -> None:
    devices = devices_of(cluster(set_aside(-1, 2, "gpu3")), "slurm", False)
    assert {device.node: device.cordoned for device in devices} == {"gpu1": None, "gpu2": None, "gpu3": "maintenance"}


def test_maintenance_is_announced_with_the_nodes_it_takes() -> None:
    zone = ZoneInfo("Europe/Zurich")
    assert announced(cluster(set_aside(1, 3)), zone, NOW) == [
        "maintenance from 2026-12-01 18:00 to 20:00 (Europe/Zurich): all nodes"
    ]
    assert announced(cluster(set_aside(1, 30, "gpu3", "cpu1")), zone, NOW) == [
        "maintenance from 2026-12-01 18:00 to 2026-12-02 23:00 (Europe/Zurich): gpu3"
    ]
    over, far, elsewhere = set_aside(-3, -1), set_aside(15 * 24, 16 * 24), set_aside(1, 3, "cpu1")
    kept = set_aside(1, 3, flags="SPEC_NODES")
    assert announced(cluster(over, far, elsewhere, kept), zone, NOW) == []


def test_a_job_that_waits_for_maintenance_is_told_when_that_is() -> None:
    soon = cluster(set_aside(1, 3, "gpu3"))
    known = Known(soon, Place(), UTC)
    reason = "ReqNodeNotAvail, May be reserved for other job"
    job = SlurmJob(1, "x", "bob", "PENDING", reason, tres={"cpu": 1, "gres/gpu": 1}, time_limit_s=2 * 3600)
    said = "it would run into maintenance from 2026-12-01 17:00 to 19:00 (UTC)"
    assert why_waiting(job, known, NOW) == said
    assert why_waiting(replace(job, reason="ReqNodeNotAvail, Reserved for maintenance"), known, NOW) == said
    other_model = replace(job, tres={"gres/gpu:p100": 1})
    assert "maintenance from" not in why_waiting(other_model, known, NOW)
    assert why_waiting(replace(job, time_limit_s=1800), known, NOW).startswith("nodes that it needs")
    assert why_waiting(replace(job, reason="Priority"), known, NOW) == "others are before it in the queue"
    down = replace(job, reason="ReqNodeNotAvail, UnavailableNodes:gpu3")
    assert why_waiting(down, known, NOW).endswith("(gpu3)")
