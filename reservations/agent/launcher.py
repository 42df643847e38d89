"""The small process above every session: starts the server, outlives the agent, records how everything ended.

Run as a script with ``python -I -S launcher.py RECORD_DIR TOMBSTONE REPORT_FD``; it imports nothing of timeshare, so
that it starts fast and a new version of the package does not touch sessions that run. What went well or wrong is told
on REPORT_FD as one line of JSON.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import pwd
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself would double the start time
    from typing import Any

PR_SET_CHILD_SUBREAPER = 36
STRAGGLERS_GRACE_S = 5.0
"""When the server has exited, how long what it left behind may take to follow."""


class Failed(Exception):
    """The server could not be started; the text is for a person."""


def write_json(path: str, data: object) -> None:
    draft = f"{path}.draft"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, json.dumps(data).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(draft, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def start_ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def main() -> int:
    record, tombstone, report_fd = sys.argv[1], sys.argv[2], int(sys.argv[3])
    os.set_inheritable(report_fd, False)
    lock = os.open(os.path.join(record, "lock"), os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    if os.path.exists(os.path.join(record, "abandoned")) or os.path.exists(os.path.join(record, "shim.json")):
        return 1
    if os.path.exists(tombstone):
        write_json(os.path.join(record, "exit.json"), {"code": None, "message": "it was stopped before it started"})
        report(report_fd, {"stopped": True})
        return 1
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    identity = {"pid": os.getpid(), "ticks": start_ticks(os.getpid()), "boot_id": boot_id(), "main_pid": 0}
    write_json(os.path.join(record, "shim.json"), identity)
    try:
        child = start(record)
    except Failed as error:
        write_json(os.path.join(record, "exit.json"), {"code": None, "message": str(error)})
        report(report_fd, {"failed": str(error)})
        return 1
    write_json(os.path.join(record, "shim.json"), {**identity, "main_pid": child})
    report(report_fd, {"pid": child})
    code = outlive(child)
    write_json(os.path.join(record, "exit.json"), {"code": code, "message": ""})
    return 0


def report(descriptor: int, data: object) -> None:
    try:
        os.write(descriptor, json.dumps(data).encode() + b"\n")
        os.close(descriptor)
    except OSError:
        pass  # the agent died; it will find the record


def start(record: str) -> int:
    """The server's pid once its program runs. Raises Failed with the reason."""
    with open(os.path.join(record, "order.json")) as file:
        order = json.load(file)
    with open(os.path.join(record, "env.json")) as file:
        env = json.load(file)
    os.unlink(os.path.join(record, "env.json"))
    join_cgroups(order["filter"].get("cgroups", ()))
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            become(order, env)
        except BaseException as error:
            os.write(writer, str(error).encode()[:2000] or b"unknown error")
        os._exit(127)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        complaint = pipe.read()
    if complaint:
        os.waitpid(child, 0)
        raise Failed(complaint.decode(errors="replace"))
    return child


def join_cgroups(folders: list[str]) -> None:
    for folder in folders:
        try:
            with open(os.path.join(folder, "cgroup.procs"), "w") as file:
                file.write(str(os.getpid()))
        except OSError as error:
            raise Failed(f"the device filter cannot be entered ({folder}: {error.strerror})") from None


def become(order: dict[str, Any], env: dict[str, str]) -> None:
    """In the child: turns into the server. Whatever fails here is told to the parent and ends it."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    redirect(order["log_path"])
    account = account_of(order["user"])
    if order["user"] is not None:
        os.initgroups(account.pw_name, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
        env.update(HOME=account.pw_dir, USER=account.pw_name, LOGNAME=account.pw_name, SHELL=account.pw_shell)
    else:
        env.setdefault("HOME", account.pw_dir)
    os.umask(0o077 if order["user"] is not None else 0o022)
    os.chdir(order["cwd"] or env["HOME"])
    argv = [*order["filter"].get("prefix", ()), *order["argv"]]
    try:
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        raise Failed(f"{argv[0]} cannot be run: {error.strerror}") from None


def account_of(name: str | None) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(os.geteuid()) if name is None else pwd.getpwnam(name)
    except KeyError:
        raise Failed(f"this machine has no account {name!r}") from None


def redirect(log_path: str | None) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    log = null if log_path is None else os.open(log_path, flags, 0o600)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)


def outlive(child: int) -> int:
    """Reaps everything below until nothing is left; the server's exit code (negative: the signal that ended it)."""
    code = None
    while code is None:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
    term_until = time.monotonic() + STRAGGLERS_GRACE_S
    signal_children(signal.SIGTERM)
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            if time.monotonic() > term_until:
                signal_children(signal.SIGKILL)
            time.sleep(0.05)


def signal_children(number: int) -> None:
    """Sends to all direct children; as the subreaper this gets every orphan's subtree sooner or later."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        for pid in file.read().split():
            try:
                os.kill(int(pid), number)
            except ProcessLookupError:
                continue


if __name__ == "__main__":
    sys.exit(main())
