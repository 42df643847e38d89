"""Who is in which group, from JupyterHub to the limits; and what holds while JupyterHub is silent."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import requests
from hubs import Hub, User, plain, running_hub
from nodes import eventually

from timeshare.reservations.service.people import HubPeople

pytestmark = [pytest.mark.hub, pytest.mark.timeout(300)]
LIMITS = """
defaults: {shapes: [whole, fraction, cpu]}
groups:
  guests: {each: {shapes: [fraction]}}
"""

SITE = """
c.JupyterHub.load_roles.extend([{"name": "keeper", "scopes": ["admin:groups", "admin:users"], "users": ["dora"]}])
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("people")
    (folder / "limits.yaml").write_text(LIMITS)
    (folder / "jupyterhub_site.py").write_text(SITE)
    options = ("--simulate", "t4:4", "--limits", str(folder / "limits.yaml"))
    with running_hub(folder, *options) as found:
        yield found


@pytest.fixture(scope="module")
def dora(hub: Hub) -> User:
    return hub.login("dora")


def join(dora: User, group: str, *names: str) -> None:
    """As an admin does it on the hub's page or by its API."""
    dora.api("POST", f"groups/{group}")
    assert dora.api("POST", f"groups/{group}/users", json={"users": list(names)}).ok


def told(hub: Hub, name: str) -> requests.Response:
    """Her limits, asked for by the deployment, whom the hub need not let in."""
    return hub.service("GET", "limits", params={"owner": name})


def groups(hub: Hub, name: str) -> list[str]:
    answer = told(hub, name)
    return list(answer.json()["groups"]) if answer.ok else [answer.json()["error"]["reason"]]


def service_answers(hub: Hub) -> bool:
    try:
        return hub.service("GET", "health").status_code in (200, 503)
    except requests.ConnectionError:
        return False


@contextlib.contextmanager
def silent(hub: Hub) -> Iterator[None]:
    """The hub's process stands still: it takes connections and never answers."""
    pid = hub.components()["hub"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_group_given_on_the_hub_decides_on_every_path(hub: Hub, dora: User) -> None:
    ben = hub.login("ben")
    join(dora, "guests", "ben")
    eventually(lambda: groups(hub, "ben") == ["guests"], 60)
    said = "shapes you may have are: fraction"
    by_api = ben.service("POST", "reservations", json={"share": {"gpus": 1}})
    assert (by_api.status_code, said in by_api.text) == (403, True), by_api.text
    by_form = ben.form("timeshare/start", offer="gpus:1:t4", hours="1", client_key="k1")
    assert (by_form.status_code, said in plain(by_form.text)) == (403, True), plain(by_form.text)
    injected = ben.start(gpus=1)
    assert (injected.status_code, said in injected.text) == (403, True), injected.text
    assert ben.reservations() == []


def test_while_the_hub_is_silent_the_last_known_groups_stand_even_after_a_restart(hub: Hub, dora: User) -> None:
    hub.login("cleo")
    join(dora, "guests", "cleo")
    eventually(lambda: groups(hub, "cleo") == ["guests"], 60)
    with silent(hub):
        hub.kill("service")
        eventually(lambda: service_answers(hub), 30)
        assert groups(hub, "cleo") == ["guests"]
        unknown = told(hub, "nobody-yet")
        assert unknown.status_code == 503
        assert "JupyterHub does not answer" in unknown.json()["error"]["message"]
    eventually(hub.is_healthy, 60)
    eventually(lambda: told(hub, "nobody-yet").status_code == 422, 60)
    assert "neither JupyterHub nor timeshare knows such a user" in told(hub, "nobody-yet").json()["error"]["message"]


@pytest.mark.parametrize("name", ["zoë+o'neil", "a b?c=d&e", "名前@lab.example"])
async def test_names_with_any_characters_are_asked_for_as_they_are(hub: Hub, dora: User, name: str) -> None:
    assert dora.api("POST", f"users/{quote(name, safe='')}").ok
    known = dora.api("GET", f"users/{quote(name, safe='')}").json()["name"]  # the hub writes names small
    join(dora, "readers", known)
    people = HubPeople(hub.deployment.hub_api_url, hub.deployment.service_token)
    assert await people.groups(known) == ("readers",)


async def test_an_answer_is_remembered_for_its_time_and_a_change_is_seen_after_it(hub: Hub, dora: User) -> None:
    hub.login("ada")
    keen = HubPeople(hub.deployment.hub_api_url, hub.deployment.service_token, remembered_s=0)
    lazy = HubPeople(hub.deployment.hub_api_url, hub.deployment.service_token, remembered_s=3600)
    assert (await keen.groups("ada"), await lazy.groups("ada")) == ((), ())
    join(dora, "readers", "ada")
    assert (await keen.groups("ada"), await lazy.groups("ada")) == (("readers",), ())


def test_the_services_token_may_read_names_and_groups_and_nothing_else(hub: Hub) -> None:
    headers = {"Authorization": f"Bearer {hub.deployment.service_token}"}
    api = hub.deployment.public_hub_api_url
    me = requests.get(f"{api}/user", headers=headers, timeout=10).json()
    assert set(me["scopes"]) == {"read:users:groups", "read:users:name"}
    hub.login("ada")
    shown = requests.get(f"{api}/users/ada", headers=headers, timeout=10).json()
    assert "servers" not in shown
    assert "last_activity" not in shown
    assert requests.post(f"{api}/users/ada/server", headers=headers, timeout=10).status_code in (403, 404)
