"""What `timeshare doctor` says about the protection between accounts: each finding on both sides of its edge."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hubs import command

from timeshare.hub_config import machine_findings
from timeshare.hub_config.findings import FAIL, NOTE, OK, WARN
from timeshare.hub_config.import_path import import_path_findings, inside, outermost, places_of_python
from timeshare.hub_config.machine_findings import Machine, look, state_findings
from timeshare.hub_config.run.folders import default_state_dir
from timeshare.reservations.deployment import FILE_NAME

OTHER = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another account")
GOOD = Machine(first_open_port=1024, hidepid="2", ptrace_scope=1, temporary=0o1777, starters=())
WORSE = [
    ("ports below 1024", replace(GOOD, first_open_port=0), WARN, "from 0"),
    ("ports below 1024", replace(GOOD, first_open_port=1023), WARN, "from 1023"),
    ("lists of processes", replace(GOOD, hidepid="0"), NOTE, "every account sees"),
    ("tracing", replace(GOOD, ptrace_scope=0), NOTE, "ptrace_scope"),
    ("tracing", replace(GOOD, ptrace_scope=None), NOTE, "ptrace_scope"),
    ("/tmp", replace(GOOD, temporary=0o777), FAIL, "mode 777"),
    ("programs outside of sessions", replace(GOOD, starters=("cron", "ssh")), WARN, "cron, ssh can start processes"),
]


def machine(facts: Machine) -> dict[str, tuple[str, str]]:
    return {found.what: (found.level, found.detail) for found in machine_findings.machine_findings(facts)}


def test_a_machine_that_keeps_accounts_apart_is_fine() -> None:
    assert {level for level, _ in machine(GOOD).values()} == {OK}
    assert machine(replace(GOOD, temporary=0o755))["/tmp"][0] == OK


@pytest.mark.parametrize(("what", "facts", "level", "said"), WORSE, ids=[f"{w}-{s}" for w, _, _, s in WORSE])
def test_what_a_machine_leaves_open_is_told(what: str, facts: Machine, level: str, said: str) -> None:
    found = machine(facts)
    assert found[what][0] == level
    assert said in found[what][1]
    assert [name for name, (other, _) in found.items() if other != OK] == [what]


def test_the_machine_is_read_as_it_is() -> None:
    found = look()
    assert found.temporary == os.stat("/tmp").st_mode & 0o7777
    assert found.first_open_port == int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())


# --- the state folder


def states(folder: Path, user: int | None = None) -> list[tuple[str, str]]:
    return [(found.level, found.detail) for found in state_findings(folder, os.geteuid() if user is None else user)]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    (folder / "logs").mkdir(mode=0o700)
    for name in ("deployment.json", "ledger.sqlite", "hub.sqlite", "logs/hub.log"):
        (folder / name).touch(mode=0o600)
    return folder


def test_a_private_state_folder_is_fine_and_a_missing_one_is_no_finding(state: Path) -> None:
    assert states(state) == [(OK, "only the account of timeshare can read them")]
    assert states(state / "missing") == []


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701, 0o770])
def test_a_state_folder_that_others_can_enter_fails(state: Path, mode: int) -> None:
    state.chmod(mode)
    ((level, detail),) = states(state)
    assert level == FAIL
    assert f"mode {mode:o}" in detail


@pytest.mark.parametrize("name", ["ledger.sqlite", "hub.sqlite", "deployment.json", "logs/hub.log"])
def test_a_file_of_the_state_that_others_can_read_is_named(state: Path, name: str) -> None:
    (state / name).chmod(0o644)
    ((level, detail),) = states(state)
    assert level == WARN
    assert f"{Path(name).name} has mode 644" in detail


@pytest.mark.parametrize(
    "module", ["idle_culler.__main__", "reservations.service.bounds", "reservations.engines.slurm.config"]
)
def test_every_file_of_settings_that_is_code_counts_as_such(state: Path, module: str) -> None:
    path = state / importlib.import_module(f"timeshare.{module}").CONFIG_FILE
    path.touch()
    path.chmod(0o602)
    ((level, detail),) = states(state)
    assert level == WARN
    assert f"{path.name} can be written by others (mode 602), and is run or obeyed" in detail


@as_root
def test_a_state_folder_or_file_of_another_account_is_named(state: Path) -> None:
    (state / "jupyterhub_site.py").touch(mode=0o600)
    os.chown(state / "jupyterhub_site.py", OTHER, OTHER)
    assert "jupyterhub_site.py belongs to the account with number 65534" in states(state)[0][1]
    os.chown(state, OTHER, OTHER)
    assert states(state)[0][0] == FAIL


# --- the code that root runs


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An environment of its own: what is above it is the machine's."""
    folder = tmp_path / "opt" / "venv" / "lib"
    folder.mkdir(parents=True)
    (folder / "module.py").touch(mode=0o644)
    for path in (folder, *list(folder.parents)[:2]):
        path.chmod(0o755)
    return folder


