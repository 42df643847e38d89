"""The configuration that ``timeshare cluster describe`` writes, for the virtual nodes of a test's cluster."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from slurm_cluster import Layout, VirtualNode, config

PLACES = (
    *("SlurmctldHost", "SlurmctldPort", "StateSaveLocation", "SlurmctldPidFile", "SlurmctldLogFile", "SlurmdSpoolDir"),
    *("SlurmdPidFile", "SlurmdLogFile", "CommunicationParameters", "AuthInfo", "SlurmdParameters"),
    *("AccountingStorageHost", "AccountingStoragePort", "AccountingStoragePass"),
    *("CgroupPlugin", "CgroupMountpoint", "CgroupAutomount", "DbdHost", "DbdAddr", "DbdPort", "LogFile", "PidFile"),
)
"""Settings that say where the one machine of the tests has a thing, and that it is not what it pretends to be. All
others are those that were written."""
MODELS = {"p100": ("p100-16gb", 16276), "v100": ("v100-16gb", 16160), "a100": ("a100-40gb", 40330)}
"""What NVML would say of the GPUs of a node."""


def survey_of(node: VirtualNode) -> dict[str, Any]:
    model, memory_mib = MODELS.get(node.model or "", ("", 0))
    gpus = [{"model": model, "memory_mib": memory_mib, "minor": minor} for minor in range(len(node.devices))]
    cores = {"cpus": 16, "sockets": 1, "cores": 16, "threads": 1}
    return {
        "version": 1,
        "host": node.name,
        **cores,
        "memory_mib": 64000,
        "cgroup": 1,
        "has_slurmd": True,
        "gpus": gpus,
    }


def hosts_of(layout: Layout) -> dict[str, Any]:
    with_gpus = [node.name for node in layout.nodes if node.model]
    return {
        "cluster": layout.name,
        "controller": "hub1",
        "keep_memory_gib": 2,
        "shards": {"v100-16gb": 4},
        "hosts": [{"name": node.name, "address": "127.0.0.1"} for node in layout.nodes],
        "partitions": {
            "gpu": {"hosts": with_gpus, "max_time": "2d", "default": True},
            "cpu": {"hosts": [node.name for node in layout.nodes if not node.model]},
        },
    }


def described(layout: Layout, folder: Path) -> Path:
    """The folder that the command wrote."""
    surveys, hosts, out = folder / "surveys", folder / "hosts.yaml", folder / "out"
    surveys.mkdir()
    for node in layout.nodes:
        (surveys / f"{node.name}.json").write_text(json.dumps(survey_of(node)))
    hosts.write_text(json.dumps(hosts_of(layout)))
    words = ["cluster", "describe", str(hosts), "--surveys", str(surveys), "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "timeshare.hub_config.entry", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def files(layout: Layout, out: Path) -> dict[str, str]:
    """What was written, with the places of the test's machine."""
    own = config.files(layout)
    found = {name: _placed((out / name).read_text(), own[name]) for name in own}
    host = re.search(r"^SlurmctldHost=([^(]+)", own["slurm.conf"], re.MULTILINE)
    assert host is not None
    for node in layout.nodes:
        line = f"NodeName={node.name} NodeAddr"
        instead = f"NodeName={node.name} NodeHostname={host[1]} Port={node.port} NodeAddr"
        assert line in found["slurm.conf"]
        found["slurm.conf"] = found["slurm.conf"].replace(line, instead)
        if node.model:
            old = f"NodeName={node.name} Name=gpu Type={MODELS[node.model][0]} File=/dev/nvidia"
            assert old in found["gres.conf"]
            new = old.replace("/dev/nvidia", f"{layout.devices}/{node.model}-")
            found["gres.conf"] = found["gres.conf"].replace(old, new)
    return found


def _placed(written: str, own: str) -> str:
    kept = [line for line in written.splitlines() if line.partition("=")[0] not in PLACES]
    return "\n".join([*(line for line in own.splitlines() if line.partition("=")[0] in PLACES), *kept]) + "\n"
