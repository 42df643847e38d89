"""What comes in as text and numbers: one rule each, on every path; what is shown never moves a terminal's cursor."""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from services import Service, running_service

from timeshare.hub_config import command, console
from timeshare.reservations.errors import PublicError
from timeshare.reservations.limits.load import LimitsError, parse_limits
from timeshare.reservations.numeric import LARGEST, finite, whole
from timeshare.reservations.service.json_bodies import parse_json
from timeshare.reservations.shares import parse_share
from timeshare.reservations.text import LineFormatter, check_line, escaped, seen_pattern
from timeshare.spawners.options import parse_options

UNSEEN = {
    "turns the line": "fit\u202etxt.exe",
    "ends the line": "fit\nroot: granted",
    "other ends of a line": "fit\u2028fit",
    "paragraph": "fit\u2029fit",
    "next line": "fit\x85fit",
    "moves the cursor": "fit\x1b[2J",
    "8-bit escape": "fit\x9b2J",
    "no width": "fit\u200bfit",
    "joiner": "f\u200dit",
    "isolate": "\u2066fit\u2069",
    "byte order": "\ufefffit",
    "soft hyphen": "fi\u00adt",
    "tag": "fit\U000e0041",
    "private": "fit\ue000",
    "private beyond": "fit\U0010fffd",
    "nothing": "fit\x00",
    "deleted": "fit\x7f",
}
HUGE = ["1" + "0" * digits for digits in (16, 308, 309, 1000, 4299, 4300, 5000, 60000)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("input"), simulate="a100-40gb:2") as found:
        yield found


@pytest.mark.parametrize("text", UNSEEN.values(), ids=UNSEEN)
def test_text_that_cannot_be_seen_is_refused_and_written_out(text: str) -> None:
    with pytest.raises(PublicError, match=r"cannot be seen \(U\+[0-9A-F]{4,6}\)"):
        check_line("name", text)
    assert not re.match(seen_pattern(), text), "the API's description announces it"
    shown = escaped(text)
    assert shown.isprintable()
    check_line("name", shown)


@pytest.mark.parametrize("text", ["fit", "Ärger 1/2", "適合", "تناسب", "δ → ∞", "🙂 fit", "a" * 255])
def test_text_in_any_language_is_taken_as_it_is(text: str) -> None:
    assert check_line("name", text) == text == escaped(text)
    assert re.match(seen_pattern(), text)


def test_text_beyond_its_length_is_refused() -> None:
    with pytest.raises(PublicError, match="1 to 255 characters"):
        check_line("name", "a" * 10_000)


JOB = {
    "share": {"gpus": 1},
    "python": "/usr/bin/python3",
    "folder": "/home/ada/job",
    "tasks": [{"digest": "0" * 64}],
    "owner": "ada",
}
SHOWN_TO_OTHERS = [
    ("jobs", JOB, "name"),
    ("jobs", JOB, "folder"),
    ("jobs", JOB, "python"),
    ("jobs", JOB, "client_key"),
    ("jobs", JOB, "owner"),
    ("reservations", {"share": {"gpus": 1}, "owner": "ada"}, "server_name"),
    ("reservations", {"share": {"gpus": 1}, "owner": "ada"}, "client_key"),
    ("reservations", {"share": {"gpus": 1}, "owner": "ada"}, "owner"),
    (f"reservations/{uuid.uuid4()}/keep", {"key": "k", "seconds": 60, "why": "a talk"}, "why"),
    (f"reservations/{uuid.uuid4()}/keep", {"key": "k", "seconds": 60, "why": "a talk"}, "key"),
    ("limits/exceptions", {"name": "ada", "extra_gpu_hours": 1, "until": "2099-01-01 00:00", "why": "a talk"}, "why"),
    ("limits/exceptions", {"name": "ada", "extra_gpu_hours": 1, "until": "2099-01-01 00:00", "why": "a talk"}, "name"),
]


@pytest.mark.parametrize(
    ("path", "body", "field"), SHOWN_TO_OTHERS, ids=[f"{p[:12]}-{f}" for p, _, f in SHOWN_TO_OTHERS]
)
def test_every_field_of_the_api_refuses_text_that_cannot_be_seen(
    service: Service, path: str, body: dict[str, Any], field: str
) -> None:
    before = "/" if field in ("folder", "python") else ""
    for text in UNSEEN.values():
        answer = service.call("POST", path, json={**body, field: before + text})
        if answer.status_code != 404:  # of keep the session is looked for first
            assert answer.status_code == 400, answer.text
            assert field in answer.json()["error"]["message"]
        assert answer.text.isprintable()


