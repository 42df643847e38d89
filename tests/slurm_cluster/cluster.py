"""The cluster: starting, breaking, mending and ending it, and commands as its users."""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from slurm_cluster import accounting, config, database
from slurm_cluster.layout import ACCOUNTS, Layout, VirtualNode
from slurm_cluster.machine import PATH, end_jobs, make_devices, make_users, obstacle
from slurm_cluster.processes import kill, running, until

SLURM_FOLDERS = ("munge", "db", "run", "log", "state")
"""Those that daemons write which run as the user slurm; root's slurmd writes there too."""

LOG_LINES, NODE_LINES = 15, 3
"""Of each answer or log, and of those of nodes, beside a failed test: a CI shows some 10,000 characters, and leaves out
the middle."""
NOISE = re.compile("pmi|MPI:|xcpuinfo|MailProg|SchedulerParameters=|state file|state save file")
ASKED = (
    "sacct -n -a -X -S now-10minutes -o JobID,JobName%48,User%8,State%16,ExitCode,Start,End",
    "squeue -h -o %A|%T|%r|%u|%N|%j",
    "sinfo -h -N -o %N|%T|%E",
)


@dataclass(frozen=True)
class Cluster:
    layout: Layout

    @classmethod
    def start(cls, folder: Path, files: Callable[[Layout], Mapping[str, str]] = config.files) -> Cluster:
        """A new cluster in ``folder``, which all users must be able to reach; one that is there already is ended first.
        ``files``: the text of each file of the configuration.

        Raises OSError when this machine cannot run one (see ``obstacle``), or when a daemon does not start.
        """
        if reason := obstacle():
            raise OSError(reason)
        if before := cls.load(folder):
            before.stop()
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        cluster = cls(Layout.new(folder))
        cluster.layout.save()  # before anything runs: whoever comes after a crash knows what there may be
        make_users()
        cluster._write(files(cluster.layout))
        cluster._daemon("munged", *_munged(cluster.layout))
        database.start(cluster.layout)
        cluster._daemon("slurmdbd", "slurmdbd")
        until(lambda: cluster._answers("sacctmgr", "-n", "list", "cluster"), "an answer of slurmdbd")
        cluster.run("sacctmgr", "-i", "add", "cluster", cluster.layout.name)
        cluster.start_ctl()
        for node in cluster.layout.nodes:
            cluster._slurmd(node)
        cluster._account()
        cluster._wait_for(*(node.name for node in cluster.layout.nodes))
        return cluster

    @classmethod
    def load(cls, folder: Path) -> Cluster | None:
        """That which was started in ``folder``, running or not; None if none was."""
        layout = Layout.load(folder)
        return cls(layout) if layout else None

    def complete(self) -> bool:
        """Whether all its daemons run."""
        daemons = ("munged", "mariadbd", "slurmdbd", "slurmctld", *(f"slurmd.{node.name}" for node in self.nodes))
        return all(running(self.layout.pid_file(daemon), self._mark) for daemon in daemons)

    def stop(self) -> None:
        """Ends all daemons and jobs and removes what lies outside the folder; at any moment of a start, and again."""
        self.kill_ctl()
        for node in self.layout.nodes:
            self.kill_node(node.name, with_jobs=True)
        for daemon in ("slurmdbd", "mariadbd", "munged"):
            self._kill(daemon)
        shutil.rmtree(self.layout.devices, ignore_errors=True)

    @property
    def env(self) -> dict[str, str]:
        """What Slurm's commands need, for any user. It is also the environment that jobs inherit."""
        return {"PATH": PATH, "LANG": "C.UTF-8", "SLURM_CONF": str(self.layout.conf / "slurm.conf")}

    @property
    def users(self) -> tuple[str, ...]:
        return tuple(user for users in ACCOUNTS.values() for user in users)

    @property
    def partitions(self) -> tuple[str, ...]:
        return ("gpu", "cpu")

    @property
    def nodes(self) -> tuple[VirtualNode, ...]:
        return self.layout.nodes

    def node(self, model: str | None) -> VirtualNode:
        """That with GPUs of the model; the one without GPUs for None."""
        return next(node for node in self.nodes if node.model == model)

    def work(self, user: str) -> Path:
        """A folder of the user in which commands and jobs run."""
        return self.layout.folder / "work" / user

    def run(
        self, *argv: str, user: str = "root", check: bool = True, input: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A command as a user of the machine, from a folder of that user. ``check``: AssertionError if it fails."""
        account = pwd.getpwnam(user)
        work = self.work(user)
        if not work.is_dir():
            work.mkdir(mode=0o700)
            os.chown(work, account.pw_uid, account.pw_gid)
        done = subprocess.run(
            argv,
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=os.getgrouplist(user, account.pw_gid),
            cwd=work,
            env={**self.env, "HOME": account.pw_dir, "USER": user, "LOGNAME": user},
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not check or done.returncode == 0, f"{argv} as {user}: {done.stdout}{done.stderr}"
        return done

    def submit(self, script: str, *options: str, user: str) -> str:
        """A batch job of these shell lines; returns its number."""
        done = self.run("sbatch", "--parsable", *options, user=user, input=f"#!/bin/bash\n{script}\n")
        return done.stdout.strip()

    def job(self, job: str) -> dict[str, str]:
        """What ``scontrol show job`` says, such as JobState, Reason, NodeList. Of an array: its first line."""
        text = self.run("scontrol", "show", "job", "-d", "-o", job).stdout.splitlines()[0]
        return dict(word.partition("=")[::2] for word in text.split() if "=" in word)

    def wait(self, job: str, *states: str, seconds: float = 60.0) -> dict[str, str]:
        """Waits until the job is in one of the states; TimeoutError says in which it is instead."""
        try:
            until(lambda: self.job(job)["JobState"] in states, f"job {job} in {states}", seconds)
        except TimeoutError as late:
            raise TimeoutError(f"{late}: {self.job(job)}") from None
        return self.job(job)

    def clear(self) -> None:
        """Ends all jobs of all users, and waits until they are gone."""
        self.run("scancel", *self.run("squeue", "-h", "-o", "%A").stdout.split(), check=False)
        until(lambda: not self.run("squeue", "-h").stdout, "the end of all jobs")

    def logs(self) -> str:
        """Jobs, nodes and the last lines of the logs, for somebody who asks what went wrong; the most telling first."""
        told = [f"daemons all run: {self.complete()}"]
        for asked in ASKED:
            done = self.run(*asked.split(), check=False)
            told += [f"$ {asked}", *(done.stdout + done.stderr).splitlines()[-LOG_LINES:]]
        for log in (self.layout.log_file("slurmctld"), *sorted((self.layout.folder / "log").glob("slurmd.*"))):
            lines = [line for line in log.read_text(errors="replace").splitlines() if not NOISE.search(line)]
            count = LOG_LINES if log.stem == "slurmctld" else NODE_LINES
            told += [f"{log.name}:", *(line[:200] for line in lines[-count:])]
        return "\n".join(told)

    def output(self, job: str, user: str) -> str:
        return (self.work(user) / f"slurm-{job}.out").read_text()

    def accounted(self, job: str, fields: str) -> list[str]:
        """The fields of a job that has ended, from the accounting, which hears of the end a little later."""
        argv = ("sacct", "-X", "-n", "-P", "-j", job, "-o", f"End,{fields}")

        def ended() -> list[str]:
            end, _, values = self.run(*argv).stdout.strip().partition("|")
            return values.split("|") if end not in ("", "Unknown") else []

        return until(ended, f"the end of job {job} in the accounting")

    def kill_ctl(self) -> None:
        """A crash. What slurmctld learned since it last wrote its state is lost: a job that it had just taken is gone,
        is ended on its node if it ran, and its number is given again. ``wait_saved`` first where that is not wanted."""
        self._kill("slurmctld")

    def stop_ctl(self) -> None:
        """Ends slurmctld in order; it writes its state."""
        self._kill("slurmctld", signal.SIGTERM)

    def wait_saved(self) -> None:
        """Has slurmctld write all that it knows now, and waits until that is what it would read back.

        It writes by itself only after some changes, at most every 5 s. The start of a job by its backfill scheduler is
        none of them: for as long as nothing else happens, a crash makes that job one that waits, and then slurmctld
        ends what runs of it. Remarks on a node and on a job are such changes, and are found again in its files.
        """
        mark = f"saved-{secrets.token_hex(8)}"
        expected = ["node_state"]
        for job in self.run("squeue", "-h", "-o", "%A").stdout.split()[:1]:
            # One that ends at this moment cannot be remarked upon; its end is a change itself, before that of the node.
            if not self.run("scontrol", "update", f"jobid={job}", f"admincomment={mark}", check=False).returncode:
                expected.append("job_state")
        self.run("scontrol", "update", f"nodename={self.nodes[0].name}", f"comment={mark}")
        until(lambda: all(self._saved(name, mark) for name in expected), f"{mark} in {expected}")

    def start_ctl(self) -> None:
        self._daemon("slurmctld", "slurmctld", "-f", str(self.layout.conf / "slurm.conf"))
        until(lambda: self._answers("sinfo"), "an answer of slurmctld")

    def kill_dbd(self) -> None:
        self._kill("slurmdbd")

    def start_dbd(self) -> None:
        self._daemon("slurmdbd", "slurmdbd")
        until(lambda: self._answers("sacctmgr", "-n", "list", "cluster"), "an answer of slurmdbd")

    def kill_node(self, name: str, *, with_jobs: bool = False) -> None:
        """Ends a node's slurmd, whose jobs run on; ``with_jobs``: those too, of which slurmctld learns nothing yet."""
        self._kill(f"slurmd.{name}")
        if with_jobs:
            end_jobs(name)

    def fail_node(self, name: str) -> None:
        """A node that loses power. Tells slurmctld what it would find by itself after SlurmdTimeout."""
        self.kill_node(name, with_jobs=True)
        self.run("scontrol", "update", f"nodename={name}", "state=down", "reason=power")

    def start_node(self, name: str) -> None:
        self._slurmd(next(node for node in self.nodes if node.name == name))
        self._wait_for(name)

    def _saved(self, name: str, mark: str) -> bool:
        try:
            return mark.encode() in (self.layout.folder / "state" / name).read_bytes()
        except FileNotFoundError:
            return False  # it is being replaced

    def _account(self) -> None:
        with ThreadPoolExecutor() as pool:
            for commands in accounting.rounds(self.layout.name):
                list(pool.map(lambda command: self.run("sacctmgr", "-i", *command.split()), commands))

    def _slurmd(self, node: VirtualNode) -> None:
        self._daemon(f"slurmd.{node.name}", "slurmd", "-f", str(self.layout.conf / "slurm.conf"), "-N", node.name)

    def _wait_for(self, *names: str) -> None:
        up = ("sinfo", "-h", "-N", "-t", "idle,alloc,mix", "-o", "%N")
        until(lambda: set(names) <= set(self.run(*up, check=False).stdout.split()), f"nodes {', '.join(names)}")

    def _answers(self, *argv: str) -> bool:
        return self.run(*argv, check=False).returncode == 0

    def _daemon(self, name: str, *argv: str) -> None:
        """Starts one that goes to the background by itself and writes a pid file."""
        env = {**self.env, "MYSQL_UNIX_PORT": str(self.layout.database_socket)}
        done = subprocess.run(argv, env=env, cwd="/", capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"{name} did not start: {done.stdout}{done.stderr}")
        until(lambda: running(self.layout.pid_file(name), self._mark), f"the pid file of {name}")

    def _kill(self, daemon: str, with_signal: int = signal.SIGKILL) -> None:
        kill(self.layout.pid_file(daemon), self._mark, with_signal)

    @property
    def _mark(self) -> str:
        """Stands in the arguments or the environment of every daemon of this cluster, and of no other."""
        return f"{self.layout.folder}/"

    def _write(self, files: Mapping[str, str]) -> None:
        """The files and folders of the configuration, and the device nodes."""
        layout = self.layout
        for name in (*SLURM_FOLDERS, "spool", "etc", "work"):
            shutil.rmtree(layout.folder / name, ignore_errors=True)
            (layout.folder / name).mkdir()
            (layout.folder / name).chmod(0o755)
        for name in SLURM_FOLDERS:
            shutil.chown(layout.folder / name, "slurm", "slurm")
        for name, text in files.items():
            (layout.conf / name).write_text(text)
            (layout.conf / name).chmod(0o644)
        secret = layout.conf / "slurmdbd.conf"  # slurmdbd insists
        secret.chmod(0o600)
        shutil.chown(secret, "slurm", "slurm")
        key = layout.folder / "munge" / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        shutil.chown(key, "slurm", "slurm")
        make_devices(layout)


def _munged(layout: Layout) -> list[str]:
    """One beside that of the machine, if any. As the user slurm, for it refuses keys and folders of others."""
    folder = layout.folder / "munge"
    return [
        *database.AS_SLURM,
        "munged",
        f"--socket={layout.munge_socket}",
        f"--key-file={folder / 'key'}",
        f"--seed-file={folder / 'seed'}",
        f"--log-file={layout.log_file('munged')}",
        f"--pid-file={layout.pid_file('munged')}",
    ]
