"""Answers in the place of every pod: `python pod_server.py PORT LOG [CERTIFICATE KEY]`, on all its network's addresses.

An answer says which address it came from, so that a test knows whose pod was asked. At `/authorize`, where the gateway
asks the portal, one token passes. Each request is a line of JSON in the log. With a certificate it speaks TLS. It
imports nothing of Slipway.
"""

from __future__ import annotations

import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOKEN = "the-lab-may-pass"
"""No server but this one takes it."""


class Pod(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    log: Path

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {key.lower(): value for key, value in self.headers.items()}
        asked = {"address": self.connection.getsockname()[0], "path": self.path, "headers": headers}
        with self.log.open("a") as log:
            log.write(json.dumps(asked) + "\n")
        refused = self.path.startswith("/authorize") and headers.get("authorization") != f"Bearer {TOKEN}"
        body = json.dumps(asked).encode()
        self.send_response(401 if refused else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer  # noqa: N815  (the names that the library calls)

    def log_message(self, format: str, *arguments: object) -> None:
        """Its own log is enough."""


def main() -> None:
    Pod.log = Path(sys.argv[2])
    server = ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Pod)  # noqa: S104  (its network is private)
    if sys.argv[3:]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*sys.argv[3:5])
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
