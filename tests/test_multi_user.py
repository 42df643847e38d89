"""Multi-user mode for real: accounts of the machine, PAM logins, sessions that run as their owners."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from accounts import Account, Machine, made_accounts
from hubs import command
from nodes import core, eventually, kept_from_others, marked

pytestmark = [
    pytest.mark.hub,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes accounts and starts sessions as them"),
    pytest.mark.skipif(shutil.which("useradd") is None, reason="this system has no useradd"),
]


@pytest.fixture(scope="module")
def accounts() -> Iterator[dict[str, str]]:
    """Two of them."""
    with made_accounts(2) as made:
        yield made


def test_sessions_run_as_their_owners_and_keep_out_of_each_others_way(
    tmp_path_factory: pytest.TempPathFactory, accounts: dict[str, str]
) -> None:
    if reason := kept_from_others():
        pytest.skip(reason)
    state = tmp_path_factory.mktemp("multi")
    (first, password), (second, other) = accounts.items()
    hub = Machine(state, command(), "--simulate", "a100-40gb:1", "--admins", second)
    try:
        hub.start()
        assert "Log in    with your account" in hub.said()
        with pytest.raises(AssertionError, match="Invalid username or password"):
            Account(hub, first, "wrong")
        ada = Account(hub, first, password)
        ada.start(memory_gib=10)
        eventually(ada.is_ready, 90)
        (mine,) = eventually(lambda: [r for r in ada.reservations() if r["state"] == "active"])
        uid = int(subprocess.run(["id", "-u", first], capture_output=True, text=True, check=True).stdout)
        launcher, server = core(mine["id"])
        assert (Path(f"/proc/{launcher}").stat().st_uid, Path(f"/proc/{server}").stat().st_uid) == (0, uid)
        assert os.readlink(f"/proc/{server}/cwd") == f"/home/{first}"
        groups = [line for line in Path(f"/proc/{server}/status").read_text().splitlines() if line.startswith("Groups")]
        assert "\t0" not in groups[0]
        secrets_seen = subprocess.run(["runuser", "-u", first, "--", "cat", str(hub.deployment.path)], check=False)
        assert secrets_seen.returncode != 0
        # Its server reports as her, with the key of her session.
        activity = f"reservations/{mine['id']}/activity"
        eventually(lambda: ada.service("GET", activity).json()["signals"]["kernel_busy_s"] == 0, 130)  # a look a minute
        admin = Account(hub, second, other)
        everybody = admin.service("GET", "reservations").json()["reservations"]
        assert [r["owner"] for r in everybody] == [first]
        assert ada.service("POST", "devices/GPU-simulated-0000/cordon", json={"why": "x"}).status_code == 403
        assert admin.service("POST", "devices/GPU-simulated-0000/cordon", json={"why": "x"}).status_code == 200
        ada.stop()
        assert marked(mine["id"]) == []
    finally:
        hub.close()


def test_jobs_run_as_their_owners_whose_files_nobody_else_reads(
    tmp_path_factory: pytest.TempPathFactory, accounts: dict[str, str]
) -> None:
    if reason := kept_from_others():
        pytest.skip(reason)
    (first, password), (second, other) = accounts.items()
    hub = Machine(tmp_path_factory.mktemp("jobs"), command(), "--simulate", "a100-40gb:1")
    program = Path(f"/home/{first}/train.py")
    program.write_text("import os\nran_as = os.getuid()\nprint('trained')\n")
    try:
        hub.start()
        ada, ben = Account(hub, first, password), Account(hub, second, other)

        def batch(*words: str) -> str:
            """The command of a terminal of hers."""
            url = f"{hub.url}services/timeshare"
            told = [f"TIMESHARE_SERVICE_URL={url}", f"TIMESHARE_TOKEN={ada.token}", f"HOME=/home/{first}"]
            done = subprocess.run(
                ["runuser", "-u", first, "--", "env", "-C", f"/home/{first}", *told, str(command()), "batch", *words],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        assert "trained" in batch("submit", "train.py", "--memory", "1", "--wait")
        assert f"ran_as = {program.parent.stat().st_uid}" in batch("result")
        (job,) = [r for r in ada.reservations() if r["kind"] == "batch"]
        assert ada.service("GET", f"jobs/{job['id']}/lines").json()["text"]
        assert ben.service("GET", f"jobs/{job['id']}/lines").status_code == 404
        assert stat.S_IMODE(Path(job["job"]["folder"]).stat().st_mode) == 0o700
    finally:
        hub.close()


@pytest.fixture
def group(accounts: dict[str, str]) -> Iterator[str]:
    """A group of the system with the first account in it."""
    name = f"tsg-{secrets.token_hex(3)}"
    subprocess.run(["groupadd", name], check=True)
    subprocess.run(["usermod", "--append", "--groups", f"{name},video", next(iter(accounts))], check=True)
    try:
        yield name
    finally:
        subprocess.run(["groupdel", name], check=False, capture_output=True)


def test_groups_of_the_system_decide_what_an_account_may_have_and_a_change_needs_no_new_login(
    tmp_path_factory: pytest.TempPathFactory, accounts: dict[str, str], group: str
) -> None:
    state = tmp_path_factory.mktemp("groups")
    (first, password), (second, other) = accounts.items()
    limits = state / "limits.yaml"
    limits.write_text(f"defaults: {{gpus: 1}}\ngroups: {{{group}: {{each: {{gpus: 2}}}}}}\n")
    (state / "jupyterhub_site.py").write_text("c.Authenticator.auth_refresh_age = 1\n")
    hub = Machine(state, command(), "--simulate", "a100-40gb:2", "--limits", str(limits))
    try:
        hub.start()
        ada, ben = Account(hub, first, password), Account(hub, second, other)
        assert (ada.groups(), ben.groups()) == ([group], [])
        assert (ada.may_have(), ben.may_have()) == (2, 1)
        subprocess.run(["gpasswd", "--delete", first, group], check=True, capture_output=True)
        subprocess.run(["gpasswd", "--add", second, group], check=True, capture_output=True)
        eventually(lambda: (ada.groups(), ben.groups()) == ([], [group]), 20)
        eventually(lambda: (ada.may_have(), ben.may_have()) == (1, 2), 60)
    finally:
        hub.close()
