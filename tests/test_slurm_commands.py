"""Commands are run by real processes: programs of a line on PATH stand for Slurm's."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import secrets
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slurm_examples import DATA

from timeshare.reservations.engines.base import EngineUnknown
from timeshare.reservations.engines.slurm import commands
from timeshare.reservations.engines.slurm.commands import Answer, Commands, is_silence
from timeshare.reservations.engines.slurm.errors import SchedulerRefused, SchedulerSilent
from timeshare.reservations.engines.slurm.pace import Pace

ANSWERS = json.loads((DATA / "22.05" / "answers.json").read_text())
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="becomes another user: needs root")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def program(folder: Path, name: str, *lines: str) -> Commands:
    """Commands that find a shell script of these lines under the name."""
    file = folder / name
    file.write_text("\n".join(["#!/bin/bash", *lines]) + "\n")
    file.chmod(0o755)
    return Commands(prefix=(), path=f"{folder}:{commands.PATH}", timeout_s=20)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def gone(pid: int) -> bool:
    until = time.monotonic() + 20
    while alive(pid) and time.monotonic() < until:
        await asyncio.sleep(0.02)
    return not alive(pid)


async def test_an_answer_is_what_the_command_put_out(folder: Path) -> None:
    slurm = program(folder, "sbatch", 'echo "$#:$1:$2"; cat; echo careful >&2')
    assert await slurm.run(["sbatch", "--comment=a 'b'", "$(id)"], stdin="#!/bin/bash\né\n") == Answer(
        0, "2:--comment=a 'b':$(id)\n#!/bin/bash\né\n", "careful\n"
    )


async def test_a_script_longer_than_a_pipe_holds_arrives_whole(folder: Path) -> None:
    text = "0123456789abcdef" * 65536
    assert (await program(folder, "sbatch", "cat").run(["sbatch"], stdin=text)).out == text


async def test_a_command_that_does_not_read_its_script_is_no_failure_of_ours(folder: Path) -> None:
    answer = await program(folder, "sbatch", "exec <&-; echo 7").run(["sbatch"], stdin="x" * 1_000_000)
    assert answer.out == "7\n"


async def test_nothing_of_the_services_environment_reaches_a_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "secret")
    monkeypatch.setenv("SBATCH_QOS", "root")
    answer = await program(folder, "sinfo", "/usr/bin/env -u _ -u SHLVL -u PWD; umask; pwd").run(["sinfo"])
    lines = sorted(line for line in answer.out.splitlines() if not line.startswith("PATH="))
    assert lines == ["/", "0077", *sorted(f"{name}={value}" for name, value in commands.SETTINGS.items())]


async def test_the_configuration_is_told_where_it_is_elsewhere(folder: Path) -> None:
    program(folder, "sinfo", 'echo "$SLURM_CONF"')
    answer = await Commands((), "/etc/our/slurm.conf", f"{folder}:{commands.PATH}").run(["sinfo"])
    assert answer.out == "/etc/our/slurm.conf\n"


async def test_a_refusal_is_told_as_slurm_said_it(folder: Path) -> None:
    slurm = program(folder, "sbatch", "echo 'sbatch: error: Invalid qos specification' >&2; exit 3")
    with pytest.raises(SchedulerRefused) as refused:
        await slurm.run(["sbatch"])
    assert (refused.value.text, refused.value.code) == ("sbatch: error: Invalid qos specification", 3)


async def test_no_answer_in_time_is_silence_and_leaves_no_process(folder: Path) -> None:
    slurm = program(folder, "squeue", f"sleep 600 & echo $! > {folder}/child; echo $$ > {folder}/pid; wait")
    with pytest.raises(SchedulerSilent, match="squeue did not answer within 1 s"):
        await slurm.run(["squeue"], timeout_s=1)
    assert await gone(int((folder / "pid").read_text()))
    assert await gone(int((folder / "child").read_text()))


async def test_a_command_whose_output_is_held_open_by_another_is_not_waited_for_longer(folder: Path) -> None:
    slurm = program(folder, "squeue", f"setsid sleep 600 & echo $! > {folder}/child; echo out")
    with pytest.raises(SchedulerSilent):
        await slurm.run(["squeue"], timeout_s=1)
    os.kill(int((folder / "child").read_text()), 9)


async def test_who_gives_up_waiting_leaves_no_process(folder: Path) -> None:
    slurm = program(folder, "squeue", f"echo $$ > {folder}/draft; mv {folder}/draft {folder}/pid; sleep 600")
    asking = asyncio.create_task(slurm.run(["squeue"]))
    while not (folder / "pid").exists():
        await asyncio.sleep(0.02)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await gone(int((folder / "pid").read_text()))


async def test_an_answer_without_end_is_silence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "MAX_OUTPUT", 100_000)
    with pytest.raises(SchedulerSilent, match="more than 100000 bytes"):
        await program(folder, "squeue", "exec yes").run(["squeue"])


async def test_a_command_that_was_killed_or_is_not_there_is_silence(folder: Path) -> None:
    slurm = program(folder, "squeue", "kill -9 $$")
    with pytest.raises(SchedulerSilent, match="squeue was killed"):
        await slurm.run(["squeue"])
    with pytest.raises(SchedulerSilent, match="sview-9 cannot be run: No such file"):
        await slurm.run(["sview-9"])
    with pytest.raises(EngineUnknown):
        await slurm.run(["sview-9"])


async def test_bytes_that_are_no_text_are_no_traceback(folder: Path) -> None:
    assert (await program(folder, "squeue", r"printf 'a\xff'").run(["squeue"])).out == "a\N{REPLACEMENT CHARACTER}"


async def test_the_owner_is_put_into_the_prefix_as_one_word(folder: Path) -> None:
    program(folder, "become", 'printf "%s|" "$@"')
    slurm = Commands(("become", "--user={user}", "--"), path=f"{folder}:{commands.PATH}")
    assert (await slurm.run(["sbatch", "{user}"], "nobody")).out == "--user=nobody|--|sbatch|{user}|"


@pytest.mark.parametrize(
    "wrong", ["-x", "--help", "a\nb", "a\0b", "#0", "#1", "+0", "0", "%wheel", "ada b;id", "\udcff"]
)
async def test_what_is_no_account_reaches_no_program_that_could_read_it_in_its_own_way(
    folder: Path, wrong: str
) -> None:
    program(folder, "become", "touch ran")
    slurm = Commands(("become", "{user}"), path=f"{folder}:{commands.PATH}")
    with pytest.raises(SchedulerSilent, match="knows no account"):
        await slurm.run(["sbatch"], wrong)


@pytest.mark.parametrize("prefix", [("become", "{user}"), ("become",), commands.AS_ROOT])
async def test_nothing_runs_as_an_account_with_all_rights(folder: Path, prefix: tuple[str, ...]) -> None:
    program(folder, "become", "echo became")
    slurm = Commands(prefix, path=f"{folder}:{commands.PATH}")
    with pytest.raises(SchedulerRefused) as refused:
        await slurm.run(["id", "-u"], "root")
    assert "account 'root' has all rights (user id 0)" in refused.value.text


@needs_root
def test_an_account_with_all_rights_is_refused_whatever_its_name() -> None:
    name = f"ts-{secrets.token_hex(3)}"
    subprocess.run(["useradd", "--non-unique", "--uid", "0", "--no-create-home", name], check=True)
    try:
        with pytest.raises(SchedulerRefused) as refused:
            asyncio.run(Commands().run(["id", "-u"], name))
        assert f"account '{name}' has all rights" in refused.value.text
    finally:
        subprocess.run(["userdel", "--force", name], check=False, capture_output=True)


@needs_root
async def test_root_becomes_the_owner(folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    answer = await Commands().run(["id", "-u"], "nobody")
    assert answer.out == f"{nobody.pw_uid}\n"


@needs_root
async def test_a_user_who_cannot_be_found_now_is_silence() -> None:
    """A directory of users that does not answer looks the same."""
    with pytest.raises(SchedulerSilent, match="no-such-user"):
        await Commands().run(["id"], "no-such-user")


@pytest.mark.parametrize("name", [name for name, told in ANSWERS.items() if told["returncode"]])
def test_what_a_real_slurm_said_is_known_as_silence_or_refusal(name: str) -> None:
    assert is_silence(ANSWERS[name]["stderr"]) is ("_without_" in name)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        "slurm_load_jobs error: Socket timed out on send/recv operation",
        "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
        "sbatch: error: Batch job submission failed: Resource temporarily unavailable",
        "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
        "slurm_load_jobs error: Slurm backup controller in standby mode",
        "slurm_load_jobs error: Zero Bytes were transmitted or received",
        "sbatch: error: If munged is up, restart with --num-threads=10\nsbatch: error: Munge encode failed",
        "sacct: error: Problem talking to the database: Connection refused",
        "sbatch: error: Batch job submission failed: Protocol authentication error",
        "runuser: user ada does not exist",
        "sudo: a password is required",
    ],
)
def test_what_means_that_slurm_was_not_reached_is_silence(said: str) -> None:
    assert is_silence(said)


def test_silence_is_asked_again_ever_more_rarely_and_an_answer_ends_that() -> None:
    pace, now, waits = Pace(period_s=5, longest_s=60), 100.0, []
    assert pace.due(now)
    for _ in range(6):
        pace = pace.silent(now, luck=1.0)
        waits.append(pace.next_at - now)
        assert not pace.due(pace.next_at - 0.1)
        now = pace.next_at
        assert pace.due(now)
    assert waits == [10, 20, 40, 60, 60, 60]
    assert pace.answered(now).next_at == now + 5
    assert pace.answered(now, took_s=20).next_at == now + 20
    assert pace.answered(now).silent(now, 1.0).next_at == now + 10


@given(failures=st.integers(0, 10_000), luck=st.floats(0, 1), period=st.floats(0.1, 100), longest=st.floats(0.1, 1000))
def test_no_wait_is_longer_than_allowed_or_shorter_than_three_quarters_of_the_period(
    failures: int, luck: float, period: float, longest: float
) -> None:
    wait = Pace(period, longest, failures).silent(0.0, luck).next_at
    assert 0.75 * period <= wait <= max(longest, period)
