"""Gives idle GPUs back, and says why. So far: what activity is, and the rules; the service around them follows. Time
limits live in ``timeshare.reservations``."""
