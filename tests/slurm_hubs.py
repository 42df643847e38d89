"""A hub for the accounts of the machine, with a real Slurm beside its own simulated GPUs."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accounts import Account, Machine
from fake_slurm import FakeSlurm
from hubs import command
from nodes import eventually
from slurm_cluster import Cluster

SITE = "c.JupyterHub.named_server_limit_per_user = 0  # every request of a test has a server of its own\n"
LIMITS = """
stop: {save_grace: 3s, term_grace: 2s}
defaults:
  sessions: {at_once: 50}
"""


def password_of(user: str) -> str:
    """The same for all runs on this machine: two of them share the accounts."""
    machine = Path("/etc/machine-id")
    return hashlib.sha256(f"timeshare {user} {machine.read_text() if machine.exists() else ''}".encode()).hexdigest()


class SlurmHub(Machine):
    """``cluster``: where it sends what asks for ``engine: slurm``. ``local``: whether it has an agent and a GPU of its
    own. ``more``: options of ``timeshare up``. ``traits``: of all pools."""

    def __init__(
        self,
        state: Path,
        cluster: Cluster | FakeSlurm,
        pools: dict[str, Any],
        *,
        local: bool = True,
        limits: str = LIMITS,
        more: tuple[str, ...] = (),
        **traits: Any,
    ) -> None:
        self.cluster = cluster
        self.passwords = {user: password_of(user) for user in cluster.users}
        for user, password in self.passwords.items():
            subprocess.run(["chpasswd"], input=f"{user}:{password}", text=True, check=True)
        said = {
            "partition": "gpu",
            "fraction": "shard",
            "gpus": {"v100": {"model": "v100", "memory_gib": 16, "shards": 4}},
            "environment": {"SLURM_CONF": cluster.env["SLURM_CONF"]},
            "simulated": True,
            **traits,
        }
        lines = [f"c.Slurm.pools = {pools!r}"]
        lines += [f"c.SlurmPool.{name} = {value!r}" for name, value in said.items()]
        (state / "timeshare_slurm.py").write_text("\n".join(lines))
        (state / "limits.yaml").write_text(limits)
        with open(state / "jupyterhub_site.py", "a") as site:
            site.write(SITE)
        options = ("--simulate", "t4:1") if local else ("--no-local",)
        super().__init__(state, command(), *options, "--admins", "tscarol", *more)

    def account(self, user: str) -> SlurmAccount:
        return SlurmAccount(self, user, self.passwords[user])

    def is_seen(self) -> bool:
        """Whether the cluster has answered."""
        return any(offer["engine"] for offer in self.service("GET", "offers?owner=tsalice").json()["offers"])


class SlurmAccount(Account):
    def own_path(self, name: str) -> Path:
        """A file in her home that is not there, and that no other run on this machine uses: accounts are shared."""
        return Path(f"/home/{self.name}/{name}-{secrets.token_hex(4)}")

    def ask(self, *, seconds: int = 3600, **share: Any) -> dict[str, Any]:
        """Asks by the API of the service, and waits in line if need be."""
        server = f"s{secrets.token_hex(3)}"
        body = {"share": {"engine": "slurm", **share}, "time_limit_s": seconds, "server_name": server}
        answer = self.service("POST", "reservations", json=body)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def get(self, reservation: dict[str, Any]) -> dict[str, Any]:
        return dict(self.service("GET", f"reservations/{reservation['id']}").json())

    def told(self, reservation: dict[str, Any]) -> tuple[str, str, str]:
        """Its state, and why: an assertion that fails shows all of it."""
        now = self.get(reservation)
        return now["state"], now["reason"] or "", now["detail"]

    def end(self, reservation: dict[str, Any]) -> None:
        self.service("POST", f"reservations/{reservation['id']}/end", json={})


@contextlib.contextmanager
def slurm_hub(
    state: Path, cluster: Cluster | FakeSlurm, pools: dict[str, Any] | None = None, **traits: Any
) -> Iterator[SlurmHub]:
    """``pools``: by name what each says beside ``traits``; None: one that works, one that is refused, and one
    with limits of Slurm."""
    usual = {
        "slurm": {"extend": True},
        "wrong": {"title": "Wrong", "qos": "nothing"},
        "interactive": {"title": "For people", "qos": "interactive"},
    }
    hub = SlurmHub(state, cluster, pools or usual, **traits)
    try:
        hub.start()
        eventually(hub.is_seen, 60)
        yield hub
    finally:
        hub.close()
        cluster.clear()
