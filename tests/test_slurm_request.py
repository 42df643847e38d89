"""A share becomes options of sbatch, or a refusal of what Slurm would let wait for ever."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slurm_examples import A100, CPU, FRACTION, FRACTION_OF_ONE, FULL, MIG, MPS, P100, SHARDS, SLICE, V100, WHOLE

from timeshare.reservations.engines.slurm.request import GpuType, MigType, SlurmSite, sbatch_options
from timeshare.reservations.errors import PublicError
from timeshare.reservations.shares import Shape, ShareRequest


def gres(request: ShareRequest, site: SlurmSite, nodes: int = 1) -> str:
    (found,) = (option for option in sbatch_options(request, site, nodes) if option.startswith("--gres="))
    return found.removeprefix("--gres=")


def constraint(request: ShareRequest, site: SlurmSite) -> str:
    found = [option for option in sbatch_options(request, site) if option.startswith("--constraint=")]
    return found[0].removeprefix("--constraint=") if found else ""


def test_whole_gpus_of_a_model_are_asked_for_by_slurms_type_on_one_node() -> None:
    options = sbatch_options(WHOLE, SHARDS)
    assert options == ["--partition=gpu", "--nodes=1", "--gres=gpu:a100:2", "--cpus-per-task=16", "--mem=128000M"]


def test_whole_gpus_of_any_model_have_no_type_unless_slices_would_count_as_gpus() -> None:
    any_model = ShareRequest(Shape.WHOLE, count=1)
    assert gres(any_model, SHARDS) == "gpu:1"
    assert gres(any_model, MIG) == "gpu:a100:1"


def test_several_nodes_have_the_same_gpus_each() -> None:
    options = sbatch_options(ShareRequest(Shape.WHOLE, count=4), SHARDS, nodes=2)
    assert options[1:4] == ["--nodes=2", "--ntasks-per-node=1", "--gres=gpu:4"]


def test_a_fraction_is_as_many_shards_as_hold_its_memory() -> None:
    of_one = ShareRequest(Shape.FRACTION, memory_mib=10 * 1024, model="a100-40gb")
    assert gres(of_one, SHARDS) == "shard:2"
    assert gres(dataclasses.replace(of_one, memory_mib=10 * 1024 + 1), SHARDS) == "shard:3"
    assert gres(dataclasses.replace(of_one, memory_mib=1), SHARDS) == "shard:1"
    assert gres(dataclasses.replace(of_one, memory_mib=40 * 1024), SHARDS) == "shard:8"


def test_a_fraction_is_as_many_shards_as_have_its_compute() -> None:
    assert gres(FRACTION_OF_ONE, SHARDS) == "shard:4"
    assert gres(FRACTION_OF_ONE, MPS) == "mps:50"


def test_a_fraction_of_any_model_is_enough_wherever_it_lands() -> None:
    assert gres(FRACTION, SHARDS) == "shard:3"  # of the four of a v100; fewer would do on an a100
    assert constraint(FRACTION, SHARDS) == ""


def test_a_fraction_that_some_models_cannot_hold_goes_to_those_that_can() -> None:
    large = ShareRequest(Shape.FRACTION, memory_mib=20 * 1024)
    assert (gres(large, SHARDS), constraint(large, SHARDS)) == ("shard:4", "ampere")


def test_a_fraction_of_a_model_is_found_by_the_feature_of_its_nodes() -> None:
    assert constraint(FRACTION_OF_ONE, SHARDS) == "ampere"
    assert constraint(FRACTION_OF_ONE, FULL) == "ampere&(ib|fast)"
    one_kind = dataclasses.replace(SHARDS, gpus=(P100, dataclasses.replace(A100, feature="")))
    assert constraint(FRACTION_OF_ONE, one_kind) == ""


def test_without_a_feature_a_fraction_of_one_model_among_several_is_refused() -> None:
    site = dataclasses.replace(SHARDS, gpus=(V100, dataclasses.replace(A100, feature="")))
    with pytest.raises(PublicError, match="no node feature is configured"):
        sbatch_options(FRACTION_OF_ONE, site)


def test_a_part_of_a_gpu_gets_its_part_of_cpus_and_memory() -> None:
    assert sbatch_options(FRACTION_OF_ONE, SHARDS)[-2:] == ["--cpus-per-task=4", "--mem=32000M"]
    assert sbatch_options(SLICE, MIG)[-2:] == ["--cpus-per-task=6", "--mem=30000M"]
    small = ShareRequest(Shape.FRACTION, memory_mib=1, model="a100-40gb")
    assert sbatch_options(small, SHARDS)[-2:] == ["--cpus-per-task=1", "--mem=8000M"]


def test_a_slice_is_a_gpu_of_a_type_of_its_own() -> None:
    assert gres(SLICE, MIG) == "gpu:a100_3g.20gb:1"


def test_what_holds_no_gpu_asks_for_none() -> None:
    assert sbatch_options(CPU, FULL) == [
        "--partition=gpu,gpu-long",
        "--account=lab",
        "--qos=interactive",
        "--reservation=course_1",
        "--nodes=1",
        "--constraint=ib|fast",
        "--cpus-per-task=2",
        "--mem=4000M",
    ]
    assert sbatch_options(CPU, SlurmSite()) == ["--nodes=1"]


@pytest.mark.parametrize(
    ("request_", "site", "reason", "names"),
    [
        (ShareRequest(Shape.WHOLE, count=5, model="v100"), SHARDS, "too-large", ["gpus is 5", "is 4", "from 1 to 4"]),
        (ShareRequest(Shape.WHOLE, count=9), SHARDS, "too-large", ["gpus is 9", "from 1 to 4"]),
        (ShareRequest(Shape.WHOLE, count=1), SlurmSite(), "too-large", ["is 0", "cpu_only"]),
        (
            ShareRequest(Shape.WHOLE, count=1, model="h100"),
            SHARDS,
            "unknown-model",
            ["'h100'", "a100-40gb, p100, v100"],
        ),
        (ShareRequest(Shape.FRACTION, memory_mib=41 * 1024), SHARDS, "too-large", ["memory_gib is 41", "40 GiB"]),
        (ShareRequest(Shape.FRACTION, memory_mib=17 * 1024, model="v100"), SHARDS, "too-large", ["17", "16 GiB"]),
        (ShareRequest(Shape.FRACTION, memory_mib=1024), MIG, "no-fractions", ["not configured", "gpus instead"]),
        (ShareRequest(Shape.FRACTION, memory_mib=1024, model="p100"), SHARDS, "no-fractions", ["a100-40gb, v100"]),
        (ShareRequest(Shape.MIG, profile="7g.40gb"), MIG, "unknown-profile", ["7g.40gb", "1g.5gb, 3g.20gb"]),
        (ShareRequest(Shape.MIG, profile="1g.5gb", model="h100"), MIG, "unknown-profile", ["of h100"]),
        (SLICE, SHARDS, "unknown-profile", ["no GPU of it is MIG-partitioned"]),
    ],
)
def test_what_can_never_run_is_refused_with_what_would(
    request_: ShareRequest, site: SlurmSite, reason: str, names: list[str]
) -> None:
    with pytest.raises(PublicError) as refused:
        sbatch_options(request_, site)
    assert refused.value.reason == reason
    assert [name for name in names if name not in refused.value.message] == []
    assert refused.value.details["share"] == request_.as_options()


def test_parts_of_gpus_are_on_one_node() -> None:
    with pytest.raises(PublicError, match="nodes is 2"):
        sbatch_options(FRACTION, SHARDS, nodes=2)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (lambda: SlurmSite(fraction="time"), "fraction is 'time'"),
        (lambda: SlurmSite(partition="gpu --uid=root"), "partition is"),
        (lambda: SlurmSite(cpus=-1), "cpus is -1"),
        (lambda: SlurmSite(gpus=(GpuType("a100", "A100", 1),)), "model is 'A100'"),
        (lambda: SlurmSite(gpus=(GpuType("a100", "a100", 0),)), "memory_mib of a100 is 0"),
        (lambda: SlurmSite(gpus=(GpuType("a 100", "a100", 1),)), "gres is 'a 100'"),
        (lambda: SlurmSite(mig=(MigType("a100_1g", "1g", "a100"),)), "profile is '1g'"),
    ],
)
def test_a_site_that_cannot_be_meant_is_refused(wrong: object, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        wrong()  # type: ignore[operator]


@given(
    memory_mib=st.integers(1, 40 * 1024),
    compute=st.integers(0, 1000),
    model=st.sampled_from(["", "a100-40gb"]),
    site=st.sampled_from([SHARDS, MPS]),
)
def test_a_fraction_holds_what_is_asked_for_on_every_gpu_that_it_may_get(
    memory_mib: int, compute: int, model: str, site: SlurmSite
) -> None:
    request = ShareRequest(Shape.FRACTION, memory_mib=memory_mib, compute=compute, model=model)
    count = int(gres(request, site).partition(":")[2])
    features = constraint(request, site).split("|")
    possible = [gpu for gpu in site.shared if features == [""] or gpu.feature in features]
    assert possible
    for gpu in possible:
        units = site.units(gpu)
        assert count > units or count * gpu.memory_mib >= memory_mib * units
        assert count > units or count * 1000 >= compute * units
    assert any(count <= site.units(gpu) for gpu in possible)  # else it would wait for ever
