"""Jobs for real: a cell in a real kernel, with its outputs and results in a folder."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from full_disks import small_disk
from nodes import eventually
from works import Work

from timeshare.notebooks.runner import failure
from timeshare.notebooks.runner.document import outputs
from timeshare.notebooks.runner.spool import Spool, read_lines

pytestmark = pytest.mark.timeout(120)


def test_a_cell_runs_with_its_variables_and_returns_what_it_wrote_and_changed(tmp_path: Path) -> None:
    notebook = "data = [1, 2]\nsame = 'x' * 10\ncounter = 0\ndef bump():\n    global counter\n    counter += 1"
    cell = "data.append(3)\nbump()\ntotal = sum(data)\nprint(total, counter)\ntotal"
    work = Work(tmp_path, cell, notebook, "data same counter bump")
    assert work.run()["state"] == "completed"
    assert work.text() == "6 1\n"
    values, left = work.results()
    assert values == {"data": [1, 2, 3], "counter": 1, "total": 6}
    assert left == {}


def test_output_on_a_full_disk_waits_whole_until_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 1) as disk:
        path = disk.path / "spool.jsonl"
        now = [0.0]
        spool = Spool(path, lambda: now[0])
        spool.add("stream", {"name": "stdout", "text": "before\n"})
        disk.fill()
        for number in range(500):
            spool.add("stream", {"name": "stdout", "text": f"{number}\n"})
        shown = list(read_lines(path))
        assert 1 <= len(shown) < 501, "the disk is full"
        assert path.read_bytes().endswith(b"\n"), "and no line is half there"
        disk.room()
        now[0] = 5.0
        spool.tick()
        texts = [line["content"]["text"] for line in read_lines(path)]
        assert texts == ["before\n", *(f"{number}\n" for number in range(500))]
        spool.close()


def test_how_a_job_ended_that_filled_the_disk_is_known(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 2) as disk:
        cell = f"""
kept = 'x' * 1000000
with open('{disk.path}/filler', 'ab', buffering=0) as file:
    try:
        while True: file.write(b'0' * 4096)
    except OSError:
        pass
for number in range(3000): print('line', number)
"""
        work = Work(disk.path, cell)
        process = work.start()
        assert process.wait(60) == 1
        status = work.status()
        assert status["state"] == "failed"
        assert "No space left on device" in status["why"]
        assert status["lines"] == len(work.lines())


def test_every_kind_of_output_is_kept_in_order_and_the_job_is_a_valid_notebook(tmp_path: Path) -> None:
    cell = """
from IPython.display import HTML, clear_output, display
import os, sys
print("gone"); clear_output()
handle = display(HTML("<b>1</b>"), display_id=True)
handle.update(HTML("<b>2</b>"))
print("to stderr", file=sys.stderr)
sys.stdout.flush(); os.write(1, b"from below\\n")
!echo from the shell
7
"""
    work = Work(tmp_path, cell)
    assert work.run()["state"] == "completed"
    document = nbformat.read(work.folder.path / "job.ipynb", as_version=4)
    nbformat.validate(document)
    shown = document.cells[0].outputs
    assert [o.output_type for o in shown if o.output_type != "stream"] == ["display_data", "execute_result"]
    assert shown[0].data["text/html"] == "<b>2</b>"
    for text in ("to stderr", "from below", "from the shell"):
        assert any(text in o.get("text", "") for o in shown)
    assert "gone" not in work.text()
    assert [line["seq"] for line in work.lines()] == list(range(1, len(work.lines()) + 1))


def plain(text: str) -> str:
    """Without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_an_exception_arrives_with_its_traceback_and_what_was_done_before_it(tmp_path: Path) -> None:
    work = Work(tmp_path, "half = 1\nraise ValueError('on purpose')")
    process = work.start()
    assert process.wait(60) == 1
    assert (work.status()["state"], work.status()["why"]) == ("failed", "ValueError: on purpose")
    (error,) = [line["content"] for line in work.lines() if line["kind"] == "error"]
    assert "on purpose" in plain("".join(error["traceback"]))
    assert "raise ValueError" in plain("".join(error["traceback"]))
    values = work.results()[0]
    assert values["half"] == 1
    assert str(values[failure.NAME]["error"]) == "on purpose"


