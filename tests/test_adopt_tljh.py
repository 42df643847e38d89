"""The layout of The Littlest JupyterHub: its configuration loads snippets, and ours is taken as it is shipped.

TLJH itself cannot be installed here: it takes over a machine. What stands in for it is laid out as it lays out things
(jupyterhub_config.py in its package, /opt/tljh/config/jupyterhub_config.d, an environment for the hub and one for
people), and is loaded as JupyterHub loads it. Nothing is started.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hubs import ROOT
from nodes import deployment

SHIPPED = ROOT / "hub_config" / "existing_hub" / "tljh"
THEIRS = {
    "config.py": 'import os\nUSER_ENV_PREFIX = os.path.join(os.environ["TLJH_INSTALL_PREFIX"], "user")\n',
    "user.py": "made = []\ndef ensure_user(name): made.append(name)\n"
    "def ensure_user_group(name, group): made.append((name, group))\n"
    "def remove_user_group(name, group): made.append((name, '-' + group))\n",
    "normalize.py": "def generate_system_username(name): return name if len(name) < 26 else name[:26] + '-12345'\n",
    "spawners.py": "from jupyterhub.spawner import LocalProcessSpawner\n"
    "class UserCreatingSpawner(LocalProcessSpawner): pass\n",
    "__init__.py": "",
    "jupyterhub_config.py": """
import os, sys
from glob import glob
from tljh.spawners import UserCreatingSpawner
c.JupyterHub.spawner_class = UserCreatingSpawner
c.JupyterHub.cleanup_servers = False
c.JupyterHub.hub_port = 15001
c.JupyterHub.proxy_class = "traefik_file"
c.TraefikFileProviderProxy.should_start = False
c.JupyterHub.authenticator_class = "pam"
c.Authenticator.admin_users = {"ada"}
c.JupyterHub.services = [{"name": "configurator", "url": "http://127.0.0.1:10101"}]
if os.environ.get("CULL"):
    c.JupyterHub.services.append({"name": "cull-idle", "command": [sys.executable, "-m", "jupyterhub_idle_culler"]})
for snippet in sorted(glob(os.path.join(os.environ["TLJH_INSTALL_PREFIX"], "config", "jupyterhub_config.d", "*.py"))):
    load_subconfig(snippet)
""",
}
LOADED = """
import json, sys
from jupyterhub.app import JupyterHub
app = JupyterHub.instance()
app.load_config_file(sys.argv[1])
c = app.config
class Person:
    class user: name, admin = "ada", True
c.Spawner.pre_spawn_hook(Person)
from tljh import user
print(json.dumps({
    "spawner": app.spawner_class.__name__, "earlier": c.GpuSpawner.earlier_class.__name__, "cmd": c.Spawner.cmd,
    "prefix": c.LocalGpuSpawner.account_prefix, "services": [service["name"] for service in app.services],
    "proxy": app.proxy_class.__name__, "proxy starts": c.ConfigurableHTTPProxy.should_start,
    "authenticator": app.authenticator_class.__name__, "admins": sorted(c.Authenticator.admin_users),
    "hub": app.hub_port, "made": user.made, "later": c.JupyterHub.allow_named_servers,
}))
"""


class Tljh:
    """The folder /opt/tljh, with all that a snippet meets there."""

    def __init__(self, folder: Path) -> None:
        self.prefix, self.package, state = folder / "tljh", folder / "hub" / "tljh", folder / "timeshare"
        for made in (self.package, self.prefix / "user" / "bin", self.prefix / "config", state):
            made.mkdir(parents=True)
        for name, text in THEIRS.items():
            (self.package / name).write_text(text)
        snippets = self.prefix / "config" / "jupyterhub_config.d"
        shutil.copytree(SHIPPED / "jupyterhub_config.d", snippets)
        (snippets / "zz_later.py").write_text("c.JupyterHub.allow_named_servers = True\n")
        values = {"own_hub": False, "hub_url": "http://127.0.0.1:15001/", "account_prefix": "jupyter-"}
        self.file = deployment(state, **values).path

    def install_for_people(self) -> None:
        program = self.prefix / "user" / "bin" / "timeshare-singleuser"
        program.touch(0o755)

    def load(self, **env: str) -> subprocess.CompletedProcess[str]:
        own = {"PYTHONPATH": str(self.package.parent), "TLJH_INSTALL_PREFIX": str(self.prefix)}
        words = [sys.executable, "-c", LOADED, str(self.package / "jupyterhub_config.py")]
        env = {**os.environ, **own, "TIMESHARE_DEPLOYMENT": str(self.file), **env}
        return subprocess.run(words, capture_output=True, text=True, env=env, check=False)


@pytest.fixture
def tljh(tmp_path: Path) -> Tljh:
    return Tljh(tmp_path)


def test_the_shipped_snippet_fits_into_its_layout(tljh: Tljh) -> None:
    tljh.install_for_people()
    done = tljh.load()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "spawner": "LocalGpuSpawner",
        "earlier": "UserCreatingSpawner",
        "cmd": [f"{tljh.prefix}/user/bin/timeshare-singleuser"],
        "prefix": "jupyter-",
        "services": ["configurator", "timeshare", "timeshare-starter"],
        "proxy": "ServiceRoutes",
        "proxy starts": False,
        "authenticator": "PAMAuthenticator",
        "admins": ["ada"],
        "hub": 15001,
        "made": ["jupyter-ada", ["jupyter-ada", "jupyterhub-users"], ["jupyter-ada", "jupyterhub-admins"]],
        "later": True,
    }


def test_what_is_missing_and_its_own_culler_are_told_together(tljh: Tljh) -> None:
    done = tljh.load(CULL="yes")
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "timeshare does not go together with this configuration of the hub:"
    assert "`tljh-config set services.cull.enabled false`" in lines[1]
    assert f"{tljh.prefix}/user/bin/pip install timeshare" in lines[2]
    assert len(lines) == 3, "and no traceback"
