"""Cores and main memory of sessions and jobs: both sides of each edge, in the limits, the API, Slurm and batch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from pools import Lab
from slurm_examples import SHARDS, WHOLE

from timeshare.notebooks.batch.options import BadOption, parse
from timeshare.notebooks.batch.pages import share_text
from timeshare.reservations.engines.slurm.request import sbatch_options
from timeshare.reservations.errors import PublicError
from timeshare.reservations.host import HostSize, this_machine
from timeshare.reservations.kind import Kind
from timeshare.reservations.limits.effective import resolve
from timeshare.reservations.limits.host_bounds import HostRules
from timeshare.reservations.limits.load import LimitsError, LimitsFile, parse_limits
from timeshare.reservations.opening import standing_of
from timeshare.reservations.reservation import Reason, Terms
from timeshare.reservations.service.host_views import host_limits, host_texts
from timeshare.reservations.service.views import reservation_view
from timeshare.reservations.shares import Shape, ShareRequest, parse_share

GIB = 1024
HOST = HostSize(16, 64 * GIB)
CPU = ShareRequest(Shape.CPU)


def rules(text: str = "{}", host: HostSize | None = HOST, kind: Kind = Kind.SESSION, person: str = "ada") -> HostRules:
    limits = parse_limits(text)
    return HostRules(resolve(limits, person, ()), kind, host, limits.host_memory_fraction)


def wish(**fields: Any) -> ShareRequest:
    return parse_share({"cpu_only": True, **fields})


def refused(found: HostRules, **fields: Any) -> PublicError:
    with pytest.raises(PublicError) as caught:
        found.check(wish(**fields))
    return caught.value


def test_without_any_limits_one_session_gets_two_cores_and_not_all_of_the_memory() -> None:
    found = rules()
    assert (found.usual.cpus, found.usual.memory_mib) == (2, math.floor(0.8 * 64 * GIB))
    assert (found.most.cpus, found.most.memory_mib) == (8, math.floor(0.8 * 64 * GIB))


def test_a_small_machine_bounds_what_is_built_in() -> None:
    found = rules(host=HostSize(1, 2 * GIB))
    assert found.usual.cpus == found.most.cpus == 1
    assert found.usual.memory_mib == math.floor(0.8 * 2 * GIB)


def test_cores_may_be_asked_for_up_to_the_limit_and_no_further() -> None:
    found = rules("defaults: {sessions: {max_cpus: 4}}")
    found.check(wish(cpus=4))
    error = refused(found, cpus=4.001)
    assert (error.status, error.reason) == (403, "share-too-large")
    assert error.message == "cpus is 4.001: your limit (max_cpus of your sessions) is 4; ask for at most 4"
    assert error.details == {"cpus": 4.001, "limit": 4}


def test_memory_may_be_asked_for_up_to_the_limit_and_no_further() -> None:
    found = rules("defaults: {jobs: {max_host_memory_gib: 10}}", kind=Kind.BATCH)
    found.check(wish(host_memory_gib=10))
    error = refused(found, host_memory_gib=10.001)
    assert error.status == 403
    assert "your limit (max_host_memory_gib of your batch jobs) is 10; ask for at most 10" in error.message


def test_unlimited_is_what_the_machine_has() -> None:
    found = rules(
        "defaults: {sessions: {max_cpus: unlimited, max_host_memory_gib: unlimited}}\nhost_memory_fraction: 1"
    )
    found.check(wish(cpus=16, host_memory_gib=64))
    assert "this machine has 16 cores; ask for at most 16" in refused(found, cpus=16.5).message
    assert "this machine has 64 GiB of main memory; ask for at most 64" in refused(found, host_memory_gib=65).message


def test_no_limit_of_a_person_goes_beyond_the_fraction_of_the_machine() -> None:
    found = rules("users: {ada: {sessions: {max_host_memory_gib: 500}}}\nhost_memory_fraction: 0.5")
    found.check(wish(host_memory_gib=32))
    error = refused(found, host_memory_gib=32.001)
    assert error.status == 422
    assert "64 GiB of main memory, of which one session or job may use 50 %; ask for at most 32" in error.message


def test_the_most_that_a_refusal_tells_may_be_asked_for() -> None:
    found = rules("host_memory_fraction: 0.333", host=HostSize(3, 7777))
    most = refused(found, host_memory_gib=60).details["limit"]
    found.check(wish(host_memory_gib=most))


def test_sessions_and_jobs_are_bounded_apart_and_the_most_generous_group_counts() -> None:
    text = """
groups:
  a: {members: [ada], each: {sessions: {default_cpus: 1, max_cpus: 3}}}
  b: {members: [ada], each: {sessions: {default_cpus: 2, max_cpus: 2}, jobs: {max_cpus: 6}}}
