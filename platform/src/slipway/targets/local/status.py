"""What runs, whether it is ready, and what it costs: facts for `slipway status` and the portal."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from slipway.endpoints import dashboard_url, gateway_url, registry_url
from slipway.environment import Environment
from slipway.errors import NotReady
from slipway.targets.local.configuration import log_file
from slipway.targets.local.lifecycle import all_processes
from slipway.targets.local.readiness import read_readiness
from slipway.targets.local.supervision import Status, Supervisor


@dataclass(frozen=True)
class ProcessFacts:
    """One process as a person wants to see it."""

    process: str
    state: str
    """ready, starting, stopping, stopped, failed."""
    pid: int | None
    memory_mib: int | None
    """Proportional memory (PSS) of the process and all below it on Linux, resident memory elsewhere."""
    uptime_s: int | None
    restarts: int
    """Since the platform was started."""
    log: Path


def read_processes(environment: Environment) -> list[ProcessFacts]:
    """Every process that should run, in the order of starting; all stopped when the platform is down.

    Raises NotReady before the first `slipway up`.
    """
    processes = all_processes(environment)
    try:
        statuses = Supervisor(environment).read_statuses()
    except NotReady:
        statuses = {}
    ready = read_readiness(processes, statuses)
    starts = _count_starts(environment) if statuses else {}
    return [
        ProcessFacts(
            process=process.name,
            state=_word(statuses.get(process.name), ready[process.name]),
            pid=(pid := statuses[process.name].pid if process.name in statuses else 0) or None,
            memory_mib=_measure_memory(pid) if pid else None,
            uptime_s=int(time.time() - statuses[process.name].started) if pid else None,
            restarts=max(0, starts.get(process.name, 0) - 1),
            log=log_file(environment, process.name),
        )
        for process in processes
    ]


def read_urls(environment: Environment) -> dict[str, str]:
    """What a person or a client opens. Raises NotReady before the first `slipway up`."""
    pages = {name: dashboard_url(environment, name) for name in ("portal", "mlflow", "reports", "ray")}
    return {**pages, "predictions": gateway_url(environment), "registry": registry_url(environment)}


def _word(status: Status | None, ready: bool) -> str:
    if status is None or status.state in ("STOPPED", "EXITED"):
        return "stopped"
    if status.state in ("FATAL", "BACKOFF", "UNKNOWN"):
        return "failed"
    if status.state == "STOPPING":
        return "stopping"
    return "ready" if ready else "starting"


def _measure_memory(pid: int) -> int | None:
    """MiB of a process and all below it; None when it has just ended."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return None
    total = 0
    for process in family:
        try:
            full = process.memory_full_info()
            total += getattr(full, "pss", full.rss)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total >> 20


def _count_starts(environment: Environment) -> dict[str, int]:
    """How often supervisord has started each process since its own start: its log is the only record."""
    counts: dict[str, int] = {}
    text = log_file(environment, "supervisord").read_text(errors="replace")
    for line in text[text.rfind("supervisord started with pid") :].splitlines():
        _, found, rest = line.partition("spawned: '")
        if found:
            name = rest.partition("'")[0]
            counts[name] = counts.get(name, 0) + 1
    return counts
