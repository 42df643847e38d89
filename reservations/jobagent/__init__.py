"""The job agent: the small program that is a session's job at a batch system. It runs on the compute node as the
session's owner, tells the service that the job has begun, and starts the server there when the hub asks for it.

Only the standard library, so that the base package is enough on a compute node; NVML is asked where it is installed.
"""
