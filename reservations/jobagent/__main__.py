"""``python -m timeshare.reservations.jobagent``: what a session's job becomes (``exec``) on its compute node."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import signal
import socket
import sys
import threading
from types import FrameType

from ..devices.model import DeviceSource
from ..devices.nvml import NvmlSource
from ..devices.simulated import SimulatedSource
from .agent import Agent
from .line import Line
from .meter import Meter
from .seat import take_seat
from .setting import KEY, Setting, SettingError, read_setting

log = logging.getLogger("timeshare.jobagent")
PR_SET_CHILD_SUBREAPER = 36
WRONG = 2


def open_source(setting: Setting) -> DeviceSource | None:
    """What tells about the GPUs of this node; None where NVML is not installed."""
    if setting.share.simulated:
        gib = max(1, setting.share.memory_mib // 1024)
        return SimulatedSource(f"slurm-{gib}gb:{max(setting.gpus, default=0) + 1}")
    return NvmlSource() if importlib.util.find_spec("pynvml") is not None else None


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        setting = read_setting(os.environ, socket.gethostname())
    except SettingError as error:
        print(f"timeshare job agent: {error}", file=sys.stderr)
        return WRONG
    environment = {name: value for name, value in os.environ.items() if name != KEY}
    os.environ.pop(KEY, None)
    # What a server leaves behind becomes the agent's child, so that it is seen, and ended with it.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    source = open_source(setting)
    seat = take_seat(setting, source)
    log.info(
        "job %s on %s holds %s (%s)", setting.job_id, setting.node, ", ".join(seat.devices) or "no GPU", seat.level
    )
    meter = Meter(setting.reservation_id, source, seat)
    agent = Agent(setting, seat, Line(setting.service_url, setting.reservation_id, setting.key), meter, environment)

    def heard(number: int, frame: FrameType | None) -> None:
        agent.signals.append(signal.Signals(number))

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, heard)
    threading.Thread(target=meter.run, daemon=True).start()
    return agent.run()


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    os._exit(code)  # not waiting for a driver or a connection that hangs in a thread
