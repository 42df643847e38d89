"""What ``timeshare doctor`` finds, one line each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

OK, NOTE, WARN, FAIL = "ok", "note", "warn", "fail"


@dataclass(frozen=True)
class Finding:
    """``level``: ok, note (not here, not needed), warn (weaker or missing) or fail (it cannot run like this)."""

    level: str
    what: str
    detail: str
    advice: str = ""


def show(findings: Sequence[Finding], as_json: bool) -> int:
    """Prints them; 1 when something must be repaired."""
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{finding.level:4}  {finding.what}: {finding.detail}")
            if finding.advice:
                print(f"      {finding.advice}")
    return 1 if any(finding.level == FAIL for finding in findings) else 0