"""
    found = rules(text)
    assert (found.usual.cpus, found.most.cpus) == (2, 3)
    assert rules(text, kind=Kind.BATCH).most.cpus == 6


def test_a_default_beyond_the_most_of_another_scope_is_the_most() -> None:
    found = rules("users: {ada: {sessions: {max_cpus: 0.5, max_host_memory_gib: 1}}}")
    assert (found.usual.cpus, found.usual.memory_mib) == (0.5, GIB)


def test_on_another_engine_only_what_is_asked_for_counts_and_limits_hold() -> None:
    found = rules("defaults: {sessions: {max_host_memory_gib: 100}}", host=None)
    assert (found.granted(CPU).known_cpus, found.granted(CPU).known_memory_mib) == (None, None)
    asked = found.granted(wish(cpus=4, host_memory_gib=100))
    assert (asked.known_cpus, asked.known_memory_mib) == (4, 100 * GIB)
    assert "is 100; ask for at most 100" in refused(found, host_memory_gib=101).message
    rules("defaults: {sessions: {max_cpus: unlimited}}", host=None).check(wish(cpus=1024, host_memory_gib=65536))


WRONG = [
    ("defaults: {sessions: {default_cpus: 0.09}}", "must be a number of cores from 0.1 to 1024"),
    ("defaults: {sessions: {default_cpus: unlimited}}", "must be a number of cores from 0.1 to 1024 (it is"),
    ("defaults: {sessions: {max_cpus: 1025}}", "from 0.1 to 1024, or unlimited (it is 1025)"),
    ("defaults: {jobs: {max_host_memory_gib: 0.49}}", "must be a number of GiB from 0.5 to 65536, or unlimited"),
    ("defaults: {jobs: {default_host_memory_gib: 65537}}", "must be a number of GiB from 0.5 to 65536, or unlimited"),
    (
        "defaults: {sessions: {default_cpus: 4, max_cpus: 3}}",
        "default_cpus (4 cores) is more than max_cpus (3 cores)",
    ),
    (
        "defaults: {jobs: {default_host_memory_gib: 4, max_host_memory_gib: 3}}",
        "default_host_memory_gib (4 GiB) is more than max_host_memory_gib (3 GiB)",
    ),
    ("host_memory_fraction: 0", "greater than 0"),
    ("host_memory_fraction: 1.01", "less than or equal to 1"),
    ("defaults: {sessions: {memory_gib: 4}}", "no such key; known keys: at_once, default_time, max_time, default_cpus"),
]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_a_wrong_value_in_the_file_is_refused_with_the_rule(text: str, said: str) -> None:
    with pytest.raises(LimitsError) as caught:
        parse_limits(text)
    assert said in str(caught.value)


def test_values_at_the_edges_of_the_file_are_taken() -> None:
    parse_limits("defaults: {sessions: {default_cpus: 0.1, max_cpus: 1024}, jobs: {default_cpus: 3, max_cpus: 3}}")
    parse_limits("defaults: {sessions: {default_host_memory_gib: 0.5, max_host_memory_gib: 65536}}")
    parse_limits("defaults: {sessions: {max_host_memory_gib: 4}}\nhost_memory_fraction: 1")


@pytest.mark.parametrize("value", [0, -1, 0.09, 1024.1, True, "2", None, [2], math.nan, math.inf, 10**400, -(10**400)])
def test_odd_cores_are_refused_with_field_value_and_rule(value: Any) -> None:
    with pytest.raises(PublicError) as caught:
        wish(cpus=value)
    assert caught.value.status == 400
    assert caught.value.message.startswith("cpus is ")
    assert "must be a number of cores from 0.1 to 1024" in caught.value.message
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("value", [0, -1, 0.49, 65537, True, "2", None, {}, math.nan, math.inf, 10**400])
def test_odd_memory_is_refused_with_field_value_and_rule(value: Any) -> None:
    with pytest.raises(PublicError) as caught:
        wish(host_memory_gib=value)
    assert "must be a number of GiB of main memory (that of a GPU is memory_gib) from 0.5 to" in caught.value.message


def test_they_go_with_every_shape_and_are_told_in_words() -> None:
    share = parse_share({"gpus": 2, "model": "t4", "cpus": 1, "host_memory_gib": 4.5})
    assert share.describe() == "2 whole t4 with 1 core and 4.5 GiB of main memory"
    assert parse_share(share.as_options()) == share
    several = parse_share({"gpus": 1, "engine": "slurm", "nodes": 2, "cpus": 2.5})
    assert several.describe() == "1 whole GPU with 2.5 cores on each of 2 nodes of slurm"


def lab(folder: Path, limits: dict[str, Any]) -> Lab:
    return Lab(folder, limits, "a100", "a100", host=HOST)


def test_a_grant_records_what_bounds_it_and_what_holds_it(tmp_path: Path) -> None:
    small = lab(tmp_path, {"defaults": {"sessions": {"default_cpus": 3}, "jobs": {"default_host_memory_gib": 8}}})
    usual, asked = small.ask("ada"), small.ask("ben", Kind.BATCH, gpus=1, cpus=5)
    before = reservation_view(small.pool, usual)
    assert (before["cpus"], before["host_memory_mib"]) == (3, math.floor(0.8 * 64 * GIB))
    assert before["cpus_enforcement"] == before["host_memory_enforcement"] == "not enforced"
    small.pool.session_bounds = ("cpu", "processes")
    view = reservation_view(small.pool, asked)
    assert (view["cpus"], view["host_memory_mib"]) == (5, 8 * GIB)
    assert (view["cpus_enforcement"], view["host_memory_enforcement"]) == ("kernel", "not enforced")
    assert view["share"] == {"gpus": 1, "cpus": 5}
    assert small.ledger.get(asked.id) == small.pool.get(asked.id)


def test_who_waits_gets_no_more_than_the_limits_of_the_grant(tmp_path: Path) -> None:
    small = lab(tmp_path, {"defaults": {"sessions": {"max_cpus": 8}}})
    first = [small.ask("ada", gpus=1), small.ask("ben", gpus=1)]
    waits = small.ask("cleo", gpus=1, cpus=8)
    assert reservation_view(small.pool, waits)["cpus"] is None
    lower = LimitsFile(parse_limits("defaults: {sessions: {max_cpus: 4}}"), "lower")
    small.pool.set_standing(standing_of(small.ledger, lower, small.now))
    small.run(*first)
    small.later(7200)
    for reservation in first:
        small.pool.gone(reservation.id, Reason.TIME_LIMIT, "over")
    assert small.state(waits) == "granted"
    assert small.pool.get(waits.id).terms.cpus == 4


def test_bounds_stay_those_of_the_start_while_its_gpu_is_given_back(tmp_path: Path) -> None:
    small = lab(tmp_path, {})
    session = small.ask("ada", gpus=1, cpus=5, host_memory_gib=4)
    small.run(session)
    parked = small.pool.get(session.id).parked("given back")
    assert (parked.terms.cpus, parked.terms.host_memory_mib, parked.terms.gpus) == (5, 4 * GIB, 0)
    again = parked.resumed((), small.now, Terms(1.0, 1.0, "a100", "v", 2.0, 1))
    assert (again.terms.cpus, again.terms.host_memory_mib, again.terms.gpus) == (5, 4 * GIB, 1.0)


def test_what_is_offered_and_said_is_what_is_granted(tmp_path: Path) -> None:
    small = lab(tmp_path, {"defaults": {"sessions": {"default_host_memory_gib": 4, "max_host_memory_gib": 16}}})
    told = host_limits(small.pool, "ada", Kind.SESSION)
    assert (told["default_cpus"], told["max_cpus"]) == (2, 8)
    assert (told["default_host_memory_gib"], told["max_host_memory_gib"]) == (4, 16)
    small.ask("ada", host_memory_gib=told["max_host_memory_gib"], gpus=1)
    with pytest.raises(PublicError, match="ask for at most 16"):
        small.ask("ben", host_memory_gib=told["max_host_memory_gib"] + 0.001, gpus=1)
    texts = host_texts(small.pool, "ada")
    assert (
        "This machine has 16 cores and 64 GiB of main memory, of which one session or job may use at most 80 %"
        in texts[0]
    )
    assert texts[1] == "A session gets 2 cores and 4 GiB; you may ask for up to 8 cores and 16 GiB"
    assert texts[2] == "A batch job gets 2 cores and 51.19 GiB; you may ask for up to 8 cores and 51.19 GiB"
    assert texts[3].startswith("Cores: not enforced (")
    small.pool.session_bounds = ("cpu", "memory")
    assert host_texts(small.pool, "ada")[4].startswith("Main memory: held by: kernel (")


def test_the_size_of_this_machine_is_what_the_kernel_says() -> None:
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    assert this_machine().memory_mib == int(meminfo["MemTotal"].split()[0]) // 1024
    assert this_machine().cpus >= 1


def test_on_slurm_what_is_asked_for_wins_over_the_pool() -> None:
    plain = sbatch_options(WHOLE, SHARDS)
    assert plain[-2:] == ["--cpus-per-task=16", "--mem=128000M"]
    asked = parse_share({**WHOLE.as_options(), "cpus": 2.5, "host_memory_gib": 32})
    assert sbatch_options(asked, SHARDS) == [*plain[:-2], "--cpus-per-task=3", "--mem=32768M"]
    cores = parse_share({**WHOLE.as_options(), "cpus": 4})
    assert sbatch_options(cores, SHARDS) == [*plain[:-2], "--cpus-per-task=4", "--mem=128000M"]


def test_a_batch_cell_asks_for_them_beside_its_gpus() -> None:
    share = parse("--gpus 2 -c 4 --host-memory 32").share
    assert share == {"gpus": 2, "cpus": 4, "host_memory_gib": 32}
    assert share_text(share) == "2 GPUs with 4 cores and 32 GiB of main memory"
    assert parse("--memory 10 --cpus 0.5").share == {"memory_gib": 10, "cpus": 0.5}
    assert parse("--cpu").share == {"cpu_only": True}


@pytest.mark.parametrize("words", ["--cpus 0", "--cpus nan", "--cpus many", "--host-memory inf", "--host-memory -1"])
def test_an_odd_amount_of_a_batch_cell_is_refused(words: str) -> None:
    option, value = words.split()
    with pytest.raises(BadOption) as caught:
        parse(words)
    assert f"{option} is {value!r}: must be a number above 0" in str(caught.value)
