"""``timeshare-singleuser``: JupyterHub's single-user server, which starts in half the time."""

from __future__ import annotations

import sys

SLOW = "rfc3987_syntax"


def import_jsonschema() -> None:
    """Import jsonschema without its check of IRIs, a format that no schema of Jupyter uses.

    For it jsonschema imports rfc3987_syntax if that is there, which builds its grammar anew at each start: two seconds
    of a core (jsonschema 4.26, rfc3987_syntax 1.1). Whoever imports rfc3987_syntax later gets it.
    """
    if SLOW in sys.modules:
        return
    sys.modules[SLOW] = None  # type: ignore[assignment]  # what Python takes for "cannot be imported"
    import jsonschema  # type: ignore[import-untyped]  # noqa: F401

    del sys.modules[SLOW]


def main() -> None:
    """Run the server in this process."""
    import_jsonschema()
    from jupyterhub.singleuser import main as serve

    serve()
