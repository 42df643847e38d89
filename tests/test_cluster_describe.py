"""``timeshare cluster``: from a list of hosts and what they answer to the configuration of a Slurm. Nothing that a host
answers is believed, and one odd host voids no other."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_nvml import FakeGpu, FakeNvml

from timeshare.hub_config.cluster.ask import argv_of, ask_all, read_all
from timeshare.hub_config.cluster.hosts import Hosts, HostsError, parse_hosts, read_hosts
from timeshare.hub_config.cluster.output import SECRET, files_of
from timeshare.hub_config.cluster.plan import Plan, plan
from timeshare.hub_config.cluster.slurm_files import cgroup_conf, gres_conf, slurm_conf
from timeshare.hub_config.cluster.survey import Machine, SurveyError, parse_survey, survey, topology
from timeshare.hub_config.cluster.timeshare_files import limits as limits_text
from timeshare.hub_config.command import run
from timeshare.reservations.devices.nvml import NvmlSource
from timeshare.reservations.engines.slurm.cluster import ClusterFacts, Snapshot, devices_of, snapshot_of
from timeshare.reservations.engines.slurm.config import read_pools
from timeshare.reservations.engines.slurm.nodes import parse_nodes, parse_partitions
from timeshare.reservations.engines.slurm.request import sbatch_options
from timeshare.reservations.limits.site import Site
from timeshare.reservations.placement import slots_of
from timeshare.reservations.review import judge
from timeshare.reservations.shares import parse_share

LAB = Path(__file__).parent.parent / "hub_config" / "lab"
SMALL = """\
cluster: lab
controller: hub1
shards: {t4: 4}
hosts:
  - {name: one}
  - {name: two, address: two.lab.example}
partitions:
  gpu: {hosts: [one, two]}
