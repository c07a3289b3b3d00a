"""The warm step server: has the slow libraries imported and runs each step in a child of its own.

`python -m pipelines.step_server SOCKET`, kept by the runner. A child starts with everything imported and ends with its
step, so that no step sees what another has left. When whoever asked goes away, its child is ended. The server ends
with its parent, and by itself after `IDLE_SECONDS` without a request: nobody needs its memory between runs.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

from pipelines.execution import execute
from pipelines.ray_jobs import tell_token
from slipway import logs
from slipway.environment import open_environment
from slipway.targets.local.lifeline import end_with_parent

IDLE_SECONDS = 300.0
_POLL = 0.1
_GRACE_SECONDS = 20.0
"""Between SIGTERM, at which a step stops its Ray job, and SIGKILL."""
_LONGEST_REQUEST = 1 << 20
_SLOW = (
    "pandas", "pyarrow.parquet", "duckdb", "lightgbm", "pandera.pandas", "feast", "ray.job_submission", "sqlalchemy",
    "model_signing.signing", "model_signing.verifying", "httpx", "slipway.ledger", "feature_repo.history",
    "feature_repo.flights.transforms", "feature_repo.offline", "feature_repo.online",
)  # fmt: skip


def serve(path: Path) -> None:
    """Answer requests one after the other, as steps come, until idle for too long."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        before = os.umask(0o177)
        listener.bind(str(path))
        os.umask(before)
        listener.listen(8)
        # Listening first: who connects waits while the imports go on.
        import_slow_libraries()
        listener.settimeout(IDLE_SECONDS)
        while True:
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                path.unlink(missing_ok=True)
                return
            with connection:
                answer_one(connection, listener)


def import_slow_libraries() -> None:
    """Import only: nothing that starts threads may run before a fork."""
    for name in _SLOW:
        # A library that is not there is missed by the step that needs it, with a message of its own.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def answer_one(connection: socket.socket, listener: socket.socket) -> None:
    """Run one request in a child; end the child when the other side hangs up."""
    connection.settimeout(5)
    with connection.makefile("rb") as stream:
        line = stream.readline(_LONGEST_REQUEST)
    if not line:
        return
    child = os.fork()
    if child == 0:
        listener.close()
        _run_child(connection, line)
    status = _wait(child, connection)
    if status is not None and status != 0:
        name = signal.Signals(-status).name if status < 0 else f"exit {status}"
        error = {"outcome": "again", "message": f"the step's process died ({name})", "problems": [], "traceback": ""}
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps({"error": error, "seconds": 0}).encode() + b"\n")


def _run_child(connection: socket.socket, line: bytes) -> None:
    server = os.getppid()
    code = 1
    try:
        os.setsid()
        end_with_parent(server)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        answer = execute(json.loads(line))
        connection.settimeout(5)
        connection.sendall(json.dumps(answer).encode() + b"\n")
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int, connection: socket.socket) -> int | None:
    """The child's exit code (negative: the signal), None when it was ended because nobody waits for it."""
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        readable, _, _ = select.select([connection], [], [], _POLL)
        if readable and not connection.recv(1):
            _end(child)
            return None


def _end(child: int) -> None:
    """SIGTERM, then SIGKILL to the child and all that it has started."""
    limit = time.monotonic() + _GRACE_SECONDS
    os.kill(child, signal.SIGTERM)
    while time.monotonic() < limit:
        if os.waitpid(child, os.WNOHANG)[0]:
            break
        time.sleep(_POLL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child, 0)


def main() -> None:
    logs.configure("step-server")
    tell_token(open_environment())
    serve(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
