"""The deployment: hub configuration, page templates, and the ``timeshare`` command."""
