"""A whole deployment, used through the hub's REST API and forms: sessions, refusals, the queue, crashes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from hubs import Hub, command, plain, running_hub
from nodes import core, eventually, marked

from timeshare.hub_config.run.leftovers import leftovers
from timeshare.notebooks.batch.service import Service
from timeshare.notebooks.server.reporter import Target, send
from timeshare.notebooks.server.watcher import Activity

pytestmark = [pytest.mark.hub, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub(tmp_path_factory.mktemp("hub")) as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_left(hub: Hub) -> Iterator[None]:
    """Each test leaves no session behind."""
    yield
    eventually(hub.is_healthy, 30)
    hub.end_all_sessions()


def test_a_session_started_by_the_api_runs_on_its_share_and_ends(hub: Hub) -> None:
    ada = hub.login("ada")
    assert ada.start(memory_gib=10, time_limit_s=3600).status_code in (201, 202)
    reservation = ada.active()
    assert reservation["enforcement"] == "simulated"
    assert 3500 < reservation["remaining_s"] <= 3600
    status = requests.get(f"{hub.url}user/ada/api/status", headers={"Authorization": f"Bearer {ada.token}"}, timeout=30)
    assert status.status_code == 200
    ada.stop()
    ended = next(r for r in ada.reservations() if r["id"] == reservation["id"])
    assert (ended["state"], ended["reason"], ended["detail"]) == ("ended", "cancelled", "stopped by its owner")
    assert marked(reservation["id"]) == []


BAD_OPTIONS = [
    ({"gpus": 1, "model": "a9000"}, "a9000"),
    ({"gpus": 0}, "gpus is 0"),
    ({"gpus": -3}, "gpus is -3"),
    ({"memory_gib": 1e9}, "1000000000"),
    ({"gpus": 1, "memory_gib": 2}, "two shapes at once"),
    ({"time_limit_s": 3600}, "no share asked for"),
    ({"memory_gib": 4, "time_limit_s": 10**9}, "time_limit_s is 1000000000"),
    ({"memory_gib": 4, "colour": "red"}, "no such option"),
    ({"reservation_id": "0b7c3f4e-0000-4000-8000-000000000000"}, "no reservation"),
]


@pytest.mark.parametrize(("options", "said"), BAD_OPTIONS, ids=[said for _, said in BAD_OPTIONS])
def test_bad_options_through_the_api_are_refused_with_value_and_rule(
    hub: Hub, options: dict[str, object], said: str
) -> None:
    refused = hub.login("ada").start(**options)
    assert 400 <= refused.status_code < 500, refused.text
    assert said in refused.json()["message"]


BAD_FORMS = [
    ({"offer": "gpus:1:a9000"}, "a9000"),
    ({"offer": "gpus:0"}, "gpus is 0"),
    ({"offer": "gpus:-1:t4"}, "gpus is -1"),
    ({"offer": "other", "memory_gib": "nan"}, "memory_gib is"),
    ({"offer": "other", "memory_gib": "1e9"}, "memory_gib is 1000000000"),
    ({"offer": "other"}, "memory_gib is missing"),
    ({"offer": "gpus:1", "hours": "-1"}, "time_limit_s is -3600"),
    ({"offer": "gpus:1", "hours": "soon"}, "hours is"),
    ({"offer": "party:1"}, "offer is"),
    ({}, "no share asked for"),
    ({"offer": "cpu_only", "<script>": "1"}, "no such option"),
]


@pytest.mark.parametrize(("fields", "said"), BAD_FORMS, ids=[said for _, said in BAD_FORMS])
def test_bad_input_through_the_form_shows_the_form_again_with_what_is_wrong(
    hub: Hub, fields: dict[str, str], said: str
) -> None:
    ada = hub.login("ada")
    answer = ada.form("timeshare/start/ada", **fields)
    assert 400 <= answer.status_code < 500
    assert said in plain(answer.text)
    assert "spawn_form" in answer.text
    assert "Traceback" not in answer.text
    assert "<script>:" not in answer.text
    assert ada.reservations() == [] or all(r["state"] == "ended" for r in ada.reservations())


def test_a_form_that_is_refused_keeps_what_was_chosen(hub: Hub) -> None:
    """It went back to its first offer, and who corrected the cores and sent it again got another GPU."""
    ada = hub.login("ada")
    answer = ada.form("timeshare/start/ada", offer="gpus:1:t4", hours="4.0", cpus="999", host_memory_gib="1.5")
    assert answer.status_code == 422
    (chosen,) = re.findall(r'value="([^"]+)"\s+checked', answer.text)
    assert chosen == "gpus:1:t4"
    assert re.search(r'value="4.0" selected', answer.text)
    assert re.search(r'name="cpus".* value="999"', answer.text)
    assert re.search(r'name="host_memory_gib".* value="1.5"', answer.text)


def test_without_capacity_the_api_refuses_and_the_form_queues(hub: Hub) -> None:
    ada, ben = hub.login("ada"), hub.login("ben")
    ada.start(gpus=1, model="t4")
    refused = ben.start(gpus=1, model="t4")
    assert refused.status_code == 409
    assert "is not free now" in refused.json()["message"]
    waits = ben.form("timeshare/start/ben", offer="gpus:1:t4", hours="1")
    assert waits.status_code == 302
    page = ben.session.get(f"{hub.url.rstrip('/')}{waits.headers['Location']}")
    assert "Position: 1" in plain(page.text)
    eventually(ada.is_ready, 60)
    ada.stop()
    eventually(ben.is_ready, 60)


def test_nobody_sees_or_touches_what_is_anothers(hub: Hub) -> None:
    ada, ben = hub.login("ada"), hub.login("ben")
    ada.start(cpu_only=True)
    (mine,) = [r for r in ada.reservations() if r["state"] != "ended"]
    path = f"reservations/{mine['id']}"
    assert [ben.service("GET", path).status_code, ben.service("POST", f"{path}/end", json={}).status_code] == [404, 404]
    assert ben.service("POST", f"{path}/extend", json={"seconds": 60}).status_code == 404
    assert ben.service("GET", f"{path}/events").status_code == 404
    assert ben.service("GET", "reservations?owner=ada").status_code == 403
    assert ben.service("POST", "reservations", json={"share": {"gpus": 1}, "owner": "ada"}).status_code == 403
    assert ben.service("POST", f"{path}/starting", json={}).status_code == 403
    for page in (f"timeshare/wait/{mine['id']}", f"timeshare/reservations/{mine['id']}/events"):
        assert ben.page(page).status_code == 404
    assert ben.form(f"timeshare/reservations/{mine['id']}/end").status_code == 404
    assert ben.form(f"timeshare/reservations/{mine['id']}/extend", minutes="5").status_code == 404
    assert ben.form("timeshare/start/ada", offer="cpu_only").status_code in (403, 404)
    assert ben.start(reservation_id=mine["id"], cpu_only=True).status_code == 404
    eventually(ada.is_ready, 60)


def test_a_token_that_was_taken_back_is_out(hub: Hub) -> None:
    ada = hub.login("ada")
    assert ada.service("GET", "offers").status_code == 200
    (ours,) = [t["id"] for t in ada.api("GET", "users/ada/tokens").json()["api_tokens"] if t["id"]][-1:]
    assert ada.api("DELETE", f"users/ada/tokens/{ours}").status_code == 204
    eventually(lambda: ada.service("GET", "offers").status_code == 401, 20)


def test_a_form_of_another_site_does_nothing(hub: Hub) -> None:
    ada = hub.login("ada")
    answer = ada.session.post(f"{hub.url}hub/timeshare/start/ada", data={"offer": "cpu_only"}, allow_redirects=False)
    assert answer.status_code == 403
    assert [r for r in ada.reservations() if r["state"] != "ended"] == []


def test_the_home_page_shows_time_extends_and_tells_why_the_last_one_ended(hub: Hub) -> None:
    ada = hub.login("ada")
    ada.start(memory_gib=4, time_limit_s=3600)
    mine = ada.active()
    home = plain(ada.page("home").text)
    assert "4 GiB of one GPU" in home
    assert re.search(r"Time left: (59 min|1 h|60 min)", home)
    assert ada.form(f"timeshare/reservations/{mine['id']}/extend", minutes="30").status_code == 302
    assert ada.service("GET", f"reservations/{mine['id']}").json()["time_limit_s"] == 5400
    refused = ada.form(f"timeshare/reservations/{mine['id']}/extend", minutes="9999")
    assert "one extension adds at most 2 h" in plain(refused.text)
    assert ada.form(f"timeshare/reservations/{mine['id']}/end").status_code == 302
    eventually(lambda: not ada.servers(), 60)
    assert "It was stopped : stopped by its owner" in plain(ada.page("home").text)


def test_a_session_that_dies_is_noticed_and_its_end_is_told(hub: Hub) -> None:
    ada = hub.login("ada")
    ada.start(memory_gib=4)
    mine = ada.active()
    for pid in marked(mine["id"]):
        with contextlib.suppress(ProcessLookupError):  # what the server runs for a moment
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: ada.service("GET", f"reservations/{mine['id']}").json()["state"] == "ended")
    eventually(lambda: not ada.servers(), 30)
    assert "nobody saw how they ended" in plain(ada.page("home").text)


@pytest.mark.parametrize("component", ["hub", "service", "agent", "proxy", "starter"])
def test_a_running_session_survives_a_kill_of(hub: Hub, component: str) -> None:
    ada = hub.login("ada")
    ada.start(memory_gib=10)
    before = ada.active()
    pids = set(core(before["id"]))
    hub.kill(component)

    def works() -> bool:
        try:
            url, headers = f"{hub.url}user/ada/api/status", {"Authorization": f"Bearer {ada.token}"}
            return requests.get(url, headers=headers, timeout=10).status_code == 200 and ada.is_ready()
        except (requests.RequestException, KeyError, ValueError):
            return False

    eventually(works, 60)
    eventually(hub.is_healthy, 30)
    after = hub.service("GET", f"reservations/{before['id']}").json()
    assert (after["state"], after["generation"]) == ("active", 1)
    assert pids <= set(marked(before["id"]))
    ada.stop()


def test_a_hub_killed_while_a_session_starts_starts_it_again(hub: Hub) -> None:
    ada = hub.login("ada")
    ada.start(memory_gib=10)
    (mine,) = [r for r in ada.reservations() if r["state"] != "ended"]
    os.kill(hub.components()["hub"], signal.SIGKILL)
    eventually(hub.is_healthy, 30)
    eventually(lambda: hub.service("GET", f"reservations/{mine['id']}").json()["state"] == "active", 90)
    again = hub.login("ada")
    eventually(again.is_ready, 60)
    (session,) = [r for r in again.reservations() if r["state"] != "ended"]
    assert session["id"] == mine["id"]
    again.stop()


def test_a_session_that_starts_survives_a_kill_of_the_agent(hub: Hub) -> None:
    """Killed with the request in its hands: once what it is to start is written down, and before it answers."""
    ada, pid = hub.login("ada"), hub.components()["agent"]
    records = hub.state_dir / "agent" / "sessions"
    before = set(os.listdir(records))
    with ThreadPoolExecutor() as beside:
        started = beside.submit(ada.start, memory_gib=10)
        while not [name for name in set(os.listdir(records)) - before if not name.startswith("removed-")]:
            assert not started.done(), "it was started before its record was seen"
        os.kill(pid, signal.SIGKILL)
        assert started.result(60).status_code in (201, 202)
    mine = ada.active()
    assert mine["generation"] == 1
    ada.stop()


def test_the_queue_survives_a_kill_of_hub_and_service_together(hub: Hub) -> None:
    ada, ben = hub.login("ada"), hub.login("ben")
    ada.start(gpus=1, model="t4")
    eventually(ada.is_ready, 60)
    ben.form("timeshare/start/ben", offer="gpus:1:t4", hours="1")
    for component in ("hub", "service"):
        os.kill(hub.components()[component], signal.SIGKILL)
    (waits,) = eventually(lambda: [r for r in hub.everybodys() if r["state"] == "queued"], 30)
    assert (waits["owner"], waits["position"]) == ("ben", 1)
    eventually(hub.is_healthy, 60)
    hub.login("ada").stop()
    eventually(hub.login("ben").is_ready, 60)


def told_secrets(hub: Hub, session: set[int]) -> list[str]:
    """Where secrets of the deployment stand that should not: arguments, sessions, the environment of components (the
    proxy has its own there), logs, files that others can read."""
    told = hub.deployment
    tokens = ("proxy_token", "service_token", "admin_token", "starter_token", "culler_token", "signing_key")
    secrets = {name: getattr(told, name).encode() for name in tokens}
    own = set(hub.components().values())
    found = []
    for entry in (entry for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        with contextlib.suppress(OSError):
            text = (entry / "cmdline").read_bytes()
            if int(entry.name) in session | own:
                text += (
                    (entry / "environ").read_bytes().replace(b"CONFIGPROXY_AUTH_TOKEN=" + secrets["proxy_token"], b"")
                )
            found += [f"{name} in {entry}: {text[:200]!r}" for name, secret in secrets.items() if secret in text]
    for path in [*hub.state_dir.glob("*.log"), *hub.state_dir.glob("logs/**/*.log")]:
        found += [f"{name} in {path}" for name, secret in secrets.items() if secret in path.read_bytes()]
    files = [path for path in hub.state_dir.iterdir() if path.is_file() and path.stat().st_mode & 0o077]
    return found + [f"{path} can be read by others" for path in files]


def speaks(hub: Hub, reservation_id: str) -> None:
    """A session reports activity and asks the service, with what its server was told at its start."""
    server = core(reservation_id)[-1]
    pairs = Path(f"/proc/{server}/environ").read_text().split("\0")
    env = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    url = env["TIMESHARE_SERVICE_URL"]
    assert url == hub.deployment.service_url
    report = Target(url, reservation_id, 1, env["TIMESHARE_ACTIVITY_KEY"])
    assert send(report, Activity(kernel_busy_s=0.0, terminal=None, input_ago_s=None)) > 0
    mine = Service(url, env["JUPYTERHUB_API_TOKEN"]).get(reservation_id)
    assert mine["state"] == "active"


def test_a_restart_of_everything_finds_the_sessions_again(tmp_path: Path) -> None:
    with running_hub(tmp_path) as hub:
        ada = hub.login("ada")
        ada.start(memory_gib=10)
        eventually(ada.is_ready, 60)
        (before,) = eventually(lambda: [r for r in ada.reservations() if r["state"] == "active"])
        pids = set(core(before["id"]))
        assert told_secrets(hub, set(marked(before["id"]))) == []
        speaks(hub, before["id"])
        hub.end(signal.SIGTERM)
        assert leftovers(hub.state_dir) == {}
        hub.start()
        eventually(hub.login("ada").is_ready, 60)
        assert pids <= set(marked(before["id"]))
        speaks(hub, before["id"])  # by what it was told before, though all tokens are new
        assert told_secrets(hub, set(marked(before["id"]))) == []
        assert hub.process is not None
        hub.process.kill()
        hub.process.wait()
        hub.start()
        assert "Ended what an earlier run left behind" in hub.said()
        eventually(hub.login("ada").is_ready, 60)
        assert pids <= set(marked(before["id"]))
        hub.end(signal.SIGINT)
        assert "Stopping 1 session" in hub.said()
        time.sleep(0.5)
        assert marked(before["id"]) == []


def test_a_second_up_on_the_same_folder_is_refused_by_name(hub: Hub) -> None:
    import subprocess

    words = [command(), "up", "--state", hub.state_dir, "--simulate", "t4:1", "--port", "0"]
    second = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert hub.process is not None
    assert f"process {hub.process.pid}" in second.stderr
    assert "Traceback" not in second.stderr
