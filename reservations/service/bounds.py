"""What one caller may ask of the service, and all together: traits, read from ``timeshare_service.py`` in the state
folder."""

from __future__ import annotations

import logging
import resource
from pathlib import Path

from traitlets import Float, Int, TraitError
from traitlets.config import Configurable
from traitlets.config.loader import PyFileConfigLoader

log = logging.getLogger("timeshare.service")
CONFIG_FILE = "timeshare_service.py"
SPARE_FILES = 256
"""Descriptors for everything that is no connection: ledger, agent, JupyterHub, engines, logs."""


class BoundsError(Exception):
    """The file cannot be used; the text says what is wrong and what would work."""


class ServiceBounds(Configurable):
    """Bounds of the reservations service. *One* is a person, or the key of one session or job. timeshare's own
    processes are not counted; what the hub asks for a person waits its turn with that person's requests."""

    requests_per_s = Float(
        20.0, min=0.1, help="Requests a second of one, at service and hub each. Default 20. Beyond: 429. Example: 50.0."
    ).tag(config=True)
    requests_burst = Int(
        300, min=1, help="Requests that one may send at once after a pause. Default 300. Example: 1000."
    ).tag(config=True)
    submissions_per_minute = Float(
        30.0,
        min=0.1,
        help="Requests for a share or a sweep that one may make in a minute, over some time. Default 30. Beyond: 429. "
        "Example: 120.0.",
    ).tag(config=True)
    submissions_burst = Int(
        100, min=1, help="Such requests that one may make at once after a pause. Default 100. Example: 500."
    ).tag(config=True)
    requests_at_once = Int(
        32, min=1, help="Requests of one that are worked on or wait for that. Default 32. Beyond: 429. Example: 64."
    ).tag(config=True)
    work_share = Float(
        0.2,
        min=0.01,
        help="Seconds of the service's work that one gets in each second while others ask too; what is beyond waits. "
        "Default 0.2. Example: 0.5.",
    ).tag(config=True)
    work_burst_s = Float(
        2.0, min=0.01, help="Seconds of work that one gets at once after a pause. Default 2. Example: 5.0."
    ).tag(config=True)
    polls_each = Int(
        40, min=1, help="Requests of one that are held for a change (wait_s). Default 40. Beyond: 429. Example: 100."
    ).tag(config=True)
    polls = Int(2000, min=1, help="Requests of all that are held. Default 2000. Beyond: 429. Example: 4000.").tag(
        config=True
    )
    streams_each = Int(
        20,
        min=1,
        help="Event streams of one, at the service and at the hub's pages alike. Default 20. Beyond: 429. Example: 50.",
    ).tag(config=True)
    streams = Int(1000, min=1, help="Event streams of all. Default 1000. Beyond: 429. Example: 3000.").tag(config=True)
    reports_per_s = Float(
        2.0,
        min=0.1,
        help="Reports a second of one session or job agent. Default 2. Beyond: 429. Example: 5.0.",
    ).tag(config=True)
    unknown_tokens_per_s = Float(
        20.0,
        min=0.1,
        help="Tokens a second, from one address, that were never good before and so are asked of JupyterHub; from all "
        "addresses five times as many. Default 20. Beyond: 429. Example: 50.0.",
    ).tag(config=True)
    connections = Int(
        4096,
        min=16,
        help="Connections, of the service and of the hub each. Default 4096, and never more than open files allow. "
        "Beyond: the one that has waited longest without a request is closed. Example: 10000.",
    ).tag(config=True)
    idle_s = Float(
        60.0,
        min=1,
        help="Seconds until a connection is closed on which no whole request came. Default 60. Example: 20.0.",
    ).tag(config=True)
    body_s = Float(30.0, min=1, help="Seconds for the body of a request to come in. Default 30. Example: 10.0.").tag(
        config=True
    )

    @property
    def open_each(self) -> int:
        """Requests of one that the proxy has open: those that the bounds above allow, and as many again as are worked
        on, for what they do not count. Whatever is beyond would be refused by them."""
        return 2 * self.requests_at_once + self.polls_each + self.streams_each


def read_bounds(state_dir: Path | None) -> ServiceBounds:
    """Return the bounds of ``timeshare_service.py`` in ``state_dir``; the defaults without one. Raises BoundsError."""
    if state_dir is None or not (state_dir / CONFIG_FILE).exists():
        return ServiceBounds()
    try:
        config = PyFileConfigLoader(CONFIG_FILE, path=str(state_dir)).load_config()
        known = sorted(ServiceBounds.class_trait_names(config=True))
        unknown = [*sorted(set(config) - {"ServiceBounds"}), *sorted(set(config.ServiceBounds) - set(known))]
        if unknown:
            told = f"there is no {unknown[0]!r}; known in c.ServiceBounds are {', '.join(known)}"
            raise BoundsError(f"{state_dir / CONFIG_FILE}: {told}")
        return ServiceBounds(config=config)
    except (TraitError, TypeError, AttributeError, SyntaxError, NameError, ValueError) as error:
        raise BoundsError(f"{state_dir / CONFIG_FILE}: {error}") from None


def raise_file_limit(wanted: int) -> int:
    """Raise this process's soft limit of open files to the hard one, and return how many connections that allows.

    ``wanted``: connections by the bounds; fewer are said in the log.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    possible = wanted if hard == resource.RLIM_INFINITY else max(16, hard - SPARE_FILES)
    if possible < wanted:
        log.warning(
            "%d open files are allowed, so at most %d connections instead of %d: raise LimitNOFILE of the unit (or "
            "`ulimit -Hn`) to at least %d, or lower c.ServiceBounds.connections",
            *(hard, possible, wanted, wanted + SPARE_FILES),
        )
    return min(wanted, possible)
