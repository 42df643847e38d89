"""Random numbers of jobs: a single one goes on with the notebook's streams, all others have streams of their own."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from batches import Notebook, running_notebook

from timeshare.notebooks import randomness
from timeshare.notebooks.batch.job import Job
from timeshare.notebooks.batch.service import Refused
from timeshare.notebooks.capture import snapshot

POINTS = 1000


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    with running_notebook(tmp_path_factory.mktemp("random"), "a100-40gb:8") as notebook:
        yield notebook


@pytest.fixture(autouse=True)
def streams() -> Iterator[None]:
    """Those of this process are as they were, afterwards."""
    before = randomness.states()
    random.seed(20261201)
    np.random.seed(20261201)
    yield
    randomness.set_states(before)


@pytest.fixture
def notebook(shared: Notebook) -> Notebook:
    shared.main.clear()
    shared.main["__name__"] = "__main__"
    return shared


def finished(notebook: Notebook, cell: str, options: str = "--memory 1") -> Job:
    job = notebook.hand(cell, options)
    assert job.wait(120)
    assert "failed" not in job.state, [task.text() for task in job.tasks]
    return job


# --- streams, without a job


def draws_of(label: str, count: int) -> list[float]:
    randomness.set_states(randomness.derived(START, label))
    held = [np.random.Generator(np.random.PCG64(7)), np.random.RandomState(7), random.Random(7)]
    randomness.derive([held[0].bit_generator, held[1], held[2]], label)
    own = [g.random() for g in held for _ in range(count)]
    return [random.random() for _ in range(count)] + list(np.random.random(count)) + own


START: dict[str, Any] = {}


def test_a_thousand_points_are_independent_uniform_and_the_same_again() -> None:
    START.update(randomness.states())
    by_point = [draws_of(f"point {number}", 20) for number in range(POINTS)]
    every = [x for drawn in by_point for x in drawn]
    assert len(set(every)) == len(every), "no two draws are equal"
    assert draws_of("point 17", 20) == by_point[17]
    for column in range(len(by_point[0])):
        drawn = sorted(point[column] for point in by_point)
        # Kolmogorov and Smirnov: beyond 2 / sqrt(n) once in 1,500 times for each of 100 columns, of a fixed seed.
        worst = max(abs((rank + 0.5) / POINTS - x) for rank, x in enumerate(drawn))
        assert worst < 2.2 / math.sqrt(POINTS), column
    for column in range(len(by_point[0])):
        drawn = [point[column] - 0.5 for point in by_point]
        neighbours = fmean(a * b for a, b in pairwise(drawn)) * 12
        assert abs(neighbours) < 4.5 / math.sqrt(POINTS), "points after another are correlated"


def test_streams_do_not_depend_on_how_far_others_are() -> None:
    found = randomness.states()
    own = randomness.derived(found, "a")
    random.random()
    np.random.standard_normal()
    assert randomness.digest(randomness.derived(found, "a")) == randomness.digest(own)
    assert randomness.digest(randomness.derived(randomness.states(), "a")) != randomness.digest(own)


def test_another_generator_of_the_whole_process_is_taken_along() -> None:
    before = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(3))
        found = randomness.states()
        expected = np.random.random(3)
        np.random.set_bit_generator(before)
        randomness.set_states(found)
        assert type(np.random.get_bit_generator()).__name__ == "PCG64"
        assert (np.random.random(3) == expected).all()
        randomness.set_states(randomness.derived(found, "a"))
        assert not (np.random.random(3) == expected).any()
    finally:
        np.random.set_bit_generator(before)


def through_a_snapshot(value: object) -> Any:
    stream = io.BytesIO()
    snapshot.dump(value, {}, stream, None)
    stream.seek(0)
    return snapshot.load(stream, {}, ())


@pytest.mark.parametrize(
    ("function", "arguments"),
    [(random.random, ()), (random.gauss, (0, 1)), (np.random.random, ()), (np.random.normal, ())],
)
def test_functions_of_the_process_stay_those_of_the_process(function: Any, arguments: tuple[Any, ...]) -> None:
    there = through_a_snapshot(function)
    state = randomness.states()
    expected = [function(*arguments) for _ in range(4)]
    randomness.set_states(state)
    assert [draw(*arguments) for draw in (there, function, there, function)] == expected


def test_generators_are_found_wherever_variables_hold_them() -> None:
    class Toy:
        def __init__(self) -> None:
            self.rng = np.random.default_rng(1)
            self.more = {"py": random.Random(2), "old": [np.random.RandomState(3)]}

    def draw() -> float:
        return float(toy.rng.random())

    toy = Toy()
    with randomness.recording() as written:
        stream = io.BytesIO()
        snapshot.dump({"toy": toy, "draw": draw}, {}, stream, None)
    stream.seek(0)
    with randomness.recording() as read:
        found = snapshot.load(stream, {}, ())
    here, there = randomness.in_order(written), randomness.in_order(read)
    assert [type(item) for item in there] == [type(item) for item in here]
    assert {type(item).__name__ for item in there} >= {"PCG64", "Random", "RandomState"}
    randomness.derive(there, "point 0")
    assert found["toy"].rng.random() != toy.rng.random()
    assert found["toy"].more["py"].random() != toy.more["py"].random()
    assert found["toy"].more["old"][0].random() != toy.more["old"][0].random()


# --- with jobs

SETUP = """
import random
import numpy as np
from numpy.random import normal
class Toy:
    def __init__(self):
        self.rng = np.random.default_rng(42)
    def draw(self):
        return float(self.rng.random())