"""


def answer(model: str = "t4", count: int = 2, **more: Any) -> dict[str, Any]:
    gpus = [{"model": model, "memory_mib": 15109, "minor": minor} for minor in range(count)]
    return {"version": 1, "host": "x", "cpus": 8, "memory_mib": 64000, "cgroup": 2, "has_slurmd": True} | {
        "gpus": gpus,
        **more,
    }


def described(*answers: dict[str, Any], text: str = SMALL) -> Plan:
    hosts = parse_hosts(text)
    found = {host.name: parse_survey(json.dumps(one)) for host, one in zip(hosts.hosts, answers, strict=False)}
    return plan(hosts, found, {})


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def command(*words: str) -> Done:
    """The command, in this process: a new one takes a second for what it imports."""
    out, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
        status = run(["cluster", *words])
    return Done(status, out.getvalue(), told.getvalue())


# --- the list of hosts

WRONG: dict[str, tuple[str, str]] = {
    "a name that is an option": ("{name: one}", "5: hosts.0.name: must be a host's name"),
    "a line end in a name": ('{name: "one\\nNodeName=x"}', "5: hosts.0.name: must be a host's name"),
    "a space in an address": ('{name: one, address: "a b"}', "5: hosts.0.address: must match"),
    "an address that is an option": ("{name: one, address: -oProxyCommand=x}", "5: hosts.0.address: must match"),
    "a misspelt key": ("{name: one, adress: a}", "5: hosts.0.adress: no such key; known keys: name, address; did you"),
    "twice the same": ("{name: two}", "6: hosts.1.name: 'two' stands here twice"),
    "no name": ("{address: a}", "5: hosts.0.name: is missing"),
    "in no partition": ("{name: three}", "5: hosts.0.name: 'three' is in no partition: name it in the hosts of one of"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_host_is_told_with_its_line(name: str) -> None:
    host, said = WRONG[name]
    instead = "{name: -oProxyCommand}" if name == "a name that is an option" else host
    with pytest.raises(HostsError) as caught:
        parse_hosts(SMALL.replace("{name: one}", instead), "hosts.yaml")
    assert f"hosts.yaml, line {said}" in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("cluster: lab", "cluster: Lab", "line 1: cluster: must be up to 31 lower-case letters"),
        ("hosts: [one, two]", "hosts: [one, twoo]", "line 8: partitions.gpu.hosts.1: there is no host 'twoo'"),
        ("  gpu: {", "  local: {", "line 8: partitions.local: is kept for something else"),
        ("gpu: {", "a: {hosts: ['*']}\n  gpu: {", "line 5: hosts.0.name: 'one' is in the partitions a and gpu"),
        ("[one, two]", "[one, two], max_time: 1h, default_time: 2h", "default_time: is longer than max_time"),
        ("{t4: 4}", "{t4: 1}", "line 3: shards: t4 is 1: a GPU is divided into 2 to 64 parts"),
        ("{t4: 4}", "{t4: \x00}", "line 3: holds the control character \\x00"),
        ("cluster: lab", "public_url: 'https://a\"b'\ncluster: lab", "line 1: public_url: must match"),
        ("cluster: lab", "timeshare: '/opt/a; rm -r /'\ncluster: lab", "line 1: timeshare: must match"),
        (
            "cluster: lab",
            "ports: 9000-1000\ncluster: lab",
            "line 1: ports: is '9000-1000': must be such as 20000-29999",
        ),
        ("cluster: lab", "ports: 90000-99999\ncluster: lab", "within 1024 and 65535"),
        (SMALL, "", "is empty"),
    ],
)
def test_what_is_wrong_elsewhere_is_told_with_its_line(old: str, new: str, said: str) -> None:
    with pytest.raises(HostsError) as caught:
        parse_hosts(SMALL.replace(old, new), "hosts.yaml")
    assert said in str(caught.value)
    assert "limits" not in str(caught.value)


# --- what a host has


def test_a_survey_has_what_driver_and_kernel_tell(tmp_path: Path) -> None:
    for number in range(8):  # two sockets of two cores of two threads
        folder = tmp_path / "cpu" / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text(str(number // 4))
        (folder / "core_id").write_text(str(number // 2 % 2))
    (tmp_path / "meminfo").write_text("MemTotal:       65536000 kB\nMemFree: 1 kB\n")
    (tmp_path / "cgroup.controllers").touch()
    nvml = FakeNvml(FakeGpu("GPU-0"), FakeGpu("GPU-1", errors={"nvmlDeviceGetName": 15}))
    source = NvmlSource(nvml)
    told = survey(source, Machine(tmp_path / "cpu", tmp_path / "meminfo", tmp_path))
    source.close()
    found = parse_survey(json.dumps(told))
    assert (found.cpus, found.sockets, found.cores, found.threads) == (8, 2, 2, 2)
    assert (found.memory_mib, found.cgroup) == (64000, 2)
    assert [(gpu.model, gpu.minor, bool(gpu.why_not)) for gpu in found.gpus] == [
        ("a100-40gb", 0, False),
        ("unknown", 1, True),
    ]


def test_cores_that_are_not_regular_are_only_counted(tmp_path: Path) -> None:
    for number, core in enumerate((0, 0, 1)):
        folder = tmp_path / f"cpu{number}" / "topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text("0")
        (folder / "core_id").write_text(str(core))
    assert topology(tmp_path) == (0, 0, 0)
    assert " CPUs=8 RealMemory=" in slurm_conf(described(answer(), answer()))


def test_the_command_on_a_host_prints_one_document() -> None:
    argv = [sys.executable, "-m", "timeshare.hub_config.entry", "cluster", "survey", "--simulate", "a100-40gb:2,t4:1"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [gpu.model for gpu in parse_survey(done.stdout).gpus] == ["a100-40gb", "a100-40gb", "t4"]


HOSTILE: dict[str, Any] = {
    "a line of slurm.conf as model": {"gpus": [{"model": "t4\nProlog=/tmp/x", "memory_mib": 1, "minor": 0}]},
    "a comment as model": {"gpus": [{"model": "t4 #", "memory_mib": 1, "minor": 0}]},
    "text as minor": {"gpus": [{"model": "t4", "memory_mib": 1, "minor": "0] File=/dev/sda"}]},
    "a step for people": {"gpus": [{"model": "t4", "memory_mib": 1, "minor": 0, "why_not": "x\n6. curl | sh"}]},
    "a note that moves the cursor": {"note": "\x1b[2J"},
    "text as memory": {"memory_mib": "64000 Prolog=/tmp/x"},
    "more cores than any": {"cpus": 10**9},
    "a fraction": {"cpus": 1.5},
    "a truth": {"cpus": True},
    "many GPUs": {"gpus": [{"model": "t4", "memory_mib": 1, "minor": 0}] * 65},
    "another version": {"version": 2},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_answer_that_is_no_survey_is_refused(name: str) -> None:
    with pytest.raises(SurveyError):
        parse_survey(json.dumps(answer() | HOSTILE[name]))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "{}", "[" * 100_000, "x" * 300_000])
def test_an_answer_that_is_something_else_is_refused(text: str) -> None:
    with pytest.raises(SurveyError):
        parse_survey(text)


# --- asking


def test_hosts_are_asked_beside_each_other_and_an_odd_one_voids_no_other(tmp_path: Path) -> None:
    names = ["well", "endless", "silent", "broken", "odd", "talks"]
    text = SMALL.replace("  - {name: one}\n  - {name: two, address: two.lab.example}\n", "")
    hosts = parse_hosts(
        text.replace("hosts:\n", "hosts:\n" + "".join(f"  - {{name: {name}}}\n" for name in names), 1).replace(
            "[one, two]", "['*']"
        )
    )
    ssh = tmp_path / "ssh"  # stands for ssh: it gets the words that ssh would get
    ssh.write_text(
        "#!/bin/sh\n"
        'test "$1" = -- || exit 9\n'
        'test "$3 $4 $5" = "/opt/timeshare/bin/timeshare cluster survey" || exit 9\n'
        "case $2 in\n"
        f"well) echo '{json.dumps(answer())}';;\n"
        "endless) exec yes;;\n"
        "silent) sleep 600 & wait;;\n"
        "broken) echo 'Permission denied (publickey).' >&2; exit 255;;\n"
        "odd) printf '\\033[2J{}';;\n"
        "talks) yes >&2;;\n"
        "esac\n"
    )
    ssh.chmod(0o755)
    found = ask_all(hosts, 3, [str(ssh)])
    assert list(found.surveys) == ["well"]
    assert found.silent["endless"] == found.silent["talks"] == "it answered more than 256 KiB: that is no survey"
    assert found.silent["silent"] == "it did not answer within 3 s"
    assert found.silent["broken"] == "exit status 255: Permission denied (publickey)."
    assert "\x1b" not in found.silent["odd"]
    described = plan(hosts, found.surveys, found.silent)
    assert [node.host.name for node in described.nodes] == ["well"]
    assert "silent is left out: it did not answer within 3 s" in described.notes


def test_a_host_is_asked_by_words_and_never_by_an_option() -> None:
    hosts = parse_hosts(SMALL)
    assert argv_of(hosts.hosts[1], "/opt/x", ["ssh"]) == [
        "ssh",
        "--",
        "two.lab.example",
        "/opt/x/bin/timeshare",
        "cluster",
        "survey",
    ]
    assert {"BatchMode=yes", "ControlMaster=no"} < set(argv_of(hosts.hosts[0], "/opt/x"))


# --- what is written


def test_gpus_of_two_models_and_gaps_are_named_as_they_are() -> None:
    gpus = [{"model": "t4", "memory_mib": 15109, "minor": minor} for minor in (0, 1, 3)]
    gpus += [{"model": "p4", "memory_mib": 7600, "minor": 2}]
    found = described(answer(gpus=gpus), answer())
    assert "NodeName=one Name=gpu Type=t4 File=/dev/nvidia[0-1,3]\n" in gres_conf(found)
    assert "NodeName=one Name=gpu Type=p4 File=/dev/nvidia2\n" in gres_conf(found)
    assert "NodeName=one Name=shard" not in gres_conf(found)
    assert "NodeName=two Name=shard Count=8\n" in gres_conf(found)
    assert any("of which shards says different numbers" in note for note in found.notes)


def test_gpus_that_cannot_be_handed_out_are_left_out_and_told() -> None:
    gpus = [
        {"model": "t4", "memory_mib": 15109, "minor": 0, "why_not": "it fell off the bus"},
        {"model": "t4", "memory_mib": 15109, "minor": 1},
        {"model": "t4", "memory_mib": 15109, "minor": None},
        {"model": "t4", "memory_mib": 15109, "minor": 2},
        {"model": "v100", "memory_mib": 32768, "minor": 2},
    ]
    found = described(answer(gpus=gpus), answer(has_slurmd=False))
    assert "NodeName=one Name=gpu Type=t4 File=/dev/nvidia1\n" in gres_conf(found)
    assert "one: GPU 0 (t4) is left out: it fell off the bus" in found.notes
    assert "one: GPU 2 (t4) is left out: it tells no device file" in found.notes
    assert "one: GPU 4 (v100) is left out: another GPU says that it is /dev/nvidia2 too" in found.notes
    assert "v100" not in gres_conf(found)
    assert "two has no slurmd yet: apt-get install slurmd" in found.notes


def test_swap_is_limited_where_every_host_can() -> None:
    assert "ConstrainSwapSpace=yes" in cgroup_conf(described(answer(), answer()))
    assert "ConstrainSwapSpace" not in cgroup_conf(described(answer(), answer(cgroup=1)))
    assert "ConstrainDevices=yes" in cgroup_conf(described(answer(), answer(cgroup=1)))


def test_without_shards_there_are_only_whole_gpus() -> None:
    found = described(answer(), answer(), text=SMALL.replace("shards: {t4: 4}\n", ""))
    assert "GresTypes=gpu\n" in slurm_conf(found)
    assert "shard" not in gres_conf(found)


# --- the folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "hosts.yaml").write_text(SMALL)
    (tmp_path / "surveys").mkdir()
    for name in ("one", "two"):
        (tmp_path / "surveys" / f"{name}.json").write_text(json.dumps(answer()))
    return tmp_path


def describe(place: Path, *more: str) -> Done:
    words = [str(place / "hosts.yaml"), "--surveys", str(place / "surveys"), "--out", str(place / "out")]
    return command("describe", *words, *more)


def test_a_folder_is_written_whole_and_keeps_its_secret(place: Path) -> None:
    done = describe(place)
    assert done.returncode == 0, done.stderr
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (place / "out").iterdir()}
    assert modes.pop("surveys") == 0o700
    assert {name for name, mode in modes.items() if mode == 0o600} == set(SECRET)
    assert stat.S_IMODE((place / "out").stat().st_mode) == 0o700
    (password,) = re.findall(r"StoragePass=(\S{32})\n", (place / "out" / "slurmdbd.conf").read_text())
    assert password in (place / "out" / "database.sql").read_text()
    others = [file for file in (place / "out").rglob("*") if file.is_file() and file.name not in SECRET]
    assert not [file for file in others if password in file.read_text()]
    assert sorted(file.name for file in place.iterdir()) == ["hosts.yaml", "out", "surveys"]
    again = describe(place)
    assert (again.returncode, password in again.stdout) == (0, False)
    assert "Nothing has changed" in again.stdout
    for name in SECRET:
        (place / "out" / name).chmod(0o644)
    assert describe(place).returncode == 0
    assert {stat.S_IMODE((place / "out" / name).stat().st_mode) for name in SECRET} == {0o600}


def test_a_second_run_shows_what_changes_and_writes_it_only_when_told(place: Path) -> None:
    assert describe(place).returncode == 0
    before = {file: file.read_text() for file in (place / "out").rglob("*") if file.is_file()}
    (place / "surveys" / "one.json").write_text(json.dumps(answer(count=4)))
    shown = describe(place)
    assert shown.returncode == 3
    assert "-NodeName=one Name=gpu Type=t4 File=/dev/nvidia[0-1]\n" in shown.stdout
    assert "+NodeName=one Name=gpu Type=t4 File=/dev/nvidia[0-3]\n" in shown.stdout
    assert "Nothing was written: NEXT_STEPS.md, slurm.conf, gres.conf, " in shown.stderr
    assert {file: file.read_text() for file in before} == before
    replaced = describe(place, "--replace")
    assert replaced.returncode == 0
    after = {file: file.read_text() for file in before}
    assert after[place / "out" / "slurmdbd.conf"] == before[place / "out" / "slurmdbd.conf"]
    assert "nvidia[0-3]" in after[place / "out" / "gres.conf"]


def test_a_host_that_is_away_stays_with_what_it_said_before(place: Path) -> None:
    assert describe(place).returncode == 0
    (place / "surveys" / "two.json").write_text("no route to host")
    again = describe(place)
    assert again.returncode == 0
    assert "two: what it said before is used" in again.stderr
    assert "Nothing has changed" in again.stdout


def test_a_host_that_never_answered_is_told_and_left_out(place: Path) -> None:
    (place / "surveys" / "two.json").unlink()
    done = describe(place)
    assert done.returncode == 3
    assert "note: two is left out: " in done.stderr
    assert "NodeName=two" not in (place / "out" / "slurm.conf").read_text()


def test_a_link_in_the_place_of_a_file_is_not_followed(place: Path) -> None:
    assert describe(place).returncode == 0
    (place / "victim").write_text("mine")
    (place / "out" / "gres.conf").unlink()
    (place / "out" / "gres.conf").symlink_to(place / "victim")
    done = describe(place, "--replace")
    assert done.returncode == 1
    assert "gres.conf: it is a link: name a plain file" in done.stderr
    assert (place / "victim").read_text() == "mine"


def test_a_folder_that_others_can_change_is_refused(place: Path) -> None:
    (place / "out").mkdir()
    (place / "out").chmod(0o777)
    done = describe(place)
    assert (done.returncode, "out: other accounts can change this folder" in done.stderr) == (1, True)
    assert list((place / "out").iterdir()) == []
    (place / "out").rmdir()
    place.chmod(0o777)  # as in a folder of somebody else
    done = describe(place)
    assert (done.returncode, f"{place}: other accounts can change this folder" in done.stderr) == (1, True)
    place.chmod(0o700)
    assert describe(place).returncode == 0
    shutil.rmtree(place / "out" / "surveys")
    (place / "out" / "surveys").symlink_to(place / "surveys")
    done = describe(place, "--replace")
    assert (done.returncode, "surveys: it is no folder" in done.stderr) == (1, True)


def test_an_empty_folder_is_filled_and_limits_that_were_edited_stay(place: Path) -> None:
    (place / "out").mkdir(mode=0o700)
    assert describe(place).returncode == 0
    (place / "out" / "limits.yaml").write_text("{}\n")
    (place / "surveys" / "one.json").write_text(json.dumps(answer(count=4)))
    done = describe(place, "--replace")
    assert (done.returncode, "limits.yaml" in done.stdout) == (0, False)
    assert (place / "out" / "limits.yaml").read_text() == "{}\n"


def test_wrong_lists_and_places_are_told_in_words(place: Path) -> None:
    (place / "hosts.yaml").write_text(SMALL.replace("name: one", "nam: one"))
    done = describe(place)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert f"{place}/hosts.yaml, line 5: hosts.0.nam: no such key" in done.stderr
    (place / "hosts.yaml").write_text(SMALL)
    done = command("describe", str(place / "hosts.yaml"), "--surveys", str(place), "--out", "/proc/none/out")
    assert (done.returncode, "no host has a survey" in done.stderr) == (1, True)
    words = [str(place / "hosts.yaml"), "--surveys", str(place / "surveys"), "--out", "/proc/none/out"]
    done = command("describe", *words)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)


# --- the lab that is shipped


@pytest.fixture(scope="module")
def lab() -> Plan:
    hosts = read_hosts(LAB / "hosts.yaml")
    found = read_all(hosts, LAB / "surveys")
    return plan(hosts, found.surveys, found.silent)


def test_the_lab_is_written_out_as_the_command_writes_it(lab: Plan) -> None:
    files = files_of(lab, "password")
    shipped = {file.name: file.read_text() for file in (LAB / "generated").iterdir()}
    assert set(shipped) == {name for name in files if "/" not in name} - set(SECRET)
    for name, text in shipped.items():
        assert text == files[name], name
    assert not lab.notes


def told_by_slurm(lab: Plan) -> ClusterFacts:
    """What a Slurm with this slurm.conf would tell of itself while nothing runs."""
    nodes, partitions = [], []
    for line in slurm_conf(lab).splitlines():
        if line.startswith("NodeName="):
            said = dict(word.split("=", 1) for word in line.split())
            cpus = int(said["Sockets"]) * int(said["CoresPerSocket"]) * int(said["ThreadsPerCore"])
            told = f"CPUAlloc=0 CPUEfctv={cpus} CPUTot={cpus} AvailableFeatures={said['Feature']}"
            told += f" ActiveFeatures={said['Feature']} Gres={said['Gres']} State=IDLE RealMemory={said['RealMemory']}"
            nodes.append(f"NodeName={said['NodeName']} {told} AllocMem=0")
        elif line.startswith("PartitionName="):
            said = dict(word.split("=", 1) for word in line.split())
            partitions.append(f"{line.replace('Default=YES ', '')} Default={said.get('Default', 'NO')}")
    return ClusterFacts(parse_nodes("\n".join(nodes)), parse_partitions("\n".join(partitions)))


@pytest.fixture(scope="module")
def snapshots(lab: Plan) -> dict[str, Snapshot]:
    facts = told_by_slurm(lab)
    return {pool.name: snapshot_of(pool, facts, 0.0) for pool in read_pools(LAB / "generated")}


def test_the_lab_has_34_gpus_of_four_kinds_in_three_partitions(snapshots: dict[str, Snapshot]) -> None:
    devices = [device for name, one in snapshots.items() for device in devices_of(one, name, False)]
    kinds: dict[str, int] = {}
    for device in devices:
        kinds[device.model.partition("-")[0]] = kinds.get(device.model.partition("-")[0], 0) + 1
    assert kinds == {"t4": 8, "p100": 8, "v100": 8, "a100": 10}
    assert {name: one.away for name, one in snapshots.items()} == dict.fromkeys(
        ("interactive", "teaching", "batch"), ""
    )
    assert not [device.cordoned for device in devices if device.cordoned]


@pytest.mark.parametrize(
    ("engine", "share", "gres"),
    [
        ("interactive", {"gpus": 2, "model": "a100-40gb"}, "--gres=gpu:a100-40gb:2"),
        ("interactive", {"memory_gib": 7}, "--gres=shard:2"),
        ("teaching", {"memory_gib": 3, "model": "t4"}, "--gres=shard:1"),
        ("batch", {"gpus": 4, "model": "v100-32gb"}, "--gres=gpu:v100-32gb:4"),
    ],
)
def test_the_lab_offers_whole_gpus_and_parts(
    snapshots: dict[str, Snapshot], engine: str, share: dict[str, Any], gres: str
) -> None:
    options = sbatch_options(parse_share({**share, "engine": engine}), snapshots[engine].site)
    assert gres in options
    assert f"--partition={engine}" in options


@pytest.mark.parametrize("file", ["limits.yaml", "generated/limits.yaml"])
def test_limits_of_the_lab_are_clean_where_its_devices_are_known(snapshots: dict[str, Snapshot], file: str) -> None:
    devices = tuple(device for name, one in snapshots.items() for device in devices_of(one, name, False))
    judged = judge((LAB / file).read_text(), Site(slots_of(devices, include_cordoned=True)))
    assert (judged.errors, judged.warnings, judged.note) == ((), (), "")


def test_limits_to_begin_with_are_valid_for_any_plan() -> None:
    assert judge(limits_text(described(answer(), answer())), None).is_valid
    assert judge(limits_text(described(answer(gpus=[]), answer(gpus=[]))), None).is_valid
    assert isinstance(parse_hosts(SMALL), Hosts)
