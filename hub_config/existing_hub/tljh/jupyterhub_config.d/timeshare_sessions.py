"""Sessions of timeshare on The Littlest JupyterHub. Copy this file to /opt/tljh/config/jupyterhub_config.d/, which the
hub reads at its start.

People keep their accounts (jupyter-NAME), which TLJH makes when somebody first starts a server; this goes on as before.
"""

from jupyterhub.spawner import SpawnException
from tljh import normalize, user
from tljh.config import USER_ENV_PREFIX

from timeshare.hub_config import adopt

c = get_config()  # type: ignore[name-defined]  # noqa: F821


def make_account(spawner):  # type: ignore[no-untyped-def]
    """Do what TLJH's own spawner does before a start: the account, and its groups."""
    name, admin = spawner.user.name, spawner.user.admin
    account = f"jupyter-{name}"
    if normalize.generate_system_username(account) != account:
        raise SpawnException(f"the name {name} is too long for an account here, which has that of its person in full")
    user.ensure_user(account)
    user.ensure_user_group(account, "jupyterhub-users")
    (user.ensure_user_group if admin else user.remove_user_group)(account, "jupyterhub-admins")


c.Spawner.pre_spawn_hook = make_account
adopt.configure(instead_of="UserCreatingSpawner", user_environment=USER_ENV_PREFIX)
