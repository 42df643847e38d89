# Written by `timeshare cluster describe`, for the state folder; docs/slurm.md has every setting.
c = get_config()  # noqa: F821

c.SlurmPool.fraction = "shard"
c.SlurmPool.gpus = {
    "a100-40gb": {"model": "a100-40gb", "memory_gib": 39.38},
    "a100-80gb": {"model": "a100-80gb", "memory_gib": 79.15},
    "p100-16gb": {"model": "p100-16gb", "memory_gib": 15.89, "shards": 4},
    "t4": {"model": "t4", "memory_gib": 14.75, "shards": 4},
    "v100-32gb": {"model": "v100-32gb", "memory_gib": 31.73},
}
c.SlurmPool.python = "/opt/timeshare/bin/python"
c.SlurmPool.ports = "20000-29999"
c.SlurmPool.service_url = "https://hub.lab.example/services/timeshare"
c.SlurmPool.hub_api_url = "https://hub.lab.example/hub/api"
c.Slurm.pools = {
    "interactive": {"title": "Interactive (cmslpc, EAF)", "partition": "interactive", "cpus": 6, "memory_gib": 43},
    "teaching": {"title": "Teaching (ailab)", "partition": "teaching", "cpus": 16, "memory_gib": 45},
    "batch": {"title": "Batch (wilson, farm)", "partition": "batch", "cpus": 7, "memory_gib": 61},
}
