"""JupyterHub's side: a form becomes a reservation, a reservation becomes a running server."""
