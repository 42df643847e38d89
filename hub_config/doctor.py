"""``timeshare doctor``: what this machine can enforce, and what to do about the rest."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ..reservations.agent.exchange import can_exchange, fixed
from ..reservations.agent.grouptrial import group_findings
from ..reservations.agent.hostmemory import HostMemory
from ..reservations.agent.isolation import Probe, probe, ways
from ..reservations.client import ServiceClient
from ..reservations.deployment import FILE_NAME, DeploymentError, load_deployment
from ..reservations.devices.model import DeviceError
from ..reservations.devices.sources import open_checkpointer, open_source
from ..reservations.errors import PublicError
from ..reservations.files import from_start
from ..reservations.text import escaped
from . import proxy, slurm_doctor
from .console import asked, state_folder
from .findings import FAIL, NOTE, OK, WARN, Finding, show
from .hub_findings import hub_findings
from .import_path import import_path_findings, places_of_python
from .limits_findings import limits_findings
from .machine_findings import look, machine_findings, state_findings
from .origins import shared_origin_advice
from .run.folders import default_state_dir
from .run.ports import first_open_port, public_port_advice
from .saved.plan import pending

FREE_BYTES = 1 << 30


def add(command: argparse.ArgumentParser, state: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the options. ``state`` adds the one that names the deployment."""
    state(command)
    command.add_argument("--simulate", default="", metavar="SPEC", help="look at simulated GPUs instead")
    command.add_argument("--limits", type=from_start, default="", metavar="FILE", help="the limits to check")
    command.add_argument("--json", action="store_true", help="for programs")
    command.add_argument(
        "--engine", default="", choices=["slurm"], help="look at the pools of timeshare_slurm.py instead"
    )
    command.add_argument(
        "--user", default="", metavar="NAME", help="of an engine: whose jobs are tried; default: the first account"
    )
    command.add_argument(
        "--job", action="store_true", help="of an engine: submit a tiny job that tries a node, and wait"
    )
    command.set_defaults(run=run)


def run(options: Namespace) -> int:
    """Prints the findings; 1 when something must be repaired."""
    theirs = options.state or os.geteuid() == 0  # for others a deployment of root is none of theirs
    state_dir = state_folder(options) if theirs else default_state_dir(False)
    if not options.engine and (options.user or options.job):
        print("timeshare doctor: --user and --job are about an engine: add --engine slurm", file=sys.stderr)
        return 2
    if options.engine:
        return show(slurm_doctor.examine(state_dir, options.user, options.job), options.json)
    return show(list(examine(state_dir, options)), options.json)


def examine(state_dir: Path, options: Namespace) -> Iterator[Finding]:
    yield _python()
    yield from _devices(options.simulate)
    probes = probe()
    yield from _filters(probes)
    yield _parking(options.simulate, probes)
    yield _accounts()
    yield from _security(state_dir)
    yield _state(state_dir)
    yield from limits_findings(state_dir, options.limits, options.simulate)
    if not state_dir.exists() or os.access(state_dir, os.X_OK):
        yield _proxy(state_dir)
        yield from _running(state_dir)


def _python() -> Finding:
    return Finding(OK, "Python", f"{platform.python_version()} on {platform.platform(terse=True)}")


def _devices(simulate: str) -> Iterator[Finding]:
    try:
        source = open_source(simulate)
        inventory = source.inventory()
        source.close()
    except (DeviceError, PublicError) as error:
        yield Finding(
            FAIL,
            "GPUs",
            str(error),
            "sessions without a GPU work; see what nvidia-smi says: a reboot or a new driver may help",
        )
        return
    if not inventory.devices:
        advice = "install NVIDIA's driver, or try timeshare with `timeshare up --simulate a100-40gb:2`"
        yield Finding(WARN, "GPUs", inventory.note, advice)
        return
    if inventory.simulated:
        yield Finding(WARN, "GPUs", f"{len(inventory.devices)} simulated: sessions run on the CPU")
        return
    yield Finding(OK, "driver", f"{inventory.driver}, CUDA {inventory.cuda}")
    for device in inventory.devices:
        parts = f", MIG: {', '.join(i.profile for i in device.instances)}" if device.instances else ""
        size = f"{device.memory_mib} MiB" if device.memory_mib else "of unknown memory"
        text = f"{device.model}, {size}{parts}"
        advice = f"out of service: {device.cordoned}" if device.cordoned else device.note
        level = WARN if advice else OK
        yield Finding(level, device.uuid, text, advice)


