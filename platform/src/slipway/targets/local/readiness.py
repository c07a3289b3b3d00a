"""Waiting until processes are ready, all at once; running out of time is a failure that shows what they said last."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from slipway.durations import format_duration
from slipway.environment import Environment
from slipway.errors import NotReady
from slipway.targets.local.configuration import log_file
from slipway.targets.local.processes import Process
from slipway.targets.local.supervision import Status, Supervisor
from slipway.targets.local.tails import read_tail, shorten

_PAUSE = 0.2
"""Seconds between two rounds of questions."""

_PATIENCE = 30.0
"""Seconds for supervisord to answer on a machine that is busy with starting all of this."""

_STARTS = 3
"""A process that was seen with more ids than this ends each time that it is started."""

Report = Callable[[str, float], None]
"""Told the name of each process that has become ready, and the seconds that it took."""


def wait_until_ready(
    environment: Environment,
    processes: Sequence[Process],
    *,
    timeout: timedelta | None = None,
    report: Report = lambda name, seconds: None,
) -> None:
    """Return when every process is ready.

    Raises NotReady with the last lines of each log after `timeout` (`processes.start_timeout` unless given), or earlier
    when a process ends each time that it is started.
    """
    limit = timeout or environment.settings.processes.start_timeout
    supervisor = Supervisor(environment, timeout=_PATIENCE)
    started = time.monotonic()
    waiting = list(processes)
    seen: dict[str, set[int]] = {process.name: set() for process in processes}
    while True:
        statuses = supervisor.read_statuses()
        for name, pids in seen.items():
            pids.update({statuses[name].pid} if name in statuses else ())
        for process in list(waiting):
            if _is_ready(process, statuses.get(process.name)):
                waiting.remove(process)
                report(process.name, time.monotonic() - started)
        if not waiting:
            return
        lost = [
            process
            for process in waiting
            if _is_lost(statuses.get(process.name)) or len(seen[process.name] - {0}) > _STARTS
        ]
        if lost:
            raise NotReady(_complaint(environment, lost, "ended again and again"))
        if time.monotonic() - started > limit.total_seconds():
            raise NotReady(_complaint(environment, waiting, f"not ready within {format_duration(limit)}"))
        time.sleep(_PAUSE)


def read_readiness(processes: Sequence[Process], statuses: dict[str, Status]) -> dict[str, bool]:
    """Whether each process is ready now, without waiting for it."""
    return {process.name: _is_ready(process, statuses.get(process.name)) for process in processes}


def _is_ready(process: Process, status: Status | None) -> bool:
    return status is not None and status.is_alive and process.probe.is_ready(status.pid)


def _is_lost(status: Status | None) -> bool:
    return status is None or status.state in ("FATAL", "STOPPED")


def _complaint(environment: Environment, processes: Sequence[Process], what: str) -> str:
    parts = [f"{', '.join(process.name for process in processes)}: {what}"]
    for process in processes:
        file = log_file(environment, process.name)
        parts.append(f"--- the end of {file}")
        parts.extend(shorten(line) for line in read_tail(environment, process.name, 15) or ["(empty)"])
    return "\n".join(parts)
