"""What ``timeshare doctor`` says about the deployment's own limits: the same as ``timeshare limits check``."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ..reservations.client import Json, ServiceClient
from ..reservations.deployment import FILE_NAME, DeploymentError, load_deployment
from ..reservations.devices.model import DeviceError
from ..reservations.devices.sources import open_source
from ..reservations.engines.slurm.config import CONFIG_FILE, ConfigError, read_pools
from ..reservations.errors import PublicError
from ..reservations.limits.load import LimitsError, text_in
from ..reservations.limits.site import Site
from ..reservations.placement import slots_of
from ..reservations.review import NAME, Judged, judge
from .console import asked
from .findings import FAIL, NOTE, OK, WARN, Finding
from .run.folders import steps

SHIPPED = Path(__file__).with_name("limits.yaml")
ADVICE = "correct the file; docs/admin_guide.md lists every key"


def limits_findings(state_dir: Path, named: str, simulate: str) -> Iterator[Finding]:
    """Yield what is wrong with the limits in ``named``; empty: with those that the deployment in ``state_dir`` goes by,
    and with who can change them."""
    try:
        path = Path(named) if named else limits_of(state_dir)
    except (DeploymentError, PermissionError) as error:
        yield Finding(FAIL, "limits", f"which file it goes by cannot be read: {error}", "run this as its account")
        return
    if path is None:
        path = SHIPPED
        yield Finding(NOTE, "limits", f"{state_dir} has none yet: its first start copies {path}")
    elif not named:
        yield from _whose(path)
    yield from _judged(path, state_dir, simulate)


def limits_of(state_dir: Path) -> Path | None:
    """Return the limits file that the deployment in ``state_dir`` goes by, or will at its next start; None: it has none
    yet. Raises DeploymentError, PermissionError where that cannot be read."""
    if (state_dir / FILE_NAME).exists():
        last = load_deployment(state_dir / FILE_NAME).limits_path
        if last:
            return Path(last)
    own = state_dir / "limits.yaml"
    return own if own.exists() else None


def _judged(path: Path, state_dir: Path, simulate: str) -> Iterator[Finding]:
    try:
        text = text_in(path)
    except LimitsError as error:
        yield Finding(FAIL, "limits", str(error), ADVICE)
        return
    judged = (None if simulate else served(state_dir, text)) or judge(
        text, site_of(state_dir, simulate or _simulated(state_dir))
    )
    for text in judged.errors:
        yield Finding(FAIL, "limits", f"{path}{text.removeprefix(NAME)}", ADVICE)
    for text in judged.warnings:
        yield Finding(WARN, "limits", f"{path}{text.removeprefix(NAME)}")
    if judged.is_valid and not judged.warnings:
        yield Finding(OK, "limits", f"{path} is valid", judged.note)
    elif judged.note:
        yield Finding(NOTE, "limits", judged.note)


def warnings_at_start(path: Path, state_dir: Path, simulate: str, local: bool) -> Iterator[str]:
    """Yield what in the limits in ``path`` is probably not intended, for whoever starts a deployment.

    ``local``: whether sessions or jobs may run on this machine.
    """
    judged = judge(text_in(path), site_of(state_dir, simulate) if local else Site((), _engines(state_dir)))
    for text in judged.warnings:
        yield f"Warning: {path}{text.removeprefix(NAME)}"


def served(state_dir: Path, text: str) -> Judged | None:
    """What the running deployment says of ``text``, which knows its devices and people; None when none runs there, or
    it is not ours to ask."""
    found: list[Json] = []

    async def deed(service: ServiceClient) -> None:
        found.append(await service.call("POST", "limits/check", {"text": text}))

    if not asked(state_dir, deed):
        return None
    told = found[0]  # a service of an earlier version tells of errors only
    return Judged(tuple(told["errors"]), tuple(told.get("warnings", ())), str(told.get("note", "")))


def site_of(state_dir: Path, simulate: str) -> Site | None:
    """What this machine's devices are, of those that the limits are about; None where nobody can say."""
    try:
        source = open_source(simulate)
        try:
            slots = slots_of(source.inventory().devices, include_cordoned=True)
        finally:
            source.close()
    except (DeviceError, PublicError):
        return None
    return Site(slots, _engines(state_dir)) if slots else None


def _simulated(state_dir: Path) -> str:
    try:
        return load_deployment(state_dir / FILE_NAME).simulate
    except DeploymentError:
        return ""


def _engines(state_dir: Path) -> tuple[str, ...]:
    """Engines of the deployment, whose devices only its service knows."""
    try:
        has_config = (state_dir / CONFIG_FILE).exists()
        return tuple(pool.name for pool in read_pools(state_dir)) if has_config else ()
    except (ConfigError, OSError):
        return ("slurm",)


def _whose(path: Path) -> Iterator[Finding]:
    """Whether anybody else could change the file, or put another one in its place: they could say what everybody may
    have."""
    owners = {0, os.geteuid()}
    for place in steps(path):
        try:
            status = place.lstat()
        except OSError:
            return  # that it cannot be read is told
        if status.st_uid not in owners:
            detail = f"{place} belongs to the account with number {status.st_uid}, which can change everybody's limits"
            yield Finding(WARN, "limits", detail, f"chown {os.geteuid()} {place}")
        elif status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX and not stat.S_ISLNK(status.st_mode):
            detail = f"{place} has mode {stat.S_IMODE(status.st_mode):o}: others can change everybody's limits"
            yield Finding(WARN, "limits", detail, f"chmod go-w {place}")
