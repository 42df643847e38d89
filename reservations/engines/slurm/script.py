"""Submissions: the words of sbatch and the script that it reads from its standard input. Pure.

Nothing that a person typed stands unquoted: text for people is one word of the argument list, ``--comment=…``, and what
goes into the script is quoted for bash, a value never over more than one line, so that none can pass for a directive.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ...errors import invalid
from .errors import Unreadable

PREFIX = "timeshare-"
MAX_COMMENT = 200
"""Characters; Slurm refuses a comment of more than 1024 bytes."""
MAX_SIGNAL_LEAD_S = 65535
SIGNAL_SLACK_S = 60
"""Slurm sends the signal before the end up to so much too early."""
# Settings of the submission, which Slurm would hand on to everything inside the job.
_FORGOTTEN = ("SLURM_BITSTR_LEN", "SLURM_EXPORT_ENV", "SLURM_GET_USER_ENV", "SLURM_TIME_FORMAT")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OF_BASH = frozenset({"BASHOPTS", "BASH_VERSINFO", "EUID", "PPID", "SHELLOPTS", "UID"})
_NAME = re.compile(rf"{PREFIX}([A-Za-z0-9_-]+)\.([1-9][0-9]*)")
_SUBMITTED = re.compile(r"([1-9][0-9]*)(?:;[^\s;]+)?")


@dataclass(frozen=True)
class Program:
    """What a job becomes: ``argv`` in folder ``cwd``, with ``env`` added to what Slurm gives it. ``stdin``: lines to
    read, such as a key; in no argument and no variable. ``generation``: of the reservation at its first start; Slurm's
    own restarts count on from it."""

    argv: tuple[str, ...]
    cwd: str
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: str = ""
    generation: int = 1


@dataclass(frozen=True)
class Submission:
    """One job, or an array: ``program`` is then one for each index.

    ``name``: see ``job_name``. ``options``: of the share, see ``request``. ``folder``: of the owner, where Slurm writes
    what is put out; it must exist. ``time_limit_s``: rounded up to whole minutes. ``grace_s``: so long before the time
    limit the program is interrupted; 0: it is not. ``requeue``: whether Slurm may start it again by itself.
    ``parallel``: of an array at most so many at once; 0: as many as there is room for. ``comment``: for people.
    """

    name: str
    program: Program | Mapping[int, Program]
    folder: str
    time_limit_s: float
    options: tuple[str, ...] = ()
    grace_s: float = 0
    requeue: bool = False
    parallel: int = 0
    comment: str = ""


def job_name(reservation_or_array: str, attempt: int) -> str:
    """By which a job is found again after a crash. Raises ValueError for what ``parse_job_name`` would not read."""
    name = f"{PREFIX}{reservation_or_array}.{attempt}"
    if not _NAME.fullmatch(name):
        raise ValueError(f"{reservation_or_array!r}, attempt {attempt!r}: no name of a job")
    return name


def parse_job_name(name: str) -> tuple[str, int] | None:
    """The reservation or array and the attempt; None: not a job of timeshare."""
    found = _NAME.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def output_path(submission: Submission, index: int | None = None) -> str:
    """Where Slurm writes what the job (or the task of an array) puts out, all of it together."""
    task = "" if index is None else f"-{index}"
    return f"{submission.folder.rstrip('/')}/{submission.name}{task}.log"


def sbatch_argv(submission: Submission, *, test_only: bool = False) -> list[str]:
    """``test_only``: submits nothing, asks when it would start (see ``limits.expected_start``)."""
    minutes = max(1, math.ceil(submission.time_limit_s / 60))
    array = not isinstance(submission.program, Program)
    comment = readable(submission.comment)
    argv = ["sbatch", "--parsable", f"--job-name={submission.name}"]
    argv += [f"--comment={comment}"] if comment else []
    argv += [*submission.options, f"--time={minutes}", *_signal(submission.grace_s, minutes * 60)]
    argv += ["--requeue" if submission.requeue else "--no-requeue", "--open-mode=append"]
    argv += [f"--chdir={_text('folder', submission.folder)}", f"--output={_pattern(submission, array)}"]
    # Neither the service's variables nor its limits of files and memory are those of a person's job.
    argv += ["--export=NIL", "--propagate=NONE"]
    if not isinstance(submission.program, Program):
        argv.append(f"--array={indices(submission.program)}{f'%{submission.parallel}' if submission.parallel else ''}")
    return [*argv, "--test-only"] if test_only else argv


def _signal(grace_s: float, time_limit_s: int) -> list[str]:
    lead = min(int(grace_s), MAX_SIGNAL_LEAD_S, time_limit_s - SIGNAL_SLACK_S)
    return [f"--signal=B:INT@{lead}"] if lead > 0 else []


def _pattern(submission: Submission, array: bool) -> str:
    folder = _text("folder", submission.folder)
    if "\\" in folder:
        raise invalid("folder", folder, "must be a path without '\\', which Slurm reads in a way of its own")
    path = output_path(submission).replace("%", "%%")
    return path.removesuffix(".log") + "-%a.log" if array else path


def readable(text: str) -> str:
    """One line, of a length that Slurm takes: what a person called it."""
    words = "".join(c if c.isprintable() and not 0xD800 <= ord(c) <= 0xDFFF else " " for c in text).split()
    return " ".join(words)[:MAX_COMMENT].rstrip()


def indices(numbers: Iterable[int]) -> str:
    """``0,2,5-9`` for those of an array."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)


