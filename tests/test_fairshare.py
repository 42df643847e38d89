"""Who has used how much of late, and who is owed most: published figures, and what must always hold."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeshare.reservations.fairshare import (
    Decayed,
    Node,
    Path,
    average_use,
    classic,
    decayed_interval,
    fair_tree,
    group,
    jain,
)

HOUR = 3600.0
DAY = 24 * HOUR

AMOUNTS = st.floats(0, 1e9)
TIMES = st.floats(0, 4e9)
DELAYS = st.floats(0, 1e7)
HALF_LIVES = st.none() | st.floats(1, 1e9)


def person(name: str, usage: float, shares: float = 1) -> Node:
    return Node(name, shares, usage)


# The example of Slurm's documentation: A40{B30{u1}, C10{u2, u3}}, D60{E25{u4}, F35{u5}}.
C = group("C", 10, [person("u2", 25), person("u3", 0)])
A = group("A", 40, [group("B", 30, [person("u1", 20)]), C])
D = group("D", 60, [group("E", 25, [person("u4", 25)]), group("F", 35, [person("u5", 0)])])


def by_name(ranks: dict[Path, float]) -> dict[str, float]:
    return {path[-1]: rank for path, rank in ranks.items()}


def test_the_example_of_the_slurm_documentation_gives_its_factors() -> None:
    # 30 of 100 were used by somebody without a share.
    assert by_name(classic([A, D, person("gone", 30, shares=0)])) == pytest.approx(
        {"u1": 0.408479, "u2": 0.022097, "u3": 0.125, "u4": 0.5, "u5": 0.749154, "gone": 0.0}, abs=5e-7
    )


def test_the_tree_of_the_slurm_test_suite_gives_its_factors() -> None:
    factors = by_name(classic([A, D, group("G", 0, [person("u6", 30, shares=0)]), person("H", 110, shares=50)]))
    expected = {"u1": 0.527550, "u2": 0.065672, "u3": 0.226431, "u4": 0.609507, "u5": 0.813594, "u6": 0.0}
    assert factors == pytest.approx({**expected, "H": 0.336475}, abs=5e-7)


def test_fair_tree_ranks_the_same_example_group_by_group() -> None:
    # D has used less of its share than A; in D, u5 has used nothing; in A, B less of its share than C.
    assert list(by_name(fair_tree([A, D])).items()) == [("u5", 1.0), ("u4", 0.8), ("u1", 0.6), ("u3", 0.4), ("u2", 0.2)]


def test_a_hundred_cores_for_two_days_average_75_and_half_of_it_a_day_later() -> None:
    working = Decayed().with_rate(100, 0, DAY)
    rest = working.with_rate(0, 2 * DAY, DAY)
    assert average_use(rest.value, DAY) == pytest.approx(75, rel=1e-12)
    assert average_use(rest.moved_to(3 * DAY, DAY).value, DAY) == pytest.approx(37.5, rel=1e-12)
    assert average_use(decayed_interval(100, 0, 2 * DAY, 3 * DAY, DAY), DAY) == pytest.approx(37.5, rel=1e-12)


def test_use_that_is_never_forgotten_is_the_integral_of_what_was_held() -> None:
    use = Decayed().with_rate(2, 100, None).with_rate(5, 110, None).moved_to(112, None)
    assert use.value == 2 * 10 + 5 * 2
    assert use.moved_to(112, math.inf) == use


def test_a_half_life_of_zero_forgets_at_once() -> None:
    use = Decayed(7.0, 3.0, 0.0).plus(5, 10, 0)
    assert (use.value, use.rate, use.at) == (0.0, 3.0, 10)
    assert decayed_interval(3, 0, 10, 10, 0) == 0.0


def test_a_report_of_the_past_takes_no_use_back() -> None:
    use = Decayed(7.0, 3.0, 100.0)
    assert use.moved_to(50, DAY) == use
    assert use.plus(1, 50, DAY) == replace(use, value=8.0)


def test_an_interval_counts_only_what_lies_before_now() -> None:
    assert decayed_interval(2, 0, 100, 10, None) == 20
    assert decayed_interval(2, 50, 100, 10, None) == 0
    assert decayed_interval(2, 50, 40, 100, None) == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Decayed(rate=-1), "a rate of use is -1"),
        (lambda: Decayed(value=math.nan), "a decayed use is nan"),
        (lambda: Decayed().moved_to(1, -5), "a half-life is -5"),
        (lambda: Decayed().plus(-5, 1, DAY), "a charge is -5"),
        (lambda: average_use(1, 0), "finite half-life above 0 s, not 0"),
        (lambda: Node("ann", -1, 0), "the shares of 'ann' is -1.*0 or more"),
        (lambda: Node("ann", 1, math.inf), "the usage of 'ann' is inf"),
        (lambda: group("lab", 1, [person("ann", 0), person("ann", 1)]), "two named 'ann'"),
        (lambda: fair_tree([person("ann", 0), person("ann", 1)]), "two named 'ann'"),
        (lambda: classic([person("ann", 0), person("ann", 1)]), "two named 'ann'"),
        (lambda: classic([person("ann", 0)], damping=0), "damping is 0: it must be above 0"),
        (lambda: jain([1, -1]), "Jain's index is -1"),
    ],
)
def test_what_makes_no_sense_is_refused_with_value_and_rule(wrong: object, says: str) -> None:
    assert callable(wrong)
    with pytest.raises(ValueError, match=says):
        wrong()


@given(AMOUNTS, AMOUNTS, TIMES, st.lists(DELAYS, max_size=8), HALF_LIVES)
def test_how_often_a_use_is_brought_up_to_date_makes_no_difference(
    value: float, rate: float, at: float, delays: list[float], half_life_s: float | None
) -> None:
    use = once = Decayed(value, rate, at)
    for delay in delays:
        use = use.moved_to(use.at + delay, half_life_s)
    assert use.value == pytest.approx(once.moved_to(use.at, half_life_s).value, rel=1e-9)


@given(st.lists(st.tuples(DELAYS, AMOUNTS), max_size=8), DELAYS, HALF_LIVES)
def test_a_use_is_never_negative_and_is_the_sum_of_its_intervals(
    changes: list[tuple[float, float]], rest: float, half_life_s: float | None
) -> None:
    use = Decayed()
    intervals: list[tuple[float, float, float]] = []
    for delay, rate in changes:
        intervals.append((use.rate, use.at, use.at + delay))
        use = use.with_rate(rate, use.at + delay, half_life_s)
    intervals.append((use.rate, use.at, use.at + rest))
    use = use.moved_to(use.at + rest, half_life_s)
    assert use.value >= 0
    assert use.value == pytest.approx(sum(decayed_interval(*item, use.at, half_life_s) for item in intervals), rel=1e-9)


@given(AMOUNTS, DELAYS, st.floats(1, 1e7))
def test_the_average_of_a_use_stays_below_what_is_held_and_comes_to_it(rate: float, delay: float, h: float) -> None:
    assert average_use(Decayed(rate=rate).moved_to(delay, h).value, h) <= rate * (1 + 1e-9)
    assert average_use(Decayed(rate=rate).moved_to(40 * h, h).value, h) == pytest.approx(rate)


@given(AMOUNTS, DELAYS)
def test_a_very_long_half_life_is_as_good_as_none(rate: float, delay: float) -> None:
    assert Decayed(rate=rate).moved_to(delay, 1e20).value == pytest.approx(
        Decayed(rate=rate).moved_to(delay, None).value
    )


Tree = tuple[Node, ...]


def siblings(nodes: st.SearchStrategy[Node], least: int = 0) -> st.SearchStrategy[Tree]:
    """A few nodes, named so that they differ."""
    return st.lists(nodes, min_size=least, max_size=4).map(
        lambda drawn: tuple(replace(node, name=f"n{i}") for i, node in enumerate(drawn))
    )


# Small whole numbers, so that ties are common.
SHARES = st.integers(0, 3)
PEOPLE = st.builds(Node, st.just(""), SHARES, st.integers(0, 4))
TREES = siblings(st.recursive(PEOPLE, lambda inner: st.builds(group, st.just(""), SHARES, siblings(inner, least=1))))


def people(nodes: Tree, path: Path = ()) -> Iterator[tuple[Path, Node]]:
    for node in nodes:
        here = (*path, node.name)
        yield from people(node.children, here) if node.children else [(here, node)]


def with_more(nodes: Tree, path: Path, more: float) -> Tree:
    """The tree after the person at ``path`` has used ``more``, which her groups have used with her."""
    return tuple(
        replace(node, usage=node.usage + more, children=with_more(node.children, path[1:], more))
        if path and node.name == path[0]
        else node
        for node in nodes
    )


def reversed_tree(nodes: Tree) -> Tree:
    return tuple(replace(node, children=reversed_tree(node.children)) for node in reversed(nodes))


def renamed(nodes: Tree) -> Tree:
    return tuple(replace(node, name=node.name + "!", children=renamed(node.children)) for node in nodes)


@given(TREES)
def test_a_group_has_used_what_its_members_have(nodes: Tree) -> None:
    for node in nodes:
        if node.children:
            assert node.usage == sum(member.usage for _, member in people(node.children))


@given(TREES)
def test_everybody_has_one_rank_and_the_best_has_1(nodes: Tree) -> None:
    everybody = dict(people(nodes))
    ranks, factors = fair_tree(nodes), classic(nodes)
    assert set(ranks) == set(factors) == set(everybody)
    assert list(ranks.values()) == sorted(ranks.values(), reverse=True)
    for rank in ranks.values():  # as many as the rank says are not ahead
        assert rank * len(ranks) == pytest.approx(sum(other <= rank for other in ranks.values()))
    assert not ranks or max(ranks.values()) == 1.0
    assert all(0 <= factor <= 1 for factor in factors.values())


@given(TREES, st.data())
def test_more_use_never_raises_a_rank(nodes: Tree, data: st.DataObject) -> None:
    nodes = (*nodes, person("somebody", 1))
    path = data.draw(st.sampled_from([path for path, _ in people(nodes)]))
    after = with_more(nodes, path, data.draw(st.integers(1, 5)))
    assert fair_tree(after)[path] <= fair_tree(nodes)[path]
    assert classic(after)[path] <= classic(nodes)[path] + 1e-12


@given(TREES)
def test_siblings_of_equal_share_and_use_have_equal_ranks(nodes: Tree) -> None:
    ranks, factors = fair_tree(nodes), classic(nodes)
    everybody = list(people(nodes))
    for path, node in everybody:
        for other_path, other in everybody:
            same_group = path[:-1] == other_path[:-1]
            if same_group and (node.shares, node.usage) == (other.shares, other.usage):
                assert ranks[path] == ranks[other_path]
                assert factors[path] == pytest.approx(factors[other_path])


@given(TREES)
def test_names_and_their_order_change_nothing(nodes: Tree) -> None:
    for rank in (fair_tree, classic):
        assert rank(reversed_tree(nodes)) == pytest.approx(rank(nodes))
        assert rank(renamed(nodes)) == {
            tuple(f"{name}!" for name in path): value for path, value in rank(nodes).items()
        }


@given(TREES, st.floats(1e-6, 1e6))
def test_the_units_of_use_change_nothing(nodes: Tree, scale: float) -> None:
    def scaled(nodes: Tree) -> Tree:
        return tuple(replace(node, usage=node.usage * scale, children=scaled(node.children)) for node in nodes)

    assert fair_tree(scaled(nodes)) == fair_tree(nodes)
    assert classic(scaled(nodes)) == pytest.approx(classic(nodes))


@given(TREES)
def test_all_of_a_better_placed_group_come_before_all_of_a_worse_one(nodes: Tree) -> None:
    ranks = fair_tree(nodes)
    spans: dict[float, list[float]] = {}
    shares, usage = sum(node.shares for node in nodes), sum(node.usage for node in nodes)
    for node in nodes:
        level = 0.0 if node.shares == 0 else math.inf
        if level and node.usage:
            level = round(node.shares * usage / (node.usage * shares), 6)
        spans.setdefault(level, []).extend(rank for path, rank in ranks.items() if path[0] == node.name)
    ordered = [spans[level] for level in sorted(spans)]
    for worse, better in pairwise(ordered):
        assert max(worse) < min(better)


def test_tied_groups_are_taken_as_one_before_their_members_are_ranked() -> None:
    ranks = fair_tree(
        [
            group("physics", 1, [person("ann", 1), person("bob", 3)]),
            group("biology", 2, [person("cem", 2), person("dee", 6)]),
        ]
    )
    assert ranks == {
        ("physics", "ann"): 1.0,
        ("biology", "cem"): 1.0,
        ("physics", "bob"): 0.5,
        ("biology", "dee"): 0.5,
    }


def test_a_person_tied_with_a_group_shares_the_rank_of_its_best_member() -> None:
    ranks = fair_tree([group("lab", 1, [person("ann", 1), person("bob", 3)]), person("cem", 4), person("dee", 9)])
    assert by_name(ranks) == {"cem": 1.0, "ann": 1.0, "bob": 0.5, "dee": 0.25}


def test_who_has_no_share_comes_last_even_without_use_and_who_has_used_nothing_first() -> None:
    ranks = fair_tree([person("none", 0, shares=0), person("heavy", 99), person("new", 0), person("newer", 0)])
    assert by_name(ranks) == {"new": 1.0, "newer": 1.0, "heavy": 0.5, "none": 0.25}


def test_one_name_in_two_groups_is_two_places() -> None:
    ranks = fair_tree([group("lab", 1, [person("ann", 5)]), group("course", 1, [person("ann", 1)])])
    assert ranks == {("course", "ann"): 1.0, ("lab", "ann"): 0.5}


def test_an_empty_tree_ranks_nobody_and_one_without_shares_all_alike() -> None:
    assert fair_tree([]) == classic([]) == {}
    nobody = [person("ann", 5, shares=0), person("bob", 0, shares=0)]
    assert by_name(fair_tree(nobody)) == {"ann": 1.0, "bob": 1.0}
    assert by_name(classic(nobody)) == {"ann": 0.0, "bob": 0.0}


def test_damping_makes_use_weigh_less() -> None:
    nodes = [person("ann", 3), person("bob", 1)]
    assert classic(nodes)["ann",] == pytest.approx(2**-1.5)
    assert classic(nodes, damping=3)["ann",] == pytest.approx(2**-0.5)


def test_jains_index_of_k_served_out_of_n_is_k_of_n() -> None:
    assert jain([]) == jain([0, 0]) == jain([4, 4, 4]) == 1.0
    assert jain([1, 1, 1, 0]) == pytest.approx(0.75)
    assert jain([5, 0, 0, 0, 0]) == pytest.approx(0.2)


@given(st.lists(st.floats(0, 1e300), min_size=1), st.floats(1e-3, 1e3))
def test_jains_index_lies_between_one_of_n_and_1_and_knows_no_scale(values: list[float], scale: float) -> None:
    assert 1 / len(values) - 1e-12 <= jain(values) <= 1
    assert jain([value * scale for value in values]) == pytest.approx(jain(values), rel=1e-6)
