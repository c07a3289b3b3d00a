"""The servers that ours is compared with, each in a process of its own, on loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from slipway.settings import REPOSITORY
from tests.benchmarks.asking import Door, ask_once

START_LIMIT = 120.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], log: Path, door: Door, **environment: str) -> Iterator[None]:
    """Start, wait until the door answers a prediction, and end it (its whole group) at the end."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        _wait(process, door, log)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait(timeout=10)


def _wait(process: subprocess.Popen[bytes], door: Door, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT
    while True:
        try:
            ask_once(door)
            return
        except (OSError, RuntimeError, EOFError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"a peer did not start: {log.read_text()[-1500:]}") from None
            time.sleep(0.3)


@contextmanager
def bare_kserve(model_file: Path, matrix: list[list[float]], folder: Path) -> Iterator[Door]:
    """KServe with the same booster; the features come in the request."""
    port = free_port()
    door = Door.of("/v1/models/bare:predict", {"instances": matrix}, port=port)
    command = [sys.executable, "-m", "tests.benchmarks.bare_server", str(model_file), str(port)]
    with running(command, folder / "bare.log", door):
        yield door


@contextmanager
def mlflow_serving(model_file: Path, columns: list[str], matrix: list[list[float]], folder: Path) -> Iterator[Door]:
    """`mlflow models serve` of the same booster as a pyfunc, which is made for this comparison only."""
    bundle = folder / "pyfunc"
    make = (
        "import json, sys, lightgbm, mlflow.lightgbm; "
        "mlflow.lightgbm.save_model(lightgbm.Booster(model_file=sys.argv[1]), sys.argv[2])"
    )
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'peer.db'}"}
    done = subprocess.run(
        [sys.executable, "-c", make, str(model_file), str(bundle)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the pyfunc could not be made: {done.stderr[-1500:]}")
    port = free_port()
    document = json.loads(json.dumps({"dataframe_split": {"columns": columns, "data": matrix}}))
    door = Door.of("/invocations", document, port=port)
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(bundle), "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # It starts uvicorn by name, which lies beside this interpreter.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    with running(command, folder / "mlflow.log", door, PATH=path):
        yield door