def test_a_result_that_cannot_travel_does_not_lose_the_others(tmp_path: Path) -> None:
    work = Work(tmp_path, "good = 1\nbad = (x for x in [])")
    assert work.run()["state"] == "completed"
    values, left = work.results()
    assert values == {"good": 1}
    assert left["bad"]["kind"] == "generator"
    assert "a generator" in left["bad"]["why"]


def test_nobody_can_be_asked_anything(tmp_path: Path) -> None:
    work = Work(tmp_path, "answer = input('well? ')")
    assert work.run()["state"] == "failed"
    assert "StdinNotImplementedError" in work.status()["why"]


def test_a_stop_interrupts_the_cell_and_keeps_what_it_has(tmp_path: Path) -> None:
    work = Work(tmp_path, "step = 0\nimport time\nwhile True:\n    step += 1\n    print(step)\n    time.sleep(0.05)")
    process = work.start()
    eventually(lambda: "3\n" in work.text(), 60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 1
    assert (work.status()["state"], work.status()["why"]) == ("stopped", "KeyboardInterrupt")
    assert work.results()[0]["step"] >= 3


def test_what_a_batch_system_ends_has_no_more_time_than_that_leaves(tmp_path: Path) -> None:
    loop = "import time\nfrom timeshare.notebooks import resumable\nfor n in resumable(range(9)):\n"
    work = Work(tmp_path, loop + "    print(n, flush=True)\n    time.sleep(600)")
    process = work.start(grace_s=1000, TIMESHARE_KILL_WAIT_S="2")
    eventually(lambda: "0\n" in work.text(), 60)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 1  # the step would last longer than that
    assert work.status()["state"] == "stopped"


def test_a_kernel_that_is_killed_is_told_in_words_with_what_it_printed(tmp_path: Path) -> None:
    work = Work(tmp_path, "print('last words', flush=True)\nimport os, time\ntime.sleep(1)\nos.kill(os.getpid(), 9)")
    assert work.run()["state"] == "crashed"
    assert "out of memory" in work.status()["why"]
    assert work.text() == "last words\n"


def test_what_was_flushed_arrives_although_native_code_then_keeps_the_interpreters_lock(tmp_path: Path) -> None:
    cell = "import ctypes, sys\nnative = ctypes.PyDLL(None).sleep\nsys.setswitchinterval(1e-6)\n"  # it goes on at once
    work = Work(tmp_path, cell + "print('waits', flush=True)\nnative(600)")
    process = work.start(grace_s=1)
    try:
        eventually(lambda: work.text() == "waits\n", 60)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 1


def test_a_runner_that_is_killed_leaves_what_was_spooled_and_no_status(tmp_path: Path) -> None:
    work = Work(tmp_path, "import time\nfor n in range(1000):\n    print(n, flush=True)\n    time.sleep(0.02)")
    process = work.start()
    eventually(lambda: "9\n" in work.text(), 60)
    kernel = [int(pid) for pid in children(process.pid)]
    process.kill()
    process.wait()
    seen = work.text().split()
    assert seen[:10] == [str(n) for n in range(10)]
    assert work.folder.status() is None
    assert kernel
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in kernel))


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_another_version_is_refused_and_nothing_is_loaded(tmp_path: Path) -> None:
    work = Work(tmp_path, "print('ran')")
    path = work.folder.path / "job.json"
    job = json.loads(path.read_text())
    job["snapshot"]["python"] = [3, 9, 0]
    work.folder.write("job.json", json.dumps(job))
    assert work.start().wait(60) == 2
    assert work.status()["state"] == "refused"
    assert "CPython 3.9" in work.status()["why"]


