"""Processes of an environment that outlived their supervisord, found by the marker in their environment variables.

No name is guessed and no port is looked at: a process without exactly this environment's marker is never touched.
"""

from __future__ import annotations

import os
from contextlib import suppress

import psutil

from slipway.environment import Environment
from slipway.targets.local.processes import MARKER


def find_leftovers(environment: Environment) -> list[psutil.Process]:
    """Every process of this user that carries the environment's marker, the caller and its parents excepted."""
    root = str(environment.state.root.resolve())
    here = psutil.Process()
    ours = {here.pid, *(parent.pid for parent in here.parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.pid not in ours
                and process.uids().real == os.getuid()
                and (process.environ().get(MARKER) == root)
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def end_leftovers(environment: Environment, *, grace: float = 10.0) -> int:
    """SIGTERM, wait up to `grace` seconds, SIGKILL; returns how many there were."""
    processes = find_leftovers(environment)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, stubborn = psutil.wait_procs(processes, timeout=grace)
    for process in stubborn:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(stubborn, timeout=5)
    return len(processes)
