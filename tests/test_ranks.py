"""Cells that run as several processes of this machine, through the real runner with real kernels."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from nodes import eventually
from works import Work

from timeshare.notebooks.batch.options import BadOption, parse
from timeshare.notebooks.runner import step
from timeshare.notebooks.runner.ending import CRASHED, FAILED, STOPPED, Report, culprit
from timeshare.notebooks.runner.folder import Job
from timeshare.notebooks.runner.torchrun import HeldPort, Layout, Meeting, environment

pytestmark = pytest.mark.timeout(180)

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR")


def launched(tmp_path: Path, processes: int, cell: str, notebook: str = "", names: str = "", **more: Any) -> Work:
    return Work(tmp_path, cell, notebook, names, launch="torchrun", processes=processes, **more)


# --- numbers


def test_ranks_are_numbered_node_by_node() -> None:
    meeting = Meeting("a1", 5000, "job.1")
    seen = [environment(Layout(2, 3), rank, meeting) for rank in range(6)]
    assert [[int(e[name]) for name in ("RANK", "GROUP_RANK", "LOCAL_RANK")] for e in seen] == [
        *([0, 0, 0], [1, 0, 1], [2, 0, 2]),
        *([3, 1, 0], [4, 1, 1], [5, 1, 2]),
    ]
    assert {(e["WORLD_SIZE"], e["LOCAL_WORLD_SIZE"], e["MASTER_ADDR"], e["MASTER_PORT"]) for e in seen} == {
        ("6", "3", "a1", "5000")
    }
    assert Meeting.told(seen[0]) == meeting


def test_a_held_port_is_nobody_elses_and_can_be_used_once_it_is_let_go() -> None:
    import socket

    held = HeldPort()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("", held.number))
    held.let_go()
    with socket.socket() as server:
        server.bind(("", held.number))
        server.listen()


@pytest.mark.parametrize(
    ("words", "layout"),
    [
        ("--gpus 4 --launch torchrun", Layout(1, 4)),
        ("--engine slurm --nodes 2 --gpus 2 --launch torchrun", Layout(2, 2)),
        ("--engine slurm --nodes 3 --cpu --launch torchrun", Layout(3, 1)),
        ("--engine slurm --nodes 3 --gpus 2", Layout(1, 1)),
    ],
)
def test_there_is_one_process_for_each_gpu_and_without_gpus_one_for_each_node(words: str, layout: Layout) -> None:
    assert parse(words).layout == layout


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--launch mpirun", "--launch is 'mpirun': must be torchrun, or left out"),
        ("--memory 4 --launch torchrun", "needs whole GPUs"),
        ("--gpus 2 --trials 4 --launch torchrun", "--launch torchrun and --trials exclude each other"),
    ],
)
def test_what_cannot_be_launched_is_refused(words: str, told: str) -> None:
    with pytest.raises(BadOption, match=told):
        parse(words)


def test_a_job_that_this_runner_cannot_launch_is_none(tmp_path: Path) -> None:
    work = Work(tmp_path, "1")
    text = work.folder.job().to_json().replace('"launch": ""', '"launch": "mpirun"')
    with pytest.raises(ValueError, match="launch is 'mpirun': this runner knows torchrun"):
        Job.from_json(text)


def test_the_step_has_a_task_for_each_rank_and_forgets_what_the_first_task_was_given() -> None:
    words = step.words(Layout(2, 4), ["python"])
    assert {"--nodes=2", "--ntasks=8", "--ntasks-per-node=4", "--overlap", "--kill-on-bad-exit=1"} < set(words)
    assert words[-1] == "python"
    variables = {"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "2", "SLURM_MEM_PER_CPU": "5", "PATH": "/bin"}
    assert step.environment(variables) == {"SLURM_JOB_ID": "7", "PATH": "/bin"}


@pytest.mark.parametrize(
    ("first", "others", "found"),
    [
        (Report(0, "completed", at=1), [], None),
        (Report(0, "completed", at=1), [Report(1, FAILED, "x", at=9)], 1),
        (Report(0, FAILED, "connection closed", at=5), [Report(1, FAILED, "x", at=4)], 1),
        (Report(0, FAILED, "x", at=4), [Report(1, FAILED, "connection closed", at=5)], 0),
        (Report(0, FAILED, "connection closed", at=5), [Report(1, CRASHED, "killed", at=6)], 1),
        (Report(0, FAILED, "all alike", at=5), [Report(1, FAILED, "all alike", at=4)], 0),
        (Report(0, FAILED, "x", at=5), [Report(1, STOPPED, "KeyboardInterrupt", at=4)], 0),
        (Report(0, "ended", "", at=5), [Report(1, FAILED, "y", at=4), Report(2, FAILED, "x", at=3)], 2),
    ],
)
def test_the_rank_that_took_the_others_along_is_the_reason(
    first: Report, others: list[Report], found: int | None
) -> None:
    cause = culprit(first, others)
    assert (None if cause is None else cause.rank) == found


# --- cells


def test_every_rank_runs_the_cell_with_the_variables_and_its_own_number(tmp_path: Path) -> None:
    processes = 4
    cell = f"""
