"""What a driver's event means for a device. Pure.

An XID is the number of an error in the NVIDIA driver's log. Those that an application causes leave the device healthy.
"""

from __future__ import annotations

from .model import HealthEvent

XID = "xid"
APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})
"""Caused by programs (the list that NVIDIA's own Kubernetes device plugin ignores): never a reason to cordon."""
MEANING = {
    13: "a program on it failed in a kernel",
    31: "a program on it used a wrong address",
    43: "a program on it was stopped after an error",
    45: "programs on it were stopped",
    48: "uncorrectable memory error",
    62: "internal controller halted",
    63: "a memory row was remapped",
    64: "a memory row could not be remapped",
    68: "a video decoder program failed",
    74: "NVLink error",
    79: "the GPU has fallen off the bus",
    92: "many corrected memory errors",
    94: "contained memory error",
    95: "uncontained memory error",
    109: "a program's context switch timed out",
    119: "the GPU's system processor does not answer",
    120: "error in the GPU's system processor",
}


def event_of(device_uuid: str, kind: str, code: int) -> HealthEvent:
    """The event in words, and whether new work must stay away from the device."""
    if kind != XID:
        return HealthEvent(device_uuid, kind, "an uncorrectable memory error (ECC) was reported", True, code)
    meaning = MEANING.get(code, "see NVIDIA's list of XID errors")
    return HealthEvent(device_uuid, kind, f"XID {code}: {meaning}", code not in APPLICATION_XIDS, code)