# --- the spool


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_redrawn_lines_are_folded_and_the_last_one_is_kept(tmp_path: Path) -> None:
    clock = Clock()
    spool = Spool(tmp_path / "spool.jsonl", clock)
    for n in range(1001):
        spool.add("stream", {"name": "stderr", "text": f"\rscan: {n // 10}%|##   | {n}/1000 [00:01<00:02]"})
        clock.now += 0.01
        spool.tick()
    spool.add("stream", {"name": "stderr", "text": "\ndone\n"})
    spool.close()
    lines = list(read_lines(tmp_path / "spool.jsonl"))
    assert len(lines) < 60
    assert [line["content"] for line in lines if line["kind"] == "progress"][-1] == {"what": "scan", "percent": 100}
    (shown,) = outputs(line for line in lines if line["kind"] != "progress")
    assert shown["text"] == "scan: 100%|##   | 1000/1000 [00:01<00:02]\ndone\n"


def test_a_half_line_that_a_crash_left_is_cut_off_and_counting_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "spool.jsonl"
    spool = Spool(path)
    spool.add("stream", {"name": "stdout", "text": "one\n"})
    spool.close()
    with path.open("ab") as file:
        file.write(b'{"seq": 2, "at"')
    assert [line["seq"] for line in read_lines(path)] == [1]
    again = Spool(path)
    again.add("stream", {"name": "stdout", "text": "two\n"})
    again.close()
    assert [(line["seq"], line["content"]["text"]) for line in read_lines(path)] == [(1, "one\n"), (2, "two\n")]
    assert [line["seq"] for line in read_lines(path, after=1)] == [2]


CGROUPS = (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max"))


@contextlib.contextmanager
def memory_limited_to(mebibytes: int, name: str = "") -> Iterator[Path]:
    """A memory cgroup; whatever is in it and needs more is killed by Linux."""
    folder = new_cgroup(mebibytes, name)
    if folder is None:
        pytest.skip("memory cgroups cannot be made here: nothing can be killed for its memory")
    try:
        yield folder
    finally:
        eventually(lambda: not (folder / "cgroup.procs").read_text())
        folder.rmdir()


def new_cgroup(mebibytes: int, name: str) -> Path | None:
    for root, limit in CGROUPS:
        folder = Path(root) / f"timeshare-test-{os.getpid()}{name}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / limit).write_text(str(mebibytes * 2**20))
            return folder
        except OSError:
            folder.rmdir()
    return None


def inside(group: Path, *command: str) -> tuple[str, ...]:
    """Runs ``command`` in the cgroup, from its first moment on."""
    return ("sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", *command)


def test_a_kernel_that_linux_kills_for_its_memory_is_out_of_memory_with_its_last_words(tmp_path: Path) -> None:
    cell = "print('so far', flush=True)\nimport time; time.sleep(.3)\nkept = [bytearray(10**7) for _ in range(100)]"
    work = Work(tmp_path, cell)
    with memory_limited_to(300) as group:
        work.prefix = inside(group)
        assert work.start().wait(60) == 1
    assert work.status()["state"] == "out of memory"
    assert "memory was used up" in work.status()["why"]
    assert work.text() == "so far\n"


def test_a_kernel_that_is_killed_while_others_run_out_of_memory_has_crashed(tmp_path: Path) -> None:
    go = tmp_path / "go"
    waits = f"while not os.path.exists({str(go)!r}):\n    time.sleep(.05)\nos.kill(os.getpid(), 9)"
    work = Work(tmp_path, f"import os, time\nprint('here', flush=True)\n{waits}")
    with memory_limited_to(300) as own, memory_limited_to(50, "other") as other:
        work.prefix = inside(own)
        process = work.start()
        eventually(lambda: work.text() == "here\n", 60)
        greedy = subprocess.run(inside(other, sys.executable, "-c", "bytearray(200 << 20)"), check=False)
        assert greedy.returncode == -signal.SIGKILL, "Linux has killed it"
        go.touch()
        assert process.wait(60) == 1
    assert work.status()["state"] == "crashed"
