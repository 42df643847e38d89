"""Accounts of the machine with passwords of their own, and a multi-user deployment that they log in to through PAM."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
from collections.abc import Iterator

from hubs import Hub, User


@contextlib.contextmanager
def made_accounts(count: int) -> Iterator[dict[str, str]]:
    """So many accounts, by name, with their passwords; removed afterwards."""
    made = {f"ts-{secrets.token_hex(3)}": secrets.token_urlsafe(12) for _ in range(count)}
    for name, password in made.items():
        subprocess.run(["useradd", "--create-home", "--shell", "/bin/bash", name], check=True)
        subprocess.run(["chpasswd"], input=f"{name}:{password}", text=True, check=True)
    try:
        yield made
    finally:
        for name in made:
            subprocess.run(["userdel", "--remove", "--force", name], check=False, capture_output=True)


class Machine(Hub):
    """A deployment that knows the machine's accounts."""

    def words(self) -> list[str]:
        return ["--multi-user"]

    def environment(self) -> dict[str, str]:
        return dict(os.environ)


class Account(User):
    """Logs in with a password of her own."""

    def __init__(self, hub: Hub, name: str, password: str) -> None:
        self.password = password
        super().__init__(hub, name)

    def secret(self) -> str:
        return self.password

    def groups(self) -> list[str]:
        """As the hub knows them."""
        return list(self.api("GET", f"users/{self.name}").json()["groups"])

    def may_have(self) -> float:
        """GPUs at once, as her own page tells her."""
        rows = self.service("GET", "limits").json()["limits"]
        return float(next(row["value"] for row in rows if row["key"] == "gpus"))
