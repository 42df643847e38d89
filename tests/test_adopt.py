"""What a hub that is there already gets added to its configuration, and what is refused. Nothing is started here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nodes import deployment
from traitlets.config import Config

from timeshare.hub_config.adopt import Choice, conflicts
from timeshare.hub_config.hub_parts import add_rights, add_sessions, merged_roles
from timeshare.reservations.deployment import Deployment
from timeshare.reservations.service.auth import ADMIN_SCOPE, READ_SCOPE, USE_SCOPE


def beside(folder: Path, **changes: Any) -> Deployment:
    """A deployment beside a hub that is there already."""
    return deployment(folder, **{"own_hub": False, "own_proxy": False, "hub_url": "http://127.0.0.1:8081/", **changes})


def told(folder: Path, c: Config, choice: Choice = Choice(), **changes: Any) -> str:  # noqa: B008
    return "\n".join(conflicts(c, beside(folder, **changes), choice))


def test_a_stock_configuration_conflicts_with_nothing(tmp_path: Path) -> None:
    c = Config()
    c.JupyterHub.bind_url = "http://127.0.0.1:8000"
    c.JupyterHub.services.append({"name": "announce", "url": "http://127.0.0.1:9999"})
    c.Spawner.mem_limit = "2G"
    assert told(tmp_path, c) == ""


def setting(section: str, **values: Any) -> Config:
    return Config({section: values})


CULLER = {"name": "cull-idle", "command": ["/opt/hub/bin/python", "-m", "jupyterhub_idle_culler", "--timeout=600"]}
REFUSED = {
    "another spawner": (
        setting("JupyterHub", spawner_class="dockerspawner.DockerSpawner"),
        "instead_of='DockerSpawner'",
    ),
    "a form": (setting("Spawner", options_form="<input>"), "Spawner.options_form"),
    "sessions that end with the hub": (setting("JupyterHub", cleanup_servers=True), "cleanup_servers"),
    "TLS between hub and servers": (setting("JupyterHub", internal_ssl=True), "internal_ssl"),
    "an idle culler": (setting("JupyterHub", services=[CULLER]), "tljh-config set services.cull.enabled false"),
    "the older script": (
        setting("JupyterHub", services=[{"name": "cull", "command": "python3 /srv/cull_idle_servers.py --timeout=3"}]),
        "the service 'cull' stops idle servers",
    ),
    "twice": (setting("JupyterHub", services=[{"name": "timeshare"}]), "call configure once"),
    "another base path": (setting("JupyterHub", base_url="/jupyter"), "below /jupyter/, and timeshare was told /"),
    "a base path in bind_url": (setting("JupyterHub", bind_url="http://:8000/hubs"), "http://ADDRESS:PORT/hubs/"),
    "hosts of people": (
        setting("JupyterHub", subdomain_host="https://hub.example"),
        "--subdomains https://hub.example",
    ),
    "traefik": (setting("JupyterHub", proxy_class="traefik_file"), "--port PORT"),
    "a proxy of their own": (setting("ConfigurableHTTPProxy", should_start=False), "should_start"),
    "a command of their own": (setting("ConfigurableHTTPProxy", command=["chp"]), "ConfigurableHTTPProxy.command"),
}


@pytest.mark.parametrize(("c", "expected"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_go_together_is_refused_with_what_would(tmp_path: Path, c: Config, expected: str) -> None:
    found = told(tmp_path, c)
    assert expected in found
    assert len(found.splitlines()) == 1


def test_every_conflict_is_told_at_once(tmp_path: Path) -> None:
    c = Config()
    for changed, _ in REFUSED.values():
        c.merge(changed)
    assert len(told(tmp_path, c).splitlines()) >= 8


def test_a_choice_lifts_what_it_names(tmp_path: Path) -> None:
    c = Config()
    c.JupyterHub.spawner_class = "tljh.user_creating_spawner.UserCreatingSpawner"
    c.JupyterHub.services = [CULLER]
    c.JupyterHub.proxy_class = "traefik_file"
    choice = Choice(instead_of="UserCreatingSpawner", keep_idle_culler=True)
    assert told(tmp_path, c, choice, own_proxy=True) == ""


def test_a_page_that_would_hide_ours_and_an_environment_without_timeshare_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "their templates"
    folder.mkdir()
    (folder / "spawn.html").write_text("")
    c = setting("JupyterHub", template_paths=[str(folder)])
    found = told(tmp_path, c, Choice(singleuser="/nowhere/bin/timeshare-singleuser"))
    assert f"{folder}/spawn.html would hide timeshare's page" in found
    assert "/nowhere/bin/pip install timeshare" in found


def test_a_deployment_with_a_hub_of_its_own_is_refused(tmp_path: Path) -> None:
    assert "--for-hub URL" in told(tmp_path, Config(), own_hub=True)


def test_lists_and_roles_of_the_site_stay(tmp_path: Path) -> None:
    c = Config()
    announce = {"name": "announce", "url": "http://127.0.0.1:9999"}
    c.JupyterHub.services.append(announce)
    c.JupyterHub.load_roles = [
        {"name": "user", "scopes": ["self", "access:services!service=announce"]},
        {"name": "graders", "scopes": ["read:users"], "groups": ["graders"]},
    ]
    c.JupyterHub.custom_scopes = {"custom:announce:write": {"description": "Announce"}}
    add_rights(c, beside(tmp_path, admins=("ada",)))
    assert c.JupyterHub.services[0] == announce
    assert [service["name"] for service in c.JupyterHub.services[1:]] == ["timeshare", "timeshare-starter"]
    roles = {role["name"]: role for role in c.JupyterHub.load_roles}
    assert len(roles) == len(c.JupyterHub.load_roles), "JupyterHub takes a name once"
    assert roles["user"]["scopes"] == ["self", "access:services!service=announce", USE_SCOPE]
    assert roles["graders"] == {"name": "graders", "scopes": ["read:users"], "groups": ["graders"]}
    assert roles["timeshare-starter"]["scopes"] == ["start:servers"], "the proxy is not ours"
    assert roles["timeshare-admin"]["users"] == ["ada"]
    assert set(c.JupyterHub.custom_scopes) == {"custom:announce:write", USE_SCOPE, READ_SCOPE, ADMIN_SCOPE}


def test_scopes_that_the_site_gave_everybody_stay(tmp_path: Path) -> None:
    c = setting("JupyterHub", extra_user_scopes=["access:services"])
    add_rights(c, beside(tmp_path))
    assert c.JupyterHub.extra_user_scopes == ["access:services", USE_SCOPE]
    assert "user" not in [role["name"] for role in c.JupyterHub.load_roles]


def test_an_authenticator_that_manages_roles_is_left_to_it(tmp_path: Path) -> None:
    c = setting("Authenticator", manage_roles=True)
    add_rights(c, beside(tmp_path, admins=("ada",)))
    assert not any("users" in role or "groups" in role for role in c.JupyterHub.load_roles)


def test_a_role_that_is_defined_in_part_is_whole_afterwards() -> None:
    (found,) = merged_roles([{"name": "user", "description": "People"}], [{"name": "user", "scopes": ["self"]}])
    assert found == {"name": "user", "description": "People", "scopes": ["self"]}


def test_what_the_site_says_of_spawners_stays(tmp_path: Path) -> None:
    c = Config()
    c.Spawner.cmd = ["jupyter-labhub"]
    c.Spawner.start_timeout = 300
    add_sessions(c, beside(tmp_path))
    assert (c.Spawner.cmd, c.Spawner.start_timeout) == (["jupyter-labhub"], 300)
    assert c.JupyterHub.spawner_class == "timeshare-local"
    assert c.JupyterHub.cleanup_servers is False
