"""An identity provider says who is in which group. The hub is set up by the admin guide's own recipe."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from databases import free_port
from hubs import Hub, User, command, plain
from nodes import eventually

pytestmark = [pytest.mark.hub, pytest.mark.timeout(300)]
GUIDE = Path(__file__).parent.parent / "docs" / "admin_guide.md"
LIMITS = "defaults: {gpus: 1}\ngroups: {cms: {each: {gpus: 2}}, heads: {each: {gpus: 3}}}\n"


def recipe() -> str:
    """The piece of configuration that the guide tells admins to copy."""
    found = re.search(r"```python\n(# jupyterhub_site\.py: OpenID Connect\n.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


class Provider:
    """A real OpenID provider with people of its own."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        words = [Path(sys.executable).parent / "oidc-provider-mock", "--host", "127.0.0.1", "--port", str(port)]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(self.answers, 30)

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/.well-known/openid-configuration", timeout=5).ok
        except requests.ConnectionError:
            return False

    def knows(self, name: str, *groups: str) -> None:
        claims = {"preferred_username": name, "groups": list(groups)}
        assert requests.put(f"{self.url}/users/{name}", json=claims, timeout=5).ok

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)


class Site(Hub):
    """A deployment whose logins are the provider's."""

    def __init__(self, state_dir: Path, provider: Provider) -> None:
        port = free_port()
        limits = state_dir / "limits.yaml"
        limits.write_text(LIMITS)
        (state_dir / "jupyterhub_site.py").write_text(recipe())
        super().__init__(state_dir, command(), "--simulate", "t4:4", "--limits", str(limits), "--port", str(port))
        self.provider = provider
        self.callback = f"http://127.0.0.1:{port}/hub/oauth_callback"

    def environment(self) -> dict[str, str]:
        return {
            **super().environment(),
            "OIDC_ISSUER": self.provider.url,
            "OIDC_CLIENT_ID": "timeshare",
            "OIDC_CLIENT_SECRET": secrets.token_hex(16),
            "OIDC_CALLBACK_URL": self.callback,
            "JUPYTERHUB_CRYPT_KEY": secrets.token_hex(32),
        }


class Member(User):
    """Somebody who logs in at the provider."""

    def log_in(self) -> None:
        there = self.session.get(f"{self.hub.url}hub/oauth_login", timeout=30)
        answer = self.session.post(there.url, data={"sub": self.name}, timeout=30)
        assert answer.ok, f"{answer.status_code}: {plain(answer.text)[-300:]}"

    def may_have(self) -> str:
        """GPUs at once, as her own page tells her."""
        rows: list[dict[str, Any]] = self.service("GET", "limits").json()["limits"]
        return str(next(row["value"] for row in rows if row["key"] == "gpus"))


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    found = Provider(free_port())
    try:
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def site(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    hub = Site(tmp_path_factory.mktemp("oidc"), provider)
    try:
        hub.start()
        yield hub
    finally:
        hub.close()


def test_the_providers_groups_decide_what_a_person_may_have(site: Site) -> None:
    site.provider.knows("alice", "cms")
    alice = Member(site, "alice")
    assert alice.may_have() == "2"
    refused = alice.service("POST", "reservations", json={"share": {"gpus": 3, "model": "t4"}})
    assert refused.status_code == 403
    assert "2" in refused.json()["error"]["message"]


def test_somebody_of_no_allowed_group_stays_outside(site: Site) -> None:
    site.provider.knows("mallory", "atlas")
    with pytest.raises(AssertionError, match="403"):
        Member(site, "mallory")


def test_groups_that_changed_at_the_provider_count_from_the_next_login(site: Site) -> None:
    site.provider.knows("carol", "cms")
    carol = Member(site, "carol")
    assert carol.may_have() == "2"
    site.provider.knows("carol", "cms", "heads")
    carol = Member(site, "carol")
    eventually(lambda: carol.may_have() == "3", 60)
