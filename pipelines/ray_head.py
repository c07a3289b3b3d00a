"""The Ray that training runs on: the standing one of this machine or, in a pod, a head of the pod's own.

The pod's is the same program on the same loopback addresses with a token of its own; nothing leads to it from outside,
and it ends with the training. A standing cluster of Ray's is not used: its workers do not see a pod's files.
"""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pipelines.groups import start_group
from slipway import logs
from slipway.endpoints import ray_token_file
from slipway.environment import Environment
from slipway.errors import NotReady
from slipway.files import write_atomically
from slipway.targets.local.leftovers import end_leftovers
from slipway.targets.local.ports import keep_ports
from slipway.targets.local.processes import Process, ray_head, shared_environment

_POLL = 0.25
_LOG_TAIL = 1500
"""Characters of its log that say why it did not start."""

_log = logs.get_logger(__name__)


@contextmanager
def running_ray(environment: Environment) -> Iterator[None]:
    """Have a Ray to submit jobs to while the block runs.

    Raises NotReady when a pod's own does not start within `processes.start_timeout`.
    """
    if environment.pod is None:
        yield
        return
    keep_ports(environment)
    write_atomically(ray_token_file(environment), secrets.token_urlsafe(32))
    head = ray_head(environment)
    log = environment.state.logs / "ray.log"
    begun = time.monotonic()
    process = start_group(head.command, {**shared_environment(environment), **head.environment}, log=log)
    try:
        _wait(environment, head, process, begun)
        _log.info("ray_started", seconds=round(time.monotonic() - begun, 1))
        yield
    finally:
        _end(environment, head, process)


def _wait(environment: Environment, head: Process, process: subprocess.Popen[bytes], begun: float) -> None:
    limit = environment.settings.processes.start_timeout.total_seconds()
    while not head.probe.is_ready(process.pid):
        ended = process.poll() is not None
        if ended or time.monotonic() - begun > limit:
            said = (environment.state.logs / "ray.log").read_text(errors="replace")[-_LOG_TAIL:]
            how = f"ended with {process.returncode}" if ended else f"was not ready within {limit:g} s"
            raise NotReady(f"ray: the pod's own head {how}: {said}")
        time.sleep(_POLL)


def _end(environment: Environment, head: Process, process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the head, which ends its own; then whatever of it is left."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(head.stop_timeout)
    end_leftovers(environment)
    process.poll()
