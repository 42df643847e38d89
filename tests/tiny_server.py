"""A single-user server that does nothing but answer: for tests that start hundreds of sessions."""

from __future__ import annotations

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("X-JupyterHub-Version", "6.1.1")
        self.end_headers()
        self.wfile.write(os.environ["TIMESHARE_RESERVATION_ID"].encode())

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing is logged."""


if __name__ == "__main__":
    address = urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])
    ThreadingHTTPServer((address.hostname or "127.0.0.1", address.port or 80), Answer).serve_forever()
