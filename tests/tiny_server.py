"""A single-user server that does nothing but answer: for tests that start hundreds of sessions."""

from __future__ import annotations

import os
import sys
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingUnixStreamServer


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("X-JupyterHub-Version", "6.1.1")
        self.end_headers()
        self.wfile.write(os.environ["TIMESHARE_RESERVATION_ID"].encode())

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing is logged."""


if __name__ == "__main__":
    (path,) = (word.partition("=")[2] for word in sys.argv if word.startswith("--ServerApp.sock="))
    ThreadingUnixStreamServer.request_queue_size = 128
    ThreadingUnixStreamServer(path, Answer).serve_forever()
