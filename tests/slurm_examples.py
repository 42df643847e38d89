"""Clusters and submissions that the tests of Slurm's text layer share."""

from __future__ import annotations

from pathlib import Path

from timeshare.reservations.engines.slurm.request import GpuType, MigType, SlurmSite, sbatch_options
from timeshare.reservations.engines.slurm.script import Program, Submission, job_name
from timeshare.reservations.shares import Shape, ShareRequest

DATA = Path(__file__).parent / "data" / "slurm"
P100 = GpuType("p100", "p100", 16 * 1024, per_node=4, feature="pascal")
V100 = GpuType("v100", "v100", 16 * 1024, per_node=4, shards=4, feature="volta")
A100 = GpuType("a100", "a100-40gb", 40 * 1024, per_node=4, shards=8, feature="ampere")
SHARDS = SlurmSite(partition="gpu", gpus=(P100, V100, A100), fraction="shard", cpus=8, memory_mib=64000)
MPS = SlurmSite(partition="gpu", gpus=(P100, V100, A100), fraction="mps", cpus=8, memory_mib=64000)
MIG = SlurmSite(
    partition="gpu",
    gpus=(A100,),
    mig=(MigType("a100_1g.5gb", "1g.5gb", "a100-40gb"), MigType("a100_3g.20gb", "3g.20gb", "a100-40gb")),
    cpus=14,
    memory_mib=70000,
)
FULL = SlurmSite(
    partition="gpu,gpu-long",
    account="lab",
    qos="interactive",
    reservation="course_1",
    constraint="ib|fast",
    gpus=(P100, V100, A100),
    fraction="shard",
    cpus_alone=2,
    memory_mib_alone=4000,
)
WHOLE = ShareRequest(Shape.WHOLE, count=2, model="a100-40gb")
FRACTION = ShareRequest(Shape.FRACTION, memory_mib=10 * 1024)
FRACTION_OF_ONE = ShareRequest(Shape.FRACTION, memory_mib=10 * 1024, compute=500, model="a100-40gb")
SLICE = ShareRequest(Shape.MIG, profile="3g.20gb")
CPU = ShareRequest(Shape.CPU)

ID = "5f0c3f2e-8a9b-4c53-9e0a-0a3b8f1f4a11"
KEY = "0123456789abcdef" * 4
AGENT = Program(
    ("/opt/env/bin/python", "-m", "timeshare.reservations.jobagent"),
    "/home/ada",
    {"TIMESHARE_RESERVATION_ID": ID, "TIMESHARE_SERVICE": "http://hub:8080/?a=1&b=2"},
    KEY,
)


def runner(index: int) -> Program:
    folder = f"/home/ada/.local/share/timeshare/jobs/it's {index}"
    argv = (
        "/opt/env/bin/python",
        "-m",
        "timeshare.notebooks.runner",
        folder,
        "--digest",
        f"{index:064x}",
        "--key-stdin",
    )
    env = {"PATH": "/opt/env/bin:/usr/bin", "TIMESHARE_RESERVATION_ID": f"{ID[:-1]}{index}"}
    return Program(argv, folder, env, KEY, generation=2)


def session(options: list[str], **more: object) -> Submission:
    given = {"name": job_name(ID, 1), "program": AGENT, "folder": "/home/ada/.timeshare", "time_limit_s": 3600, **more}
    return Submission(options=tuple(options), **given)  # type: ignore[arg-type]


SUBMISSIONS = {
    "whole": session(sbatch_options(WHOLE, SHARDS), grace_s=120),
    "whole-any-model": session(sbatch_options(ShareRequest(Shape.WHOLE, count=1), SHARDS)),
    "whole-two-nodes": session(sbatch_options(ShareRequest(Shape.WHOLE, count=4), SHARDS, nodes=2), requeue=True),
    "shards": session(sbatch_options(FRACTION, SHARDS)),
    "shards-of-a-model": session(sbatch_options(FRACTION_OF_ONE, SHARDS)),
    "mps": session(sbatch_options(FRACTION_OF_ONE, MPS)),
    "mig": session(sbatch_options(SLICE, MIG)),
    "cpu": session(sbatch_options(CPU, FULL)),
    "every-site-option": session(sbatch_options(FRACTION_OF_ONE, FULL)),
    "hostile-words": session(
        [],
        folder="/home/ada/100%j 'x'",
        comment="-x $(id) `id`\n#SBATCH --qos=root\0 \N{SNOWMAN} " + "long " * 99,
        program=Program(
            ("/opt/it's/python", "-c", "$(id); `id`\n#SBATCH --qos=root"),
            "/home/ada/-x $HOME",
            {"TEXT": "a\r\nb\t'\\c' \x1b7"},
            "END\n#SBATCH --qos=root\n$(id)",
        ),
    ),
    "batch": session(
        sbatch_options(FRACTION, SHARDS), program=runner(0), requeue=True, grace_s=300, comment="fit the model"
    ),
    "array": session(
        sbatch_options(FRACTION, SHARDS),
        program={index: runner(index) for index in (0, 2, 5, 6, 7)},
        requeue=True,
        parallel=8,
    ),
}
