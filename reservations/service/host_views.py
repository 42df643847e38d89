"""Cores and main memory as JSON and in words: what may be had, what a session got, and what holds it. Pure reading."""

from __future__ import annotations

import math
from typing import Any

from ..devices.model import MIB_PER_GIB
from ..enforcement import BOUND_MEANING, NOT_ENFORCED, bound_enforcement
from ..kind import Kind
from ..pool import Pool
from ..reservation import Reservation
from ..shares import cores_text


def host_view(pool: Pool, reservation: Reservation) -> dict[str, Any]:
    """Cores and main memory that bound it, and what holds it to them."""
    terms, engine = reservation.terms, reservation.request.engine
    held = {
        name: "" if value is None else bound_enforcement(what, pool.session_bounds, engine)
        for name, what, value in (
            ("cpus_enforcement", "cpu", terms.cpus),
            ("host_memory_enforcement", "memory", terms.host_memory_mib),
        )
    }
    return {"cpus": terms.cpus, "host_memory_mib": terms.host_memory_mib, **held}


def host_limits(pool: Pool, owner: str, kind: Kind) -> dict[str, Any]:
    """Cores and main memory that ``owner`` gets and may ask for, and what holds them; of this machine, where anything
    runs on it."""
    engine = "" if pool.local else next(iter(pool.engines), "")
    rules = pool.world().host_rules(owner, kind, engine)
    usual, most = rules.usual, rules.most
    return {
        "default_cpus": usual.known_cpus,
        "max_cpus": most.known_cpus,
        "default_host_memory_gib": _gib(usual.known_memory_mib),
        "max_host_memory_gib": _gib(most.known_memory_mib),
        "cpus_enforcement": bound_enforcement("cpu", pool.session_bounds, engine),
        "host_memory_enforcement": bound_enforcement("memory", pool.session_bounds, engine),
    }


def _gib(mib: int | None) -> float | None:
    """Rounded down, so that what is shown as the most may be asked for."""
    return None if mib is None else math.floor(mib / MIB_PER_GIB * 100) / 100


def host_texts(pool: Pool, person: str) -> list[str]:
    """What a session and a batch job of ``person`` get of this machine's cores and main memory, and what holds them to
    it, in sentences."""
    fraction, host = pool.limits.host_memory_fraction, pool.host
    memory = gib_text(host.memory_mib / MIB_PER_GIB)
    texts = [
        f"This machine has {cores_text(host.cpus)} and {memory} of main memory, of which one session or job may use "
        f"at most {100 * fraction:g} % (host_memory_fraction). Nothing is set aside: cores say how CPU time is divided "
        "while all are busy, memory is a cap"
    ]
    for kind, what in ((Kind.SESSION, "A session"), (Kind.BATCH, "A batch job")):
        told = host_limits(pool, person, kind)
        texts.append(
            f"{what} gets {cores_text(told['default_cpus'])} and {gib_text(told['default_host_memory_gib'])}; you may "
            f"ask for up to {cores_text(told['max_cpus'])} and {gib_text(told['max_host_memory_gib'])}"
        )
    for name, label in (("cpu", "Cores"), ("memory", "Main memory")):
        level = bound_enforcement(name, pool.session_bounds)
        texts.append(f"{label}: {level if level == NOT_ENFORCED else f'held by: {level}'} ({BOUND_MEANING[level]})")
    return texts


def gib_text(gib: float) -> str:
    """``64.0`` -> ``64 GiB``."""
    return f"{gib:.4g} GiB" if gib < 1000 else f"{gib:.0f} GiB"
