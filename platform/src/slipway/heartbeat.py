"""Signs of life of the processes that listen on nothing: controller, collector, runner, monitor.

Each turn of such a process's loop beats; `slipway up` takes the first beat of a process as its readiness, and
`slipway status` shows the age of the last one. It decides nothing: a process that stopped beating is shown, not killed,
because a long step (a training run) is no fault.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from slipway.environment import Environment


def _file_of(environment: Environment, process: str) -> Path:
    return environment.state.run / "heartbeats" / process


class Heartbeat:
    """Held by one process: `heartbeat = Heartbeat(environment, "controller")`, then `heartbeat.beat()` each turn."""

    def __init__(self, environment: Environment, process: str) -> None:
        self._file = _file_of(environment, process)
        self._last = 0.0

    def beat(self) -> None:
        """Cheap enough for every turn: at most one system call a second."""
        now = time.monotonic()
        if self._last and now - self._last < 1.0:
            return
        if self._last and self._file.exists():
            os.utime(self._file)
        else:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            draft = self._file.with_name(f".{self._file.name}.{os.getpid()}")
            draft.write_text(f"{os.getpid()}\n")
            draft.replace(self._file)
        self._last = now


@dataclass(frozen=True)
class Beat:
    """The last beat of a process."""

    pid: int
    age: float
    """Seconds of wall clock."""


def read_beat(environment: Environment, process: str) -> Beat | None:
    """The last beat, of whichever process id; None when there was none."""
    file = _file_of(environment, process)
    try:
        return Beat(int(file.read_text()), max(0.0, time.time() - file.stat().st_mtime))
    except (FileNotFoundError, ValueError):
        return None
