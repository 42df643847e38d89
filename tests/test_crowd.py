"""One person cannot crowd out the others: bounds on both sides, turns, and what is refused says what works."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import urlsplit

import pytest
import requests
import sqlalchemy as sa
from hubs import Hub, User, running_hub
from nodes import eventually
from plain_jobs import job_body
from pools import Lab
from tornado.netutil import bind_unix_socket
from tornado.web import Application
from traitlets import TraitError

from timeshare.hub_config.pressure import Turns
from timeshare.notebooks.transport import ask
from timeshare.reservations.errors import PublicError
from timeshare.reservations.job import JobSpec
from timeshare.reservations.kind import Kind
from timeshare.reservations.limits.checks import part_of_queue
from timeshare.reservations.reservation import Reason, State
from timeshare.reservations.service.auth import Caller
from timeshare.reservations.service.base import Base, CountedTokens
from timeshare.reservations.service.bells import Bells
from timeshare.reservations.service.bounds import (
    CONFIG_FILE,
    SPARE_FILES,
    BoundsError,
    ServiceBounds,
    raise_file_limit,
    read_bounds,
)
from timeshare.reservations.service.crowd import Crowd
from timeshare.reservations.service.fair_thread import LANE, FairThread
from timeshare.reservations.service.forgetting import MOST_CALLERS
from timeshare.reservations.service.listening import Measured, make_server
from timeshare.reservations.service.remembered import Remembered
from timeshare.reservations.shares import parse_share
from timeshare.reservations.sockets import socket_path, unix_url
from timeshare.reservations.submission import Submission

GUIDE = Path(__file__).parent.parent / "docs" / "admin_guide.md"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def bounds(**said: Any) -> ServiceBounds:
    made = ServiceBounds()
    for name, value in said.items():
        setattr(made, name, value)
    return made


def refusal(act: Any) -> PublicError:
    with pytest.raises(PublicError) as caught:
        act()
    assert caught.value.status == 429
    assert caught.value.details["retry_after_s"] >= 1
    return caught.value


# --- one bound each, on both sides of it


@pytest.mark.parametrize(
    ("admit", "said", "burst"),
    [
        ("admit", {"requests_per_s": 2.0, "requests_burst": 5}, 5),
        ("admit_submission", {"submissions_per_minute": 120.0, "submissions_burst": 5}, 5),
        ("admit_report", {"reports_per_s": 2.0}, 40),
        ("admit_unknown", {"unknown_tokens_per_s": 2.0}, 10),
    ],
)
def test_a_burst_is_let_through_and_then_the_rate(clock: Clock, admit: str, said: dict[str, Any], burst: int) -> None:
    crowd = Crowd(bounds(**said), clock)
    take = getattr(crowd, admit)
    for _ in range(burst):
        take("ada")
    assert "the limit is 2" in refusal(lambda: take("ada")).message or admit == "admit_submission"
    take("ben")  # of another one nothing is counted
    clock.now += 0.5
    take("ada")
    refusal(lambda: take("ada"))


def test_unknown_tokens_of_many_addresses_together_are_bounded_too(clock: Clock) -> None:
    crowd = Crowd(bounds(unknown_tokens_per_s=2.0), clock)
    for number in range(50):
        crowd.admit_unknown(f"10.0.0.{number}")
    refusal(lambda: crowd.admit_unknown("10.0.1.1"))
    for number in range(50):  # what strangers send keeps no account's new session from being known
        crowd.admit_unknown(f"account {number}")
    for _ in range(9):
        crowd.admit_unknown("account 7")
    refusal(lambda: crowd.admit_unknown("account 7"))


def test_a_job_agent_holds_what_it_needs_and_no_more(clock: Clock) -> None:
    """With 40 each the keys of fifty jobs had the places of everybody."""
    crowd = Crowd(bounds(), clock)
    with crowd.waiting("jobagent:1"), crowd.waiting("jobagent:1"):
        refusal(lambda: crowd.waiting("jobagent:1").__enter__())
        assert crowd.held("polls") == 2


@pytest.mark.parametrize(
    ("hold", "each", "most"),
    [("polling", "polls_each", "polls"), ("streaming", "streams_each", "streams"), ("working", "requests_at_once", "")],
)
def test_what_is_held_is_counted_for_each_and_for_all(clock: Clock, hold: str, each: str, most: str) -> None:
    crowd = Crowd(bounds(**{each: 2}, **({most: 3} if most else {})), clock)
    with contextlib.ExitStack() as held:
        enter = lambda who: held.enter_context(getattr(crowd, hold)(who))  # noqa: E731
        enter("ada")
        enter("ada")
        assert "the limit is 2" in refusal(lambda: enter("ada")).message
        enter("ben")
        if most:
            assert "all together have 3" in refusal(lambda: enter("cleo")).message
            refusal(lambda: enter(""))  # timeshare's own too
    with getattr(crowd, hold)("ada"):
        assert sum(crowd.held(kind) for kind in ("polls", "streams", "requests")) == 1
    assert sum(crowd.held(kind) for kind in ("polls", "streams", "requests")) == 0


def test_callers_are_forgotten_so_that_counting_them_takes_no_memory_without_end(clock: Clock) -> None:
    crowd = Crowd(ServiceBounds(), clock)
    for number in range(3 * MOST_CALLERS):
        crowd.admit(f"u{number}")
    assert len(crowd._buckets) <= MOST_CALLERS


def test_bounds_are_read_from_the_state_folder_and_a_mistake_is_told(tmp_path: Path) -> None:
    assert read_bounds(None).streams_each == read_bounds(tmp_path).streams_each == 20
    file = tmp_path / CONFIG_FILE
    file.write_text("c.ServiceBounds.streams_each = 7\n")
    assert read_bounds(tmp_path).streams_each == 7
    for wrong, said in (
        ("c.ServiceBounds.stream = 7", "there is no 'stream'; known in c.ServiceBounds are"),
        ("c.Service.streams_each = 7", "there is no 'Service'"),
        ("c.ServiceBounds.streams_each = 0", "streams_each"),
        ("c.ServiceBounds.streams_each = 'x'", "streams_each"),
        ("c.ServiceBounds.streams_each =", "invalid syntax"),
    ):
        file.write_text(wrong)
        with pytest.raises(BoundsError, match=said):
            read_bounds(tmp_path)


def test_every_bound_says_default_example_and_is_in_the_guide() -> None:
    guide = GUIDE.read_text().partition("key of `ServiceBounds`")[2]
    for name, trait in ServiceBounds.class_traits(config=True).items():
        assert "Default" in trait.help, name
        assert "Example" in trait.help, name
        assert f"`{name}`" in guide, name
        assert f" {trait.default_value:g} " in guide[guide.index(f"`{name}`") :].split("\n", 1)[0], name
        with pytest.raises(TraitError):
            setattr(ServiceBounds(), name, 0)


def test_open_files_are_raised_to_what_the_machine_allows_and_bound_the_connections(
    caplog: pytest.LogCaptureFixture,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(300, hard), hard))
        assert raise_file_limit(20) == 20
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        if hard != resource.RLIM_INFINITY:
            assert raise_file_limit(10 * hard) == hard - SPARE_FILES
            assert "LimitNOFILE" in caplog.text
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- turns


async def test_who_asks_for_much_waits_behind_itself_and_nobody_behind_it() -> None:
    thread, go, order = FairThread("test"), threading.Event(), list[str]()

    async def ask(lane: str, count: int) -> None:
        LANE.set(lane)
        await asyncio.gather(*(thread.run(lambda: order.append(lane)) for _ in range(count)))

    blocked = asyncio.create_task(thread.run(go.wait))
    await asyncio.sleep(0)
    many = asyncio.create_task(ask("ada", 100))
    await asyncio.sleep(0.05)
    few = [asyncio.create_task(ask(lane, 2)) for lane in ("ben", "cleo")]
    await asyncio.sleep(0.05)
    go.set()
    await asyncio.gather(blocked, many, *few)
    thread.stop()
    assert sorted(order[:3]) == ["ada", "ben", "cleo"]
    assert sorted(order[3:6]) == ["ada", "ben", "cleo"]
    assert order[6:] == ["ada"] * 98


async def test_requests_at_the_hub_begin_in_turn_and_one_that_waits_for_something_holds_up_nobody() -> None:
    turns, order, done = Turns(1, longest_s=60), list[str](), list[Any]()

    async def ask(who: str) -> None:
        done.append(await turns.turn(who))
        order.append(who)

    tasks = [asyncio.create_task(ask(who)) for who in ("ada", "ada", "ada", "ada", "ben", "cleo", "ben")]
    await asyncio.sleep(0)
    assert turns.waiting("ada") == 3
    while len(done) < len(tasks):
        over = done[-1]
        over()
        over()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert order == ["ada", "ada", "ben", "cleo", "ada", "ben", "ada"]

    patient = Turns(1, longest_s=0.01)
    await patient.turn("ada")
    await asyncio.wait_for(patient.turn("ben"), 60)


async def test_an_error_in_the_thread_is_its_callers_alone() -> None:
    thread = FairThread("test")

    def fails() -> None:
        raise PublicError("odd", "odd", 409)

    with pytest.raises(PublicError, match="odd"):
        await thread.run(fails)
    assert await thread.run(lambda: 7) == 7
    thread.stop()


async def test_only_those_are_woken_who_wait_for_what_changed() -> None:
    bells = Bells()
    with bells.listening("a"), bells.listening("b"):
        a, b = bells.next("a"), bells.next("b")
        bells.ring("a")
        assert (a.is_set(), b.is_set()) == (True, False)
    assert not bells._bells, "who has gone leaves nothing behind"


# --- the queue


def test_there_is_always_a_place_for_somebody_who_comes_later(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"requests_waiting": 16, "defaults": {"sessions": {"at_once": 100}}}, "t4")
    lab.ask("holder")

    def fills(person: str) -> int:
        """How many of hers got a place."""
        for number in range(100):
            try:
                lab.ask(person)
            except PublicError as error:
                assert (error.status, error.reason) == (429, "queue-part")
                assert "half of the places that others leave" in error.message
                return number
        raise AssertionError("there was no end")

    assert {person: fills(person) for person in ("ada", "ben", "cleo", "dora")} == {
        "ada": 8,
        "ben": 4,
        "cleo": 2,
        "dora": 1,
    }
    lab.ask("eve")
    with pytest.raises(PublicError, match="16 requests are waiting and the limit is 16"):
        lab.ask("finn")


def test_a_sweep_that_finds_no_room_is_refused_by_its_first_point(tmp_path: Path) -> None:
    lab = Lab(tmp_path, {"requests_waiting": 16}, "t4")
    spec = JobSpec("fit", "/python", "/job", "0" * 64, array="a", of=9)
    wish = Submission("ada", parse_share({"gpus": 1}), 600, Kind.BATCH, job=spec)
    with pytest.raises(PublicError, match="this asks for 9; the limit is 8"):
        lab.pool.submit(wish)
    lab.pool.submit(replace(wish, job=replace(spec, of=8)))


def test_a_part_of_the_queue_is_at_least_one_place() -> None:
    assert [part_of_queue(16, taken) for taken in (0, 8, 14, 15, 16)] == [8, 4, 1, 1, 1]


def test_what_is_read_from_the_ledger_of_a_list_is_what_has_ended(tmp_path: Path) -> None:
    """Five hundred of somebody who waits with a sweep took 45 ms of the pool's thread, and everybody waited for it."""
    lab = Lab(tmp_path, {"defaults": {"sessions": {"at_once": 100}}}, "t4")
    names = [lab.ask(person).id for _ in range(4) for person in ("ada", "ben")]
    for name in (names[0], names[4], names[1]):
        lab.pool.end(name, Reason.CANCELLED, "")
    hers = names[::2]
    everything = [one.id for one in lab.ledger.find("ada", (), 10)]
    assert everything == hers[::-1]
    for limit in (1, 2, 3, 4, 10):
        assert [one.id for one in lab.pool.find("ada", (), limit)] == everything[:limit]
    assert [one.id for one in lab.pool.find("ada", (State.ENDED,), 10)] == [hers[2], hers[0]]
    questions: list[Any] = []
    listening = (sa.Engine, "before_cursor_execute", lambda *asked: questions.append(asked[3]))
    sa.event.listen(*listening)
    lab.pool.find("ada", (), 10)
    sa.event.remove(*listening)
    assert all(State.ENDED.value in question for question in questions if "ada" in question)


