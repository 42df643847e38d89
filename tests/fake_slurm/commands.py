"""Stands for Slurm's commands, under whose names it is run: keeps a queue in a file beside it, and says what a test
wants it to say. It starts nothing: a test says when a job begins, where, and how it ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
STATE, CALLS = "state.json", "calls.jsonl"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT", "PREEMPTED", "OUT_OF_MEMORY")
NODE = (
    "NodeName={name} CPUTot=16 ActiveFeatures=(null) Gres=gpu:a100:4 GresUsed=gpu:a100:0(IDX:N/A) "
    "NodeAddr={address} RealMemory=64000 State={state} Partitions=gpu AllocTRES="
)
PARTITION = "PartitionName=gpu Default=YES MaxTime=2-00:00:00 Nodes={nodes} State=UP"
Job = dict[str, Any]


@contextlib.contextmanager
def state(folder: Path) -> Iterator[dict[str, Any]]:
    """All that is known, for one process at a time; changes are kept."""
    with open(folder / STATE, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = json.load(file)
        yield found
        file.seek(0)
        file.truncate()
        json.dump(found, file)


def main() -> int:
    command, argv = Path(sys.argv[0]).name, sys.argv[1:]
    script = sys.stdin.read() if command == "sbatch" else ""
    with state(FOLDER) as known:
        called = {"command": command, "argv": argv, "user": pwd.getpwuid(os.getuid()).pw_name, "script": script}
        with open(FOLDER / CALLS, "a") as calls:
            calls.write(json.dumps(called) + "\n")
        told = _told(known, command)
        out = "" if told and not told["done"] else DOES[command](known, argv, script)
    if told is None:
        print(out, end="")
        return 0
    time.sleep(told["after_s"])
    print(told["out"], end="")
    print(told["err"], end="", file=sys.stderr)
    return int(told["code"])


def _told(known: dict[str, Any], command: str) -> dict[str, Any] | None:
    """What a test wants it to say instead."""
    told: dict[str, Any] | None = known["says"].get(command)
    if told is not None and told["times"] is not None:
        told["times"] -= 1
        if told["times"] == 0:
            del known["says"][command]
    return told


def _options(argv: list[str]) -> dict[str, str]:
    return {name: value for name, _, value in (word.partition("=") for word in argv if word.startswith("--"))}


def sbatch(known: dict[str, Any], argv: list[str], script: str) -> str:
    options = _options(argv)
    job_id = str(known["next"])
    known["next"] += 1
    known["jobs"][job_id] = {
        "id": int(job_id),
        "name": options["--job-name"],
        "user": pwd.getpwuid(os.getuid()).pw_name,
        "states": ["PENDING"],
        "reason": "Priority",
        "node": "",
        "submit": int(time.time()),
        "start": 0,
        "end": 0,
        "minutes": int(options["--time"]),
        "chdir": options["--chdir"],
        "output": options["--output"],
        "script": script,
        "restarts": 0,
        "pid": 0,
        "code": 0,
        "by": None,
        "listed": True,
        "accounted": True,
    }
    return f"{job_id}\n"


def squeue(known: dict[str, Any], argv: list[str], script: str) -> str:
    """As releases from 23.02 on write it; the Slurm that other tests run is older."""
    jobs = [_listed(job) for job in known["jobs"].values() if job["listed"]]
    return json.dumps({"jobs": jobs, "errors": [], "warnings": []})


def _listed(job: Job) -> dict[str, Any]:
    held = job["node"] and "PENDING" not in job["states"]
    return {
        "job_id": job["id"],
        "name": job["name"],
        "user_name": job["user"],
        "job_state": job["states"],
        "state_reason": job["reason"],
        "state_description": "",
        "array_job_id": _number(0),
        "array_task_id": {"set": False, "infinite": False, "number": 0},
        "array_task_string": "",
        "comment": "",
        "partition": "gpu",
        "nodes": job["node"] if held else "",
        "submit_time": _number(job["submit"]),
        "start_time": _number(job["start"]),
        "end_time": _number(job["end"]),
        "time_limit": _number(job["minutes"]),
        "restart_cnt": job["restarts"],
        "tres_alloc_str": "",
        "tres_req_str": "",
        "gres_detail": ["gpu:a100:1(IDX:0)"] if held else [],
        "exit_code": {"return_code": _number(job["code"]), "signal": {"id": _number(0), "name": ""}},
    }


def _number(value: int) -> dict[str, Any]:
    return {"set": True, "infinite": False, "number": value}


def sacct(known: dict[str, Any], argv: list[str], script: str) -> str:
    options = _options(argv)
    names, cut = options["--format"].split(","), options["--delimiter"]
    asked = options.get("--jobs", "").split(",")
    rows = [_accounted(job) for name, job in known["jobs"].items() if name in asked and job["accounted"]]
    return "".join(cut.join(line) + "\n" for line in [names, *([row[name] for name in names] for row in rows)])


def _accounted(job: Job) -> dict[str, str]:
    state_name = job["states"][0]
    return {
        "JobID": str(job["id"]),
        "JobIDRaw": str(job["id"]),
        "JobName": job["name"],
        "User": job["user"],
        "State": state_name if job["by"] is None else f"{state_name} by {job['by']}",
        "ExitCode": f"{job['code']}:0",
        "Reason": "None",
        "Submit": _moment(job["submit"]),
        "Start": _moment(job["start"]),
        "End": _moment(job["end"]),
        "NodeList": job["node"] or "None assigned",
        "AllocTRES": "",
    }


def _moment(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) if at else "Unknown"


def scancel(known: dict[str, Any], argv: list[str], script: str) -> str:
    job = known["jobs"].get(argv[-1])
    if job is None or job["states"][0] in ENDED:
        return ""
    if job["pid"]:
        number = signal.SIGINT if "--signal=INT" in argv else signal.SIGTERM
        with contextlib.suppress(ProcessLookupError):
            os.kill(job["pid"], number)
    if "--signal=INT" not in argv:
        job["by"] = os.getuid()
        # What runs ends when its processes have ended; the test's side says so.
        if not job["pid"]:
            job.update(states=["CANCELLED"], end=int(time.time()))
    return ""


def scontrol(known: dict[str, Any], argv: list[str], script: str) -> str:
    nodes = known["nodes"]
    if argv[:2] == ["show", "node"]:
        return "".join(NODE.format(name=name, **said) + "\n" for name, said in nodes.items())
    if argv[:2] == ["show", "partition"]:
        return PARTITION.format(nodes=",".join(nodes)) + "\n"
    if argv[:2] == ["show", "reservation"]:
        return "No reservations in the system"
    if argv[:2] == ["show", "config"]:
        return "KillWait                = 5 sec\nOverTimeLimit           = 0 min"
    raise SystemExit(f"scontrol: not known here: {argv}")


DOES = {"sbatch": sbatch, "squeue": squeue, "sacct": sacct, "scancel": scancel, "scontrol": scontrol}

if __name__ == "__main__":
    sys.exit(main())