import os
print({{name: os.environ[name] for name in {NAMES}}})
data.append(int(os.environ["RANK"]))
total = double(sum(data))
print(total)
"""
    notebook = "data = [10]\ndef double(x):\n    return 2 * x"
    work = launched(tmp_path, processes, cell, notebook, "data double")
    assert work.run() == {**work.status(), "state": "completed", "why": ""}
    for rank in range(processes):
        numbers, total = work.text(rank).splitlines()
        expected = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        texts = {name: str(number) for name, number in expected.items()}
        assert eval(numbers) == {**texts, "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        assert total == str(2 * (10 + rank))
    assert work.results()[0]["total"] == 20, "those of rank 0 come back"
    assert work.results()[0]["data"] == [10, 0]


MEET = """
import os, socket, time
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
place = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
if rank == 0:
    server = socket.create_server(("", place[1]))
    others = [server.accept()[0] for _ in range(size - 1)]
    numbers = [int(other.makefile().readline()) for other in others]
    answer = sum(numbers)
else:
    until = time.monotonic() + 60
    while True:
        try:
            talk = socket.create_connection(place)
            break
        except OSError:
            if time.monotonic() > until: raise
            time.sleep(.05)
    talk.sendall(f"{rank}\\n".encode())
"""


def test_ranks_meet_at_the_address_and_port_of_rank_0(tmp_path: Path) -> None:
    work = launched(tmp_path, 3, MEET)
    assert work.run()["state"] == "completed", [work.text(n) for n in range(3)]
    assert work.results()[0]["answer"] == 3


def test_a_single_rank_is_launched_too(tmp_path: Path) -> None:
    work = launched(tmp_path, 1, "import os; found = os.environ['WORLD_SIZE']")
    assert work.run()["state"] == "completed"
    assert work.results()[0]["found"] == "1"


def test_a_rank_that_fails_ends_the_others_is_named_and_its_traceback_is_shown(tmp_path: Path) -> None:
    go = tmp_path / "go"
    cell = f"""
import os, time
half = 1
print("began", flush=True)
while os.environ["RANK"] != "1" or not os.path.exists({str(go)!r}):
    time.sleep(.05)