# --- on a real hub


LOW = """
c.ServiceBounds.requests_per_s = 5.0
c.ServiceBounds.requests_burst = 60
c.ServiceBounds.submissions_per_minute = 6.0
c.ServiceBounds.submissions_burst = 5
c.ServiceBounds.streams_each = 3
c.ServiceBounds.polls_each = 4
c.ServiceBounds.unknown_tokens_per_s = 2.0
c.ServiceBounds.connections = 100
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("crowd")
    (folder / CONFIG_FILE).write_text(LOW)
    with running_hub(folder, "--simulate", "t4:1") as found:
        # It holds the only GPU, so everybody else waits.
        job = job_body(folder, "eve", {"gpus": 1})
        eventually(lambda: found.service("POST", "jobs", json={**job, "client_key": "k"}).ok)
        yield found


def too_many(answer: requests.Response) -> str:
    assert answer.status_code == 429, (answer.status_code, answer.text)
    assert int(answer.headers["Retry-After"]) >= 1
    message = str(answer.json()["error"]["message"])
    assert "the limit is" in message
    return message


def waiting(user: User) -> str:
    eventually(lambda: user.service("GET", "limits").ok, 30)  # a new token is one that was never good before
    made = user.service("POST", "reservations", json={"share": {"gpus": 1}, "server_name": f"of-{user.name}"})
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


@pytest.mark.hub
def test_streams_and_held_requests_of_one_are_refused_beyond_the_bound_and_come_back_with_a_close(hub: Hub) -> None:
    ada, ben = hub.login("ada"), hub.login("ben")
    ids = {ada: waiting(ada), ben: waiting(ben)}

    def stream(user: User) -> requests.Response:
        return user.service("GET", f"reservations/{ids[user]}/events", stream=True)

    streams = [stream(ada) for _ in range(3)]
    assert all(one.status_code == 200 for one in streams)
    assert "you have 3 event streams" in too_many(stream(ada))
    theirs = stream(ben)
    assert next(theirs.iter_lines(chunk_size=1)).startswith(b"event")
    streams.pop().close()
    streams.append(eventually(lambda: (one := stream(ada)).status_code == 200 and one))

    path = f"reservations/{ids[ada]}?unlike=queued&wait_s=20"
    held: list[threading.Thread] = []

    def hold() -> None:
        while ada.service("GET", path).status_code == 429:  # the fifth came before
            pass

    for _ in range(4):
        held.append(threading.Thread(target=hold))
        held[-1].start()

    def fifth() -> list[requests.Response]:  # a refused answer alone would be false
        answer = ada.service("GET", path.replace("wait_s=20", "wait_s=0.1"))
        return [answer] if answer.status_code == 429 else []

    assert "you have 4 requests that wait for a change" in too_many(eventually(fifth)[0])
    assert ben.service("GET", f"reservations/{ids[ben]}?unlike=queued&wait_s=0.1").status_code == 200
    for user in (ada, ben):
        user.service("POST", f"reservations/{ids[user]}/end", json={})
    for thread in held:
        thread.join()
    for one in (*streams, theirs):
        one.close()


@pytest.mark.hub
def test_the_hubs_own_pages_hold_no_more_streams_of_one(hub: Hub) -> None:
    ada = hub.login("ada")
    name = waiting(ada)
    page = f"{hub.url}hub/timeshare/reservations/{name}/events"
    streams = [ada.session.get(page, stream=True) for _ in range(3)]
    assert [one.status_code for one in streams] == [200] * 3
    refused = ada.session.get(page)
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "5")
    for one in streams:
        one.close()
    assert eventually(lambda: (one := ada.session.get(page, stream=True)).status_code == 200 and one)
    ada.service("POST", f"reservations/{name}/end", json={})


@pytest.mark.hub
def test_a_flood_of_one_is_refused_while_another_one_is_served(hub: Hub) -> None:
    cleo, ben = hub.login("cleo"), hub.login("ben")
    answers = [cleo.service("GET", "reservations") for _ in range(120)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert "you sent too many requests a second and the limit is 5" in too_many(refused[-1])
    assert ben.service("GET", "reservations").status_code == 200
    made = [ben.service("POST", "reservations", json={"share": {"gpus": 40}}) for _ in range(12)]
    assert "submit many points as one sweep" in too_many(made[-1])
    eventually(lambda: cleo.service("GET", "reservations").status_code == 200, 30)


@pytest.mark.hub
def test_who_was_told_to_wait_is_refused_by_the_proxy_and_nobody_else(hub: Hub) -> None:
    """The service's own refusals have its header; 200 of them a second were a tenth of its time."""
    dora, ben = hub.login("dora"), hub.login("ben")
    name = waiting(dora)
    streams = [dora.service("GET", f"reservations/{name}/events", stream=True) for _ in range(4)]
    assert [one.status_code for one in streams] == [200, 200, 200, 429]
    assert dora.service("GET", "limits").status_code == 200, "what one bound refused holds for nothing else"
    for one in streams:
        one.close()
    answers = [dora.service("GET", "limits") for _ in range(200)]
    refused = [answer for answer in answers if answer.status_code == 429]
    by_service = sum("Timeshare-Refuses-All" in answer.headers for answer in refused)
    assert 1 <= by_service < len(refused) / 2
    assert all("you sent too many requests a second and the limit is 5" in too_many(answer) for answer in refused)
    assert ben.service("GET", "limits").status_code == 200
    assert dora.page("home").status_code == 200, "her login to the pages was told nothing"
    eventually(lambda: dora.service("GET", "limits").status_code == 200, 30)
    eventually(lambda: dora.service("POST", f"reservations/{name}/end", json={}).ok, 30)


