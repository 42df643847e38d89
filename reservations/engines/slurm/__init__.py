"""Slurm as an engine: what it is asked and what it answers, as text. No state, no ledger, no service.

``request`` and ``script`` make submissions, ``commands`` runs Slurm's programs as the owner of a job, ``queue``,
``nodes``, ``accounting`` and ``limits`` read what they print, ``words`` says it to people.
"""
