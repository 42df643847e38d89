"""What components inherit of the environment in which ``timeshare up`` was started."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

KEPT = frozenset(
    (
        *("HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
        *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"),
        *("PGPASSFILE", "PGSERVICEFILE", "SLURM_CONF", "JUPYTERHUB_CRYPT_KEY"),
        *("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"),
    )
)
KEPT_BEGINNINGS = ("LC_", "TIMESHARE_", "OAUTH", "OIDC_")
LEDGER_PASSWORD = "TIMESHARE_LEDGER_PASSWORD"
NEVER = frozenset((LEDGER_PASSWORD, "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))


def for_components(given: Mapping[str, str], as_root: bool, more: Sequence[str] = ()) -> dict[str, str]:
    """Return the environment of components.

    What root runs gets what is known to do no harm and what the admin named (``more``): PYTHONPATH, LD_PRELOAD,
    NODE_OPTIONS and their like decide which code runs. Everybody else's is their own, as in any program of theirs.
    """
    if not as_root:
        return {name: value for name, value in given.items() if name not in NEVER}
    found = {
        name: value
        for name, value in given.items()
        if name not in NEVER and (name in KEPT or name in more or name.startswith(KEPT_BEGINNINGS))
    }
    # A folder that is not named in full would be one of the working folder.
    folders = [folder for folder in given.get("PATH", os.defpath).split(os.pathsep) if os.path.isabs(folder)]
    return {**found, "PATH": os.pathsep.join(folders)}
