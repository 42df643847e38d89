"""Sessions of timeshare on The Littlest JupyterHub. Copy this file to /opt/tljh/config/jupyterhub_config.d/: what lies
there is read by the hub at its start.

People keep their accounts (jupyter-NAME), which TLJH made when they first started a server; this goes on as before.
"""

from timeshare.hub_config import adopt

c = get_config()  # type: ignore[name-defined]  # noqa: F821


def make_account(spawner):  # type: ignore[no-untyped-def]
    """As TLJH's own spawner does: the account, and its group, which may use what is installed for people."""
    from tljh import user

    account = f"jupyter-{spawner.user.name}"
    user.ensure_user(account)
    user.ensure_user_group(account, "jupyterhub-users")


c.Spawner.pre_spawn_hook = make_account
adopt.configure(c, instead_of="UserCreatingSpawner", user_environment="/opt/tljh/user")
