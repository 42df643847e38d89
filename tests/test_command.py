"""The command: what it says to people, and what it keeps running."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import socket
import subprocess
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hubs import command
from nodes import deployment, gpus_here, kept_from_others

from timeshare.hub_config import ls
from timeshare.hub_config.command import parser
from timeshare.hub_config.ledger_url import LedgerUrlError, ledger_url
from timeshare.hub_config.run import ports, prepare
from timeshare.hub_config.run.held import HeldSockets
from timeshare.hub_config.run.prepare import CONFIG, Settled, build, listen_in_public
from timeshare.reservations.deployment import Deployment, DeploymentError, load_deployment
from timeshare.reservations.limits.effective import BUILT_IN, said
from timeshare.reservations.limits.load import load_limits
from timeshare.reservations.limits.schema import Limits


def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    everything = {**os.environ, **(env or {})}
    return subprocess.run([command(), *words], capture_output=True, text=True, timeout=90, check=False, env=everything)


BAD_STARTS = [
    (["--simulate", "a100:none"], "'a100:none'"),
    (["--simulate", "a100-40gb:0"], "from 1 to 1024 devices"),
    (["--simulate", "mystery:1"], "its memory is not known"),
    (["--limits", "/nonexistent.yaml"], "/nonexistent.yaml"),
    (["--state", "/proc/nowhere"], "name another by --state"),
]


@pytest.mark.parametrize(("options", "said"), BAD_STARTS, ids=[said for _, said in BAD_STARTS])
def test_a_start_that_cannot_work_says_why_and_starts_nothing(tmp_path: Path, options: list[str], said: str) -> None:
    state = [] if "--state" in options else ["--state", str(tmp_path / "state")]
    done = run("up", *state, *options)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "state" / "deployment.json").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="another account is needed, and only root can be one")
@pytest.mark.parametrize("words", [["ls"], ["limits", "show"], ["usage"], ["reconcile"], ["doctor"]], ids=" ".join)
def test_who_may_not_read_a_deployment_is_told_so_in_words(words: list[str]) -> None:
    """As people of a multi-user deployment type them: a traceback came."""
    if reason := kept_from_others():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory() as above:
        os.chmod(above, 0o755)
        state = Path(above) / "state"
        state.mkdir(mode=0o700)
        deployment(state)
        done = subprocess.run(
            [command(), *words, "--state", state], user=65534, capture_output=True, text=True, check=False, timeout=120
        )
    assert done.returncode == 1
    told = "may be read only by the account that runs|belongs to .*, and this runs as|cannot be written"
    assert re.search(told, done.stdout + done.stderr)
    assert "Traceback" not in done.stderr


def test_wrong_limits_are_told_with_key_value_and_rule(tmp_path: Path) -> None:
    limits = tmp_path / "limits.yaml"
    limits.write_text("defaults: {sessions: {max_time: soon}}\nnonsense: 1\n")
    done = run("up", "--state", str(tmp_path / "state"), "--limits", str(limits))
    assert done.returncode == 1
    assert "max_time" in done.stderr
    assert "'soon'" in done.stderr
    assert "nonsense: no such key" in done.stderr


def test_the_shipped_limits_are_the_defaults_and_name_every_key() -> None:
    shipped = CONFIG / "limits.yaml"
    limits = load_limits(shipped)
    assert {key: sorted(v, key=str) if key == "shapes" else v for key, v in said(limits.defaults).items()} == {
        key: sorted(v, key=str) if key == "shapes" else v for key, v in BUILT_IN.items()
    }
    assert limits.model_copy(update={"defaults": Limits().defaults}) == Limits()
    scopes = {"groups", "users", "pools", "fair_share", "events", "maintenance"}
    assert set(yaml.safe_load(shipped.read_text())) == set(Limits.model_fields) - scopes


@pytest.mark.parametrize("name", ["limits_small_lab.yaml", "limits_lab.yaml"])
def test_the_shipped_examples_are_valid(name: str) -> None:
    limits = load_limits(CONFIG / name)
    assert limits.groups
    assert limits.pools


def test_doctor_says_what_the_machine_can_enforce(tmp_path: Path) -> None:
    done = run("doctor", "--state", str(tmp_path), "--simulate", "t4:1", "--json")
    findings: list[dict[str, Any]] = json.loads(done.stdout)
    said = {finding["what"]: finding for finding in findings}
    assert done.returncode == 0, done.stdout
    assert {f"device filter {name}" for name in ("systemd", "cgroup-v2", "cgroup-v1", "bubblewrap")} <= set(said)
    assert "simulated" in said["GPUs"]["detail"]
    assert said["parking"]["detail"].startswith("possible (experimental)")
    assert "parking.host_memory_gib" in said["parking"]["advice"]
    plain = run("doctor", "--state", str(tmp_path), "--simulate", "t4:1").stdout
    assert all(line.startswith(("ok ", "note", "warn", "fail", " ")) for line in plain.splitlines())


def test_doctor_says_why_nothing_can_be_parked(tmp_path: Path) -> None:
    if gpus_here().devices:
        pytest.skip("there is a GPU here: tests/gpu shows that it can be done")
    findings = json.loads(run("doctor", "--state", str(tmp_path), "--json").stdout)
    (said,) = [finding for finding in findings if finding["what"] == "parking"]
    assert said["level"] == "note"
    assert "cuda-core is not installed" in said["detail"] or "no NVIDIA driver was found" in said["detail"]


def test_doctor_fails_when_something_must_be_repaired(tmp_path: Path) -> None:
    (tmp_path / "limits.yaml").write_text("defaults: {sessions: {max_time: 1s}}\n")
    done = run("doctor", "--state", str(tmp_path), "--limits", str(tmp_path / "limits.yaml"))
    assert done.returncode == 1
    assert "fail  limits" in done.stdout


def test_ls_without_a_deployment_says_how_to_start_one(tmp_path: Path) -> None:
    done = run("ls", "--state", str(tmp_path))
    assert done.returncode == 1
    assert "timeshare up" in done.stderr
    deployment(tmp_path)
    done = run("ls", "--state", str(tmp_path))
    assert done.returncode == 1
    assert "is not running" in done.stderr


def test_the_table_shows_who_has_what_and_who_waits() -> None:
    common = {"server_name": "", "reason": None, "enforcement": "", "ended_at": None}
    rows = [
        {
            **common,
            "owner": "ada",
            "state": "active",
            "share_text": "1 whole t4",
            "enforcement": "hardware",
            "placement": [{"device_uuid": "GPU-1"}],
            "remaining_s": 5400,
        },
        {
            **common,
            "owner": "ben",
            "state": "queued",
            "share_text": "1 whole t4",
            "placement": [],
            "remaining_s": None,
            "position": 1,
            "latest_start_in_s": 600,
        },
    ]
    text = ls.table(rows)
    assert "ada    (default)  active  1 whole t4  GPU-1  hardware  1 h 30 min left" in text
    assert "position 1, starts within 10 min" in text


def test_the_deployment_file_is_private_and_a_broken_one_is_explained(tmp_path: Path) -> None:
    made = deployment(tmp_path)
    assert made.path.stat().st_mode & 0o077 == 0
    assert load_deployment(made.path) == made
    made.path.write_text("{")
    with pytest.raises(DeploymentError, match="stop timeshare and start it again"):
        load_deployment(made.path)


@contextlib.contextmanager
def listening(ip: str = "127.0.0.1") -> Iterator[int]:
    """A port that somebody else holds."""
    with socket.socket() as taken:
        taken.bind((ip, 0))
        taken.listen()
        yield int(taken.getsockname()[1])


def test_a_port_that_was_asked_for_and_is_taken_is_an_error_that_names_the_holder(tmp_path: Path) -> None:
    """It was replaced without a question: whoever took the port that people know got their passwords."""
    with listening() as port:
        done = run("up", "--state", str(tmp_path / "state"), "--port", str(port))
        me = pwd.getpwuid(os.geteuid()).pw_name
        assert done.returncode == 1
        assert f"port {port} of 127.0.0.1 is held by process {os.getpid()} (" in done.stderr
        assert f"of {me}: stop that, or name another port by --port" in done.stderr
        assert not (tmp_path / "state" / "deployment.json").exists()


def chosen(options: Namespace, last: Deployment | None) -> int:
    with contextlib.closing(HeldSockets()) as held:
        return listen_in_public(options, last, held)


def test_the_port_of_the_last_start_is_kept_and_only_a_first_start_takes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports.listen, "__defaults__", (0.1,))
    plain = parser().parse_args(["up"])
    with listening() as port:
        monkeypatch.setattr(prepare, "DEFAULT_PORT", port)
        assert chosen(plain, None) != port, "nobody knows it yet"
        last = deployment(tmp_path, public_url=f"http://127.0.0.1:{port}/")
        with pytest.raises(ports.PortError, match=f"port {port} of 127.0.0.1 is held by process"):
            chosen(plain, last)
        assert chosen(parser().parse_args(["up", "--port", "0"]), last) != port
    assert chosen(plain, last) == port
    assert chosen(plain, None) == port


def test_a_start_has_new_tokens_and_what_sessions_and_people_have_is_kept(tmp_path: Path) -> None:
    options = parser().parse_args(["up"])
    settled = Settled("limits.yaml", "sqlite://", tmp_path / "run", 8000)
    made = build(tmp_path, options, settled, None)
    again = build(tmp_path, options, settled, made)
    tokens = ("proxy_token", "service_token", "admin_token", "starter_token", "culler_token")
    assert not {getattr(made, name) for name in tokens} & {getattr(again, name) for name in tokens}
    kept = ("signing_key", "password", "hub_url", "service_url", "proxy_api_url", "agent_socket", "public_url")
    assert [getattr(again, name) for name in kept] == [getattr(made, name) for name in kept]
    assert made.signing_key not in [getattr(made, name) for name in tokens]


def test_what_was_signed_by_the_admins_token_before_there_was_a_key_stays_good(tmp_path: Path) -> None:
    made = deployment(tmp_path)
    old = json.loads(made.path.read_text())
    del old["signing_key"]
    made.path.write_text(json.dumps(old))
    again = build(tmp_path, parser().parse_args(["up"]), Settled("", "", tmp_path, 1), load_deployment(made.path))
    assert again.signing_key == made.admin_token
    assert again.admin_token != made.admin_token


@pytest.mark.parametrize(
    ("port", "multi_user", "first_open", "said"),
    [
        (8000, True, 1024, "any account of this machine can listen on port 8000 and collect the passwords"),
        (443, True, 1024, ""),
        (8000, False, 1024, ""),
        (443, True, 0, "let a socket unit of systemd keep the port"),
        (1023, True, 1024, ""),
        (1024, True, 1024, "use a port below 1024, also behind a web server of this machine"),
    ],
)
def test_several_people_are_warned_of_a_port_that_anybody_can_take(
    port: int, multi_user: bool, first_open: int, said: str
) -> None:
    text = ports.public_port_advice(port, multi_user, first_open)
    assert said in text
    assert bool(text) == bool(said)


# --- the password of the ledger

POSTGRES = "postgresql+psycopg://timeshare@db.lab.example/timeshare"


@pytest.mark.parametrize(
    "url",
    [
        *(POSTGRES.replace("@", ":s3cret@"), POSTGRES.replace("@", ":@")),
        *(f"{POSTGRES}?password=s3cret", f"{POSTGRES}?sslkey=k&sslpassword=s3cret"),
    ],
    ids=["in front", "empty", "as a parameter", "of its key"],
)
def test_a_password_on_the_command_line_is_refused_and_the_cure_is_named(tmp_path: Path, url: str) -> None:
    done = run("up", "--state", str(tmp_path / "state"), "--simulate", "t4:1", "--ledger", url)
    assert done.returncode == 1
    assert "give it by --ledger-password-file FILE" in done.stderr
    assert "s3cret" not in done.stderr + done.stdout


def test_the_password_of_the_ledger_comes_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("p@ss:w/rd\n")
    secret.chmod(0o600)
    whole = "postgresql+psycopg://timeshare:p%40ss%3Aw%2Frd@db.lab.example/timeshare"
    assert ledger_url(tmp_path, POSTGRES, str(secret)) == whole
    assert ledger_url(tmp_path, POSTGRES, "") == POSTGRES
    monkeypatch.setenv("TIMESHARE_LEDGER_PASSWORD", "p@ss:w/rd")
    assert ledger_url(tmp_path, POSTGRES, "") == whole
    assert ledger_url(tmp_path, "", "") == f"sqlite:///{tmp_path}/ledger.sqlite"


@pytest.mark.parametrize(
    ("url", "content", "mode", "said"),
    [
        (POSTGRES, "secret", 0o640, "can be read by others: `chmod 600"),
        (POSTGRES, "", 0o600, "is empty: its first line must be the password"),
        (POSTGRES, None, 0, "cannot be read from"),
        ("", "secret", 0o600, "without --ledger"),
        ("nonsense", "secret", 0o600, "is not the address of a database: it must be such as postgresql+psycopg://"),
    ],
)
def test_a_password_that_cannot_be_used_is_told_why(
    tmp_path: Path, url: str, content: str | None, mode: int, said: str
) -> None:
    secret = tmp_path / "secret"
    if content is not None:
        secret.write_text(content)
        secret.chmod(mode)
    with pytest.raises(LedgerUrlError, match=re.escape(said)):
        ledger_url(tmp_path, url, str(secret))


def test_a_pipe_in_place_of_a_password_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "secret", 0o600)
    with pytest.raises(LedgerUrlError, match="is a pipe"):
        ledger_url(tmp_path, POSTGRES, str(tmp_path / "secret"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another account")
def test_a_password_in_a_file_of_another_account_is_not_taken(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    os.chown(secret, 65534, 65534)
    with pytest.raises(LedgerUrlError, match=re.escape("belongs to another account (number 65534): `chown` it")):
        ledger_url(tmp_path, POSTGRES, str(secret))


def test_ports_that_it_chooses_are_kept_free_by_linux_until_the_next_start(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: set[int] = set()
    for _ in range(5):
        chosen.add(ports.free_port("127.0.0.1", chosen))
    assert len(chosen) == 5
    assert max(chosen) < 32768, "from there on Linux gives them to connections, unless told otherwise"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(ports, "PORTS", range(taken.getsockname()[1], taken.getsockname()[1] + 1))
        assert ports.free_port("127.0.0.1", set()) not in ports.PORTS, "where all are taken, any will do"


def test_an_address_of_another_machine_is_refused_in_words() -> None:
    with pytest.raises(ports.PortError, match=r"192\.0\.2\.1:\d+ cannot be listened on"):
        ports.free_port("192.0.2.1", set())
