"""Who may use how much: accounts, associations and QOS."""

from __future__ import annotations

from slurm_cluster.layout import ACCOUNTS

QOS = "normal,interactive,single,scav"


def rounds(cluster: str) -> list[list[str]]:
    """Commands of sacctmgr, for when slurmctld has run: limits name GPUs, which its first start makes known.

    Those of a round may run at the same time. Each takes a third of a second, nearly all of it waiting.
    """
    return [
        [
            f"add account {','.join(ACCOUNTS)} cluster={cluster}",
            "add qos scav PreemptMode=requeue",
            # One job at a time. What is over a limit all alone is refused: with other QOS it waits for ever.
            "add qos single MaxJobsPerUser=1 MaxWall=00:30:00 Flags=DenyOnLimit",
            # People who work: first in line, few GPUs each, short.
            "add qos interactive Priority=1000 MaxTRESPerUser=gres/gpu=2 MaxWall=01:00:00 MaxSubmitJobsPerUser=4",
        ],
        [
            # They may take the GPUs of 'scav'.
            "modify qos interactive set Preempt=scav",
            # A limit of an association beside those of QOS: their reasons have other names.
            f"modify account other where cluster={cluster} set GrpTRES=gres/gpu=2",
            *(
                f"add user {','.join(users)} cluster={cluster} account={account} qos={QOS} defaultqos=normal"
                for account, users in ACCOUNTS.items()
            ),
        ],
    ]
