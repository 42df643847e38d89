"""What an administrator says about a Slurm: traits, read from ``timeshare_slurm.py`` in the state folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from traitlets import Bool, Dict, Enum, Float, Int, List, TraitError, Unicode
from traitlets.config import Config, Configurable
from traitlets.config.loader import PyFileConfigLoader

from ...shares import ENGINE_PATTERN
from .commands import PATH, Commands

CONFIG_FILE = "timeshare_slurm.py"


class ConfigError(Exception):
    """The file cannot be used; the text says what is wrong and what would work."""


class SlurmPool(Configurable):
    """One way into a Slurm, such as a partition. ``c.SlurmPool`` says what holds for all of ``c.Slurm.pools``."""

    title = Unicode(
        help="What people call it. Default '': 'Slurm, partition' and its name. Example: 'The cluster'."
    ).tag(config=True)
    partition = Unicode(help="Partition of the jobs. Default '': Slurm's own default. Example: 'gpu'.").tag(config=True)
    account = Unicode(help="Account that jobs are charged to. Default '': that of each user. Example: 'lab'.").tag(
        config=True
    )
    qos = Unicode(help="Quality of service. Default '': Slurm's own default. Example: 'interactive'.").tag(config=True)
    reservation = Unicode(help="Reservation of Slurm to run in. Default '': none. Example: 'school'.").tag(config=True)
    constraint = Unicode(help="Features that nodes must have. Default '': none. Example: 'ib'.").tag(config=True)
    gpus = Dict(
        help="By GPU type of Slurm's gres: model (what people ask for), memory_gib, and shards of one GPU (0: it is "
        "not shared). Default {}: the types of the nodes under their own names, with the memory that is known of them; "
        "others are offered whole only. Example: {'a100': {'model': 'a100-40gb', 'memory_gib': 40, 'shards': 4}}."
    ).tag(config=True)
    mig = Dict(
        help="By GPU type of Slurm's gres that is a MIG instance: 'profile' and 'model'. Default {}: none. "
        "Example: {'a100_1g.5gb': {'profile': '1g.5gb', 'model': 'a100-40gb'}}."
    ).tag(config=True)
    fraction = Enum(
        ["", "shard", "mps"],
        "",
        help="How Slurm shares GPUs. Default '': parts of GPUs are not offered. Example: 'shard'.",
    ).tag(config=True)
    cpus = Int(
        0, min=0, help="CPUs for each GPU; a part gets its part. Default 0: Slurm's own default. Example: 8."
    ).tag(config=True)
    memory_gib = Float(
        0.0, min=0, help="Main memory in GiB for each GPU. Default 0: Slurm's own default. Example: 64."
    ).tag(config=True)
    python = Unicode(
        sys.executable,
        help="The Python with timeshare that sessions on the nodes use, by its path there. Default: this one. "
        "Example: '/shared/timeshare/bin/python'.",
    ).tag(config=True)
    service_url = Unicode(
        help="The reservations service as nodes reach it. Default '': by the hub's public address, which is right "
        "where nodes can open it. Example: 'https://hub.lab.example/services/timeshare'."
    ).tag(config=True)
    hub_api_url = Unicode(
        help="The hub's REST API as nodes reach it. Default '': by the hub's public address. "
        "Example: 'https://hub.lab.example/hub/api'."
    ).tag(config=True)
    run_as = List(
        Unicode(),
        help="Words before every command of Slurm that is run for a user; {user} stands for the name. Default: "
        "['runuser', '-u', '{user}', '--'] where timeshare runs as root, [] where it does not, so that every job is of "
        "its own account. Example: ['sudo', '-n', '-u', '{user}', '--'].",
    ).tag(config=True)
    log_folder = Unicode(
        ".timeshare/slurm",
        help="Where Slurm writes what jobs put out, from each user's home; it must be there on all nodes. Default "
        "'.timeshare/slurm'. Example: '/scratch/{user}/timeshare'.",
    ).tag(config=True)
    extend = Bool(
        False,
        help="Whether the account of the service may raise time limits (an operator of Slurm). Default False: ends "
        "there cannot be moved. Example: True.",
    ).tag(config=True)
    ports = Unicode(
        help="Ports that servers on the nodes may use. Default '': any free one. Example: '20000-29999'."
    ).tag(config=True)
    command_timeout = Float(
        60.0, min=1, help="Seconds after which a command of Slurm is given up. Default 60. Example: 120."
    ).tag(config=True)
    kill_wait = Float(
        None,
        allow_none=True,
        min=0,
        help="Seconds that Slurm leaves between its own SIGTERM and SIGKILL. Default None: KillWait, as `scontrol show "
        "config` tells it, or 30 where it does not. Example: 60.",
    ).tag(config=True)
    over_time = Float(
        None,
        allow_none=True,
        min=0,
        help="Seconds that Slurm lets jobs run beyond their time limit. Default None: OverTimeLimit, as `scontrol show "
        "config` tells it, or 0 where it does not. Example: 300.",
    ).tag(config=True)
    path = Unicode(
        PATH,
        help=f"Folders of Slurm's commands, as in PATH. Default {PATH!r}. Example: '/opt/slurm/bin:/usr/bin:/bin'.",
    ).tag(config=True)
    environment = Dict(
        Unicode(),
        Unicode(),
        help="Variables for Slurm's commands; SLURM_CONF is the one that there is. Default {}: slurm.conf is where "
        "Slurm looks for it. Example: {'SLURM_CONF': '/shared/slurm/slurm.conf'}.",
    ).tag(config=True)
    simulated = Bool(
        False, help="The GPUs of this Slurm are not real, and are called simulated. Default False. Example: True."
    ).tag(config=True)

    def __init__(self, name: str, config: Config) -> None:
        super().__init__(config=config)
        self.name = name
        if "run_as" not in config.SlurmPool and os.geteuid() == 0:
            self.run_as = ["runuser", "-u", "{user}", "--"]

    def commands(self) -> Commands:
        """Those of this Slurm."""
        conf = self.environment.get("SLURM_CONF", "")
        return Commands(tuple(self.run_as), conf=conf, path=self.path, timeout_s=self.command_timeout)


def read_pools(state_dir: Path) -> list[SlurmPool]:
    """The pools of ``timeshare_slurm.py``; none where there is no such file. Raises ConfigError."""
    if not (state_dir / CONFIG_FILE).exists():
        return []
    try:
        config = PyFileConfigLoader(CONFIG_FILE, path=str(state_dir)).load_config()
        _known("c.SlurmPool", config.SlurmPool)
        pools = config.Slurm.pools if "pools" in config.Slurm else {"slurm": {}}
        return [_pool(str(name), config, said) for name, said in pools.items()]
    except (TraitError, TypeError, AttributeError, SyntaxError, NameError, ValueError) as error:
        raise ConfigError(f"{state_dir / CONFIG_FILE}: {error}") from None


def _pool(name: str, config: Config, said: Mapping[str, Any]) -> SlurmPool:
    if not ENGINE_PATTERN.fullmatch(name):
        raise ConfigError(f"{CONFIG_FILE}: the pool {name!r}: a name is up to 31 lower-case letters, digits and dashes")
    _known(f"the pool {name!r}", said)
    mine = deepcopy(config)  # what one pool says is not said of the next
    mine.SlurmPool.update(said)
    pool = SlurmPool(name, mine)
    if set(pool.environment) - {"SLURM_CONF"}:
        raise ConfigError(
            f"{CONFIG_FILE}: the pool {name!r}: environment is {pool.environment}: SLURM_CONF alone is known"
        )
    return pool


def _known(where: str, said: Mapping[str, Any]) -> None:
    names = sorted(SlurmPool.class_trait_names(config=True))
    unknown = sorted(set(said) - set(names))
    if unknown:
        raise ConfigError(f"{CONFIG_FILE}: {where}: there is no {unknown[0]!r}; known are {', '.join(names)}")