toy, old, py = Toy(), np.random.RandomState(1), random.Random(2)
drawn = []
"""
DRAW = (
    "drawn = [*drawn, random.random(), float(np.random.random()), normal(), toy.draw(), old.normal(), py.gauss(0, 1)]"
)


def test_cells_in_place_and_in_batch_draw_as_if_all_were_in_place(notebook: Notebook) -> None:
    notebook.run(SETUP)
    for _ in range(4):
        notebook.run(DRAW)
    expected = notebook.main["drawn"]
    random.seed(20261201)
    np.random.seed(20261201)
    notebook.run(SETUP)
    for number in range(4):
        if number % 2:
            notebook.run(DRAW)
        else:
            finished(notebook, DRAW).bring()
    assert notebook.main["drawn"] == expected
    assert len(set(expected)) == len(expected)


def test_two_jobs_and_the_notebook_beside_them_draw_different_numbers(notebook: Notebook) -> None:
    notebook.run(SETUP)
    jobs = [notebook.hand(DRAW, "--memory 1") for _ in range(2)]
    notebook.run(DRAW)
    here = notebook.main["drawn"]
    assert all(job.wait(120) for job in jobs)
    results = [job.results() for job in jobs]
    there = [x for found in results if found is not None for x in found.values["drawn"]]
    assert len(there) == 2 * len(here)
    assert len({*here, *there}) == 3 * len(here)
    after = random.random()
    jobs[0].bring()
    assert random.random() not in (after, *here, *there), "what was drawn here meanwhile is not drawn again"


def test_points_draw_numbers_of_their_own_and_the_same_when_run_again(notebook: Notebook) -> None:
    notebook.run(SETUP)
    handed = notebook.handed(DRAW, "--memory 1 --sweep x=1,2,3")
    assert "each point draws random numbers of its own" in handed.text
    first = handed.job
    assert first.wait(120)
    drawn = [found["drawn"] for found in first.result()]
    assert len({x for numbers in drawn for x in numbers}) == 3 * len(drawn[0])
    again = first.rerun()
    assert again.wait(120)
    assert [found["drawn"] for found in again.result()] == drawn
    notebook.run(DRAW)
    assert not {x for numbers in drawn for x in numbers} & set(notebook.main["drawn"])


def test_a_point_that_seeds_is_left_alone(notebook: Notebook) -> None:
    cell = "import random\nrandom.seed(5)\nx = random.random()"
    found = finished(notebook, cell, "--memory 1 --sweep p=1,2").result()
    assert [values["x"] for values in found] == [random.Random(5).random()] * 2


def test_ranks_draw_numbers_of_their_own(notebook: Notebook, tmp_path: Path) -> None:
    notebook.run(f"folder = {str(tmp_path)!r}")
    cell = "import os, random\nopen(f'{folder}/' + os.environ['RANK'], 'w').write(str(random.random()))"
    finished(notebook, cell, "--gpus 2 --launch torchrun")
    assert len({path.read_text() for path in tmp_path.iterdir()}) == 2


def test_a_refused_submission_leaves_the_streams_as_they_were(notebook: Notebook) -> None:
    notebook.run(SETUP)
    before = randomness.digest(randomness.states()), notebook.main["toy"].rng.bit_generator.state
    with pytest.raises(Refused):
        notebook.hand(DRAW, "--memory 1000")
    assert (randomness.digest(randomness.states()), notebook.main["toy"].rng.bit_generator.state) == before


KINDS = ["PCG64", "PCG64DXSM", "Philox", "SFC64", "MT19937"]


@pytest.mark.parametrize("kind", KINDS)
def test_children_of_a_generator_are_of_its_own_point(kind: str) -> None:
    def children(label: str) -> list[int]:
        generator = np.random.Generator(getattr(np.random, kind)(7))
        randomness.derive([generator.bit_generator], label)
        return [int(child.integers(1 << 60)) for child in generator.spawn(2)]

    assert children("point 0") == children("point 0")
    assert not set(children("point 0")) & set(children("point 1"))


@pytest.mark.parametrize("kind", KINDS)
def test_children_go_on_where_the_job_has_come_to(kind: str) -> None:
    here, job = (np.random.Generator(getattr(np.random, kind)(7)) for _ in range(2))
    drawn = int(job.spawn(1)[0].integers(1 << 60))
    randomness.set_state(here.bit_generator, randomness.state_of(job.bit_generator))
    assert int(here.spawn(1)[0].integers(1 << 60)) != drawn
    assert here.integers(1 << 60) == job.integers(1 << 60)


def test_a_generator_whose_seeds_are_of_chance_has_the_same_streams_at_every_run() -> None:
    def drawn() -> int:
        generator = np.random.RandomState(5)._bit_generator
        randomness.derive([generator], "point 0")
        return int(np.random.Generator(generator).integers(1 << 60))

    assert drawn() == drawn()
