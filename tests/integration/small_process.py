"""A process as small as possible that behaves like one of the platform's: `small_process.py SOCKET [DELAY | fail]`.

Answers 200 on a unix socket after DELAY seconds, starts a child of its own, ends cleanly on SIGTERM; `fail` prints a
reason and exits at once.
"""

from __future__ import annotations

import socketserver
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    path, behaviour = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "0"
    if behaviour == "fail":
        sys.exit("the reason why it cannot start")
    time.sleep(float(behaviour))
    subprocess.Popen([sys.executable, "-c", "import time, os\nwhile os.getppid() != 1: time.sleep(0.1)"])
    path.unlink(missing_ok=True)
    with socketserver.UnixStreamServer(str(path), Answer) as server:
        sys.stderr.write("serving\n")
        server.serve_forever()


if __name__ == "__main__":
    main()
