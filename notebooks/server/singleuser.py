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


def import_jupyterlab() -> None:
    """Import JupyterLab's application without the question for a package registry that nothing at a start needs.

    ``jupyterlab.labapp`` asks for the version of the application while it is imported, and makes options for that
    whose default runs ``yarn config``: half a second of Node (jupyterlab 4). Whoever asks later gets the answer.
    """
    try:
        from jupyterlab import commands  # type: ignore[import-untyped]
    except ImportError:  # the session's environment has another front end
        return
    asked = getattr(commands, "_yarn_config", None)
    if asked is None:
        return
    commands._yarn_config = lambda logger: {"yarn config": {}}
    try:
        import jupyterlab.labapp  # type: ignore[import-untyped]  # noqa: F401
    finally:
        commands._yarn_config = asked


def main() -> None:
    """Run the server in this process."""
    import_jsonschema()
    import_jupyterlab()
    from jupyterhub.singleuser import main as serve

    serve()
