"""Who wrote a job's results: a signature with the job's key, which the service tells to the runner and to the owner of
the job, and which is never written into a file."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

from ..capture.own import Untrusted


def signed(job_id: str, body: dict[str, Any], key: str) -> str:
    """``body`` as text that ``verified`` takes."""
    text = json.dumps({"job": job_id, **body})
    return json.dumps({"body": text, "signature": _signature(text, key)})


def verified(text: str, job_id: str, key: str) -> dict[str, Any]:
    """The body. Raises Untrusted unless it was signed with ``key``, for ``job_id``."""
    try:
        told = json.loads(text)
        body, signature = str(told["body"]), str(told["signature"])
    except (ValueError, KeyError, TypeError):
        raise Untrusted("the results are damaged: they are not loaded") from None
    if not hmac.compare_digest(_signature(body, key), signature):
        raise Untrusted("the results were not written by this job, or were changed since: they are not loaded")
    found: dict[str, Any] = json.loads(body)
    if found.pop("job", None) != job_id:
        raise Untrusted("the results belong to a different job: they are not loaded")
    return found


def _signature(text: str, key: str) -> str:
    return hmac.new(key.encode(), text.encode(), hashlib.sha256).hexdigest()