@pytest.mark.hub
def test_a_flood_of_one_at_the_hub_is_refused_while_another_one_is_served(hub: Hub) -> None:
    cleo, ben = hub.login("cleo"), hub.login("ben")
    for page in (f"{hub.url}hub/home", f"{hub.url}hub/api/user"):
        answers = [cleo.session.get(page) for _ in range(400)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert int(refused[-1].headers["Retry-After"]) >= 1
        assert "you sent too many requests a second and the limit is 5" in refused[-1].json()["message"]
        assert ben.session.get(page).status_code == 200
    eventually(lambda: cleo.session.get(f"{hub.url}hub/home").status_code == 200, 30)


@pytest.mark.hub
def test_unknown_tokens_are_bounded_and_known_ones_go_on(hub: Hub) -> None:
    ben = hub.login("ben")
    eventually(lambda: ben.service("GET", "limits").status_code == 200, 30)
    url = f"{hub.url}services/timeshare/api/v1/reservations"

    def ask(number: int) -> int:
        headers = {"Authorization": f"Bearer nobodys-{number}", "X-Forwarded-For": f"10.1.1.{number}"}
        return requests.get(url, headers=headers, timeout=60).status_code

    with ThreadPoolExecutor(60) as together:  # one after the other would be slower than the bound on a busy machine
        codes = set(together.map(ask, range(60)))
    assert codes <= {401, 429}
    assert 429 in codes, "the address is the proxy's word, not the caller's"
    assert ben.service("GET", "limits").status_code == 200


@pytest.mark.hub
def test_connections_to_the_hubs_socket_are_bounded_and_others_are_served(hub: Hub) -> None:
    ada, pid, path = hub.login("ada"), hub.components()["hub"], socket_path(hub.deployment.hub_url)
    assert path is not None
    before = len(os.listdir(f"/proc/{pid}/fd"))
    with contextlib.ExitStack() as held:
        for _ in range(300):
            one = held.enter_context(socket.socket(socket.AF_UNIX))
            one.connect(path)
            one.sendall(b"GET /hub/health HTTP/1.1\r\n")
        assert ada.session.get(f"{hub.url}hub/home").status_code == 200
        eventually(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= before + 110)


async def test_of_connections_that_are_gone_nothing_is_kept(tmp_path: Path) -> None:
    server = make_server(Application([]), ServiceBounds(), 20)
    server.add_socket(bind_unix_socket(str(tmp_path / "s")))
    waiting = cast(Measured, server.request_callback).waiting
    for _ in range(3):
        with contextlib.ExitStack() as held:
            for _ in range(90):  # more than there is room for, all at once
                one = held.enter_context(socket.socket(socket.AF_UNIX))
                one.connect(str(tmp_path / "s"))
                one.sendall(b"GET / HTTP/1.1\r\n")
            while len(server._connections) < 20 or len(waiting) > 20:
                await asyncio.sleep(0.01)
            assert len(server._connections) <= 20
        while waiting:
            await asyncio.sleep(0.01)
    server.stop()


@pytest.mark.hub
def test_the_hub_reads_no_endless_body_of_whoever_reaches_its_socket(hub: Hub) -> None:
    path = socket_path(hub.deployment.hub_url)
    with socket.socket(socket.AF_UNIX) as there:
        there.settimeout(60)
        there.connect(str(path))
        there.sendall(b"POST /hub/login HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n")
        assert there.recv(1000).startswith((b"HTTP/1.1 400", b"HTTP/1.1 413"))


async def test_what_is_worked_on_for_somebody_who_has_gone_counts_until_it_is_done(tmp_path: Path) -> None:
    """Who closed at once had as much waiting as the rate allows, beyond the bound on requests at once."""
    crowd, begun, counted = Crowd(ServiceBounds()), asyncio.Event(), list[int]()

    class Work(Base):
        async def prepare(self) -> None:
            self._working.enter_context(self.context.crowd.working("person:ada"))

        async def get(self) -> None:
            begun.set()
            while not self.closed:
                await asyncio.sleep(0.01)
            counted.append(crowd.held("requests"))
            self.answer({})

    app = Application([(".*", Work, {"context": SimpleNamespace(crowd=crowd, runtime=None)})])
    server = make_server(app, ServiceBounds(), 9)
    server.add_socket(bind_unix_socket(str(tmp_path / "s")))
    with socket.socket(socket.AF_UNIX) as there:
        there.connect(str(tmp_path / "s"))
        there.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await asyncio.wait_for(begun.wait(), 30)
    while not counted or crowd.held("requests"):
        await asyncio.sleep(0.01)
    server.stop()
    assert counted == [1]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it connects as another account")
async def test_another_account_on_the_socket_is_counted_by_itself_whatever_address_it_writes() -> None:
    class Who(Base):
        public = True

        async def get(self) -> None:
            self.answer({"address": self.address})

    app = Application([(".*", Who, {"context": SimpleNamespace(runtime=None)})])
    ask = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
    ask += "s.sendall(b'GET / HTTP/1.0\\r\\nX-Forwarded-For: 10.0.0.1, 10.0.0.2\\r\\n\\r\\n'); print(s.recv(9999))"
    with tempfile.TemporaryDirectory(prefix="ts-") as folder:
        os.chmod(folder, 0o711)
        server = make_server(app, ServiceBounds(), 100)
        server.add_socket(bind_unix_socket(f"{folder}/s", 0o666))
        words = ("/usr/bin/env", "python3", "-I", "-c", ask, f"{folder}/s")
        told = []
        for uid in (65534, os.geteuid()):
            asked = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE, user=uid, cwd="/")
            told.append((await asked.communicate())[0].decode())
        server.stop()
    assert '"address": "account 65534"' in told[0]
    assert '"address": "10.0.0.2"' in told[1], "our own proxy says where it came from"


