"""What ``timeshare doctor --engine slurm`` finds: on recorded answers, and on a real Slurm."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hubs import command
from slurm_cluster import Cluster
from slurm_examples import DATA
from traitlets.config import Config

from timeshare.hub_config import slurm_findings as judge
from timeshare.hub_config.findings import FAIL, NOTE, OK, WARN, Finding
from timeshare.reservations.deployment import Deployment
from timeshare.reservations.engines.slurm.config import SlurmPool, read_pools
from timeshare.reservations.engines.slurm.errors import Unreadable
from timeshare.reservations.engines.slurm.nodes import SlurmNode, parse_nodes, parse_partitions
from timeshare.reservations.engines.slurm.settings import parse_config
from timeshare.reservations.service.jobagent_handlers import as_nodes_see

RECORDED = DATA / "22.05"
CONFIG = parse_config((RECORDED / "config.txt").read_text())
NODES = [node for node in parse_nodes((RECORDED / "nodes_idle.txt").read_text()) if node.configured()]
PARTITIONS = parse_partitions((RECORDED / "partitions.txt").read_text())
SHARDED = {"v100": {"model": "v100", "memory_gib": 16, "shards": 4}}
ROOT = judge.Asker("root", 0)
HERE = Deployment("/state", "http://127.0.0.1:8000/", *[""] * 11)


def pool(**traits: Any) -> SlurmPool:
    return SlurmPool("slurm", Config({"SlurmPool": traits}))


def far(nodes: list[SlurmNode]) -> list[SlurmNode]:
    return [replace(node, address=f"{node.name}.lab.example") for node in nodes]


def test_the_configuration_is_read_with_that_of_control_groups() -> None:
    assert (CONFIG["SLURM_VERSION"], CONFIG["EnforcePartLimits"], CONFIG["KillWait"]) == ("22.05.8", "ALL", "3 sec")
    assert (CONFIG["ConstrainDevices"], CONFIG["JobSubmitPlugins"]) == ("yes", "")
    with pytest.raises(Unreadable):
        parse_config("")


def test_a_cluster_that_is_as_it_should_be_has_nothing_to_repair() -> None:
    mine = pool(partition="gpu", fraction="shard", gpus=SHARDED)
    found = [
        judge.version(CONFIG),
        judge.privacy(CONFIG, ROOT),
        judge.extension(mine, CONFIG, ROOT),
        judge.partition(mine, PARTITIONS),
        judge.open_nodes(NODES),
        judge.sharing(mine, NODES, CONFIG),
        judge.part_limits(CONFIG),
        judge.confinement(CONFIG),
        judge.requeue(CONFIG),
        *judge.addresses(mine, NODES, "hub", HERE),
    ]
    assert [finding for finding in found if finding.level != OK] == []
    assert {finding.level for finding in judge.gpus(mine, NODES)} == {OK, NOTE}  # the memory of an a100 is not known


SETTINGS = [
    (judge.version, {"SLURM_VERSION": "20.11.9"}, WARN, "Slurm 22.05"),
    (judge.part_limits, {"EnforcePartLimits": "NO"}, WARN, "EnforcePartLimits=ALL"),
    (judge.confinement, {"ConstrainDevices": "no"}, WARN, "ConstrainDevices=yes"),
    (judge.confinement, {"TaskPlugin": "task/affinity"}, WARN, "TaskPlugin=task/cgroup"),
    (judge.requeue, {"AuthInfo": ""}, NOTE, "cred_expire=30"),
    (judge.kill_wait, {"KillWait": "3 sec"}, NOTE, "KillWait=30"),
]


@pytest.mark.parametrize(("check", "changed", "level", "advice"), SETTINGS, ids=[advice for *_, advice in SETTINGS])
def test_a_setting_that_is_weaker_is_told_with_the_line_that_mends_it(
    check: Any, changed: dict[str, str], level: str, advice: str
) -> None:
    found = check({**CONFIG, **changed})
    assert found.level == level
    assert advice in found.advice


def test_an_account_that_does_not_see_all_jobs_may_not_serve() -> None:
    service = judge.Asker("timeshare", 990)
    found = judge.privacy(CONFIG, service)
    assert (found.level, found.advice) == (FAIL, "sacctmgr modify user timeshare set AdminLevel=Operator")
    assert judge.privacy(CONFIG, replace(service, admin_level="Operator")).level == OK
    assert judge.privacy(CONFIG, judge.Asker("slurm", 64030)).level == OK
    assert judge.privacy({**CONFIG, "PrivateData": ""}, service).level == OK
    assert judge.extension(pool(extend=True), CONFIG, service).level == FAIL


def test_a_service_account_is_told_what_is_not_kept_apart_on_its_own_machine() -> None:
    service, sudo = judge.Asker("timeshare", 990), ["sudo", "-n", "-u", "{user}", "--"]
    assert judge.own_machine(pool(run_as=sudo), service, True).level == WARN
    assert judge.own_machine(pool(run_as=sudo), ROOT, True).level == OK
    assert judge.own_machine(pool(run_as=[]), service, True).level == OK
    assert judge.own_machine(pool(run_as=sudo), service, False).level == OK


SHARING = [
    ({}, {"GresTypes": "gpu,shard,mps"}, WARN, "not told their GPU"),
    ({"fraction": "shard", "gpus": SHARDED}, {"GresTypes": "gpu,shard,mps"}, FAIL, "not told their GPU"),
    ({"fraction": "mps"}, {"GresTypes": "gpu,mps"}, FAIL, "no node of the partition has any"),
    ({"fraction": "shard"}, {"GresTypes": "shard"}, FAIL, "GresTypes has no gpu"),
    ({"fraction": "shard", "gpus": {"v100": {"shards": 8}}}, {}, FAIL, "has 4 for each GPU"),
    ({}, {}, NOTE, "not offered"),
]


@pytest.mark.parametrize(("traits", "changed", "level", "said"), SHARING, ids=range(len(SHARING)))
def test_parts_of_gpus_are_offered_only_where_slurm_has_them(
    traits: dict[str, Any], changed: dict[str, str], level: str, said: str
) -> None:
    found = judge.sharing(pool(**traits), NODES, {**CONFIG, **changed})
    assert found.level == level
    assert said in found.detail


def test_a_type_that_no_node_has_is_told_with_those_that_there_are() -> None:
    found = [finding for finding in judge.gpus(pool(gpus={"h100": {}}), NODES) if finding.level == FAIL]
    assert [finding.detail for finding in found] == ["gpus names 'h100', which no node of the partition has"]
    assert "'a100', 'p100', 'v100'" in found[0].advice


def test_a_partition_that_is_missing_or_down_is_told() -> None:
    assert judge.partition(pool(partition="nothing"), PARTITIONS) == Finding(
        FAIL, "partition", "Slurm has no partition 'nothing'", "set partition to one of gpu, cpu"
    )
    down = [replace(one, up=False, state="DOWN") for one in PARTITIONS]
    assert judge.partition(pool(), down).level == WARN
    assert judge.partition(pool(), [replace(one, default=False) for one in PARTITIONS]).level == FAIL
    drained = [replace(node, states=frozenset({"IDLE", "DRAIN"}), reason="fan") for node in NODES]
    assert judge.open_nodes(drained).level == WARN
    assert "drain (fan)" in judge.open_nodes(drained).detail


def test_addresses_that_lead_back_to_the_node_itself_are_told() -> None:
    said = list(judge.addresses(pool(), far(NODES), "hub", HERE))
    assert {finding.level for finding in said} == {FAIL}
    assert "'http://127.0.0.1:8000/services/timeshare', the hub's public address, and on" in said[0].detail
    assert {finding.level for finding in judge.addresses(pool(), far(NODES), "hub", None)} == {NOTE}
    public = replace(HERE, public_url="https://hub.lab.example/")
    assert {finding.level for finding in judge.addresses(pool(), far(NODES), "hub", public)} == {OK}
    plain = pool(service_url="http://hub.lab.example/s", hub_api_url="http://hub.lab.example/hub/api")
    assert {finding.level for finding in judge.addresses(plain, far(NODES), "hub", HERE)} == {WARN}
    sealed = pool(service_url="https://hub.lab.example/s", hub_api_url="https://hub.lab.example/hub/api")
    assert {finding.level for finding in judge.addresses(sealed, far(NODES), "hub", HERE)} == {OK}


def test_a_server_on_a_node_gets_all_addresses_as_nodes_reach_them() -> None:
    here = {
        "JUPYTERHUB_API_URL": "http://127.0.0.1:81/hub/api",
        "JUPYTERHUB_ACTIVITY_URL": "http://127.0.0.1:81/hub/api/users/ada/activity",
        "JUPYTERHUB_SERVICE_URL": "http://127.0.0.1:8888/user/ada/",
        "OTHER": "http://127.0.0.1:81/hub/apis",
    }
    there = {"JUPYTERHUB_API_URL": "https://hub.example/hub/api", "TIMESHARE_SERVICE_URL": "https://hub.example/s"}
    assert as_nodes_see(here, there) == {
        **here,
        "JUPYTERHUB_API_URL": "https://hub.example/hub/api",
        "JUPYTERHUB_ACTIVITY_URL": "https://hub.example/hub/api/users/ada/activity",
    }


def test_what_one_pool_says_holds_for_it_alone(tmp_path: Path) -> None:
    (tmp_path / "timeshare_slurm.py").write_text(
        "c.SlurmPool.cpus = 8\nc.Slurm.pools = {'a': {'partition': 'gpu', 'cpus': 4}, 'b': {}}"
    )
    told = {pool.name: (pool.partition, pool.cpus) for pool in read_pools(tmp_path)}
    assert told == {"a": ("gpu", 4), "b": ("", 8)}


def test_the_page_lists_every_setting_with_its_help() -> None:
    page = (Path(__file__).parents[1] / "docs" / "slurm.md").read_text()
    traits = SlurmPool.class_traits(config=True)
    rows = [f"| `{name}` | {trait.help} |" for name, trait in sorted(traits.items())]
    table = [line for line in page.splitlines() if line.startswith("| `") and line.split("`")[1] in traits]
    assert table == rows


# --- a real Slurm


def doctor(state: Path, *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit status, and findings by what they are about; of several about the same, the first."""
    argv = [command(), "doctor", "--engine", "slurm", "--state", str(state), "--json", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
    found: dict[str, dict[str, Any]] = {}
    for finding in json.loads(done.stdout):
        found.setdefault(finding["what"], finding)
    return done.returncode, found


def write(state: Path, cluster: Cluster, **traits: Any) -> None:
    said = {"environment": {"SLURM_CONF": cluster.env["SLURM_CONF"]}, "fraction": "shard", "gpus": SHARDED, **traits}
    lines = [f"c.SlurmPool.{name} = {value!r}" for name, value in said.items()]
    (state / "timeshare_slurm.py").write_text("\n".join(lines))


@pytest.mark.slurm
def test_all_is_well_with_a_slurm_that_was_set_up_as_told(slurm: Cluster, tmp_path: Path) -> None:
    write(tmp_path, slurm)
    status, found = doctor(tmp_path, "--user", "tsalice")
    assert {what: one for what, one in found.items() if one["level"] in (WARN, FAIL)} == {}
    assert status == 0
    assert found["slurm: submission"]["detail"] == "Slurm would take a job of tsalice"
    assert found["slurm: log_folder"]["detail"] == "/home/tsalice/.timeshare/slurm of tsalice"
    assert found["slurm: a job"]["level"] == NOTE
    assert slurm.run("squeue", "-h").stdout == ""


@pytest.mark.slurm
def test_each_pool_is_told_apart(slurm: Cluster, tmp_path: Path) -> None:
    write(tmp_path, slurm)
    with (tmp_path / "timeshare_slurm.py").open("a") as file:
        file.write("\nc.Slurm.pools = {'good': {}, 'gone': {'partition': 'nothing'}, 'qos': {'qos': 'nothing'}}\n")
    status, found = doctor(tmp_path, "--user", "tsalice")
    assert status == 1
    failed = {what: one["detail"] for what, one in found.items() if one["level"] == FAIL}
    assert set(failed) == {"gone: partition", "gone: submission", "qos: submission"}
    assert failed["gone: partition"] == "Slurm has no partition 'nothing'"
    assert "Invalid qos specification" in failed["qos: submission"]


@pytest.mark.slurm
def test_an_account_that_slurm_does_not_know_is_told(slurm: Cluster, tmp_path: Path) -> None:
    write(tmp_path, slurm)
    status, found = doctor(tmp_path, "--user", "nobody")
    assert status == 1
    assert found["slurm: log_folder"]["level"] == FAIL
    assert doctor(tmp_path, "--user", "no-such-person")[1]["slurm: run_as"]["detail"] == (
        "there is no account 'no-such-person' on this machine"
    )


@pytest.mark.slurm
def test_words_that_do_not_become_somebody_else_are_told(slurm: Cluster, tmp_path: Path) -> None:
    write(tmp_path, slurm, run_as=["runuser", "-u", "no-such-{user}", "--"])
    status, found = doctor(tmp_path, "--user", "tsalice")
    assert (status, found["slurm: run_as"]["level"]) == (1, FAIL)
    assert "`runuser -u no-such-{user} --` does not work for tsalice" in found["slurm: run_as"]["detail"]
    write(tmp_path, slurm, run_as=["no-such-program"])
    assert "no-such-program" in doctor(tmp_path)[1]["slurm: commands"]["detail"]


@pytest.mark.slurm
def test_a_controller_that_is_down_is_told_and_nothing_else_is_guessed(slurm: Cluster, tmp_path: Path) -> None:
    write(tmp_path, slurm, command_timeout=30)
    slurm.stop_ctl()
    try:
        status, found = doctor(tmp_path)
    finally:
        slurm.start_ctl()
    assert status == 1
    assert found["slurm: slurmctld"]["detail"].startswith("it does not answer: ")
    assert set(found) == {"timeshare_slurm.py", "slurm: commands", "slurm: slurmctld"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("c.SlurmPool.partitoin = 'gpu'", "there is no 'partitoin'; known are account, "),
        ("c.Slurm.pools = {'a': {'partitoin': 'gpu'}}", "the pool 'a': there is no 'partitoin'"),
        ("c.SlurmPool.cpus = 'many'", "cpus"),
        ("c.SlurmPool.cpus = ", "timeshare_slurm.py"),
    ],
)
def test_a_file_that_cannot_be_used_says_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "timeshare_slurm.py").write_text(text)
    status, found = doctor(tmp_path)
    assert status == 1
    assert said in found["timeshare_slurm.py"]["detail"]


def test_options_of_an_engine_without_one_are_refused() -> None:
    done = subprocess.run([command(), "doctor", "--job"], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "add --engine slurm" in done.stderr


def test_without_a_file_there_is_no_slurm(tmp_path: Path) -> None:
    status, found = doctor(tmp_path)
    assert (status, found["timeshare_slurm.py"]["level"]) == (1, FAIL)


@pytest.mark.slurm
def test_a_node_that_reaches_nothing_and_a_python_without_timeshare_are_told(slurm: Cluster, tmp_path: Path) -> None:
    nowhere = {"service_url": "http://127.0.0.1:9/services/timeshare", "hub_api_url": "http://127.0.0.1:9/hub/api"}
    write(tmp_path, slurm, **nowhere)
    assert "does not reach the service" in doctor(tmp_path, "--user", "tsalice", "--job")[1]["slurm: a job"]["detail"]
    write(tmp_path, slurm, **nowhere, python="/usr/bin/python3")
    told = doctor(tmp_path, "--user", "tsalice", "--job")[1]["slurm: a job"]["detail"]
    assert "cannot import timeshare with /usr/bin/python3" in told