def test_a_name_written_before_there_was_a_rule_does_not_move_a_terminals_cursor(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with console.seen_output():
        print(console.columns([("NAME", "STATE"), ("fit\x1b[2J\u202e\nroot", "active")]))
    shown = capsys.readouterr().out
    assert shown.splitlines() == ["NAME                         STATE", r"fit\x1b[2J\u202e\nroot  active"] or (
        r"fit\x1b[2J\u202e\nroot  active" in shown and len(shown.splitlines()) == 2
    )


def test_every_command_writes_through_that(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "odd\x1b]0;name\x07.yaml"
    file.write_text("{}")
    assert command.run(["limits", "check", str(file)]) == 0
    assert r"odd\x1b]0;name\x07.yaml" in capsys.readouterr().out


def test_a_message_in_a_log_is_one_line() -> None:
    record = logging.makeLogRecord({"msg": "%s asks", "args": ("ada\n2026 INFO root was here\x1b[1m",)})
    assert LineFormatter("%(message)s").format(record) == r"ada\n2026 INFO root was here\x1b[1m asks"


# --- numbers


@pytest.mark.parametrize("number", HUGE, ids=[f"{len(n)} digits" for n in HUGE])
@pytest.mark.parametrize("sign", ["", "-"])
def test_a_number_beyond_what_json_is_exact_for_is_refused_by_every_operation(
    service: Service, sign: str, number: str
) -> None:
    described = service.ask("GET", "openapi.json")
    number = sign + number
    for path, methods in described["paths"].items():
        if "post" not in methods:
            continue
        where = path.lstrip("/").replace("{id}", str(uuid.uuid4())).replace("{uuid}", "GPU-simulated-0000")
        for body in (f'{{"seconds": {number}}}', f'{{"share": {{"gpus": {number}}}}}', f'{{"a": [[{number}]]}}'):
            answer = service.call("POST", where, data=body)
            assert 400 <= answer.status_code < 500, (path, body[:40], answer.status_code, answer.text)


ENDLESS: dict[str, Any] = {
    "309 digits": 10**309,
    "below zero": -(10**309),
    "4300 digits": 10**4299,
    "5000 digits": 10**5000,
    "infinite": float("inf"),
    "no number": float("nan"),
    "true": True,
    "text": "1",
    "null": None,
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_number_without_end_is_no_number(name: str) -> None:
    number = ENDLESS[name]
    assert finite(number) is None
    assert whole(number) is None


def test_whole_numbers_are_exact() -> None:
    assert [whole(n) for n in (2.0, LARGEST, LARGEST + 1, 2.5, 1e300)] == [2, LARGEST, None, None, None]


@pytest.mark.parametrize("field", ["gpus", "memory_gib", "nodes", "compute_percent"])
def test_a_share_with_a_number_without_end_is_refused_on_the_hubs_paths_too(field: str) -> None:
    for number in (10**309, 10**5000, float("inf"), float("nan")):
        fields = {"memory_gib": 1, field: number} if field == "compute_percent" else {field: number}
        fields |= {"gpus": 1, "engine": "slurm"} if field == "nodes" else {}
        with pytest.raises(PublicError, match=field):
            parse_share(fields)
        with pytest.raises(PublicError):
            parse_options({"gpus": 1, "time_limit_s": 10**5000, "color": 10**5000})


@pytest.mark.parametrize("text", ["gpus: 1" + "0" * 400, "gpus: 1e400", "gpus: -1e400", "weights: {t4: 1e999}"])
def test_limits_with_a_number_without_end_do_not_mean_unlimited(text: str) -> None:
    key = text if text.startswith("weights") else f"defaults: {{{text}}}"
    with pytest.raises(LimitsError, match="line 1"):
        parse_limits(key)


MALFORMED = {
    "lone surrogate": rb'{"text": "\ud800"}',
    "lone surrogate in a list": rb'{"text": ["a", {"b": "\udfff"}]}',
    "surrogate as a name": rb'{"\ud800": 1}',
    "a name twice": b'{"text": "{}", "text": "{}"}',
    "a name twice inside": b'{"share": {"gpus": 1, "gpus": 2}}',
    "deep": b'{"text": ' + b"[" * 500 + b"]" * 500 + b"}",
    "deeper": b'{"text": ' + b'{"a":' * 5000,
    "infinite": b'{"text": 1e999}',
    "no number": b'{"text": NaN}',
    "not UTF-8": b'{"text": "\xff"}',
    "UTF-16": '{"text": "x"}'.encode("utf-16"),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_json_that_is_open_to_two_readings_is_refused_everywhere(service: Service, body: bytes) -> None:
    for path in ("limits/check", "limits/try", "reservations", "jobs", "jobs/estimate", "limits/exceptions"):
        answer = service.call("POST", path, data=body)
        assert answer.status_code == 400, (path, answer.text)
        assert answer.json()["error"]["reason"] == "malformed"


def test_a_surrogate_pair_is_one_character() -> None:
    assert parse_json(json.dumps({"name": "🙂"}).encode()) == {"name": "🙂"}


ODD_QUERIES = [
    *("wait_s=nan", "wait_s=1_0", "wait_s=%E2%88%9E", "wait_s=-1", "wait_s=1e", f"wait_s={'9' * 400}", "wait_s=%00"),
    *("unlike=%ED%A0%80", "unlike=", "unlike=a&unlike=b", f"unlike={'a' * 5000}", "x=1"),
]


@pytest.mark.parametrize("query", ODD_QUERIES)
def test_an_odd_query_is_refused(service: Service, query: str) -> None:
    made = service.create()
    answer = service.call("GET", f"reservations/{made['id']}?{query}")
    service.ask("POST", f"reservations/{made['id']}/end", json={})
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize(
    "query",
    [
        *("since=0001-01-01 00:00", "since=9999-12-31 23:59", "until=0001-01-01 00:00&since=9999-12-31 00:00"),
        *(f"since={'1' * 4000}", "by=owner,owner", "by=,", "owner=%00", "owner=%F0%9F%99%82", "owner=a%E2%80%AEb"),
    ],
)
def test_odd_times_and_names_never_break_the_reports(service: Service, query: str) -> None:
    for path in ("usage", "usage/engines", "limits", "offers", "reservations", "limits/audit"):
        assert service.call("GET", f"{path}?{query}").status_code < 500


def test_odd_headers_are_no_trouble(service: Service) -> None:
    for value in (
        b"Bearer " + b"a" * 513,
        b"Bearer a b",
        b"Bearer \xff",
        b"Bearer\t\x0b",
        b"Bearer admin-token\xc3\xa9",
    ):
        answer = requests.get(f"{service.url}/offers", headers={"Authorization": value}, timeout=10)
        assert answer.status_code in (400, 401), answer.text
