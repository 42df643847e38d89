"""What the job's script and the batch system tell the agent: variables in, typed facts out. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ..shares import Shape

KEY = "TIMESHARE_JOBAGENT_KEY"
OWN = (
    KEY,
    "TIMESHARE_ATTEMPT",
    "TIMESHARE_SHARE_SHAPE",
    "TIMESHARE_SHARE_MEMORY_MIB",
    "TIMESHARE_SHARE_COMPUTE",
    "TIMESHARE_SHARE_SIMULATED",
    "TIMESHARE_NODE_ADDRESS",
    "TIMESHARE_PORTS",
    "TIMESHARE_PATIENCE_S",
    "TIMESHARE_SAVE_GRACE_S",
    "TIMESHARE_TERM_GRACE_S",
    "TIMESHARE_KILL_WAIT_S",
)
"""Meant for the agent alone: no server sees them."""
_NUMBERS = re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*")
_PORTS = re.compile(r"([0-9]{4,5})-([0-9]{4,5})")
_LEAST_PORT, _LAST_PORT = 1024, 65535


class SettingError(Exception):
    """A variable is missing or wrong; the text is for whoever wrote the script."""


@dataclass(frozen=True)
class Share:
    """What was asked for. ``memory_mib``: of each device, or of the part of one; ``compute``: of it in thousandths,
    0: not known."""

    shape: Shape
    text: str = ""
    memory_mib: int = 0
    compute: int = 0
    simulated: bool = False


@dataclass(frozen=True)
class Graces:
    """In seconds: to save after an interrupt, between SIGTERM and SIGKILL, and what the batch system leaves of a job
    between its own SIGTERM and SIGKILL."""

    save_s: float = 30.0
    term_s: float = 10.0
    kill_wait_s: float = 30.0


@dataclass(frozen=True)
class Setting:
    """``gpus``: numbers of the node's GPUs that the job was given. ``visible``: its CUDA_VISIBLE_DEVICES. ``address``
    empty: the one that faces the service. ``ports`` None: any free one. ``patience_s``: without a server and without
    an answer of the service the agent leaves after this long; 0: never."""

    service_url: str
    reservation_id: str
    attempt: int
    key: str = field(repr=False)
    job_id: str
    restarts: int
    node: str
    gpus: tuple[int, ...]
    visible: tuple[str, ...]
    share: Share
    graces: Graces
    address: str = ""
    ports: tuple[int, int] | None = None
    patience_s: float = 1800.0


def read_setting(env: Mapping[str, str], hostname: str) -> Setting:
    """Raises SettingError."""
    url = _needed(env, "TIMESHARE_SERVICE_URL")
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise SettingError(
            f"TIMESHARE_SERVICE_URL is {url!r}: must be such as https://hub.example.org/services/timeshare"
        )
    graces = Graces()
    return Setting(
        service_url=url.rstrip("/"),
        reservation_id=_needed(env, "TIMESHARE_RESERVATION_ID"),
        attempt=_count(env, "TIMESHARE_ATTEMPT", least=1),
        key=_needed(env, KEY),
        job_id=_needed(env, "SLURM_JOB_ID"),
        restarts=_count(env, "SLURM_RESTART_COUNT", "0"),
        node=env.get("SLURMD_NODENAME") or hostname,
        gpus=numbers(env.get("SLURM_JOB_GPUS", "")),
        visible=tuple(name for name in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if name),
        share=Share(
            shape=_shape(_needed(env, "TIMESHARE_SHARE_SHAPE")),
            text=env.get("TIMESHARE_SHARE_TEXT", ""),
            memory_mib=_count(env, "TIMESHARE_SHARE_MEMORY_MIB", "0"),
            compute=_count(env, "TIMESHARE_SHARE_COMPUTE", "0"),
            simulated=env.get("TIMESHARE_SHARE_SIMULATED", "0") == "1",
        ),
        graces=Graces(
            _seconds(env, "TIMESHARE_SAVE_GRACE_S", graces.save_s),
            _seconds(env, "TIMESHARE_TERM_GRACE_S", graces.term_s),
            _seconds(env, "TIMESHARE_KILL_WAIT_S", graces.kill_wait_s),
        ),
        address=env.get("TIMESHARE_NODE_ADDRESS", ""),
        ports=_ports(env.get("TIMESHARE_PORTS", "")),
        patience_s=_seconds(env, "TIMESHARE_PATIENCE_S", Setting.patience_s),
    )


def numbers(text: str) -> tuple[int, ...]:
    """``0,2-4`` as 0, 2, 3, 4; nothing where the text is none such."""
    if not _NUMBERS.fullmatch(text):
        return ()
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def _needed(env: Mapping[str, str], name: str) -> str:
    if not env.get(name):
        raise SettingError(f"{name} is not set: the script that timeshare submits sets it, or the batch system")
    return env[name]


def _number(name: str, text: str, kind: Callable[[str], float], rule: str) -> float:
    try:
        return kind(text)
    except ValueError:
        raise SettingError(f"{name} is {text!r}: {rule}") from None


def _count(env: Mapping[str, str], name: str, default: str = "", least: int = 0) -> int:
    text, rule = env.get(name) or default or _needed(env, name), f"must be a whole number from {least} on"
    value = int(_number(name, text, int, rule))
    if value < least:
        raise SettingError(f"{name} is {text!r}: {rule}")
    return value


def _seconds(env: Mapping[str, str], name: str, default: float) -> float:
    rule = "must be a number of seconds from 0 on"
    value = _number(name, env.get(name) or str(default), float, rule)
    if not 0 <= value < float("inf"):
        raise SettingError(f"{name} is {value}: {rule}")
    return value


def _shape(text: str) -> Shape:
    try:
        return Shape(text)
    except ValueError:
        known = ", ".join(shape.value for shape in Shape)
        raise SettingError(f"TIMESHARE_SHARE_SHAPE is {text!r}: must be one of {known}") from None


def _ports(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    match = _PORTS.fullmatch(text)
    first, last = (int(match[1]), int(match[2])) if match else (0, 0)
    if not _LEAST_PORT <= first <= last <= _LAST_PORT:
        raise SettingError(f"TIMESHARE_PORTS is {text!r}: must be such as 20000-29999, from {_LEAST_PORT} on")
    return first, last