def code(place: Path, *, deep: bool = False) -> tuple[str, str]:
    (found,) = import_path_findings([place], frozenset({0, os.geteuid()}), deep=deep)
    return found.level, found.detail


def test_code_that_only_its_owner_can_change_is_fine(tree: Path) -> None:
    assert code(tree, deep=True)[0] == OK


@pytest.mark.parametrize("mode", [0o757, 0o777])
@pytest.mark.parametrize("above", [0, 1, 2])
def test_a_folder_on_the_way_that_others_can_write_fails(tree: Path, above: int, mode: int) -> None:
    path = [tree, *tree.parents][above]
    path.chmod(mode)
    level, detail = code(tree)
    assert level == FAIL
    assert f"{path} can be written by others (mode {mode:o})" in detail


@as_root
@pytest.mark.parametrize("above", [0, 1, 2])
def test_a_folder_on_the_way_that_another_account_owns_fails(tree: Path, above: int) -> None:
    """As where root runs a checkout of somebody."""
    path = [tree, *tree.parents][above]
    os.chown(path, OTHER, OTHER)
    assert code(tree)[0] == FAIL
    assert f"{path} belongs to nobody" in code(tree)[1]


@as_root
def test_a_folder_that_a_group_can_write_fails_unless_it_is_roots(tree: Path) -> None:
    tree.chmod(0o775)
    assert code(tree)[0] == OK
    os.chown(tree, 0, OTHER)
    assert code(tree)[0] == FAIL


@as_root
def test_a_link_leads_to_what_is_looked_at_too(tree: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o755)
    os.chown(theirs, OTHER, OTHER)
    (tree / "linked").symlink_to(theirs)
    assert f"{theirs} belongs to nobody" in code(tree / "linked")[1]


@as_root
def test_a_folder_between_two_links_is_looked_at_too(tree: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o755)
    (theirs / "second").symlink_to(tree)
    (tmp_path / "first").symlink_to("theirs/second")
    os.chown(theirs, OTHER, OTHER)
    assert f"{theirs} belongs to nobody" in code(tmp_path / "first")[1]


@as_root
def test_without_a_named_folder_the_deployment_of_this_machine_is_looked_at(tmp_path: Path) -> None:
    """Only that of root's home was, where --multi-user keeps nothing."""
    named = default_state_dir(multi_user=True)
    # What is mounted here is seen by this process and its children alone.
    words = f'mount -t tmpfs none {named.parent} && mkdir {named} && echo "{{}}" > {named / FILE_NAME} || exit 99'
    words = ["unshare", "--mount", "sh", "-c", f"{words}; exec {command()} doctor --simulate t4:1"]
    home = {**os.environ, "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, env=home)
    if not done.stdout:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    assert f"state folder: {named}, " in done.stdout


def test_one_module_that_others_can_write_is_found_by_the_deep_look(tree: Path) -> None:
    (tree / "module.py").chmod(0o646)
    assert code(tree)[0] == OK
    assert code(tree, deep=True) == (FAIL, f"{tree / 'module.py'} can be written by others (mode 646)")


def test_a_sticky_folder_on_the_way_is_no_hole(tree: Path) -> None:
    tree.parent.chmod(0o1777)
    assert code(tree)[0] == OK


def test_the_look_is_at_the_python_that_runs_and_at_timeshare() -> None:
    places = [str(place) for place in places_of_python()]
    assert sys.executable in places
    assert set(filter(None, sys.path)) <= set(places)
    assert any((Path(place) / "hub_config" / "doctor.py").exists() for place in places)


def test_the_deep_look_reaches_modules_and_leaves_compiled_ones_out(tree: Path) -> None:
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__" / "module.pyc").touch()
    assert [path.name for path in inside(tree)] == ["module.py"]


@as_root
def test_doctor_says_all_of_it(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    words = [command(), "doctor", "--simulate", "t4:1", "--state", str(state)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    for what in (
        *("code that root runs", "ports below 1024", "lists of processes", "tracing", "/tmp"),
        *("programs outside of sessions", "fail  state folder's secrets"),
    ):
        assert what in done.stdout
    assert "Traceback" not in done.stderr


def test_the_deep_look_goes_through_each_folder_once(tree: Path) -> None:
    assert outermost([tree, tree.parent, tree / "module.py", Path("/")]) == [tree.parent]