def test_who_comes_while_many_wait_at_the_proxy_is_kept_in_line(hub: Hub) -> None:
    """Node made the line 511 long. The kernel then drops who comes, and her machine tries again after 1, 3, 7, 15 s."""
    address, proxy = urlsplit(hub.url), hub.components()["proxy"]
    os.kill(proxy, signal.SIGSTOP)
    try:
        with contextlib.ExitStack() as opened:
            for _ in range(700):  # the 513th had to wait
                one = socket.create_connection((address.hostname, address.port or 80), timeout=0.9)
                opened.enter_context(contextlib.closing(one))
    finally:
        os.kill(proxy, signal.SIGCONT)
    eventually(hub.is_healthy, 60)


@pytest.mark.hub
def test_what_the_service_would_refuse_anyhow_is_refused_before_it(hub: Hub) -> None:
    dora, ben = hub.login("dora"), hub.login("ben")
    most = read_bounds(hub.state_dir).open_each
    address = urlsplit(hub.url)
    words = f"POST /services/timeshare/api/v1/reservations HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 2\r\n"
    asked = f"{words}Authorization: Bearer {dora.token}\r\n\r\n".encode()
    with contextlib.ExitStack() as opened:
        kept = []
        for _ in range(most):  # their bodies never come
            one = socket.create_connection((address.hostname, address.port or 80), timeout=30)
            kept.append(opened.enter_context(contextlib.closing(one)))
            one.sendall(asked)
        message = eventually(lambda: (one := dora.service("GET", "limits")).status_code == 429 and too_many(one))
        assert f"you have {most} requests that are not answered yet" in message
        assert ben.service("GET", "limits").status_code == 200
        for page in (dora, ben):  # what she logs in to the pages with is another thing
            assert page.page("home").status_code == 200
    assert eventually(lambda: dora.service("GET", "limits").status_code == 200, 30)


