"""The runner's children: the graph and the warm step server, each a process group that is ended whole."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from slipway.endpoints import socket_of
from slipway.environment import VARIABLE, Environment
from slipway.errors import SlipwayError
from slipway.targets.local import lifeline

Line = dict[str, Any]
"""One line of a progress file: what a component said when its step began or ended."""

_POLL = 0.1
_GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""


def start_group(
    command: Sequence[str], variables: Mapping[str, str], *, log: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a command as the leader of a process group of its own; it is ended with this process.

    What it prints goes to `log`, or to our own output.
    """
    environment = {**os.environ, **variables}
    with contextlib.ExitStack() as open_files:
        output = open_files.enter_context(log.open("wb")) if log else None
        return subprocess.Popen(
            lifeline.tie(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            env=environment,
            start_new_session=True,
        )


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and all of its group: SIGTERM, and SIGKILL to what is left after a grace."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)


def read_lines(progress: Path) -> list[Line]:
    """The whole lines of a progress file; a line that is being written is left for later."""
    try:
        text = progress.read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


class StepServer:
    """The one warm step server; started when it is asked for and not there, since it ends itself when idle."""

    def __init__(self, environment: Environment, *, wait: Callable[[float], None]) -> None:
        self._environment = environment
        self._wait = wait
        self._process: subprocess.Popen[bytes] | None = None

    def ensure(self) -> Path:
        """The server's socket. Raises SlipwayError when the server does not start in time."""
        path = socket_of(self._environment, "steps")
        if self._process is not None and self._process.poll() is None:
            return path
        path.unlink(missing_ok=True)
        variables = {VARIABLE: str(self._environment.file.resolve())}
        self._process = start_group([sys.executable, "-m", "pipelines.step_server", str(path)], variables)
        limit = time.monotonic() + self._environment.settings.processes.start_timeout.total_seconds()
        while not path.exists():
            if self._process.poll() is not None or time.monotonic() > limit:
                raise SlipwayError("the step server did not start", hint="slipway logs runner")
            self._wait(_POLL)
        return path

    def close(self) -> None:
        """End it, and the step that it may be running."""
        if self._process is not None and self._process.poll() is None:
            end_group(self._process)
        self._process = None
