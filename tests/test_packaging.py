"""The wheel: complete, and enough to start from in an environment that has nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import requests
from hubs import Hub

ROOT = Path(__file__).parent.parent
PARTS = ("reservations", "spawners", "idle_culler", "notebooks", "hub_config")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return next(out.glob("*.whl"))


def tracked() -> list[str]:
    """The files of the parts as git knows them."""
    words = ["git", "-C", str(ROOT), "ls-files", *PARTS]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()


def test_every_file_of_every_part_is_in_the_wheel(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    missing = [name for name in tracked() if f"timeshare/{name}" not in packed]
    assert missing == []


def test_the_wheel_alone_is_light(wheel: Path) -> None:
    """Users install it beside their own packages: it must pull in nothing but what carries a cell's variables."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("METADATA")]
        metadata = archive.read(name).decode()
    needs = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    names = [re.split(r"[<>=,! ]", line.split(": ")[1])[0] for line in needs]
    assert names == ["blake3", "blosc", "cloudpickle", "tblib"]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of a clean environment with ``timeshare[hub]`` from the wheel."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=True)
    uv = [Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--python", folder / "bin" / "python"]
    if subprocess.run([*uv, f"{wheel}[hub]"], timeout=600, check=False).returncode:  # as where only pip is configured
        pip = [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, f"{wheel}[hub]"], check=True, timeout=600)
    return folder / "bin"


@pytest.mark.hub
@pytest.mark.timeout(900)
def test_a_deployment_starts_from_the_wheel_in_a_clean_environment(installed: Path, tmp_path: Path) -> None:
    where = subprocess.run(
        [installed / "python", "-c", "import timeshare.reservations as r; print(r.__file__)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert where.stdout.startswith(str(installed.parent))
    hub = Hub(tmp_path / "state", installed / "timeshare", "--simulate", "t4:1")
    try:
        hub.start()
        assert requests.get(f"{hub.url}hub/login", timeout=10).status_code == 200
        ada = hub.login("ada")
        assert ada.start(cpu_only=True).status_code in (201, 202)
    finally:
        hub.close()