def _filters(probes: Sequence[Probe]) -> Iterator[Finding]:
    """What can hide the GPUs that a session does not hold; the first that works is used."""
    chosen = next((found.name for found in probes if found.works), None)
    for found in probes:
        used = " (this one is used)" if found.name == chosen else ""
        level = OK if found.works else NOTE if chosen else WARN
        yield Finding(level, f"device filter {found.name}", f"{found.detail}{used}", "" if chosen else found.advice)
    if chosen is None:
        detail = "nothing here can hide GPUs from a session: shares are held by environment variables only"
        yield Finding(WARN, "device filter", detail, "run timeshare as root, or install bubblewrap")


def _parking(simulate: str, probes: Sequence[Probe]) -> Finding:
    """Whether GPU state of idle sessions could be kept in this machine's memory: an experiment that nobody needs."""
    what = "parking"
    try:
        source = open_source(simulate)
        why = open_checkpointer(source).available()
        source.close()
    except PublicError as error:
        return Finding(NOTE, what, str(error))
    if why:
        return Finding(NOTE, what, f"GPU state of idle sessions cannot be kept here: {why}")
    chosen = next((found.name for found in probes if found.works), None)
    way = next((way for way in ways() if way.name == chosen), None)
    if not can_exchange(way, bool(simulate)):
        advice = "run timeshare as root on a machine with cgroups whose device filter works, or without any filter"
        return Finding(NOTE, what, f"GPU state of idle sessions cannot be kept here: {fixed(way)}", advice)
    text = f"possible (experimental); {(HostMemory().available_mib() or 0) / 1024:.0f} GiB of memory are free now"
    advice = "it begins with parking.host_memory_gib in the limits; read about its hazards in docs/admin_guide.md first"
    if os.geteuid() != 0 and not simulate:
        text += "; not run by root: the driver may refuse it"
    return Finding(OK, what, text, advice)


def _accounts() -> Finding:
    if os.geteuid() == 0:
        return Finding(OK, "accounts", "run by root: --multi-user can start sessions as other accounts")
    detail = "not run by root: every session runs as this account"
    return Finding(WARN, "accounts", detail, "for several people use `sudo timeshare up --multi-user`")


def _security(state_dir: Path) -> Iterator[Finding]:
    """What keeps accounts of this machine from each other and from timeshare; root's deployments are for several."""
    if os.geteuid() == 0:
        yield from import_path_findings(places_of_python(), frozenset({0}), deep=True)
        yield from machine_findings(look())
    yield from _groups()
    yield from state_findings(state_dir, os.geteuid())


def _groups() -> Iterator[Finding]:
    for name, works, detail, advice in group_findings():
        yield Finding(OK if works else WARN, name, detail, advice)


def _state(folder: Path) -> Finding:
    place = folder
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        return Finding(FAIL, "state folder", f"{folder} cannot be written", "name another by --state")
    free = shutil.disk_usage(place).free
    text = f"{folder}, {free / FREE_BYTES:.1f} GiB free"
    if free < FREE_BYTES:
        return Finding(WARN, "state folder", text, "make room: at least 1 GiB should be free")
    return Finding(OK, "state folder", text)


def _proxy(state_dir: Path) -> Finding:
    if proxy.script_path(state_dir).exists():
        return Finding(OK, "proxy", f"configurable-http-proxy {proxy.VERSION} is installed")
    return Finding(OK, "proxy", "it is installed at the first start; that needs npm's registry once")


def _health(state_dir: Path) -> Iterator[Finding]:
    """What the running service says of itself; nothing where none runs."""
    told: list[str] = []

    async def deed(service: ServiceClient) -> None:
        told.extend((await service.call("GET", "health"))["warnings"])

    if asked(state_dir, deed):
        for text in told:
            yield Finding(WARN, "service", escaped(text))


def _running(state_dir: Path) -> Iterator[Finding]:
    """The last start here, and what its address means for people."""
    if not (state_dir / FILE_NAME).exists():
        yield Finding(OK, "last start", "none here yet")
        return
    try:
        last = load_deployment(state_dir / FILE_NAME)
    except DeploymentError as error:
        yield Finding(FAIL, "last start", str(error))
        return
    yield Finding(OK, "last start", last.address)
    yield from hub_findings(last)
    if pending(state_dir):
        yield Finding(FAIL, "restore", "one was interrupted", f"timeshare restore --finish --state {state_dir}")
    yield from _health(state_dir)
    if not last.own_hub:
        return
    port = urlsplit(last.public_url).port or 80
    for name, advice in (
        ("public port", public_port_advice(port, last.multi_user, first_open_port())),
        ("origin", shared_origin_advice(last.multi_user or len(last.people) > 1, last.subdomain_host)),
    ):
        if advice:
            yield Finding(WARN, name, advice)
