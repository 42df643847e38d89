"""The judgement on memory, sample after sample; pure."""

from __future__ import annotations

from timeshare.reservations.agent.watchdog import Key, Use, Verdict, judge

GREEDY: Key = ("greedy", 1, "GPU-a")
NEIGHBOUR: Key = ("neighbour", 1, "GPU-a")
NOBODY: frozenset[Key] = frozenset()


def use(*used: int | None, share: int = 10_000) -> Use:
    return Use(share, dict(enumerate(used, start=100)), {100: "python"})


def stopped(verdicts: list[Verdict]) -> list[int | None]:
    return [verdict.stop for verdict in verdicts]


def test_up_to_two_percent_over_is_let_be() -> None:
    assert judge({GREEDY: use(10_200)}, NOBODY) == ([], NOBODY)


def test_the_first_sample_over_warns_and_the_second_stops() -> None:
    verdicts, warned = judge({GREEDY: use(10_500)}, NOBODY)
    assert (stopped(verdicts), warned) == ([None], {GREEDY})
    verdicts, _ = judge({GREEDY: use(10_500)}, warned)
    assert stopped(verdicts) == [100]


def test_far_over_is_stopped_at_once() -> None:
    verdicts, _ = judge({GREEDY: use(11_001)}, NOBODY)
    assert stopped(verdicts) == [100]


def test_a_session_that_frees_memory_in_time_starts_anew() -> None:
    _, warned = judge({GREEDY: use(10_500)}, NOBODY)
    verdicts, warned = judge({GREEDY: use(9_000)}, warned)
    assert (verdicts, warned) == ([], NOBODY)
    verdicts, _ = judge({GREEDY: use(10_500)}, warned)
    assert stopped(verdicts) == [None]


def test_processes_of_one_session_are_counted_together_and_the_largest_is_stopped() -> None:
    verdicts, _ = judge({GREEDY: use(5_000, 6_100, 100)}, NOBODY)
    assert stopped(verdicts) == [101]


def test_a_neighbour_within_its_share_is_never_touched() -> None:
    verdicts, warned = judge({GREEDY: use(50_000), NEIGHBOUR: use(10_000)}, frozenset({NEIGHBOUR}))
    assert [verdict.key for verdict in verdicts] == [GREEDY]
    assert warned == {GREEDY}


def test_unknown_memory_counts_against_nobody() -> None:
    assert judge({GREEDY: use(None, None)}, frozenset({GREEDY})) == ([], NOBODY)
    verdicts, _ = judge({GREEDY: use(None, 10_200)}, NOBODY)
    assert verdicts == []


def test_the_message_names_process_use_and_share() -> None:
    (verdict,), _ = judge({GREEDY: use(12_595, share=10_240)}, NOBODY)
    assert verdict.message == (
        "12.3 GiB of GPU memory are used; the share is 10.0 GiB: process 100 (python) was stopped"
    )
