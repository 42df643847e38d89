"""Whose process is it? The decision alone, and what is read from processes that say odd things about themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nodes import eventually, spawned

from timeshare.reservations.agent.ownership import Claim, Key, Reader, assign
from timeshare.reservations.agent.processes import (
    Process,
    account_of,
    kernels,
    mark_of,
    names_of,
    read_process,
    read_processes,
    signal_one,
    start_ticks,
)

HERS, HIS = ("hers", 1), ("his", 1)
HER_UID, HIS_UID = 1001, 1002


def owners(
    table: list[Process], claims: list[Claim], marks: dict[int, Key] | None = None, uids: dict[int, int] | None = None
) -> dict[int, Key]:
    told = marks or {}
    reader = Reader(lambda pid, accounts: uid if (uid := (uids or {}).get(pid)) in accounts else None, told.get)
    return dict(assign({process.pid: process for process in table}, claims, reader).owners)


def test_a_mark_counts_only_for_processes_of_the_sessions_account() -> None:
    table = [Process(5, 1, 10), Process(6, 1, 10)]
    claims = [Claim(HERS, None, uid=HER_UID), Claim(HIS, None, uid=HIS_UID)]
    assert owners(table, claims, {5: HERS, 6: HERS}, {5: HIS_UID, 6: HER_UID}) == {6: HERS}


def test_a_mark_takes_no_process_from_the_session_that_it_comes_from() -> None:
    table = [Process(2, 1, 5), Process(3, 2, 6), Process(4, 3, 7), Process(9, 1, 7)]
    claims = [Claim(HIS, (2, 5), frozenset({9}), HER_UID), Claim(HERS, None, uid=HER_UID)]
    marks, uids = dict.fromkeys((3, 4, 9), HERS), dict.fromkeys((3, 4, 9), HER_UID)
    assert owners(table, claims, marks, uids) == dict.fromkeys((3, 4, 9), HIS)


def test_a_control_group_wins_over_parents() -> None:
    table = [Process(2, 1, 5), Process(3, 2, 6), Process(4, 3, 7)]
    claims = [Claim(HIS, (2, 5)), Claim(HERS, None, frozenset({3}))]
    assert owners(table, claims) == {3: HERS, 4: HERS}


def test_a_launcher_belongs_to_no_session_and_one_of_another_boot_is_none() -> None:
    table = [Process(2, 1, 5), Process(3, 2, 6)]
    assert owners(table, [Claim(HERS, (2, 5), frozenset({2}))]) == {3: HERS}
    assert owners(table, [Claim(HERS, (2, 4))]) == {}


def test_a_parent_that_began_after_its_child_only_got_the_pid_of_the_real_one() -> None:
    assert owners([Process(2, 1, 50), Process(3, 2, 6)], [Claim(HERS, (2, 50))]) == {}


PIDS = st.integers(1, 12)


@given(
    table=st.lists(st.builds(Process, PIDS, PIDS, st.integers(0, 5)), unique_by=lambda process: process.pid),
    launchers=st.lists(st.tuples(PIDS, st.integers(0, 5)), max_size=4),
    groups=st.lists(st.frozensets(PIDS), min_size=4, max_size=4),
    marks=st.dictionaries(PIDS, st.sampled_from([(f"r{n}", 1) for n in range(5)])),
    uids=st.dictionaries(PIDS, st.sampled_from([0, HER_UID, HIS_UID])),
)
def test_every_process_is_of_one_session_at_most_and_no_facts_upset_the_decision(
    table: list[Process],
    launchers: list[tuple[int, int]],
    groups: list[frozenset[int]],
    marks: dict[int, Key],
    uids: dict[int, int],
) -> None:
    """Circles of parents, launchers below each other, groups that overlap."""
    accounts = [HER_UID, HIS_UID, None, HER_UID]
    claims = [
        Claim((f"r{n}", 1), launcher, groups[n], uid)
        for n, (launcher, uid) in enumerate(zip(launchers, accounts, strict=False))
    ]
    by_pid = {process.pid: process for process in table}
    reader = Reader(lambda pid, known: uid if (uid := uids.get(pid)) in known else None, marks.get)
    found = assign(by_pid, claims, reader)
    spread = [pid for pids in found.by_session().values() for pid in pids]
    assert len(spread) == len(set(spread))
    assert set(spread) <= set(by_pid)
    for pid, owner in found.owners.items():
        by_group = [claim.key for claim in claims if pid in claim.group]
        assert not by_group or owner in by_group


ODD: list[dict[bytes, bytes]] = [
    {b"TIMESHARE_RESERVATION_ID": b"r-1", b"TIMESHARE_GENERATION": b"9" * 5000},
    {b"TIMESHARE_RESERVATION_ID": b"r-1", b"TIMESHARE_GENERATION": b"-1"},
    {b"TIMESHARE_RESERVATION_ID": b"r-1", b"TIMESHARE_GENERATION": "٣".encode()},
    {b"TIMESHARE_RESERVATION_ID": b"\xff\xfe", b"TIMESHARE_GENERATION": b"1"},
    {b"TIMESHARE_RESERVATION_ID": b"r" * 100_000, b"TIMESHARE_GENERATION": b"1"},
    {b"TIMESHARE_RESERVATION_ID": b"../../etc", b"TIMESHARE_GENERATION": b"1"},
    {b"TIMESHARE_RESERVATION_ID": b"", b"TIMESHARE_GENERATION": b""},
    {b"TIMESHARE_RESERVATION_ID": b"r-1"},
    {**{b"V%d" % n: b"x" * 100_000 for n in range(10)}, b"TIMESHARE_RESERVATION_ID": b"r-1"},
]


@pytest.fixture(params=range(len(ODD)))
def odd(request: pytest.FixtureRequest) -> Iterator[int]:
    with spawned(["sleep", "60"], env={b"PATH": os.environb[b"PATH"], **ODD[request.param]}) as process:
        eventually(lambda: b"sleep" in Path(f"/proc/{process.pid}/cmdline").read_bytes())
        yield process.pid


def test_what_a_process_says_about_itself_is_never_more_than_no_mark(odd: int) -> None:
    assert mark_of(odd) is None
    assert odd in read_processes()


def test_a_plain_mark_is_read() -> None:
    name = str(uuid.uuid4())
    env = {"PATH": os.environ["PATH"], "TIMESHARE_RESERVATION_ID": name, "TIMESHARE_GENERATION": "3"}
    with spawned(["sleep", "60"], env=env) as process:
        eventually(lambda: mark_of(process.pid) == (name, 3))


NAMED = "import ctypes, sys, time; ctypes.CDLL(None).prctl(15, {!r}, 0, 0, 0); print(flush=True); time.sleep(60)"


@pytest.mark.parametrize("name", [b") Z 1 1\n(", b"\xff\n\x1b[2J", b""])
def test_a_process_may_be_called_anything(name: bytes) -> None:
    with spawned([sys.executable, "-c", NAMED.format(name)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        found = read_process(process.pid)
        assert found is not None
        assert found.parent == os.getpid()
        assert all(text.isprintable() for text in names_of([process.pid]).values())
        assert kernels([process.pid]) == set()


FIRST_THREAD_ENDS = """
import ctypes, threading, time
def last():
    time.sleep(0.2)
    print(flush=True)
    time.sleep(60)
