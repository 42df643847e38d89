"""The hub's own database on a full disk: pages are read, what cannot be written is refused in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from full_disks import SmallDisk, small_disk
from hubs import Hub, command, plain

pytestmark = pytest.mark.hub


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "small", 8) as disk:
        yield disk


@pytest.fixture
def hub(tmp_path: Path, disk: SmallDisk) -> Iterator[Hub]:
    hub = Hub(tmp_path / "state", command())
    hub.state_dir.mkdir(mode=0o700)
    site = hub.state_dir / "jupyterhub_site.py"
    site.write_text(f'c.JupyterHub.db_url = "sqlite:///{disk.path}/hub.sqlite"\nc.JupyterHub.activity_resolution = 0\n')
    site.chmod(0o600)
    try:
        hub.start()
        yield hub
    finally:
        hub.close()


def test_pages_are_read_and_what_cannot_be_written_is_refused_in_words(hub: Hub, disk: SmallDisk) -> None:
    ada, pid = hub.login("ada"), hub.components()["hub"]
    disk.fill()
    assert "Your sessions" in plain(ada.page("home").text)
    assert "free now" in plain(ada.page("spawn").text)
    assert "What may I have?" in plain(ada.page("timeshare/limits").text)

    full = f"the disk that holds {disk.path} is full"
    refused = ada.api("POST", "users/ada/tokens", json={})
    assert (refused.status_code, full in refused.json()["message"]) == (507, True)
    refused = ada.form("timeshare/start/ada", offer="cpu_only", hours="1")
    assert (refused.status_code, full in plain(refused.text)) == (507, True)
    assert "Your sessions" in plain(ada.page("home").text), "and nobody is logged out by it"

    # With room everything goes on, without a restart: also the session that was asked for.
    disk.room()
    assert ada.active()["share"]["cpu_only"]
    assert ada.api("POST", "users/ada/tokens", json={}).status_code == 201
    assert hub.components()["hub"] == pid
