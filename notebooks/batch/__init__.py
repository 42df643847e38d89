"""Handing cells over: from the notebook to a job of the reservations service, and back."""
