"""The part of the API's description that concerns cores and main memory."""

from __future__ import annotations

from ..enforcement import BOUND_MEANING
from ..shares import MAX_CPUS, MAX_HOST_MEMORY_GIB, MIN_CPUS, MIN_HOST_MEMORY_GIB
from .openapi_parts import Schema

AMOUNT: Schema = {"type": ["number", "null"]}
BOUND: Schema = {"enum": ["", *BOUND_MEANING], "description": "what holds it to that; empty: there is no bound"}
SHARE: Schema = {
    "cpus": {
        "type": "number",
        "minimum": MIN_CPUS,
        "maximum": MAX_CPUS,
        "description": "cores of each node: how CPU time is divided while it is busy; left out: the default of the "
        "limits; at most their max_cpus",
    },
    "host_memory_gib": {
        "type": "number",
        "minimum": MIN_HOST_MEMORY_GIB,
        "maximum": MAX_HOST_MEMORY_GIB,
        "description": "main memory of each node (not of a GPU), GiB: a cap, not set aside; left out: the default of "
        "the limits; at most their max_host_memory_gib",
    },
}
"""What may be asked for beside any shape of share."""
RESERVATION: Schema = {
    "cpus": {**AMOUNT, "description": "cores that it gets; null: nothing bounds it, or not granted yet"},
    "host_memory_mib": {
        "type": ["integer", "null"],
        "description": "main memory of its node that it may use, MiB; null: nothing bounds it, or not granted yet",
    },
    "cpus_enforcement": BOUND,
    "host_memory_enforcement": BOUND,
}
LIMITS: Schema = {
    "default_cpus": {**AMOUNT, "description": "cores of a session when none are asked for; null: nothing bounds it"},
    "max_cpus": {**AMOUNT, "description": "most cores to ask for; null: unlimited"},
    "default_host_memory_gib": {
        **AMOUNT,
        "description": "main memory of a session when none is asked for, GiB; null: nothing bounds it",
    },
    "max_host_memory_gib": {**AMOUNT, "description": "most main memory to ask for, GiB; null: unlimited"},
    "cpus_enforcement": BOUND,
    "host_memory_enforcement": BOUND,
}
"""On this machine; where nothing runs on it, what may be asked of engines."""
