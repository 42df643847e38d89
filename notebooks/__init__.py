"""What runs in a user's own environment. Imports no other part of timeshare: it speaks HTTP to the service."""

from __future__ import annotations

from typing import Any

__all__ = ["attach", "keep", "resumable", "submit"]


def __getattr__(name: str) -> Any:
    """The public names, loaded when they are asked for: the runner and the hub need none of them."""
    if name in ("attach", "submit"):
        from .batch import handing

        return getattr(handing, name)
    if name == "keep":
        from .keep import keep

        return keep
    if name == "resumable":
        from .checkpoints import resumable

        return resumable
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext timeshare.notebooks``; sessions of timeshare do it by themselves."""
    from . import gpu
    from .batch.magic import load

    load(shell)
    gpu.load(shell)
