"""``%%gpu_batch`` and ``%gpu_batch``: thin, over what Python and the terminal use too."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, magics_class

from ..runner.torchrun import LAUNCHES
from . import pages
from .commands import FOR_PEOPLE, LAST, Desk
from .following import CellScreen, Following, Screen, TerminalScreen
from .handing import Handed, check, hand_over
from .job import Job, JobFailed
from .options import LOCAL, HelpShown, Options, parse, parser
from .places import Places
from .service import Refused, Service, Unreachable
from .states import COMPLETED

_HISTORY = re.compile(r"run\s+(?:In\[(\d+)\]|(\d+))\s*(.*)", re.IGNORECASE)


@magics_class
class GpuBatch(Magics):
    """Hands cells over to jobs with GPUs of their own."""

    @line_cell_magic
    def gpu_batch(self, line: str, cell: str | None = None) -> None:
        """``%%gpu_batch --help`` and ``%gpu_batch --help`` tell all."""
        try:
            if cell is not None:
                self._submit(cell, parse(line))
            elif match := _HISTORY.fullmatch(line.strip()):
                self._submit(self._from_history(int(match[1] or match[2])), parse(match[3]))
            else:
                text = self._desk().do(line or "--help")
                if text:
                    print(text)
        except HelpShown as shown:
            print(shown)
        except FOR_PEOPLE as error:
            raise UsageError(str(error)) from None

    def _submit(self, cell: str, options: Options) -> None:
        places, service = Places.own(), Service.of_session()
        main = self._main()
        if options.dry_run:
            print(check(cell, options, main, places, service))
            return
        handed = hand_over(cell, options, main, places, service)
        for warning in handed.warnings:
            print(f"Note: {warning}.")
        print(f"{handed.job.id}: {handed.text}.", flush=True)  # above what the job puts out
        main[LAST] = handed.job
        self._follow(handed, options.wait)

    def _follow(self, handed: Handed, wait: bool) -> None:
        job = handed.job
        number = None if job.is_sweep else 0
        # With its variables here already, nothing is to be said of how they come.
        at_end = self._desk().at_end(job, number) if job.is_sweep or not wait else None
        following = Following(job, self._screen(), number, at_end)
        if not wait:
            following.start()
            return
        try:
            following.run()
        except KeyboardInterrupt:
            print(f"{job.id} goes on without you; %gpu_batch attach {job.id} shows it, cancel ends it.")
            return
        if job.is_sweep:
            return
        (status,) = job.statuses()
        print("\n".join(job.bring()))
        if status.state != COMPLETED:
            raise JobFailed(f"{job.id} {status.state}: {status.why}")

    def _from_history(self, number: int) -> str:
        cells = self._main().get("In", [])
        if not 0 < number < len(cells) or not cells[number].strip():
            raise UsageError(f"there is no cell In[{number}] in this session: %history -n lists them")
        cell: str = next(raw for _, line, raw in self._history(number) if line == number)
        first, _, rest = cell.partition("\n")
        return rest if first.startswith("%%gpu_batch") else cell

    def _history(self, number: int) -> Any:
        return self._shell().history_manager.get_range(0, number, number + 1, raw=True)

    def _shell(self) -> Any:
        assert self.shell is not None
        return self.shell

    def _main(self) -> dict[str, Any]:
        found: dict[str, Any] = self._shell().user_ns
        return found

    def _screen(self) -> Screen:
        kernel = getattr(self._shell(), "kernel", None)
        return TerminalScreen() if kernel is None else CellScreen(kernel)

    def _desk(self) -> Desk:
        return Desk(Places.own(), self._main(), self._screen, pages.MAGIC)


def completions(shell: Any, event: Any) -> list[str]:
    """Of a line that begins with the magic: options of a cell, commands and ids of a line."""
    if event.line.startswith("%%"):
        before = event.line[: -len(event.symbol) or None].split()[-1]
        if before in ("--engine", "--launch"):
            return engines() if before == "--engine" else [name for name in LAUNCHES if name]
        return [option for action in parser()._actions for option in action.option_strings if option.startswith("--")]
    words = event.line.split()
    if len(words) > 2 or (len(words) == 2 and event.line.endswith(" ")):
        return Places.own().ids()[:50]
    return ["ls", "status", "attach", "logs", "result", "cancel", "rerun", "rm", "run"]


def engines() -> list[str]:
    """Where jobs may run; nothing while the service cannot be asked."""
    try:
        return [*replace(Service.of_session(), timeout_s=2.0).engines(), LOCAL]
    except (Refused, Unreachable):
        return []


def load(shell: Any) -> None:
    """Registers magic and completion in an IPython shell."""
    shell.register_magics(GpuBatch)
    for name in ("%%gpu_batch", "%gpu_batch"):
        shell.set_hook("complete_command", completions, str_key=name)


__all__ = ["GpuBatch", "Job", "load"]
