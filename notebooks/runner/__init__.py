"""Runs one job: a cell in a real kernel, with everything that it shows and returns kept in the job's folder. It needs
no hub and no service: whoever can read the folder can follow it, at once or years later."""
