"""The reservations service as a notebook speaks to it: plain HTTP, with the token of her own session."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode

from ..transport import ask

Json = dict[str, Any]
URL_VARIABLE = "TIMESHARE_SERVICE_URL"
TOKEN_VARIABLES = ("TIMESHARE_TOKEN", "JUPYTERHUB_API_TOKEN")
SHARE_S = 60.0
"""More for a sweep: its points are written one by one, and after other sweeps they wait for this person's share of the
service's time."""
PATIENCE_S = 60.0
"""In all, for a request that is one too many in a second: a sweep of hundreds of points may be cancelled one by one."""
LONGEST_PAUSE_S = 5
LIVE = ("queued", "granted", "starting", "active", "ending")


class Refused(Exception):
    """The service said no; the text is for a person and says what would work."""


class Unreachable(Exception):
    """The service did not answer: nothing is known about any job."""


@dataclass(frozen=True)
class Service:
    """``url``: of the service with its prefix. ``owner``: whose jobs they are; only a deployment's own token names one.

    Every method raises Refused and Unreachable.
    """

    url: str
    token: str
    owner: str = ""
    timeout_s: float = 15.0

    @staticmethod
    def of_session() -> Service:
        """As the environment has it. Raises Refused outside of a session."""
        url = os.environ.get(URL_VARIABLE, "")
        token = next((os.environ[name] for name in TOKEN_VARIABLES if os.environ.get(name)), "")
        if not url or not token:
            missing = URL_VARIABLE if not url else TOKEN_VARIABLES[0]
            raise Refused(
                f"this is not a session of timeshare ({missing} is not set): start one from the hub, or set "
                f"{URL_VARIABLE} to the service's address and {TOKEN_VARIABLES[0]} to a token from the hub's Token page"
            )
        return Service(url, token)

    def submit(self, body: Json) -> Json:
        return self._ask("POST", "jobs", {**body, **self._whose()}, more_s=SHARE_S)

    def estimate(self, body: Json) -> Json:
        return self._ask("POST", "jobs/estimate", {**body, **self._whose()})

    def engines(self) -> list[str]:
        """By name, those beside this machine."""
        offers = self._ask("GET", f"offers?{urlencode(self._whose())}".rstrip("?"))["offers"]
        return sorted({str(offer["engine"]) for offer in offers if offer["engine"]})

    def get(self, reservation_id: str) -> Json:
        return self._ask("GET", _one("reservations", reservation_id))

    def wait(self, reservation_id: str, unlike: str, seconds: int) -> Json:
        """The reservation once its state is not ``unlike``, or after ``seconds``."""
        query = urlencode({"unlike": unlike, "wait_s": seconds})
        return self._ask("GET", f"{_one('reservations', reservation_id)}?{query}", more_s=seconds)

    def jobs(self, limit: int = 500) -> list[Json]:
        """Her batch reservations, the newest first."""
        query = urlencode({"kind": "batch", "limit": limit, **self._whose()})
        found: list[Json] = self._ask("GET", f"reservations?{query}")["reservations"]
        return found

    def end(self, reservation_id: str) -> Json:
        body = {"reason": "cancelled", "detail": "cancelled by its owner"}
        return self._ask("POST", f"{_one('reservations', reservation_id)}/end", body)

    def activity(self, reservation_id: str) -> Json:
        """What is known of what a session does, and what follows from it."""
        return self._ask("GET", f"{_one('reservations', reservation_id)}/activity")

    def do(self, reservation_id: str, what: str, body: Json) -> Json:
        """To a session: ``extend`` (``seconds``), ``keep`` (``key``, ``seconds``, ``why``), ``give_back`` (``park``),
        ``ask_again``."""
        return self._ask("POST", f"{_one('reservations', reservation_id)}/{what}", body)

    def key(self, reservation_id: str) -> str:
        """Of the job's results."""
        return str(self._ask("GET", f"{_one('jobs', reservation_id)}/key")["key"])

    def lines(self, reservation_id: str, offset: int) -> Json:
        """``text`` of the spool from byte ``offset``, and ``next``."""
        return self._ask("GET", f"{_one('jobs', reservation_id)}/lines?offset={offset}")

    def _whose(self) -> Json:
        return {"owner": self.owner} if self.owner else {}

    def _ask(self, method: str, path: str, body: Json | None = None, more_s: float = 0) -> Json:
        headers = {"Authorization": f"Bearer {self.token}"}
        url = f"{self.url.rstrip('/')}/api/v1/{path}"
        patience = PATIENCE_S
        while True:
            try:
                answer: Json = ask(url, method, headers, body, self.timeout_s + more_s)
                return answer
            except HTTPError as error:
                pause = _pause(error)
                if not 0 < pause <= patience:
                    raise _refusal(error) from None
                patience -= pause
                time.sleep(pause)
            except (URLError, OSError, ValueError) as error:
                why = getattr(error, "reason", error)
                raise Unreachable(f"the reservations service does not answer ({why}); try again in a minute") from None


def _pause(error: HTTPError) -> float:
    """Seconds after which the same request is let through, where only their number was too high; 0: it is not."""
    told = error.headers.get("Retry-After", "")
    return float(told) if error.code == 429 and told.isdecimal() and int(told) <= LONGEST_PAUSE_S else 0.0


def _refusal(error: HTTPError) -> Exception:
    try:
        told = json.loads(error.read())["error"]
        message = str(told["message"])
    except (ValueError, KeyError, TypeError, OSError):
        message = f"the service answered with status {error.code}"
    return Unreachable(message) if error.code >= 500 else Refused(message)


def _one(what: str, name: str) -> str:
    return f"{what}/{quote(name, safe='')}"
