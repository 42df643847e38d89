"""Gives idle GPUs back. Empty until the idle rules land; time limits live in ``timeshare.reservations``."""
