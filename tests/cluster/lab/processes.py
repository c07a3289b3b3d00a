"""Processes of the lab: started with a log of their own, waited for within a limit, ended one by one.

None outlives the tests, even when those are killed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from slipway.targets.local import lifeline

T = TypeVar("T")

STOP_WITHIN = 15.0
_PAUSE = 0.1


class LabError(Exception):
    """Something did not become true in time, or a process ended; carries the end of the logs."""


class Process:
    """One program that runs until it is told to stop."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        folder: Path,
        environment: Mapping[str, str] | None = None,
        started_in: Path | None = None,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                # The kernel ends it when the tests are killed.
                lifeline.tie(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(environment or {})},
                cwd=started_in,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when that is not obeyed."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_WITHIN)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(STOP_WITHIN)

    def read_log(self, lines: int = 25) -> str:
        """The end of what it said."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def wait_until(what: str, probe: Callable[[], T | None], within: float = 30.0, processes: Sequence[Process] = ()) -> T:
    """Ask until the answer is true, and return it. Raises LabError: time ran out, or a process ended meanwhile."""
    deadline = time.monotonic() + within
    while True:
        if answer := probe():
            return answer
        ended = [process for process in processes if process.exit_code is not None]
        if ended or time.monotonic() >= deadline:
            cause = f"{ended[0].name} ended with {ended[0].exit_code}" if ended else f"not within {within:.0f} s"
            logs = "\n".join(f"--- {process.name}\n{process.read_log()}" for process in ended or processes)
            raise LabError(f"{what}: {cause}\n{logs}")
        time.sleep(_PAUSE)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
