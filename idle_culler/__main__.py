"""``python -m timeshare.idle_culler``: the process that gives idle GPUs back."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys

from traitlets import Float, List, Unicode
from traitlets.config import Application

from ..reservations.client import ServiceClient
from ..reservations.deployment import DeploymentError, current_deployment
from ..reservations.text import log_lines
from .mail import Mailer
from .service import Culler

CONFIG_FILE = "timeshare_culler.py"
"""In the state folder, if the site wants something else than the defaults."""


class IdleCuller(Application):
    """Gives idle GPUs back by the rules in limits.yaml."""

    name = "timeshare-culler"
    period_s = Float(
        30.0,
        min=1.0,
        help="Seconds between two looks at all sessions. Default 30. Shorter: what is due is done sooner after the "
        "time that was told. Example: 10.0.",
    ).tag(config=True)
    mail_command = List(
        Unicode(),
        help="Program and arguments that send mail, the text on standard input; {user} stands for the user's name. "
        "Default []: no mail. Example: ['/usr/sbin/sendmail', '{user}@lab.example'].",
    ).tag(config=True)

    def start(self) -> None:
        deployment = current_deployment()
        self.load_config_file(CONFIG_FILE, path=[deployment.state_dir])
        culler = Culler(
            service=ServiceClient(deployment.service_url, deployment.culler_token),
            hub_health_url=f"{deployment.hub_url}hub/health",
            period_s=self.period_s,
            mailer=Mailer(tuple(self.mail_command)) if self.mail_command else None,
        )
        asyncio.run(until_told(culler))


async def until_told(culler: Culler) -> None:
    """Runs ``culler`` until SIGTERM or SIGINT."""
    task = asyncio.create_task(culler.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def main() -> None:
    log_lines()
    try:
        IdleCuller.launch_instance(argv=sys.argv[1:])
    except DeploymentError as error:
        sys.exit(f"timeshare culler: {error}")


if __name__ == "__main__":
    main()
