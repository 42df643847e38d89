"""The API against its own description: thousands of requests, good and bad, drawn from the OpenAPI by schemathesis,
with a real user's token and with the deployment's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import FULL_STRESS
from hubs import running_hub

EXAMPLES = "200" if FULL_STRESS else "10"
ALL = "examples,coverage,fuzzing"
PHASES = (ALL, ALL) if FULL_STRESS else ("coverage", "examples,fuzzing")
"""With the user's token, and with the deployment's."""


@pytest.mark.hub
@pytest.mark.timeout(1800)
def test_every_answer_is_one_that_the_description_announces(tmp_path: Path) -> None:
    with running_hub(tmp_path, "--simulate", "a100-40gb[3g.20gb+1g.5gb]:1,t4:2") as hub:
        # 422 is a share that this pool could never give, which no description can know.
        accepted = '["2xx", "401", "403", "404", "409", "422", "429"]'
        (tmp_path / "schemathesis.toml").write_text(
            f"[checks.positive_data_acceptance]\nexpected-statuses = {accepted}\n"
        )
        described = f"{hub.url}services/timeshare/api/v1/openapi.json"
        for token, phases in zip((hub.login("ada").token, hub.deployment.admin_token), PHASES, strict=True):
            done = subprocess.run(
                [
                    *(Path(sys.executable).parent / "schemathesis", "run", described),
                    *("--header", f"Authorization: Bearer {token}", "--max-examples", EXAMPLES),
                    *("--request-timeout", "70", "--max-response-time", "70"),  # how long is no part of it
                    *("--checks", "all", "--phases", phases, "--seed", "20261123", "--no-color"),
                ],
                capture_output=True,
                text=True,
                cwd=tmp_path,
                check=False,
            )
            assert done.returncode == 0, done.stdout[-8000:]
        assert "Traceback" not in (tmp_path / "logs" / "service.log").read_text()
