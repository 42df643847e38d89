"""Limits on a real hub: on every path the same answer, and an office-hours day in small."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hubs import Hub, plain, running_hub
from nodes import eventually, marked
from plain_jobs import job_body

from timeshare.reservations.agent.client import AgentClient

pytestmark = pytest.mark.hub

LIMITS = """
defaults: {largest: 1, sessions: {at_once: 2, default_time: 1h, max_time: 2h}}
groups:
  cms: {members: [ada], quota: 1}
  students:
    members: [ben]
    quota: 1
    each:
      shapes: [fraction, cpu]
      models: [t4]
      sessions: {default_time: 30m, max_time: 1h, max_cpus: 1, max_host_memory_gib: 1}
  atlas: {members: [cleo, dora], quota: 1}
pools:
  small: {models: [t4]}
  big:
    models: ["a100*"]
    preempt: {after: 2s, grace: 3s}
stop: {save_grace: 1s, term_grace: 1s}
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("limits")
    (folder / "limits.yaml").write_text(LIMITS)
    tiny = Path(__file__).with_name("tiny_server.py")
    command = f"c.Spawner.cmd = [{sys.executable!r}, {str(tiny)!r}]\nc.Spawner.args = []\n"
    (folder / "jupyterhub_site.py").write_text(command)
    options = ("--simulate", "a100-40gb:2,t4:1", "--limits", str(folder / "limits.yaml"), "--admins", "dora")
    with running_hub(folder, *options) as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_left(hub: Hub) -> Iterator[None]:
    yield
    hub.end_all_sessions()


def form_fields(share: dict[str, Any], seconds: int) -> dict[str, str]:
    shape = "gpus" if "gpus" in share else "memory_gib"
    beside = {name: str(share[name]) for name in ("cpus", "host_memory_gib") if name in share}
    return {
        **beside,
        "offer": f"{shape}:{share[shape]}:{share['model']}",
        "hours": str(seconds / 3600),
        "client_key": f"k{time.time_ns()}",
    }


REFUSED = [
    ({"gpus": 1, "model": "t4"}, 1800, "shapes you may have are: fraction, cpu"),
    ({"memory_gib": 4, "model": "a100-40gb"}, 1800, "models you may have are: t4"),
    ({"memory_gib": 4, "model": "t4"}, 3660, "from 60 to 3600 seconds"),
    ({"memory_gib": 4, "model": "t4", "cpus": 1.001}, 600, "(max_cpus of your sessions) is 1; ask for at most 1"),
    ({"memory_gib": 4, "model": "t4", "host_memory_gib": 1.001}, 600, "(max_host_memory_gib of your sessions) is 1;"),
    ({"memory_gib": 4, "model": "t4", "cpus": 0.09}, 600, "must be a number of cores from 0.1 to 1024"),
    ({"memory_gib": 4, "model": "t4", "host_memory_gib": 0.49}, 600, "of a GPU is memory_gib) from 0.5 to 65536"),
]


@pytest.mark.parametrize(("share", "seconds", "said"), REFUSED)
def test_a_limit_holds_on_the_form_the_api_and_in_options_sent_to_the_hub(
    hub: Hub, share: dict[str, Any], seconds: int, said: str
) -> None:
    ben = hub.login("ben")
    by_api = ben.service("POST", "reservations", json={"share": share, "time_limit_s": seconds})
    assert by_api.status_code in (400, 403, 422)
    assert said in by_api.json()["error"]["message"]
    by_form = ben.form("timeshare/start", **form_fields(share, seconds))
    assert 400 <= by_form.status_code < 500
    assert said in plain(by_form.text)
    injected = ben.start(time_limit_s=seconds, **share)
    assert 400 <= injected.status_code < 500
    assert said in injected.text
    assert ben.reservations() == []


def test_just_within_the_limits_it_starts_and_may_be_extended_within_them(hub: Hub) -> None:
    ben = hub.login("ben")
    assert ben.start(memory_gib=4, model="t4", time_limit_s=3600).status_code in (201, 202)
    eventually(ben.is_ready, 60)
    mine = eventually(lambda: next((r for r in ben.reservations() if r["state"] == "active"), None))
    assert mine is not None
    assert (mine["account"], mine["time_limit_s"]) == ("students", 3600)
    assert mine["limits_version"] == hub.service("GET", "limits/file").json()["version"]
    too_far = ben.service("POST", f"reservations/{mine['id']}/extend", json={"seconds": 7201})
    assert too_far.status_code == 409
    assert ben.service("POST", f"reservations/{mine['id']}/extend", json={"seconds": 7200}).status_code == 200


def agent_was_told(hub: Hub, reservation_id: str) -> tuple[Any, Any]:
    (path,) = Path(hub.deployment.state_dir).glob(f"**/{reservation_id}.*/order.json")
    order_ = json.loads(path.read_text())
    return order_["cpus"], order_["memory_mib"]


