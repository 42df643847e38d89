"""``python -m timeshare.reservations.jobagent.trial SERVICE_URL [HUB_API_URL]``: whether a node could run a session.
The exit status says it, for an output on a node cannot be read everywhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

NO_SERVICE, NO_HUB = 71, 72
"""1, 2, 126 and 127 are those of a Python or a shell that got no further."""
TIMEOUT_S = 10.0


def main(urls: Sequence[str]) -> int:
    from . import __main__  # noqa: F401  # all that a job agent needs

    service, *hub = urls
    if not answers(f"{service.rstrip('/')}/api/v1/health"):
        return NO_SERVICE
    return 0 if all(answers(url) for url in hub) else NO_HUB


def answers(url: str) -> bool:
    """As job agents reach it: without a proxy of the site's. Says on standard error what came instead."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", parts.path)
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        print(f"{url}: {error}", file=sys.stderr)
        return False
    finally:
        connection.close()
    if status != 200:
        print(f"{url}: status {status}", file=sys.stderr)
    return status == 200


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