@pytest.mark.hub
def test_the_proxy_closes_its_connections_itself(hub: Hub) -> None:
    """Who is told to close may have answered and gone while the proxy still ends the request: EPIPE, and 503."""
    heads: list[bytes] = []

    def serve() -> None:
        with contextlib.closing(listening.accept()[0]) as taken:
            heads.append(taken.recv(65536))
            taken.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            heads.append(taken.recv(65536))  # empty: closed there

    path = Path("/tmp") / f"timeshare-probe-{os.getpid()}.sock"
    headers = {"Authorization": f"token {hub.deployment.proxy_token}"}
    route = f"{hub.deployment.proxy_api_url}/api/routes/probe"
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listening:
        listening.bind(str(path))
        listening.listen()
        server = threading.Thread(target=serve)
        server.start()
        try:
            with contextlib.suppress(ValueError):  # it answers with nothing
                ask(route, "POST", headers, {"target": unix_url(path)})
            answer = requests.get(f"{hub.url}probe", headers={"Connection": "close"}, timeout=30)
            server.join(30)
        finally:
            with contextlib.suppress(ValueError):
                ask(route, "DELETE", headers)
            path.unlink()
    assert answer.text == "hi"
    assert b"connection: close" not in heads[0].lower()
    assert heads[1:] == [b""]