async def test_cores_and_memory_at_their_limits_reach_the_agent_by_form_and_by_api(hub: Hub) -> None:
    ben = hub.login("ben")
    share = {"memory_gib": 4, "model": "t4", "cpus": 1, "host_memory_gib": 1}
    assert ben.form("timeshare/start", **form_fields(share, 1800)).status_code == 302
    assert ben.start("second", memory_gib=4, model="t4", time_limit_s=1800).status_code in (201, 202)
    told = await AgentClient(Path(hub.deployment.agent_socket)).call("hello")
    held = told.get("session_bounds", [])
    for server in ("", "second"):
        eventually(lambda server=server: ben.servers().get(server, {}).get("ready"), 60)
        mine = next(r for r in ben.reservations() if r["server_name"] == server and r["state"] != "ended")
        assert (mine["cpus"], mine["host_memory_mib"]) == (1, 1024), "without asking: no more than the most"
        assert mine["cpus_enforcement"] == ("kernel" if "cpu" in held else "not enforced")
        assert mine["host_memory_enforcement"] == ("kernel" if "memory" in held else "not enforced")
        if "session_bounds" in told:
            assert agent_was_told(hub, mine["id"]) == (1, 1024)
    if "session_bounds" not in told:
        pytest.skip("what the agent does with them was not looked at: this agent bounds no session")


def test_everybody_sees_her_own_limits_and_only_operators_those_of_others(hub: Hub) -> None:
    ben, dora = hub.login("ben"), hub.login("dora")
    page = plain(ben.page("timeshare/limits").text)
    assert "as a member of students" in page
    assert "groups.students.each" in page
    assert ben.page("timeshare/admin").status_code == 403
    assert ben.service("GET", "limits?owner=ada").status_code == 403
    assert ben.service("GET", "limits/file").status_code == 403
    assert ben.service("POST", "limits/apply", json={"text": "", "base_version": "x"}).status_code == 403
    assert dora.page("timeshare/admin").status_code == 200
    assert dora.service("GET", "limits?owner=ada").json()["account"] == "cms"


def test_a_person_gets_the_place_of_over_quota_batch_which_goes_on_later(hub: Hub, tmp_path: Path) -> None:
    """Two jobs of atlas fill the big pool, whose quota is one. Ada waits; the later job gives way, is requeued, and
    finishes when she has gone. Its process is real: it counts, and writes how far it came when it is told to stop."""
    log, finish = tmp_path / "log", tmp_path / "finish"
    log.mkdir()
    program = (
        f'log={log}/$TIMESHARE_RESERVATION_ID; trap "echo told >> $log; exit 0" TERM INT; echo began >> $log\n'
        f"until test -e {finish}; do sleep 0.1; done; echo finished >> $log"
    )

    def submit(owner: str) -> dict[str, Any]:
        body = job_body(tmp_path, owner, {"gpus": 1, "model": "a100-40gb"}, program)
        (made,) = hub.service("POST", "jobs", json={**body, "time_limit_s": 600}).json()["jobs"]
        eventually(lambda: (log / made["id"]).exists(), 40)
        return dict(made)

    def now(job: dict[str, Any]) -> dict[str, Any]:
        return dict(hub.service("GET", f"reservations/{job['id']}").json())

    first, second = submit("cleo"), submit("dora")
    ada = hub.login("ada")
    fields = form_fields({"gpus": 1, "model": "a100-40gb"}, 3600)
    assert "/timeshare/wait/" in ada.form("timeshare/start", **fields).headers["Location"]
    eventually(lambda: now(second)["state"] == "queued", 40)
    assert now(second)["requeues"] == 1
    assert "made room for a person" in now(second)["detail"]
    assert (log / second["id"]).read_text() == "began\ntold\n"
    eventually(ada.is_ready, 60)
    assert (now(first)["state"], now(first)["requeues"]) == ("active", 0), "within its quota nobody is preempted"
    mine = hub.service("GET", "limits?owner=dora").json()
    assert mine["waiting"][0]["why"]
    ada.stop()
    eventually(lambda: now(second)["state"] == "active", 40)
    finish.touch()
    eventually(lambda: now(second)["state"] == "ended", 40)
    assert (log / second["id"]).read_text() == "began\ntold\nbegan\nfinished\n"
    assert now(second)["requeues"] == 1
    assert not marked(second["id"])


def test_an_exception_for_a_user_that_does_not_exist_is_refused_with_who_is_near(hub: Hub) -> None:
    body = {"name": "benn", "limits": {"gpus": 4}, "until": "2099-01-01 09:00", "why": "a talk"}
    body["until"] = time.strftime("%Y-%m-%d %H:%M", time.gmtime(time.time() + 7200))
    refused = hub.service("POST", "limits/exceptions", json=body)
    assert refused.status_code == 422
    error = refused.json()["error"]
    assert error["reason"] == "unknown-user"
    assert "neither JupyterHub nor timeshare knows such a user" in error["message"]
    assert "did you mean ben?" in error["message"]
    explained = hub.service("GET", "limits?owner=benn")
    assert explained.status_code == 422
    assert "neither JupyterHub nor timeshare knows such a user" in explained.json()["error"]["message"]
    assert "did you mean ben?" in explained.json()["error"]["message"]
    new = hub.service("POST", "limits/exceptions", json={**body, "allow_unknown": True})
    assert new.status_code == 201
    assert hub.service("GET", "limits?owner=benn").status_code == 200, "somebody with an exception is known"
    assert hub.service("GET", "limits?owner=nobody").status_code == 200, "an account of this machine may log in"
    assert new.json()["note"] == "benn is not known yet: this holds once they log in"
    known = hub.service("POST", "limits/exceptions", json={**body, "name": "cleo"})
    assert (known.status_code, known.json()["note"]) == (201, "")
    wrong = hub.service("POST", "limits/exceptions", json={**body, "scope": "group", "name": "student"}).json()["error"]
    assert "known: cms, students, atlas; did you mean students?" in wrong["message"]
    for made in (new, known):
        hub.service("POST", f"limits/exceptions/{made.json()['id']}/end", json={})