raise ValueError("on purpose")
"""
    work = launched(tmp_path, 3, cell)
    process = work.start(60)
    eventually(lambda: all(work.text(rank) == "began\n" for rank in range(3)), 60)
    go.touch()
    assert process.wait(120) == 1
    assert (work.status()["state"], work.status()["why"]) == ("failed", "rank 1: ValueError: on purpose")
    assert work.errors() == ["ValueError: on purpose"]
    assert "timeshare: rank 1 failed: ValueError: on purpose; %gpu_batch logs --rank 1" in work.text()
    assert work.errors(1) == ["ValueError: on purpose"]
    assert [work.text(rank).splitlines()[0] for rank in range(3)] == ["began"] * 3
    values = work.results()[0]
    assert values == {"half": 1}, "what rank 0 had comes back, and no exception that was none of its own"


def test_a_failure_of_rank_0_is_its_own_and_ends_the_others(tmp_path: Path) -> None:
    there = str(tmp_path / "there")
    cell = f"import os, time\nif os.environ['RANK'] == '0':\n    while not os.path.exists({there!r}):\n"
    cell += f"        time.sleep(.05)\n    1 / 0\nopen({there!r}, 'w').close()\ntime.sleep(600)"
    work = launched(tmp_path, 2, cell)
    assert work.start(60).wait(120) == 1
    assert work.status()["why"] == "ZeroDivisionError: division by zero"
    assert work.errors(1) == ["KeyboardInterrupt: "]


def test_a_rank_that_is_killed_is_told_and_takes_those_that_hear_nothing_along(tmp_path: Path) -> None:
    deaf = "import ctypes\nprint('waits', flush=True)\nctypes.PyDLL(None).sleep(600)"
    go = tmp_path / "go"
    killed = f"while not os.path.exists({str(go)!r}):\n        time.sleep(.05)\n    os.kill(os.getpid(), 9)"
    work = launched(tmp_path, 3, f"import os, time\nif os.environ['RANK'] == '1':\n    {killed}\n{deaf}")
    process = work.start(10)
    eventually(lambda: "waits" in work.text() and "waits" in work.text(2), 60)
    go.touch()
    assert process.wait(120) == 1
    assert work.status()["state"] == "crashed"
    assert work.status()["why"].startswith("rank 1: its kernel was killed")


def test_a_job_completes_only_when_all_of_its_ranks_have(tmp_path: Path) -> None:
    cell = "import os, time\nrank = int(os.environ['RANK'])\ntime.sleep(2 * rank)\nassert rank < 1\nbest = 5"
    work = launched(tmp_path, 2, cell)
    assert work.run()["why"] == "rank 1: AssertionError"
    assert work.results()[0]["best"] == 5


def test_a_stop_interrupts_all_and_keeps_what_each_has_put_out(tmp_path: Path) -> None:
    cell = "import time\nstep = 0\nwhile True:\n    step += 1\n    print(step, flush=True)\n    time.sleep(.05)"
    work = launched(tmp_path, 3, cell)
    process = work.start(60)
    eventually(lambda: all("3\n" in work.text(rank) for rank in range(3)), 60)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 1
    assert (work.status()["state"], work.status()["why"]) == ("stopped", "KeyboardInterrupt")
    assert work.results()[0]["step"] >= 3
    assert [work.errors(rank) for rank in range(3)] == [["KeyboardInterrupt: "]] * 3


def test_a_stop_after_the_end_of_rank_0_ends_the_others_and_the_job_is_not_complete(tmp_path: Path) -> None:
    cell = "import os, time\nbest = 5\nprint('here', flush=True)\ntime.sleep(600 * int(os.environ['RANK']))"
    work = launched(tmp_path, 2, cell)
    process = work.start(10)
    eventually(lambda: (work.folder.path / "results.json").exists() and "here" in work.text(1), 60)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 1
    assert (work.status()["state"], work.status()["why"]) == ("stopped", "rank 1 had not come to its end")
    assert work.results()[0]["best"] == 5


def test_a_resumable_loop_of_several_ranks_ends_after_a_step_and_goes_on_there(tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    cell = f"""
from timeshare.notebooks import resumable
import os, time
for n in resumable(range(steps), state=state):
    state["sum"] += n
    print("step", n, flush=True)
    time.sleep(0 if os.path.exists({str(stopped)!r}) else .5)
"""
    work = launched(tmp_path, 2, cell, "state = {'sum': 0}\nsteps = 12", "state steps")
    process = work.start(30)
    eventually(lambda: "step 3" in work.text(1), 60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 1
    assert work.status()["state"] == "stopped"
    stopped.touch()
    assert work.run()["state"] == "completed"
    assert work.results()[0]["state"] == {"sum": sum(range(12))}
    assert "goes on after step" in work.text(1)


def descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *descendants(child)]
    return found


def test_a_runner_that_is_killed_leaves_no_rank_behind(tmp_path: Path) -> None:
    work = launched(tmp_path, 3, "import time\nprint('here', flush=True)\ntime.sleep(600)")
    process = work.start()
    eventually(lambda: all("here" in work.text(rank) for rank in range(3)), 60)
    left = descendants(process.pid)
    assert len(left) >= 5, "three kernels and two that run them"
    process.kill()
    process.wait()
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), 30)


def test_a_rank_process_that_is_killed_is_noticed(tmp_path: Path) -> None:
    work = launched(tmp_path, 2, "import time\nprint('here', flush=True)\ntime.sleep(600)")
    process = work.start(10)
    eventually(lambda: "here" in work.text(1), 60)
    (rank,) = [p for p in descendants(process.pid) if b"notebooks.runner.rank" in cmdline(p)]
    os.kill(rank, signal.SIGKILL)
    assert process.wait(60) == 1
    assert work.status()["state"] == "crashed"
    assert work.status()["why"] == "rank 1: it is gone without a word: its process was ended by SIGKILL"


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_rank_refuses_another_environment_and_nothing_is_begun(tmp_path: Path) -> None:
    work = launched(tmp_path, 2, "print('ran')")
    job = json.loads(work.folder.read("job.json"))
    job["snapshot"]["python"] = [3, 9, 0]
    work.folder.write("job.json", json.dumps(job))
    words = [sys.executable, "-m", "timeshare.notebooks.runner.rank", str(work.folder.path), "--rank", "1"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True)
    told = json.loads(done.stdout)
    assert (told["rank"], told["state"]) == (1, "refused")
    assert "CPython 3.9" in told["why"]


def test_several_nodes_are_refused_where_there_is_one(tmp_path: Path) -> None:
    work = Work(tmp_path, "print('ran')", launch="torchrun", nodes=2)
    assert work.start().wait(60) == 2
    assert work.status()["state"] == "refused"
    assert work.status()["why"].startswith("it needs 2 nodes and was begun on one")
    assert work.text() == ""