threading.Thread(target=last).start()
ctypes.CDLL(None).syscall(60, 0)  # exit(2) of this thread alone, on x86-64
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of a system call is that of x86-64")
def test_a_process_whose_first_thread_has_ended_still_runs() -> None:
    """The kernel shows it as a zombie; so it would be charged nothing, and never be ended."""
    with spawned([sys.executable, "-c", FIRST_THREAD_ENDS], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        assert b") Z " in Path(f"/proc/{process.pid}/stat").read_bytes()
        ticks = start_ticks(process.pid)
        assert ticks is not None
        signal_one(process.pid, ticks, signal.SIGKILL)
        process.wait(15)
        assert start_ticks(process.pid) is None


def test_a_signal_meant_for_an_earlier_process_of_that_pid_is_not_sent() -> None:
    with spawned(["sleep", "60"]) as process:
        ticks = start_ticks(process.pid)
        assert ticks is not None
        signal_one(process.pid, ticks - 1, signal.SIGKILL)
        assert process.poll() is None
        signal_one(process.pid, ticks, signal.SIGKILL)
        assert process.wait(15) == -signal.SIGKILL


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of other accounts")
def test_a_setuid_program_of_another_account_is_not_a_process_of_it() -> None:
    """Its starter chooses the environment, so its marks are his."""
    with spawned(["sleep", "60"], user=HER_UID) as hers:
        eventually(lambda: account_of(hers.pid, {HER_UID}) == HER_UID)
    begin = f"import os, time; os.setresuid({HIS_UID}, {HER_UID}, {HER_UID}); print(flush=True); time.sleep(60)"
    with spawned([sys.executable, "-c", begin], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        assert account_of(process.pid, {HER_UID, HIS_UID}) is None
