"""The address of a web server in front, whose word it is taken for, and ports that are taken."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import pytest
from databases import free_port

from timeshare.hub_config import proxy
from timeshare.hub_config.command import parser
from timeshare.hub_config.front import FrontError, believed, front_of, secured
from timeshare.hub_config.run import ports, prepare
from timeshare.hub_config.run.held import HeldSockets
from timeshare.hub_config.run.prepare import Settled, build, listen_in_public
from timeshare.notebooks.server.extension import keep_xsrf_encrypted
from timeshare.reservations.deployment import Deployment, load_deployment


def made(folder: Path, *words: str) -> Deployment:
    return build(folder, parser().parse_args(["up", *words]), Settled("", "", folder / "run", 800), None)


@pytest.mark.parametrize(
    ("public_url", "base_url", "base", "front"),
    [
        ("", None, "/", ""),
        ("", "gpu", "/gpu/", ""),
        ("https://hub.lab.example", None, "/", "https://hub.lab.example/"),
        ("https://hub.lab.example/gpu", None, "/gpu/", "https://hub.lab.example/gpu/"),
        ("https://hub.lab.example:8443/a/b/", "/a/b", "/a/b/", "https://hub.lab.example:8443/a/b/"),
        ("http://[::1]:81/", "/", "/", "http://[::1]:81/"),
    ],
)
def test_the_base_url_is_the_path_of_the_public_one(
    public_url: str, base_url: str | None, base: str, front: str
) -> None:
    assert front_of(public_url, base_url) == (base, front)


@pytest.mark.parametrize(
    "wrong",
    [
        *("hub.lab.example", "ftp://hub.lab.example/", "https:///gpu/", "https://ada@hub/", "https://hub/?a=b"),
        *("https://hub/#x", "https://hub:port/", "https://hub/a b", "https://hub/\n", "https://hub/%2e"),
        *("https://hub/a/../b", "https://hub/a//b", "https://hub/.", "https://hub:99999/x", "https://hub:0/"),
    ],
)
def test_what_nobody_can_open_is_no_public_url(wrong: str) -> None:
    with pytest.raises(FrontError, match="must be what people open in the browser"):
        front_of(wrong, None)


def test_two_paths_that_differ_are_refused_with_both() -> None:
    with pytest.raises(FrontError, match=r"--base-url is /a/ and --public-url ends in /b/"):
        front_of("https://hub/b/", "/a")


def test_everything_that_leaves_the_machine_names_the_public_url(tmp_path: Path) -> None:
    found = made(tmp_path, "--public-url", "https://hub.lab.example/gpu/")
    assert found.public_url == "http://127.0.0.1:800/gpu/"
    assert found.address == "https://hub.lab.example/gpu/"
    assert found.public_service_url == "https://hub.lab.example/gpu/services/timeshare"
    assert found.public_hub_api_url == "https://hub.lab.example/gpu/hub/api"
    found.save()
    assert load_deployment(found.path) == found


def test_hosts_of_people_are_below_the_public_one(tmp_path: Path) -> None:
    named = made(tmp_path, "--public-url", "https://hub.lab.example/gpu/", "--subdomains", "hub.lab.example")
    assert named.subdomain_host == "https://hub.lab.example"
    assert named.address == "https://hub.lab.example/gpu/"
    with pytest.raises(FrontError, match="same scheme, host and port"):
        made(tmp_path, "--public-url", "https://hub.lab.example/", "--subdomains", "https://other.example")


@pytest.mark.parametrize(
    ("words", "secure"),
    [
        ((), False),
        (("--public-url", "http://hub.lab.example/"), False),
        (("--public-url", "https://hub.lab.example/"), True),
        (("--subdomains", "https://hub.lab.example"), True),
    ],
)
def test_cookies_go_by_tls_alone_where_people_come_by_it(tmp_path: Path, words: tuple[str, ...], secure: bool) -> None:
    expected = {"httponly": True, "secure": True} if secure else {"httponly": True}
    assert secured({"httponly": True}, made(tmp_path, *words)) == expected


def test_so_does_the_token_of_forms_of_a_persons_server() -> None:
    settings = {"xsrf_cookie_kwargs": {"path": "/user/ada/"}}
    keep_xsrf_encrypted(settings, "")
    keep_xsrf_encrypted(settings, "{}")
    assert settings == {"xsrf_cookie_kwargs": {"path": "/user/ada/"}}
    keep_xsrf_encrypted(settings, '{"secure": true}')
    assert settings == {"xsrf_cookie_kwargs": {"path": "/user/ada/", "secure": True}}


@pytest.mark.parametrize(
    ("named", "ip", "found"),
    [
        (None, "127.0.0.1", ("127.0.0.1", "::1")),
        (None, "::1", ("127.0.0.1", "::1")),
        (None, "localhost", ("127.0.0.1", "::1")),
        (None, "0.0.0.0", ()),
        (None, "10.0.0.5", ()),
        ("", "127.0.0.1", ()),
        ("10.0.0.7, 2001:DB8:0::7", "0.0.0.0", ("10.0.0.7", "2001:db8::7")),
        ("::ffff:10.0.0.7", "0.0.0.0", ("10.0.0.7",)),
    ],
)
def test_whose_word_is_taken(tmp_path: Path, named: str | None, ip: str, found: tuple[str, ...]) -> None:
    assert believed(named, ip) == found
    words = ["--ip", ip] + ([] if named is None else ["--web-server", named])
    assert proxy.command(made(tmp_path, *words))[6] == ",".join(found)


def test_a_web_server_is_named_by_its_address() -> None:
    with pytest.raises(FrontError, match=r"'front.lab.example'.*such as 10\.0\.0\.7"):
        believed("front.lab.example", "0.0.0.0")


# --- ports


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports.listen, "__defaults__", (0.1,))


def chosen(*words: str) -> int:
    with contextlib.closing(HeldSockets()) as held:
        return listen_in_public(parser().parse_args(["up", *words]), None, held)


def test_with_a_web_server_in_front_no_other_port_is_taken_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """It leads to the usual one, and people were told 502."""
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(prepare, "DEFAULT_PORT", port)
        with pytest.raises(ports.PortError, match=f"port {port} of 127.0.0.1 is held by process {os.getpid()} "):
            chosen("--public-url", "https://hub.lab.example/")
        assert chosen() != port


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("::", "127.0.0.1"),
        ("::1", "::"),
    ],
)
def test_whoever_is_in_the_way_is_named(theirs: str, ours: str) -> None:
    family = socket.AF_INET6 if ":" in theirs else socket.AF_INET
    dual = theirs == "::"
    with socket.create_server((theirs, free_port()), family=family, dualstack_ipv6=dual) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ports.PortError, match=f"port {port} of {ours} is held by process {os.getpid()} "):
            chosen("--ip", ours, "--port", str(port))


def test_who_listens_at_another_address_is_not_named() -> None:
    with socket.create_server(("127.0.0.2", free_port())) as other:
        port = other.getsockname()[1]
        assert chosen("--port", str(port)) == port
        assert ports.holder("127.0.0.1", port) == "another process"
        assert f"process {os.getpid()} " in ports.holder("127.0.0.2", port)


def test_a_holder_that_ends_while_it_is_looked_at_is_not_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        monkeypatch.setattr(ports, "_process_with", lambda inode: 2**22 + 1)  # beyond the last there can be
        assert ports.holder("127.0.0.1", taken.getsockname()[1]).startswith("a process of ")


def test_a_port_that_the_socket_unit_does_not_hold_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as unit:
        port = unit.getsockname()[1]
        assert ports.handed_on(unit, None) == ports.handed_on(unit, 0) == ports.handed_on(unit, port) == port
        with pytest.raises(ports.PortError, match=f"--port is 1, and the socket unit listens on port {port}"):
            ports.handed_on(unit, 1)
    with socket.socket(socket.AF_UNIX) as unit, pytest.raises(ports.PortError, match="hands on no port"):
        ports.handed_on(unit, None)
