"""Real web servers in front of a hub: nginx, Apache and Caddy with the configurations that come along, in which names,
ports and certificate are replaced, each unprivileged, in a folder and on ports of its own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import requests
from databases import as_account, free_port
from hubs import ROOT, Hub
from nodes import eventually

CONFIGURATIONS = ROOT / "hub_config" / "web_servers"
NAME = "hub.lab.example"
CERTIFICATE, KEY = f"/etc/ssl/certs/{NAME}.pem", f"/etc/ssl/private/{NAME}.key"
ACCOUNT = "nobody"
MODULES = Path("/usr/lib/apache2/modules")
END_S = 20


@dataclass(frozen=True)
class Place:
    """Where a server listens, for whom, and where it keeps its files. ``behind``: the port of timeshare."""

    folder: Path
    behind: int
    base: str = "/"
    port: int = field(default_factory=free_port)
    plain_port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}{self.base}"

    @property
    def plain_url(self) -> str:
        """Without TLS, which leads to the other one."""
        return f"http://localhost:{self.plain_port}{self.base}"


@dataclass(frozen=True)
class Kind:
    """A program and its shipped configuration.

    ``based``: a line, and what a comment there says in its place for the base URL /gpu/. ``ports``: what is replaced
    for ports. ``start``: writes the configuration around it, and gives the words of the command.
    """

    name: str
    program: str
    package: str
    shipped: str
    based: tuple[str, str]
    ports: Callable[[Place], dict[str, str]]
    start: Callable[[Place, Path], list[str]]

    def configured(self, place: Place) -> str:
        text = (CONFIGURATIONS / self.shipped).read_text()
        if place.base != "/":
            line, instead = self.based
            assert {part.strip() for part in instead.splitlines()} <= comments(text), "the file says it otherwise"
            text = replaced(text, f"\n{indent_of(text, line)}{line}", f"\n{indent_of(text, line)}{instead}")
        for old, new in self.ports(place).items():
            text = replaced(text, old, new)
        for old, new in {CERTIFICATE: place.folder / "cert.pem", KEY: place.folder / "key.pem"}.items():
            text = replaced(text, old, str(new))
        return text.replace("127.0.0.1:800", f"127.0.0.1:{place.behind}").replace(NAME, "localhost")


def comments(text: str) -> set[str]:
    found = [line.strip() for line in text.splitlines() if line.strip().startswith("#")]
    return {line.lstrip("# \t").removeprefix("With a base URL: ") for line in found}


def indent_of(text: str, line: str) -> str:
    (found,) = [known for known in text.splitlines() if known.strip() == line]
    return found[: -len(line)]


def replaced(text: str, old: str, new: str) -> str:
    assert old in text, f"{old!r} is not in the configuration any more"
    return text.replace(old, new)


# --- what each of them needs around a site


def start_nginx(place: Place, site: Path) -> list[str]:
    kept = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = " ".join(f"{kind}_temp_path {place.folder}/{kind};" for kind in kept)
    main = place.folder / "nginx.conf"
    main.write_text(
        f"daemon off; worker_processes 1; pid {place.folder}/pid-{place.port}; error_log {place.folder}/log;\n"
        f"events {{}}\nhttp {{ {folders} access_log off; include {site}; }}\n"
    )
    return ["nginx", "-e", f"{place.folder}/log", "-p", str(place.folder), "-c", str(main)]


def nginx_ports(place: Place) -> dict[str, str]:
    return {
        "listen 80;": f"listen 127.0.0.1:{place.plain_port};",
        "listen 443 ssl;": f"listen 127.0.0.1:{place.port} ssl;",
        f"https://{NAME}": f"https://{NAME}:{place.port}",
    }


def start_apache(place: Place, site: Path) -> list[str]:
    names = ("mpm_event", "authz_core", "alias", "ssl", "proxy", "proxy_http", "headers")
    loaded = [f"LoadModule {name}_module {MODULES}/mod_{name}.so" for name in names]
    main = place.folder / "apache.conf"
    lines = [
        *(f"ServerRoot {place.folder}", f"PidFile {place.folder}/pid-{place.port}", f"ErrorLog {place.folder}/log"),
        *("ServerName localhost", f"DefaultRuntimeDir {place.folder}", f"Mutex file:{place.folder} default"),
        *(f"Listen 127.0.0.1:{place.plain_port}", f"Listen 127.0.0.1:{place.port}"),
        *("StartServers 1", "ThreadsPerChild 25"),
    ]
    main.write_text("\n".join([*loaded, *lines, f"Include {site}", ""]))
    return ["apache2", "-f", str(main), "-DFOREGROUND"]


def apache_ports(place: Place) -> dict[str, str]:
    return {
        "<VirtualHost *:80>": f"<VirtualHost *:{place.plain_port}>",
        "<VirtualHost *:443>": f"<VirtualHost *:{place.port}>",
        f"https://{NAME}/": f"https://{NAME}:{place.port}/",
    }


def start_caddy(place: Place, site: Path) -> list[str]:
    main = place.folder / "Caddyfile"
    kept = f"storage file_system {place.folder}/kept"
    ports = f"http_port {place.plain_port}\n\thttps_port {place.port}\n\tdefault_bind 127.0.0.1"
    main.write_text(f"{{\n\tadmin off\n\t{kept}\n\t{ports}\n}}\n{site.read_text()}")
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(main)]


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "nginx",
            "nginx",
            "nginx-light",
            "nginx.conf",
            ("location / {", "location /gpu/ {"),
            nginx_ports,
            start_nginx,
        ),
        Kind(
            "apache",
            "apache2",
            "apache2",
            "apache.conf",
            (
                "ProxyPass / http://127.0.0.1:800/ upgrade=websocket retry=0 nocanon",
                "ProxyPass /gpu http://127.0.0.1:800/gpu upgrade=websocket retry=0 nocanon",
            ),
            apache_ports,
            start_apache,
        ),
        Kind(
            "caddy",
            "caddy",
            "caddy",
            "Caddyfile",
            ("reverse_proxy 127.0.0.1:800", "@timeshare path /gpu /gpu/*\n\treverse_proxy @timeshare 127.0.0.1:800"),
            lambda place: {},
            start_caddy,
        ),
    )
}


def missing(name: str) -> str:
    """Why a kind of server cannot be tried here; empty: it can."""
    kind = KINDS[name]
    if found(kind) is None:
        return f"{kind.program} is not installed: run `make system`, or install the package {kind.package}"
    return "" if shutil.which("openssl") else "openssl is not installed: it makes the certificate"


def found(kind: Kind) -> str | None:
    return shutil.which(kind.program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


# --- running them


@contextlib.contextmanager
def folder_of_account() -> Iterator[Path]:
    """A folder with a certificate for localhost, that of the account which runs the servers where we are root."""
    folder = Path(tempfile.mkdtemp(prefix="timeshare-web-"))
    words = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"]
    curve = ["-pkeyopt", "ec_paramgen_curve:prime256v1"]
    named = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,DNS:*.localhost"]
    try:
        files = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
        subprocess.run([*words, *curve, *named, *files], check=True, capture_output=True)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def running(name: str, place: Place) -> Iterator[None]:
    """The server of a kind, until it takes connections; ended by its pid."""
    kind = KINDS[name]
    site = place.folder / f"site-{name}.conf"
    site.write_text(kind.configured(place))
    program, *words = kind.start(place, site)
    before: list[str] = []
    if os.geteuid() == 0:
        account = pwd.getpwnam(ACCOUNT)
        before = as_account(account)
        for path in (place.folder, *place.folder.rglob("*")):
            os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
    said = place.folder / f"said-{name}"
    with open(said, "wb") as output:
        process = subprocess.Popen(
            [*before, str(found(kind)), *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=place.folder,
            env={"PATH": os.defpath, "HOME": str(place.folder)},
        )
    try:

        def answers() -> bool:
            assert process.poll() is None, f"{program}: {said.read_text()}"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", place.port), timeout=5):
                return True
            return False

        eventually(answers, 30)
        yield
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Site(Hub):
    """A hub whose people come through a web server; ``place``: the one of them that is asked."""

    place: Place

    @property
    def url(self) -> str:
        return self.place.url

    def new_session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False  # else a bundle of authorities in the environment is taken instead
        session.verify = str(self.place.folder / "cert.pem")
        return session
