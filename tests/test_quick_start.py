"""What takes long at a start and is not needed is not imported, and is there for whoever wants it."""

from __future__ import annotations

import subprocess
import sys

AFTER = """
import sys
from timeshare.notebooks.server.singleuser import import_jsonschema
import_jsonschema()
import jupyterhub.app, jupyterhub.singleuser, jupyter_events
assert "rfc3987_syntax" not in sys.modules and "lark" not in sys.modules, "jsonschema or jupyter_events changed"
import rfc3987_syntax
assert rfc3987_syntax.is_valid_syntax("iri", "https://example.org/")
import_jsonschema()
assert sys.modules["rfc3987_syntax"] is rfc3987_syntax
"""


COMMAND = """
import sys
from timeshare.hub_config.command import COMMANDS, parser
parser(["ls"])
assert not {"sqlalchemy", "pydantic", "traitlets"} & set(sys.modules)
known = parser()
for name in COMMANDS:
    assert name in known.format_help()
"""


LAB = """
import subprocess
from timeshare.notebooks.server import singleuser
singleuser.import_jsonschema()
from jupyterlab import commands
before = commands._yarn_config
asked = []
subprocess.Popen = lambda argv, **more: asked.append(argv)
singleuser.import_jupyterlab()
assert not asked, f"JupyterLab ran {asked} while it was imported"
assert commands._yarn_config is before
from jupyterlab import labapp
assert labapp.version == commands.get_app_version()
"""


def test_jupyterlab_is_imported_without_asking_node_for_a_registry() -> None:
    done = subprocess.run([sys.executable, "-c", LAB], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


SERVICE = """
import sys
import timeshare.reservations.service.__main__
assert not [name for name in sys.modules if ".service.openapi" in name]
from timeshare.reservations.service.handlers import described
assert '"openapi"' in described("/x")
"""


def test_the_service_describes_its_api_when_somebody_asks() -> None:
    done = subprocess.run([sys.executable, "-c", SERVICE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_command_imports_nothing_of_the_others() -> None:
    done = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_jupyterhub_starts_without_a_grammar_that_takes_seconds_and_code_that_wants_it_gets_it() -> None:
    done = subprocess.run([sys.executable, "-c", AFTER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
