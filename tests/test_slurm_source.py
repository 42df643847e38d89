"""What is asked of a Slurm is asked once for all, no faster than it answers, and more rarely while it does not."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from pathlib import Path

import pytest
from slurm_cluster import Cluster
from slurm_examples import DATA
from test_slurm_commands import program

from timeshare.reservations.engines.slurm.commands import Commands
from timeshare.reservations.engines.slurm.errors import SchedulerSilent
from timeshare.reservations.engines.slurm.pace import Pace
from timeshare.reservations.engines.slurm.settings import Timing
from timeshare.reservations.engines.slurm.shared import Shared
from timeshare.reservations.engines.slurm.source import SlurmSource, Sources

EMPTY = '{"jobs": [], "errors": []}'
NO_JSON = "echo \"squeue: error: squeue: unrecognized option '--json'\" >&2; exit 1"


def questions(folder: Path) -> list[str]:
    return (folder / "asked").read_text().splitlines() if (folder / "asked").exists() else []


def squeue(folder: Path, *lines: str) -> Commands:
    """A squeue that writes down how it was called."""
    return program(folder, "squeue", f'echo "$*" >> {folder}/asked', *lines)


async def test_pools_that_ask_at_the_same_time_share_one_question(tmp_path: Path) -> None:
    pools = Sources()
    slurm = squeue(tmp_path, "sleep 0.2", f"echo '{EMPTY}'")
    mine, others = pools.of(slurm), pools.of(Commands(("sudo", "-u", "{user}"), path=slurm.path, timeout_s=20))
    assert mine is others
    first, second = await asyncio.gather(mine.jobs(0, 2.0), others.jobs(0, 2.0))
    assert (first, len(questions(tmp_path))) == (second, 1)
    assert pools.of(Commands((), conf="/another/slurm.conf", path=slurm.path)) is not mine


async def test_an_answer_that_another_got_a_moment_ago_will_do_but_nobody_gets_it_twice(tmp_path: Path) -> None:
    source = SlurmSource(squeue(tmp_path, f"echo '{EMPTY}'"))
    first = await source.jobs(0, 2.0)
    assert await source.jobs(0, 2.0) == first
    assert 0 <= first.age_s < 20
    assert len(questions(tmp_path)) == 1
    again = await source.jobs(first.number, 2.0)
    assert (again.number, len(questions(tmp_path))) == (2, 2)
    old = await source.jobs(0, 0.0)
    assert (old.number, len(questions(tmp_path))) == (3, 3)


async def test_who_does_not_answer_is_asked_ever_more_rarely_and_at_once_by_nobody() -> None:
    at: list[float] = []

    async def silent() -> None:
        at.append(time.monotonic())
        raise SchedulerSilent("nothing is there")

    shared = Shared(silent, Pace(0.1, 0.5))
    for _ in range(4):
        with pytest.raises(SchedulerSilent):
            await shared.get(0, 1.0)
    waits = [after - before for before, after in itertools.pairwise(at)]
    assert waits[0] >= 0.15
    assert waits[1] >= 0.3
    assert waits[2] >= 0.375


async def test_who_is_slow_is_left_alone_for_as_long_as_it_took() -> None:
    at: list[tuple[float, float]] = []

    async def slow() -> None:
        began = time.monotonic()
        await asyncio.sleep(0.3)
        at.append((began, time.monotonic()))

    shared = Shared(slow, Pace(0.01, 10.0))
    first = await shared.get(0, 0.0)
    await shared.get(first.number, 0.0)
    assert at[1][0] - at[0][1] >= 0.29


async def test_one_who_gives_up_waiting_takes_the_answer_from_nobody(tmp_path: Path) -> None:
    source = SlurmSource(squeue(tmp_path, "sleep 0.5", f"echo '{EMPTY}'"))
    impatient = asyncio.create_task(source.jobs(0, 2.0))
    patient = asyncio.create_task(source.jobs(0, 2.0))
    await asyncio.sleep(0.1)
    impatient.cancel()
    assert (await patient).value == []
    assert len(questions(tmp_path)) == 1


async def test_accounting_that_does_not_answer_is_left_alone_for_a_while(tmp_path: Path) -> None:
    source = SlurmSource(program(tmp_path, "sacct", f"echo x >> {tmp_path}/asked", "exit 1"))
    assert [await source.ends([1]) for _ in range(5)] == [None] * 5
    assert len(questions(tmp_path)) == 1


async def test_a_squeue_without_json_is_asked_for_text_and_from_then_on_for_that_alone(tmp_path: Path) -> None:
    recorded = DATA / "22.05" / "squeue_columns.txt"
    lines = [f'if [ "$1" = --json ]; then {NO_JSON}; fi', "[[ $* =~ '<'[0-9a-f]+'>' ]]"]
    commands = squeue(tmp_path, *lines, f'sed "s/<0123456789abcdef>/$BASH_REMATCH/g" {recorded}')
    source = SlurmSource(commands)
    first = await source.jobs(0, 1.0)
    assert len(first.value) == 15
    await source.jobs(first.number, 1.0)
    assert [line.split()[0] for line in questions(tmp_path)] == ["--json", "-h", "-h"]


async def test_a_squeue_that_answers_garbage_is_not_taken_for_one_without_json(tmp_path: Path) -> None:
    source = SlurmSource(squeue(tmp_path, "echo '{'"))
    with pytest.raises(SchedulerSilent, match="no JSON"):
        await source.jobs(0, 1.0)
    assert questions(tmp_path) == ["--json --all"]


async def test_a_squeue_that_refuses_everything_is_silence(tmp_path: Path) -> None:
    source = SlurmSource(squeue(tmp_path, "echo 'Access denied' >&2", "exit 1"))
    with pytest.raises(SchedulerSilent, match="squeue refused to tell: Access denied"):
        await source.jobs(0, 1.0)


async def test_limits_are_asked_for_once_for_all_pools_and_where_they_may_not_be_read_nothing_is_known(
    tmp_path: Path,
) -> None:
    recorded = DATA / "22.05"
    lines = [f"echo $3 >> {tmp_path}/asked", f"case $3 in assoc) cat {recorded}/associations.txt;;"]
    readable = SlurmSource(program(tmp_path, "sacctmgr", *lines, f"qos) cat {recorded}/qos.txt;; esac"))
    first, second = await asyncio.gather(readable.book(0), readable.book(0))
    assert (first, sorted(questions(tmp_path))) == (second, ["assoc", "qos"])
    assert sorted(first.value.qos) == ["interactive", "normal", "scav", "single"]
    hidden = SlurmSource(program(tmp_path, "sacctmgr", "echo 'Access/permission denied' >&2", "exit 1"))
    with pytest.raises(SchedulerSilent, match="sacctmgr refused to tell"):
        await hidden.book(0)


@pytest.mark.slurm
@pytest.mark.timeout(180)
async def test_a_real_squeue_tells_the_same_as_text(slurm: Cluster, tmp_path: Path) -> None:
    job = slurm.submit("sleep 60", "--gres=gpu:a100:2", "--job-name=timeshare-x.1", user="tsalice")
    slurm.wait(job, "RUNNING")
    array = slurm.submit("sleep 60", "--array=3,5", "--hold", user="tsbob")
    try:
        slurm_conf = slurm.env["SLURM_CONF"]
        plain = Commands((), conf=slurm_conf)
        lines = ['if [ "$1" = --json ]; then', NO_JSON, "fi", 'exec /usr/bin/squeue "$@"']
        without = Commands((), conf=slurm_conf, path=program(tmp_path, "squeue", *lines).path)
        told = {name: (await SlurmSource(c).jobs(0, 1.0)).value for name, c in (("json", plain), ("text", without))}
        for jobs in told.values():
            mine = next(one for one in jobs if one.job_id == int(job))
            assert (mine.name, mine.user, mine.life, mine.nodes) == (
                "timeshare-x.1",
                "tsalice",
                "running",
                (slurm.node("a100").name,),
            )
            assert mine.tres["gres/gpu:a100"] == 2
            assert mine.end_at is not None
            tasks = {one.array_task_id for one in jobs if one.array_job_id == int(array)}
            tasks |= {task for one in jobs if one.array_job_id == int(array) for task in one.array_tasks or ()}
            assert tasks - {None} == {3, 5}
        cluster = await SlurmSource(plain).cluster(0)
        assert {node.name for node in cluster.value.nodes} == {node.name for node in slurm.nodes}
        assert cluster.value.timing == Timing(kill_wait_s=3.0, over_time_s=0.0)
    finally:
        slurm.clear()


async def test_what_is_not_understood_is_counted_told_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = json.dumps({"jobs": [{"job_id": 5, "name": "x", "job_state": 7}, {"name": "y"}], "errors": []})
    source = SlurmSource(squeue(tmp_path, f"echo '{told}'"))
    first = await source.jobs(0, 2.0)
    again = await source.jobs(first.number, 0.0)
    assert [(job.job_id, job.life) for job in again.value] == [(5, "unknown")]
    assert source.is_partial(again)
    assert source.troubles() == [
        "1 in the answer of squeue not understood, and left out",
        "1 in the answer of squeue, of jobs without number or name, not understood, and left out",
    ]
    assert len([record for record in caplog.records if "left out" in record.message]) == 2
    well = SlurmSource(squeue(tmp_path, f"echo '{EMPTY}'"))
    assert not well.is_partial(await well.jobs(0, 2.0))
    assert well.troubles() == []