def script(submission: Submission) -> str:
    """What sbatch gets on standard input. Raises PublicError for what no program can be given."""
    lines = ["#!/bin/bash", f"unset {' '.join(_FORGOTTEN)}"]
    if isinstance(submission.program, Program):
        return "\n".join([*lines, *_exports(submission.program.env.items()), *_start(submission.program)]) + "\n"
    tasks = submission.program
    shared = set.intersection(*(set(task.env.items()) for task in tasks.values())) if tasks else set()
    lines += [*_exports(shared), 'case "$SLURM_ARRAY_TASK_ID" in']
    for index, task in sorted(tasks.items()):
        own = set(task.env.items()) - shared
        lines += [f"{index})", *_exports(own), *_start(task), ";;"]
    return "\n".join([*lines, "esac", 'echo "no task $SLURM_ARRAY_TASK_ID in this array" >&2', "exit 2"]) + "\n"


def _exports(variables: Iterable[tuple[str, str]]) -> list[str]:
    return [f"export {_variable(name)}={_quoted(name, value)}" for name, value in sorted(variables)]


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name) or name in _OF_BASH:
        raise invalid("environment", name, "must be a name of letters, digits and '_' that the shell leaves to others")
    return name


def _start(program: Program) -> list[str]:
    # exec: signals arrive at the program, and nothing but it is left when it has ended.
    command = " ".join(_quoted("argv", word) for word in program.argv)
    generation = f"export TIMESHARE_GENERATION=$(({program.generation} + ${{SLURM_RESTART_COUNT:-0}}))"
    lines = [generation, f"cd -- {_quoted('cwd', program.cwd)} || exit 2"]
    if not program.stdin:
        return [*lines, f"exec -- {command} </dev/null"]
    text = _text("stdin", program.stdin).removesuffix("\n")
    if any(_control(c) and c not in "\n\t" for c in text):
        raise invalid("stdin", f"{len(text)} characters", "must be lines of text without control characters")
    end = "END"
    while end in text.split("\n"):
        end += "_"
    return [*lines, f"exec -- {command} <<'{end}'", text, end]


def _text(what: str, value: str) -> str:
    if "\0" in value or any(0xD800 <= ord(c) <= 0xDFFF for c in value):
        # Not shown: it may be a key.
        raise invalid(what, f"{len(value)} characters", "must be text that can be written as UTF-8, without NUL")
    return value


def _control(character: str) -> bool:
    return ord(character) < 32 or ord(character) == 127


def _quoted(what: str, value: str) -> str:
    """One word of bash on one line: a control character would end it, or make Slurm refuse the script."""
    if any(_control(c) for c in _text(what, value)):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        # Three digits of octal are read as exactly one byte, whatever comes after.
        return "$'" + "".join(f"\\{ord(c):03o}" if _control(c) else c for c in escaped) + "'"
    return shlex.quote(value)


def parse_submitted(out: str) -> int:
    """The job's number, from what ``sbatch --parsable`` printed."""
    found = _SUBMITTED.fullmatch(out.strip())
    if not found:
        raise Unreadable("sbatch", out)
    return int(found[1])
