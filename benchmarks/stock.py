"""Which sessions two cullers would end: ours and jupyterhub-idle-culler, over the same servers of a real hub.

    python benchmarks/stock.py [--wait 75]

Four people: one runs a cell that computes in silence, one has a program in the background that only moves data, one has
a cell that waits for something in silence, one does nothing. Minutes are seconds here: the limit is 30 s for both, and
servers tell the hub of activity every 3 s instead of 5 min. The stock culler looks for real; what it wants to end is
noted instead of ended, so that both see the same servers. Once as JupyterHub has it, without timeshare's extension in
the servers, once with it. A session that works and would be ended is a wrong kill.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
import websocket
from jupyterhub_idle_culler import cull_idle

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from hubs import Hub, User, running_hub
from nodes import eventually

LIMIT_S = 30
LIMITS = f"defaults:\n  idle: {{after: {LIMIT_S}s, grace: 2s, warn: [10s], then: stop}}\n"
SITE = """
import os
c.Spawner.environment = {{"JUPYTERHUB_ACTIVITY_INTERVAL": "3"}}
c.JupyterHub.services.extend([{{"name": "stock", "api_token": "stock-token-of-this-benchmark"}}])
c.JupyterHub.load_roles.extend([{{"name": "stock", "services": ["stock"],
    "scopes": ["list:users", "read:users:activity", "read:servers", "delete:servers"]}}])
{more}
"""
WITHOUT = 'c.Spawner.args.extend(["--ServerApp.jpserver_extensions=timeshare.notebooks.server=False"])'
BACKGROUND = """
import subprocess, sys
mover = "import os, time\\nwhile True:\\n    os.read(os.open('/dev/zero', 0), 4000000); time.sleep(0.5)"
subprocess.Popen([sys.executable, "-c", mover], start_new_session=True)
"""
CELLS = {
    "ada": ("computes in silence", "n = 0\nwhile True: n += 1", True),
    "ben": ("moves data beside the kernels", BACKGROUND, True),
    "cleo": ("waits in silence for something", "import time\ntime.sleep(3600)", True),
    "dora": ("does nothing", "", False),
}


def begin(user: User, code: str) -> None:
    """Starts a session and runs ``code`` in a kernel of it; the kernel of a background program ends."""
    assert user.start(gpus=1).ok
    eventually(user.is_ready, 120)
    base = f"{user.hub.url}user/{user.name}"
    headers = {"Authorization": f"token {user.token}"}
    if not code:
        return
    kernel = requests.post(f"{base}/api/kernels", headers=headers, json={}, timeout=60).json()["id"]
    address = f"{base.replace('http', 'ws', 1)}/api/kernels/{kernel}/channels"
    channel = websocket.create_connection(address, header=[f"Authorization: token {user.token}"])
    message = {
        "header": {"msg_id": "1", "msg_type": "execute_request", "username": "", "session": "1", "version": "5.3"},
        "parent_header": {},
        "metadata": {},
        "content": {
            "code": code,
            "silent": False,
            "store_history": False,
            "user_expressions": {},
            "allow_stdin": False,
        },
        "channel": "shell",
    }
    channel.send(json.dumps(message))
    time.sleep(5)
    channel.close()  # the browser is closed
    if "Popen" in code:
        requests.delete(f"{base}/api/kernels/{kernel}", headers=headers, timeout=60)


class Noting(ThreadingHTTPServer):
    """Before the hub's API: reads pass, and what is to be deleted is noted."""

    def __init__(self, hub: Hub) -> None:
        self.wanted: set[str] = set()
        noting = self

        class Front(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = requests.get(
                    f"{hub.url.rstrip('/')}{self.path}",
                    headers={name: self.headers[name] for name in ("Authorization", "Accept") if name in self.headers},
                    timeout=30,
                )
                self.reply(answer.status_code, answer.content)

            def do_DELETE(self) -> None:
                noting.wanted.add(self.path.split("/users/")[1].split("/")[0])
                self.reply(204, b"")

            def reply(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Nothing is logged."""

        super().__init__(("127.0.0.1", 0), Front)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def look(self) -> None:
        quiet = logging.getLogger("stock")
        quiet.setLevel(logging.ERROR)
        address = f"http://127.0.0.1:{self.server_address[1]}/hub/api"
        asyncio.run(cull_idle(address, "stock-token-of-this-benchmark", LIMIT_S, quiet))


def watch(folder: Path, more: str, wait: float) -> tuple[set[str], set[str]]:
    """Whom the stock culler wanted to end, and whom ours ended, ``wait`` seconds after the last one began."""
    (folder / "limits.yaml").write_text(LIMITS)
    (folder / "timeshare_culler.py").write_text("c.IdleCuller.period_s = 2.0\n")
    (folder / "jupyterhub_site.py").write_text(SITE.format(more=more))
    with ExitStack() as stack:
        hub = stack.enter_context(running_hub(folder, "--simulate", "t4:4"))
        for name, (_, code, _) in CELLS.items():
            begin(hub.login(name), code)
        noting = Noting(hub)
        until = time.monotonic() + wait
        while time.monotonic() < until:
            noting.look()
            time.sleep(3)
        noting.shutdown()
        ended = {r["owner"] for r in hub.everybodys() if r["state"] in ("ending", "ended")}
    return noting.wanted, ended


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--wait", type=float, default=75, help="seconds to watch; default 75")
    wait = parser.parse_args().wait
    found = {}
    for name, more in (("without", WITHOUT), ("with", "")):
        with tempfile.TemporaryDirectory() as folder:
            found[name] = watch(Path(folder), more, wait)
    print(f"{'session':34} {'works':6} {'stock':8} {'stock, our extension':22} {'timeshare':10}")
    columns = [found["without"][0], found["with"][0], found["with"][1]]
    for person, (what, _, works) in CELLS.items():
        cells = ["ended" if person in column else "kept" for column in columns]
        print(f"{what:34} {'yes' if works else 'no':6} {cells[0]:8} {cells[1]:22} {cells[2]:10}")
    wrong = [sum(1 for person in column if CELLS[person][2]) for column in columns]
    print(f"wrong kills: stock {wrong[0]}, stock with our extension {wrong[1]}, timeshare {wrong[2]}")
    print(f"timeshare without its extension ended: {', '.join(sorted(found['without'][1])) or 'nobody'}")


if __name__ == "__main__":
    main()
