"""The configuration of a small Slurm, from a list of hosts and what each of them has."""
