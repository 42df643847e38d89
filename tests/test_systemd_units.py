"""The units of systemd: valid, as hardened as the admin guide says, and listening where the deployment looks."""

from __future__ import annotations

import configparser
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from nodes import deployment, eventually

from timeshare.hub_config.component import command
from timeshare.reservations import sockets

ROOT = Path(__file__).parent.parent
UNITS = ROOT / "hub_config" / "systemd"
ALL_IN_ONE = ROOT / "hub_config" / "timeshare.service"
SERVICES = [*sorted(UNITS.glob("*.service")), ALL_IN_ONE]
STATE = Path("/var/lib/timeshare")
COMPONENTS = {"proxy", "hub", "service", "agent", "culler", "starter"}
analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing: install the package systemd"
)


def values(path: Path, section: str, key: str) -> list[str]:
    """All that a unit says for a key; a key may stand there several times."""
    found, here = [], ""
    for line in path.read_text().splitlines():
        if line.startswith("["):
            here = line.strip("[]")
        name, _, value = line.partition("=")
        if here == section and name == key:
            found.append(value)
    return found


def test_every_unit_file_says_what_it_means_once() -> None:
    for path in UNITS.glob("*.socket"):
        parser = configparser.ConfigParser(strict=True, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(path.read_text())
        assert parser["Unit"]["Description"].startswith("timeshare: ")


def test_there_is_a_unit_for_each_process_that_up_supervises(tmp_path: Path) -> None:
    from timeshare.hub_config.up import components

    names = {component.name for component in components(deployment(tmp_path))}
    assert names == COMPONENTS
    units = {path.stem.removeprefix("timeshare-") for path in UNITS.glob("timeshare-*.service")}
    assert units == names | {"prepare"}
    wanted = " ".join(values(UNITS / "timeshare.target", "Unit", "Wants")).split()
    assert set(wanted) == {f"timeshare-{name}.service" for name in names}


@analyze
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    """With programs that are there in place of those of /opt/timeshare."""
    for path in [*UNITS.iterdir(), ALL_IN_ONE]:
        text = path.read_text().replace("/opt/timeshare/bin/python", sys.executable)
        (tmp_path / path.name).write_text(text.replace("/opt/timeshare/bin/timeshare", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", *sorted(tmp_path.iterdir())], capture_output=True, text=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if "timeshare" in line]
    assert said == []
    assert done.returncode == 0, done.stderr


def documented() -> dict[str, float]:
    """The figures of the admin guide."""
    text = (ROOT / "docs" / "admin_guide.md").read_text()
    rows = re.findall(r"^\| `(timeshare[a-z-]*\.service)` \| ([\d.]+) \|", text, re.MULTILINE)
    return {name: float(number) for name, number in rows}


@analyze
@pytest.mark.parametrize("path", SERVICES, ids=[path.name for path in SERVICES])
def test_a_unit_is_not_more_exposed_than_the_admin_guide_says(path: Path) -> None:
    words = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    print(f"{path.name}: {found[1]}")
    assert float(found[1]) <= documented()[path.name]


def test_the_admin_guide_gives_a_figure_for_each_unit() -> None:
    assert set(documented()) == {path.name for path in SERVICES}


def test_sockets_lie_where_the_deployment_looks_for_them() -> None:
    folder = Path("/run/timeshare") / hashlib.sha256(os.fsencode(STATE)).hexdigest()[:10]
    if os.geteuid() == 0:
        assert sockets.run_dir_of(STATE) == folder
    listening = {values(p, "Socket", "FileDescriptorName")[0]: p for p in UNITS.glob("*.socket")}
    assert set(listening) == {"public", "proxy-api", "hub", "service", "agent"}
    for name, path in listening.items():
        where, mode = values(path, "Socket", "ListenStream")[0], values(path, "Socket", "SocketMode")
        if name == "public":
            assert where == "127.0.0.1:800"
            assert "--ip 127.0.0.1 --port 800" in (UNITS / "timeshare-prepare.service").read_text()
        else:
            assert where == str(folder / f"{name}.sock")
            assert mode == ["0666"] if name in ("hub", "service") else ["0600"]


def test_each_component_gets_its_sockets_and_holds_no_address_of_its_own() -> None:
    wanted = {"proxy": {"public", "proxy-api"}, "hub": {"hub"}, "service": {"service"}, "agent": {"agent"}}
    for name in COMPONENTS:
        unit = UNITS / f"timeshare-{name}.service"
        named = " ".join(values(unit, "Service", "Sockets")).split()
        got = {values(UNITS / file, "Socket", "FileDescriptorName")[0] for file in named}
        assert got == wanted.get(name, set())
        for file in named:
            assert values(UNITS / file, "Socket", "Service") == [unit.name]
            assert file in " ".join(values(unit, "Unit", "Requires"))


@pytest.mark.parametrize("path", SERVICES, ids=[path.name for path in SERVICES])
def test_a_unit_stands_in_the_root_folder_keeps_files_private_and_has_files_enough(path: Path) -> None:
    assert values(path, "Service", "WorkingDirectory") == ["/"]
    assert values(path, "Service", "UMask") == ["0077"]
    assert int(values(path, "Service", "LimitNOFILE")[0]) >= 65536
    for line in values(path, "Service", "ExecStart"):
        assert line.split()[1] in ("-I", "up")


@pytest.mark.parametrize("name", ["service", "culler", "starter"])
def test_what_needs_no_capability_has_none(name: str) -> None:
    assert values(UNITS / f"timeshare-{name}.service", "Service", "CapabilityBoundingSet") == [""]


def test_what_sessions_would_inherit_is_not_taken_from_the_agent() -> None:
    """A session without setuid programs, with a read-only /usr or an empty /dev is none."""
    for path in (UNITS / "timeshare-agent.service", ALL_IN_ONE):
        for key in (*("NoNewPrivileges", "ProtectSystem", "PrivateDevices"), *("PrivateTmp", "ProtectHome")):
            assert values(path, "Service", key) == []
        for key in ("ProtectClock", "DevicePolicy", "DeviceAllow"):  # before systemd 253 the first closes all devices
            assert values(path, "Service", key) == []
        assert values(path, "Service", "KillMode") == ["process"]
        assert values(path, "Service", "Delegate") == ["yes"]


def test_a_component_becomes_the_process_that_systemd_started_with_its_sockets(tmp_path: Path) -> None:
    """Pid and descriptors are those that systemd speaks of: nothing is forked in between."""
    assert command(["/usr/bin/node", "x"]) == ["/usr/bin/node", "x"]
    assert command(["timeshare.idle_culler"]) == [sys.executable, "-I", "-m", "timeshare.idle_culler"]
    made = deployment(tmp_path)
    made.save()
    env = {**os.environ, "TIMESHARE_DEPLOYMENT": str(made.path), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "service"}
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(tmp_path / "s"))
        held.listen()
        code = "import os, sys; os.dup2(int(os.environ['HELD']), 3); os.environ['LISTEN_PID'] = str(os.getpid()); "
        code += "os.execv(sys.executable, [sys.executable, '-I', '-m', 'timeshare.hub_config.component', 'service'])"
        os.set_inheritable(held.fileno(), True)
        process = subprocess.Popen(
            [sys.executable, "-c", code], env={**env, "HELD": str(held.fileno())}, pass_fds=[held.fileno()], cwd="/"
        )
        try:
            eventually(lambda: b"timeshare.reservations.service" in cmdline(process.pid))
            variables = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            assert f"LISTEN_PID={process.pid}".encode() in variables
            inode = os.fstat(held.fileno()).st_ino
            assert os.readlink(f"/proc/{process.pid}/fd/3") == f"socket:[{inode}]"
        finally:
            process.kill()
            process.wait()


def cmdline(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def test_an_unknown_component_is_refused_in_words(tmp_path: Path) -> None:
    made = deployment(tmp_path)
    made.save()
    env = {**os.environ, "TIMESHARE_DEPLOYMENT": str(made.path)}
    words = [sys.executable, "-I", "-m", "timeshare.hub_config.component", "nonsense"]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "'nonsense' is no component of this deployment: name one of proxy" in done.stderr
