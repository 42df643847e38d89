"""Run by every Python that begins in a session (the spawner names it in PYTHONSTARTUP): notebooks get ``%%gpu_batch``.

An environment without timeshare has no magic, and hears nothing of it; a plain Python needs none.
"""


def _load(shell: object) -> None:
    import contextlib

    with contextlib.suppress(ImportError):
        from timeshare.notebooks import load_ipython_extension

        load_ipython_extension(shell)


if "get_ipython" in globals():
    _load(globals()["get_ipython"]())
del _load
