"""Where the command ``timeshare`` begins. ``timeshare batch`` needs nothing of the hub's side, which is not there in an
environment that only has ``pip install timeshare``."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[:1] == ["batch"]:
            from ..notebooks.batch.terminal import main as batch

            sys.exit(batch(words[1:]))
        try:
            from ..reservations.files import leave_folder

            leave_folder()
            from .command import run
        except ImportError as error:
            sys.exit(f"timeshare: only `timeshare batch` works here ({error}); the rest needs timeshare[hub]")
        sys.exit(run(words))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
