"""One odd line never takes the others along: garbled, truncated, reordered, foreign lines in every answer of Slurm."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from conftest import FULL_STRESS
from hypothesis import given, settings
from hypothesis import strategies as st
from slurm_examples import DATA
from traitlets.config import Config

from timeshare.reservations.elsewhere import Outlook
from timeshare.reservations.engines.slurm.accounting import parse_accounting
from timeshare.reservations.engines.slurm.cluster import ClusterFacts, away_of, devices_of, snapshot_of
from timeshare.reservations.engines.slurm.config import SlurmPool
from timeshare.reservations.engines.slurm.errors import Unreadable
from timeshare.reservations.engines.slurm.limits import parse_associations, parse_qos
from timeshare.reservations.engines.slurm.nodes import parse_nodes, parse_partitions, parse_reservations, untyped
from timeshare.reservations.engines.slurm.odd import Odd
from timeshare.reservations.engines.slurm.outlook import OLD_S, Ask, outlook_of
from timeshare.reservations.engines.slurm.queue import NAMELESS, parse_queue, parse_queue_text
from timeshare.reservations.shares import parse_share

REAL = DATA / "22.05"
SEPARATOR = "<0123456789abcdef>"
MIXES = 2000 if FULL_STRESS else 150
FOREIGN = ["", "slurm_load_jobs error: Unable to contact", "PAM: a message of the day", "=", "a|b|c", "NodeName", "[]"]


def read(name: str) -> str:
    return (REAL / name).read_text()


LINES: dict[str, tuple[Callable[..., list[Any]], str, int]] = {
    "nodes": (parse_nodes, read("nodes_busy.txt"), 0),
    "partitions": (parse_partitions, read("partitions.txt"), 0),
    "reservations": (parse_reservations, read("reservations.txt"), 0),
    "accounting": (parse_accounting, read("sacct_duplicates.txt"), 1),
    "associations": (parse_associations, read("associations.txt"), 1),
    "qos": (parse_qos, read("qos.txt"), 1),
}
"""Answers of one entry a line: who reads it, as a real Slurm gave it, and how many lines of names come first."""


def damaged(draw: Callable[[Any], Any], line: str) -> str:
    """A line with something wrong in it, or cut off."""
    at = draw(st.integers(0, max(0, len(line) - 1)))
    if draw(st.booleans()):
        return line[:at]
    return (
        line[:at]
        + draw(st.sampled_from(["\0", "(null)", "=", "|", "%%%", " X=", "é", "-1", "99999999999999999999"]))
        + line[at + 1 :]
    )


@pytest.mark.parametrize("name", sorted(LINES))
@settings(max_examples=MIXES)
@given(data=st.data())
def test_healthy_lines_are_read_as_before_among_odd_ones(name: str, data: st.DataObject) -> None:
    reader, text, headers = LINES[name]
    lines = [line for line in text.split("\n") if line]
    head, rows = lines[:headers], lines[headers:]
    told = {row: reader("\n".join([*head, row, ""]))[0] for row in rows}
    odd = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=len(rows) - 1, unique=True))
    healthy = [row for at, row in enumerate(rows) if at not in odd]
    mixed = healthy + [damaged(data.draw, rows[at]) for at in odd]
    mixed += data.draw(st.lists(st.sampled_from(FOREIGN), max_size=3))
    random.Random(data.draw(st.integers(0, 1000))).shuffle(mixed)
    before = data.draw(st.lists(st.sampled_from(FOREIGN), max_size=2)) if headers else []
    found = reader("\n".join([*before, *head, *mixed, ""]), odd=Odd())
    wanted, have = (Counter(map(identity, entries)) for entries in ([told[row] for row in healthy], found))
    assert not wanted - have


BEYOND = ["1" * 400, "1" * 5000, "-5", "9" * 21]


@pytest.mark.parametrize("beyond", BEYOND, ids=["10^400", "10^5000", "negative", "more than 64 bits"])
@pytest.mark.parametrize(
    ("name", "key"),
    [
        *(("nodes", key) for key in ("CPUTot", "RealMemory", "Gres", "CfgTRES")),
        *(("partitions", key) for key in ("MaxTime", "MaxNodes", "DefMemPerCPU", "TotalCPUs")),
    ],
)
def test_a_number_beyond_sense_costs_its_own_line_at_most(name: str, key: str, beyond: str) -> None:
    reader, text, _ = LINES[name]
    first, *others = [line for line in text.split("\n") if line]
    value = next(word.partition("=")[2] for word in first.split() if word.startswith(f"{key}="))
    told = {"Gres": f"gpu:p100:{beyond}(S:0)", "CfgTRES": f"cpu={beyond},mem=1G"}.get(key, beyond)
    wrong = first.replace(f"{key}={value}", f"{key}={told}", 1)
    assert wrong != first
    found = reader("\n".join([wrong, *others, ""]), odd=Odd())
    assert {one.name for one in reader("\n".join([*others, ""]))} <= {one.name for one in found}


@pytest.mark.parametrize("beyond", BEYOND)
@pytest.mark.parametrize("key", ["start_time", "end_time", "time_limit", "job_id", "restart_cnt"])
def test_a_job_with_a_number_beyond_sense_leaves_the_other_jobs_as_they_are(key: str, beyond: str) -> None:
    document = json.loads(read("squeue.json"))
    before = parse_queue(json.dumps(document))
    document["jobs"][0][key] = 424242424242
    found = parse_queue(json.dumps(document).replace("424242424242", beyond), odd := Odd())
    assert found[-len(before) + 1 :] == before[1:]
    assert sum(odd.counts.values()) == 1
    assert [job.life for job in found[: len(found) - len(before) + 1]] in ([], ["unknown"])


def test_an_end_in_ten_thousand_years_is_none_that_is_told() -> None:
    document = json.loads(read("squeue.json"))
    before = parse_queue(json.dumps(document))[0]
    document["jobs"][0]["end_time"] = 400_000_000_000
    after = parse_queue(json.dumps(document))[0]
    assert (after.end_at, after.state, after.start_at) == (None, before.state, before.start_at)
    document["jobs"][0]["time_limit"] = 2**63
    assert parse_queue(json.dumps(document), Odd())[0].life == "unknown"


@pytest.mark.parametrize("beyond", BEYOND)
def test_a_number_beyond_sense_in_accounting_or_in_the_text_of_the_queue_is_odd_alone(beyond: str) -> None:
    header, first, *others = [line for line in read("sacct_duplicates.txt").split("\n") if line]
    for column in ("JobID", "JobIDRaw", "ExitCode", "AllocTRES"):
        cells = first.split("|")
        cells[header.split("|").index(column)] = {"ExitCode": f"{beyond}:0", "AllocTRES": f"cpu={beyond}"}.get(
            column, beyond
        )
        found = parse_accounting("\n".join([header, "|".join(cells), *others, ""]), odd=Odd())
        assert len(found) >= len(others)


def identity(entry: Any) -> str:
    """An entry but for what depends on the others: which attempt of its job it is."""
    return repr(sorted((name, repr(value)) for name, value in vars(entry).items() if name != "attempt"))


@settings(max_examples=MIXES)
@given(data=st.data())
def test_healthy_jobs_of_the_json_queue_are_read_as_before(data: st.DataObject) -> None:
    told = json.loads(read("squeue.json"))
    jobs = told["jobs"]
    known = {job["job_id"]: parse_queue(json.dumps({**told, "jobs": [job]})) for job in jobs}
    odd = data.draw(st.lists(st.integers(0, len(jobs) - 1), max_size=len(jobs) - 1, unique=True))
    for at in odd:
        field = data.draw(st.sampled_from(sorted(jobs[at])))
        wrong = data.draw(st.sampled_from([[], {}, "garbled", -1, None, True, {"set": True, "number": "x"}, [[1]]]))
        jobs[at] = data.draw(st.sampled_from([{**jobs[at], field: wrong}, "foreign", None, 7, [], {}]))
    random.Random(data.draw(st.integers(0, 1000))).shuffle(jobs)
    before, after = data.draw(st.sampled_from(["", "a warning\n"])), data.draw(st.sampled_from(["", "\nbye\n"]))
    found = parse_queue(before + json.dumps(told) + after, Odd())
    original = json.loads(read("squeue.json"))["jobs"]
    for job in jobs:
        if job in original:
            (expected,) = known[job["job_id"]]
            assert expected in found


@settings(max_examples=MIXES)
@given(data=st.data())
def test_healthy_rows_of_the_text_queue_are_read_as_before(data: st.DataObject) -> None:
    text = read("squeue_columns.txt")
    jobs = parse_queue_text(text, SEPARATOR)
    cells = text.split(SEPARATOR)[:-1]
    width = len(cells) // len(jobs)
    rows = [SEPARATOR.join(cells[at : at + width]).lstrip("\n") + SEPARATOR for at in range(0, len(cells), width)]
    odd = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=len(rows) - 1, unique=True))
    order = list(range(len(rows)))
    random.Random(data.draw(st.integers(0, 1000))).shuffle(order)
    mixed = []
    for at in order:
        mixed += data.draw(st.lists(st.sampled_from(FOREIGN), max_size=1))
        mixed.append(damaged(data.draw, rows[at]) if at in odd else rows[at])
    found = parse_queue_text("\n".join(mixed) + "\n", SEPARATOR, Odd())
    assert [jobs[at] for at in order if at not in odd] == [
        job for job in found if job in jobs and jobs.index(job) not in odd
    ]


# --- the two that were reported


def pool() -> SlurmPool:
    return SlurmPool("slurm", Config(SlurmPool={"partition": "gpu", "gpus": {"a100": {"memory_gib": 40}}}))


NODE = "NodeName={} State=IDLE CPUTot=8 RealMemory=64000 Gres={} GresUsed={} Partitions=gpu"
PARTITION = "PartitionName=gpu State=UP MaxTime=1-00:00:00 Nodes=a,b Default=YES"


def test_gpus_without_a_type_leave_the_other_nodes_readable_and_are_told() -> None:
    out = "\n".join(
        [
            NODE.format("a", "gpu:2", "gpu:(null):0(IDX:N/A)"),
            NODE.format("b", "gpu:a100:4", "gpu:a100:1(IDX:0)"),
        ]
    )
    first, second = parse_nodes(out)
    assert (first.configured(), first.taken(), first.unread) == ({"": 2}, {"": 0}, ())
    assert (second.configured(), second.taken()) == ({"a100": 4}, {"a100": 1})
    assert "GPUs of a have no type in Slurm, so they are not offered" in untyped([first, second])[0]
    seen = snapshot_of(pool(), ClusterFacts([first, second], parse_partitions(PARTITION)), 0.0)
    assert {device.node for device in devices_of(seen, "slurm", False)} == {"b"}


def test_a_node_of_which_a_field_is_not_understood_takes_no_work_and_says_which() -> None:
    odd = Odd()
    out = "\n".join([NODE.format("a", "gpu:a100:2", "gpu:a100:(?"), NODE.format("b", "gpu:a100:4", "(null)")])
    first, second = parse_nodes(out, odd)
    assert (first.unread, first.open, second.open) == (("GresUsed",), False, True)
    assert away_of(first) == "what Slurm says of it is not understood (GresUsed)"
    assert odd.texts() == ["of the node a is not understood: GresUsed"]
    seen = snapshot_of(pool(), ClusterFacts([first, second], parse_partitions(PARTITION)), 1.0)
    cordoned = {device.node: device.cordoned is not None for device in devices_of(seen, "slurm", False)}
    assert cordoned == {"a": True, "b": False}


def test_a_heterogeneous_job_is_accounted_beside_the_others() -> None:
    header, *rows = read("sacct_duplicates.txt").split("\n")[:3]
    number = rows[0].split("|")[0]
    parts = [rows[0].replace(f"{number}|{number}|", f"5+{n}|{5 + n}|", 1) for n in (0, 1)]
    found = parse_accounting("\n".join([header, *parts, rows[1], ""]))
    assert {5, 6} <= {end.job_id for end in found}
    assert len(found) == 3


def test_of_a_job_that_is_not_understood_the_state_is_unknown_and_nothing_is_concluded() -> None:
    told = json.loads(read("squeue.json"))
    first, second = told["jobs"][:2]
    odd = Odd()
    both = {**told, "jobs": [{**first, "nodes": "gpu[1-"}, second, {"name": 7}]}
    unknown, well = parse_queue(json.dumps(both), odd)
    assert (unknown.job_id, unknown.name, unknown.life) == (first["job_id"], first["name"], "unknown")
    assert well.job_id == second["job_id"]
    assert odd.counts == {"squeue": 1, NAMELESS: 1}


def test_an_answer_that_is_nothing_but_odd_is_unreadable() -> None:
    for reader in (parse_nodes, parse_partitions, parse_reservations):
        with pytest.raises(Unreadable):
            reader("slurm_load error\nNodeName=\n")


def test_what_is_free_is_not_offered_by_old_facts() -> None:
    nodes = parse_nodes(NODE.format("a", "gpu:a100:4", "(null)"))
    partition = parse_partitions(PARTITION)
    seen = snapshot_of(pool(), ClusterFacts(nodes, partition), 1000.0)
    ask = Ask(parse_share({"gpus": 1}))

    def now(at: float) -> Outlook:
        return outlook_of(seen, [], ask, at)

    assert now(1000.0 + OLD_S).free == 4
    old = now(1001.0 + OLD_S)
    assert (old.free, old.closed) == (0, False)
    assert "which is too long" in old.said
