"""Gives idle GPUs back, and says why: pure rules, and a small service that carries them out. What is known of sessions
is told by ``timeshare.reservations``; time limits live there too."""
