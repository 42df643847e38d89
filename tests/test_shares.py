"""A wish becomes one typed request, or a clear refusal."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeshare.reservations.errors import PublicError
from timeshare.reservations.shares import SHARE_FIELDS, Shape, ShareRequest, parse_share


def test_several_nodes_have_the_same_share_each() -> None:
    request = parse_share({"gpus": 2, "model": "a100", "engine": "slurm", "nodes": 2})
    assert request == ShareRequest(Shape.WHOLE, count=2, model="a100", engine="slurm", nodes=2)
    assert request.describe() == "2 whole a100 on each of 2 nodes of slurm"
    assert parse_share({"cpu_only": True, "engine": "slurm", "nodes": 3}).describe() == (
        "CPU only on each of 3 nodes of slurm"
    )


def test_a_count_of_gpus_is_a_whole_share() -> None:
    assert parse_share({"gpus": 2, "model": "t4"}) == ShareRequest(Shape.WHOLE, count=2, model="t4")


def test_memory_with_a_weight_is_a_fraction() -> None:
    request = parse_share({"memory_gib": 2.5, "compute_percent": 30})
    assert request == ShareRequest(Shape.FRACTION, memory_mib=2560, compute=300)


def test_a_profile_is_a_mig_share() -> None:
    assert parse_share({"mig_profile": "1g.10gb"}).shape is Shape.MIG


def test_an_empty_model_is_any_model_and_nothing_else_may_be_empty() -> None:
    assert parse_share({"gpus": 1, "model": ""}).model == ""
    with pytest.raises(PublicError, match="two shapes at once"):
        parse_share({"gpus": None, "cpu_only": True})


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, ["exactly one"]),
        ({"gpus": 1, "memory_gib": 4}, ["gpus and memory_gib", "two shapes"]),
        ({"gpus": 0}, ["gpus is 0", "from 1"]),
        ({"gpus": -1}, ["gpus is -1"]),
        ({"gpus": 1.5}, ["gpus is 1.5"]),
        ({"gpus": "1"}, ["gpus is '1'"]),
        ({"gpus": True}, ["gpus is True"]),
        ({"memory_gib": math.nan}, ["memory_gib is nan", "at most 1024"]),
        ({"memory_gib": math.inf}, ["memory_gib is inf"]),
        ({"memory_gib": 1e9}, ["memory_gib is 1000000000.0", "at most 1024"]),
        ({"memory_gib": 0}, ["memory_gib is 0"]),
        ({"memory_gib": 1e-9}, ["1 MiB"]),
        ({"memory_gib": 4, "compute_percent": 101}, ["compute_percent is 101", "100"]),
        ({"gpus": 1, "compute_percent": 10}, ["goes with memory_gib"]),
        ({"mig_profile": "7g"}, ["mig_profile is '7g'", "1g.10gb"]),
        ({"gpus": 1, "model": "A100; rm -rf /"}, ["model is 'A100; rm -rf /'"]),
        ({"cpu_only": True, "model": "t4"}, ["holds no GPU"]),
        ({"cpu_only": 1}, ["must be true"]),
        ({"gpu": 1}, ["no such field", "memory_gib"]),
        ({"gpus": 1, "nodes": 2}, ["nodes is 2", "this machine is one node"]),
        ({"gpus": 1, "engine": "slurm", "nodes": 0}, ["nodes is 0", "from 1 to 64"]),
        ({"gpus": 1, "engine": "slurm", "nodes": 65}, ["nodes is 65", "from 1 to 64"]),
        ({"memory_gib": 4, "engine": "slurm", "nodes": 2}, ["nodes is 2", "a part of one GPU"]),
    ],
)
def test_bad_input_is_refused_with_the_value_and_the_rule(fields: dict[str, Any], names: list[str]) -> None:
    with pytest.raises(PublicError) as refused:
        parse_share(fields)
    assert 400 <= refused.value.status < 500
    for name in names:
        assert name in refused.value.message


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.lists(st.integers())


@given(st.dictionaries(st.sampled_from(SHARE_FIELDS) | st.text(max_size=8), values, max_size=4))
def test_any_fields_give_a_request_that_round_trips_or_a_public_refusal(fields: dict[str, Any]) -> None:
    try:
        request = parse_share(fields)
    except PublicError as error:
        assert len(error.message) < 400
        return
    assert parse_share(request.as_options()) == request
    assert request.describe()