@pytest.mark.hub
def test_thousands_of_connections_and_streams_leave_descriptors_bounded(hub: Hub) -> None:
    pid = hub.components()["service"]
    soft, hard = next(
        line.split()[3:5] for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "open files" in line
    )
    assert soft == hard, "the service raises its limit itself"
    dora = hub.login("dora")
    name = waiting(dora)
    before = len(os.listdir(f"/proc/{pid}/fd"))
    open_ones = [dora.service("GET", f"reservations/{name}/events", stream=True) for _ in range(40)]
    assert sum(one.status_code == 200 for one in open_ones) == 3
    for one in open_ones:
        one.close()
    eventually(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= before + 10, 30)
    eventually(lambda: dora.service("POST", f"reservations/{name}/end", json={}).ok, 30)


async def test_what_costs_much_is_worked_out_once_while_nothing_changes_and_rarely_for_one_who_asks_all_the_time(
    clock: Clock,
) -> None:
    remembered, made = Remembered(clock), Counter[str]()

    async def ask(owner: str, version: int, *, counted: bool) -> None:
        async def make() -> dict[str, Any]:
            made[owner] += 1
            return {"for": owner, "at": version}

        assert (await remembered.get("offers", owner, version, make, counted=counted))["for"] == owner

    for _ in range(50):
        await ask("ada", 1, counted=True)
        await ask("ben", 1, counted=True)
    assert made == {"ada": 1, "ben": 1}
    for version in range(2, 42):
        clock.now += 0.01
        await ask("ada", version, counted=True)
    assert made["ada"] == 2
    await ask("cleo", 60, counted=False)
    await ask("cleo", 61, counted=False)
    assert made["cleo"] == 2, "the hub sees each change at once"


class SlowTokens:
    """Answers as JupyterHub would, when it is let."""

    def __init__(self) -> None:
        self.asked, self.go = Counter[str](), asyncio.Event()

    async def caller(self, token: str) -> Caller | None:
        self.asked[token] += 1
        await self.go.wait()
        return Caller(token) if token != "nobodys" else None


async def test_a_thousand_requests_with_one_token_are_one_question_to_the_hub() -> None:
    tokens = SlowTokens()
    context: Any = SimpleNamespace(tokens=tokens, crowd=Crowd(ServiceBounds()), asking={}, good_tokens={})
    checks = [asyncio.create_task(CountedTokens(context, "").caller("ada")) for _ in range(90)]
    checks.append(asyncio.create_task(CountedTokens(context, "").caller("ben")))
    await asyncio.sleep(0.01)
    assert tokens.asked == {"ada": 1, "ben": 1}
    tokens.go.set()
    assert {caller.name for caller in await asyncio.gather(*checks) if caller} == {"ada", "ben"}
    assert await CountedTokens(context, "").caller("nobodys") is None
    assert len(context.good_tokens) == 2
    assert not context.asking
