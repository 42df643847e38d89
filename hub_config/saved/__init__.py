"""Backups of a deployment: what belongs in one, the file, how it is made, and how a state comes back from it."""
