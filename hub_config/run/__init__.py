"""What ``timeshare up`` runs, and how: the sockets that it holds, the processes that it keeps running, their logs."""
