"""The small process above every session: starts the server, outlives the agent, records how everything ended.

Run as a script with ``python -I -S launcher.py RECORD_DIR TOMBSTONE ORDER_FD REPORT_FD``; it imports nothing of
timeshare, so that it starts fast and a new version of the package does not touch sessions that run. ORDER_FD is a file
in memory (see ``handover.pack``), so the token in the environment never reaches a disk. What went well or wrong is told
on REPORT_FD: the server's pid, or ``!`` and the reason, or ``stopped``.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import pwd
import sys
import time

LIBC = ctypes.CDLL(None)
PR_SET_CHILD_SUBREAPER = 36
# The module signal would take 4 ms of every start (it builds enumerations); these numbers are the same on all Linux.
SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGTERM, SIGXFSZ = 1, 2, 9, 13, 15, 25
SIG_DFL, SIG_IGN = 0, 1
STRAGGLERS_GRACE_S = 5.0
"""When the server has exited, how long what it left behind may take to follow."""
RECORD_TRIES = 60
"""How often, a second apart, the end is written again when the disk is full."""


def handle(numbers: tuple[int, ...], how: int) -> None:
    for number in numbers:
        LIBC.signal(number, ctypes.c_void_p(how))


class Failed(Exception):
    """The server could not be started; the text is for a person."""


class Order:
    """What to run, out of ``handover.pack``. Empty ``log_path``, ``user``, ``cwd``, ``stdin``: dropped, the agent's
    own, home, nothing to read."""

    def __init__(self, packed: bytes) -> None:
        fields = packed.decode("utf-8", "surrogateescape").split("\0")
        self.log_path, self.user, self.cwd, self.stdin = fields[:4]
        counts = [int(field) for field in fields[4:7]]
        rest = iter(fields[7:])
        self.cgroups, self.prefix, self.argv = ([next(rest) for _ in range(count)] for count in counts)
        self.env = dict(item.split("=", 1) for item in rest)


def write_whole(path: str, text: str, durable: bool = True) -> None:
    draft = f"{path}.draft"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, text.encode())
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(draft, path)
    if not durable:
        return
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def write_exit(record: str, code: int | None, message: str = "") -> None:
    import json  # only now: it would take a third of the time that a start takes

    for _ in range(RECORD_TRIES):
        try:
            return write_whole(f"{record}/exit.json", json.dumps({"code": code, "message": message}))
        except OSError:
            time.sleep(1)
    return None  # the agent will find the launcher gone and the exit code unknown


def write_identity(record: str, main_pid: int) -> None:
    with open("/proc/self/stat", "rb") as file:
        ticks = int(file.read().rpartition(b")")[2].split()[19])
    with open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    text = f'{{"pid": {os.getpid()}, "ticks": {ticks}, "boot_id": "{boot}", "main_pid": {main_pid}}}'
    # Before the server runs this must be on disk. Its pid need only survive processes: a power cut ends it too.
    write_whole(f"{record}/shim.json", text, durable=main_pid == 0)


def main() -> int:
    record, tombstone, order_fd, report_fd = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    os.set_inheritable(report_fd, False)
    with os.fdopen(order_fd, "rb") as file:
        order = Order(file.read())
    lock = os.open(f"{record}/lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    if os.path.exists(f"{record}/abandoned") or os.path.exists(f"{record}/shim.json"):
        return 1
    if os.path.exists(tombstone):
        write_exit(record, None, "it was stopped before it started")
        report(report_fd, "stopped")
        return 1
    handle((SIGINT, SIGTERM, SIGHUP), SIG_IGN)
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        child = begin(record, order, lock)
    except Failed as error:
        write_exit(record, None, str(error))
        report(report_fd, f"!{error}")
        return 1
    report(report_fd, str(child))
    write_exit(record, outlive(child))
    return 0


def report(descriptor: int, text: str) -> None:
    try:
        os.write(descriptor, text.encode(errors="replace"))
        os.close(descriptor)
    except OSError:
        pass  # the agent died; it will find the record


def begin(record: str, order: Order, lock: int) -> int:
    """Records who we are, starts the server, records its pid. Raises Failed; then nothing runs."""
    child = 0
    try:
        write_identity(record, 0)
        join_cgroups(order.cgroups)
        child = start(order, lock)
        write_identity(record, child)
    except OSError as error:
        if child:
            os.kill(child, SIGKILL)
            outlive(child)
        raise Failed(explain(error)) from None
    return child


def explain(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def join_cgroups(folders: list[str]) -> None:
    for folder in folders:
        try:
            with open(f"{folder}/cgroup.procs", "w") as file:
                file.write(str(os.getpid()))
        except OSError as error:
            raise Failed(f"the device filter cannot be entered ({folder}: {error.strerror})") from None


def start(order: Order, lock: int) -> int:
    """The server's pid once its program runs. Raises Failed with the reason."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(lock)  # it says that the launcher lives, and a child that hangs before its program runs is none
        os.close(reader)
        try:
            become(order)
        except BaseException as error:
            os.write(writer, explain(error).encode(errors="replace")[:2000])
        os._exit(127)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        complaint = pipe.read()
    if complaint:
        os.waitpid(child, 0)
        raise Failed(complaint.decode(errors="replace"))
    return child


def become(order: Order) -> None:
    """In the child: turns into the server. Whatever fails here is told to the parent and ends it."""
    os.setsid()
    handle((SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGXFSZ), SIG_DFL)
    redirect(order.log_path, order.stdin)
    account = account_of(order.user)
    env = order.env
    if order.user:
        os.initgroups(account.pw_name, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
        env.update(HOME=account.pw_dir, USER=account.pw_name, LOGNAME=account.pw_name, SHELL=account.pw_shell)
    else:
        env.setdefault("HOME", account.pw_dir)
    os.umask(0o077 if order.user else 0o022)
    enter_folder(order.cwd, env["HOME"])
    argv = [*order.prefix, *order.argv]
    try:
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        raise Failed(f"{argv[0]} cannot be run: {error.strerror}") from None


def account_of(name: str) -> pwd.struct_passwd:
    if not name:
        return pwd.getpwuid(os.geteuid())
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        raise Failed(f"this machine has no account {name!r}: create it, or log in with another one") from None
    if account.pw_uid == 0:
        raise Failed(f"account {name!r} has all rights (user id 0): sessions do not run as root; use another account")
    return account


def enter_folder(wanted: str, home: str) -> None:
    """A folder that is missing is no reason to lose the session: home, or else / is taken, and the log says so."""
    for folder in (wanted or home, home, "/"):
        try:
            return os.chdir(folder)
        except OSError as error:
            message = f"timeshare: the working folder {folder} cannot be entered ({error.strerror}); using another\n"
            os.write(2, message.encode(errors="replace"))
    raise Failed("no working folder can be entered")


def redirect(log_path: str, stdin: str) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    reader = null
    if stdin:  # it fits into the pipe, so nobody has to read before all is written
        reader, writer = os.pipe()
        os.write(writer, stdin.encode("utf-8", "surrogateescape"))
        os.close(writer)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    log = os.open(log_path, flags, 0o600) if log_path else null
    os.dup2(reader, 0)
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
    signal_children(SIGTERM)
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            if time.monotonic() > term_until:
                signal_children(SIGKILL)
            time.sleep(0.05)


def signal_children(number: int) -> None:
    """Sends to all direct children; as the subreaper this gets every orphan's subtree sooner or later."""
    for pid in children():
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue  # gone, or not ours to end (sudo): it is waited for


def children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except FileNotFoundError:  # a kernel built without this list
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and parent_of(name) == os.getpid()]


def parent_of(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
