"""A scheduler of a page beside the real ones: Slurm's commands on PATH, whose answers a test says.

    fake = FakeSlurm.start(folder)      # fake.path: what comes before PATH
    job = fake.job_of(reservation)      # what sbatch was given, once it was
    fake.begin(job)                     # runs its script as its owner, on a node of that name
    fake.says("squeue", err="slurm_load_jobs error: …", code=1)

What it answers by itself is as Slurm's, in the JSON of newer releases than the real one of the other tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nodes import eventually
from slurm_cluster.machine import make_users

from fake_slurm import commands

USERS = ("tsalice", "tsbob")
NODES = {"a1": "127.0.0.1", "a2": "127.0.0.1", "far": "255.255.255.255"}
"""With their addresses. Nobody ever answers at the last."""
KILL_WAIT_S = 5.0
"""What has not ended so long after it was cancelled is killed."""
Job = commands.Job


@dataclass
class FakeSlurm:
    """``folder``: with the commands, which all users can reach."""

    folder: Path
    _threads: list[threading.Thread] = field(default_factory=list)

    @classmethod
    def start(cls, folder: Path) -> FakeSlurm:
        make_users()
        fake = cls(folder)
        folder.chmod(0o755)
        program = folder / "commands.py"
        text = Path(commands.__file__).read_text()
        program.write_text(f"#!{sys.executable} -I\n{text}")
        program.chmod(0o755)
        for name in commands.DOES:
            (folder / name).symlink_to(program)
        nodes = {name: {"address": address, "state": "IDLE"} for name, address in NODES.items()}
        known = {"jobs": {}, "next": 101, "says": {}, "nodes": nodes}
        (folder / commands.STATE).write_text(json.dumps(known))
        (folder / commands.CALLS).touch()
        for name in (commands.STATE, commands.CALLS):
            (folder / name).chmod(0o666)
        return fake

    # --- as tests need of any Slurm

    @property
    def users(self) -> tuple[str, ...]:
        return USERS

    @property
    def env(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    @property
    def path(self) -> str:
        return f"{self.folder}:/usr/sbin:/usr/bin:/sbin:/bin"

    def clear(self) -> None:
        """Ends all jobs."""
        for job in self.jobs():
            if job["pid"]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(job["pid"], signal.SIGKILL)
        for thread in self._threads:
            thread.join()

    # --- what it knows

    def jobs(self) -> list[Job]:
        with commands.state(self.folder) as known:
            return list(known["jobs"].values())

    def jobs_of(self, reservation: dict[str, Any]) -> list[Job]:
        """Of all attempts."""
        return [job for job in self.jobs() if f"-{reservation['id']}." in job["name"]]

    def job_of(self, reservation: dict[str, Any]) -> Job:
        """That of its last attempt, once it was submitted."""
        return eventually(lambda: self.jobs_of(reservation), 30)[-1]

    def lives(self, job: Job) -> bool:
        """Whether it waits or runs, or something of it does."""
        now = self.now(job)
        return bool(now["pid"]) or (now["listed"] and now["states"][0] not in commands.ENDED)

    def now(self, job: Job) -> Job:
        return next(found for found in self.jobs() if found["id"] == job["id"])

    def calls(self, command: str = "") -> list[dict[str, Any]]:
        """What was run so far, in order."""
        told = [json.loads(line) for line in (self.folder / commands.CALLS).read_text().splitlines()]
        return [call for call in told if command in ("", call["command"])]

    def asked_again(self, command: str = "squeue") -> None:
        """Waits until the command was begun from now on, answered, and begun again: what followed from it has."""
        before = len(self.calls(command))
        eventually(lambda: len(self.calls(command)) > before + 1, 90)

    # --- what a test has it do

    def says(
        self,
        command: str,
        out: str = "",
        err: str = "",
        code: int = 0,
        *,
        times: int | None = None,
        done: bool = False,
        after_s: float = 0.0,
    ) -> None:
        """Instead of its own answer, ``times`` or until ``well``. ``done``: it does what it was asked to all the same.
        ``after_s``: so many seconds later."""
        said = {"out": out, "err": err, "code": code, "times": times, "done": done, "after_s": after_s}
        with commands.state(self.folder) as known:
            known["says"][command] = said

    def well(self) -> None:
        with commands.state(self.folder) as known:
            known["says"] = {}

    def has_said(self, command: str) -> bool:
        """Whether what it was to say ``times`` is used up."""
        with commands.state(self.folder) as known:
            return command not in known["says"]

    def change(self, job: Job, **values: Any) -> None:
        """Has the queue and the accounting say this of a job."""
        with commands.state(self.folder) as known:
            known["jobs"][str(job["id"])].update(values)

    def end(self, job: Job, state: str, **values: Any) -> None:
        """It is over, and so are its processes."""
        self.change(job, states=[state], end=int(time.time()), **values)
        self._kill(job)

    def forget(self, job: Job) -> None:
        """Neither queue nor accounting has it any more."""
        self.change(job, listed=False, accounted=False)
        self._kill(job)

    def begin(self, job: Job, node: str = "a1", really_on: str = "") -> None:
        """Runs its script as its owner. ``really_on``: what the job itself sees as its node."""
        account = pwd.getpwnam(job["user"])
        restarts = self.now(job)["restarts"]
        env = {
            "PATH": "/usr/bin:/bin",
            "SLURM_JOB_ID": str(job["id"]),
            "SLURMD_NODENAME": really_on or node,
            "SLURM_JOB_GPUS": "0",
            "CUDA_VISIBLE_DEVICES": "0",
            **({"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}),
        }
        with self._output(job, account) as output:
            process = subprocess.Popen(
                ["/bin/bash", "-s"],
                user=account.pw_uid,
                group=account.pw_gid,
                extra_groups=[],
                cwd=job["chdir"],
                env=env,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
                text=True,
            )
        assert process.stdin is not None
        process.stdin.write(job["script"])
        process.stdin.close()
        self.change(job, states=["RUNNING"], reason="None", node=node, start=int(time.time()), pid=process.pid)
        thread = threading.Thread(target=self._until_it_ends, args=(job, process), daemon=True)
        thread.start()
        self._threads.append(thread)

    # --- inside

    @contextmanager
    def _output(self, job: Job, account: pwd.struct_passwd) -> Iterator[int]:
        output = os.open(job["output"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.fchown(output, account.pw_uid, account.pw_gid)
        try:
            yield output
        finally:
            os.close(output)

    def _until_it_ends(self, job: Job, process: subprocess.Popen[str]) -> None:
        while process.poll() is None:
            time.sleep(0.2)
            if self.now(job)["by"] is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(KILL_WAIT_S)
                process.kill()
        code = process.wait()
        with commands.state(self.folder) as known:
            now = known["jobs"][str(job["id"])]
            if now["pid"] == process.pid:
                now["pid"] = 0
                if now["states"][0] not in (*commands.ENDED, "PENDING"):
                    how = "CANCELLED" if now["by"] is not None else "FAILED" if code else "COMPLETED"
                    now.update(states=[how], code=max(0, code), end=int(time.time()))

    def _kill(self, job: Job) -> None:
        pid = self.now(job)["pid"]
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
