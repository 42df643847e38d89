"""The small process above every session: starts the server, outlives the agent, records how everything ended.

Run as a script with ``python -I -S launcher.pyc ORDER_FD REPORT_FD``; it imports nothing of timeshare but two files
that lie beside it, so that it starts fast and a new version of the package does not touch sessions that run. ORDER_FD
is a file in memory (see ``handover.pack``), so the token in the environment never reaches a disk, nor the reservation's
id a list of processes. What went well or wrong is told on REPORT_FD: the server's pid, or ``!`` and the reason, or
``stopped``.

It stays outside of the session's control group, which it has to outlive.
"""

from __future__ import annotations

import _thread
import ctypes
import fcntl
import os
import pwd
import select
import sys
import time

TYPE_CHECKING = False  # importing typing would take longer than everything here
if TYPE_CHECKING:
    from . import ending, output
else:
    sys.path.insert(0, os.path.dirname(__file__))
    import ending
    import output

    del sys.path[0]

LIBC = ctypes.CDLL(None)
PR_SET_CHILD_SUBREAPER = 36
# The module signal would take 4 ms of every start (it builds enumerations); these numbers are the same on all Linux.
SIGHUP, SIGINT, SIGKILL, SIGPIPE, SIGTERM, SIGXFSZ = 1, 2, 9, 13, 15, 25
SIG_DFL, SIG_IGN = 0, 1
STRAGGLERS_GRACE_S = 5.0
"""When the server has exited, how long what it left behind may take to follow."""
BEGIN_WAIT_S = 15.0
"""How long the server's program may take to begin; the agent waits twice as long for what becomes of it."""
KILL_AGAIN_S = 0.05
OUTPUT_WAIT_S = 2.0
"""When all processes are gone, how long the end of the log waits for others to whom they gave the way to it."""
RECORD_TRIES = 60
"""How often, a second apart, the end is written again when the disk is full."""


def handle(numbers: tuple[int, ...], how: int) -> None:
    for number in numbers:
        LIBC.signal(number, ctypes.c_void_p(how))


class Failed(Exception):
    """The server could not be started; the text is for a person."""


