"""Sessions of timeshare for a hub that is there already. Copy this file beside the hub's own jupyterhub_config.py, and
add this line there:

    load_subconfig("/etc/jupyterhub/timeshare_sessions.py")

timeshare itself runs beside the hub: timeshare.service in this folder. To go back, remove that line.
"""

from timeshare.hub_config import adopt

adopt.configure()