class Order:
    """What to run, out of ``handover.pack``. Empty ``log_path``, ``user``, ``cwd``, ``stdin``: dropped, the agent's
    own, home, nothing to read. ``bound``: main memory at most, for people; empty: any. ``group``: folders of its
    control group, ``cgroups``: of its device filter."""

    def __init__(self, packed: bytes) -> None:
        fields = packed.decode("utf-8", "surrogateescape").split("\0")
        self.record, self.tombstone = fields[:2]
        self.log_path, self.user, self.cwd, self.stdin, self.bound = fields[2:7]
        counts = [int(field) for field in fields[7:11]]
        rest = iter(fields[11:])
        self.group, self.cgroups, self.prefix, self.argv = ([next(rest) for _ in range(count)] for count in counts)
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
    order_fd, report_fd = int(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(report_fd, False)
    with os.fdopen(order_fd, "rb") as file:
        order = Order(file.read())
    record = order.record
    try:
        lock = os.open(f"{record}/lock", os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX)
        anew = not os.path.samestat(os.fstat(lock), os.stat(f"{record}/lock"))
    except FileNotFoundError:
        return 1  # the agent gave this start up
    if anew or os.path.exists(f"{record}/abandoned") or os.path.exists(f"{record}/shim.json"):
        return 1
    if os.path.exists(order.tombstone):
        write_exit(record, None, "it was stopped before it started")
        report(report_fd, "stopped")
        return 1
    handle((SIGINT, SIGTERM, SIGHUP), SIG_IGN)
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    written = _thread.allocate_lock()
    try:
        child = begin(order, lock, written)
    except Failed as error:
        write_exit(record, None, str(error))
        report(report_fd, f"!{error}")
        return 1
    report(report_fd, str(child))
    code = outlive(child, order.group)
    written.acquire(True, OUTPUT_WAIT_S)
    write_exit(record, code, why_killed(code, order))
    return 0


def report(descriptor: int, text: str) -> None:
    try:
        os.write(descriptor, text.encode(errors="replace"))
        os.close(descriptor)
    except OSError:
        pass  # the agent died; it will find the record


def begin(order: Order, lock: int, written: _thread.LockType) -> int:
    """Records who we are, starts the server, records its pid. ``written`` is held until its log is. Raises Failed; then
    nothing runs."""
    child = 0
    try:
        write_identity(order.record, 0)
        log = output.open_log(order.log_path) if order.log_path else None
        reader, writer = os.pipe() if log else (-1, os.open(os.devnull, os.O_WRONLY))
        child = start(order, (lock, reader), writer)
        os.close(writer)
        if log:
            written.acquire()
            _thread.start_new_thread(output.pump, (reader, log, written))
        protect(-1000)
        write_identity(order.record, child)
    except OSError as error:
        if child:
            os.kill(child, SIGKILL)
            outlive(child, order.group)
        raise Failed(explain(error)) from None
    return child


def protect(score: int) -> None:
    """Root's launcher is not what the kernel ends when memory is used up: the end could not be told. The server, which
    inherits what a service was given, is as likely as any other process: see proc(5), oom_score_adj."""
    if os.geteuid() == 0:
        try:
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write(str(score))
        except OSError:
            pass  # in a container that may not


def explain(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def join(folders: list[str]) -> None:
    """Enters control groups. The last part of a path is made where it is missing: below a scope of systemd's."""
    for folder in folders:
        try:
            if not os.path.isdir(folder):
                os.mkdir(folder)
            with open(f"{folder}/cgroup.procs", "w") as file:
                file.write(str(os.getpid()))
        except OSError as error:
            raise Failed(f"its control group cannot be entered ({folder}: {error.strerror})") from None


def start(order: Order, private: tuple[int, ...], writer: int) -> int:
    """The server's pid once its program runs. ``private``: descriptors that are not its business, ``writer``: its
    output. Raises Failed with the reason."""
    reader, complaints = os.pipe()
    child = os.fork()
    if child == 0:
        # The lock says that the launcher lives, and a child that hangs before its program runs is none.
        for descriptor in (*private, reader):
            if descriptor >= 0:
                os.close(descriptor)
        try:
            protect(0)
            join([*order.group, *order.cgroups])
            become(order, writer)
        except BaseException as error:
            os.write(complaints, explain(error).encode(errors="replace")[:2000])
        os._exit(127)
    os.close(complaints)
    complaint = heard(reader)
    os.close(reader)
    if complaint is None:
        os.kill(child, SIGKILL)
    if complaint != b"":
        os.waitpid(child, 0)
        late = f"its program did not begin within {BEGIN_WAIT_S:g} s"
        raise Failed(late if complaint is None else complaint.decode(errors="replace"))
    return child


def heard(reader: int) -> bytes | None:
    """What comes until the other side is closed, which it is when the program runs; None: it is not in time. From
    setuid on the child can be stopped by its account, and would keep whoever waits for this start."""
    until, told = time.monotonic() + BEGIN_WAIT_S, b""
    while select.select([reader], [], [], max(0.0, until - time.monotonic()))[0]:
        part = os.read(reader, 4096)
        if not part:
            return told
        told += part
    return None


def become(order: Order, writer: int) -> None:
    """In the child: turns into the server. Whatever fails here is told to the parent and ends it."""
    os.setsid()
    handle((SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGXFSZ), SIG_DFL)
    redirect(writer, order.stdin)
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


def redirect(writer: int, stdin: str) -> None:
    reader = os.open(os.devnull, os.O_RDONLY)
    if stdin:  # it fits into the pipe, so nobody has to read before all is written
        reader, feed = os.pipe()
        os.write(feed, stdin.encode("utf-8", "surrogateescape"))
        os.close(feed)
    os.dup2(reader, 0)
    os.dup2(writer, 1)
    os.dup2(writer, 2)


def outlive(child: int, group: list[str]) -> int:
    """Reaps everything below until nothing is left; the server's exit code (negative: the signal that ended it)."""
    code = None
    while code is None:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
    kill_at = time.monotonic() + STRAGGLERS_GRACE_S
    for pid in ending.children(os.getpid()):  # as the subreaper this gets every orphan's subtree sooner or later
        ending.signal_pid(pid, SIGTERM)
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if time.monotonic() > kill_at:  # also while there is no end of children to reap
            kill_rest(group)
            kill_at = time.monotonic() + KILL_AGAIN_S
        elif pid == 0:
            time.sleep(0.05)


def kill_rest(group: list[str]) -> None:
    if group:
        ending.kill_group(group[0])
    # What has no group, or was taken out of it by who may do that.
    ending.kill_all(lambda: ending.below(os.getpid()))


def why_killed(code: int, order: Order) -> str:
    """For people: that the kernel ended the server because memory was used up. Empty: it did not."""
    if code != -SIGKILL or not ending.oom_kills(order.group):
        return ""
    if order.bound:
        return f"its main memory was used up: a session like this one may have {order.bound}"
    return "the main memory of the node was used up, and the kernel ended its server"


if __name__ == "__main__":
    sys.exit(main())
