"""Starting and stopping the platform on this machine. The two lists of steps are the documentation."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil
from filelock import FileLock, Timeout

from slipway.endpoints import ray_token_file
from slipway.environment import Environment
from slipway.errors import Conflict, InvalidInput, NotReady, Problem, SlipwayError
from slipway.files import write_atomically
from slipway.targets.local import processes
from slipway.targets.local.configuration import configuration_file, pid_file, render_configuration, write_configuration
from slipway.targets.local.leftovers import end_leftovers
from slipway.targets.local.ports import keep_ports
from slipway.targets.local.processes import Process
from slipway.targets.local.readiness import Report, read_readiness, wait_until_ready
from slipway.targets.local.revisions import list_champions, list_revision_processes, renew_revisions
from slipway.targets.local.supervision import Supervisor, launch

Say = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    title: str
    act: Callable[[Environment], object]


STARTING = (
    Step("files that the settings name", lambda environment: check_files(environment)),
    Step("folders", lambda environment: environment.state.prepare()),
    Step("leftovers of a killed platform", end_leftovers),
    Step("free ports", keep_ports),
    Step("tokens and keys", lambda environment: make_secrets(environment)),
    Step("release ledger", lambda environment: migrate_ledger(environment)),
    Step("gateway", lambda environment: configure_gateway(environment)),
    Step("revisions that ought to run", renew_revisions),
    Step("process keeper", lambda environment: start_supervisord(environment)),
)

STOPPING = (
    Step("processes, last started first", lambda environment: stop_processes(environment)),
    Step("process keeper", lambda environment: stop_supervisord(environment)),
    Step("leftovers", end_leftovers),
    Step("sockets", lambda environment: remove_sockets(environment)),
)


def up(environment: Environment, *, say: Say, report: Report, retain: bool = False) -> bool:
    """Start what does not run and wait for `awaited_processes`; False when there was nothing to do.

    A failed start is undone unless `retain`. Raises NotReady, Conflict (somebody else starts or stops it now), or
    SlipwayError with what a step found.
    """
    environment.state.prepare()
    with _alone(environment):
        if Supervisor(environment).is_running():
            return _complete(environment, say, report)
        _refuse_unreachable_supervisord(environment)
        try:
            for step in STARTING:
                say(step.title)
                step.act(environment)
            wait_until_ready(environment, awaited_processes(environment), report=report)
        except BaseException:
            if not retain:
                _stop(environment, say=lambda title: None)
            raise
    return True


def down(environment: Environment, *, say: Say) -> bool:
    """Stop everything, keep the data; False when nothing ran. Raises SlipwayError when a process cannot be ended."""
    if not environment.state.run.is_dir():
        return False
    with _alone(environment):
        ran = Supervisor(environment).is_running() or find_supervisord(environment) is not None
        _stop(environment, say)
        return ran


def all_processes(environment: Environment) -> list[Process]:
    """The platform's own and the revisions', in the order of starting."""
    return sorted(
        [*processes.list_processes(environment), *list_revision_processes(environment)], key=lambda item: item.order
    )


def awaited_processes(environment: Environment) -> list[Process]:
    """What a start waits for, in the order of starting: the platform's own processes and the champions.

    Not the other revisions, which are the controller's: a challenger that cannot start must not keep it from starting,
    and it may take any of them away while we wait.
    """
    champions = [processes.revision_process(environment, *champion) for champion in list_champions(environment)]
    return sorted([*processes.list_processes(environment), *champions], key=lambda item: item.order)


@contextmanager
def _alone(environment: Environment) -> Iterator[None]:
    lock = FileLock(environment.state.run / "lifecycle.lock", timeout=0)
    try:
        with lock:
            yield
    except Timeout:
        raise Conflict(
            f"environment {environment.settings.name} is being started or stopped by another command",
            hint="wait for it to end, then try again",
        ) from None


# -- steps of starting ------------------------------------------------------------------------------------------------


def check_files(environment: Environment) -> None:
    """Raises InvalidInput for every file that the settings name and that cannot be read."""
    gateway = environment.settings.gateway
    named = {"gateway.tls_certificate": gateway.tls_certificate, "gateway.tls_key": gateway.tls_key}
    problems = [
        Problem(key, f"{path} is no file that can be read", "name a PEM file of this user")
        for key, path in named.items()
        if path and not os.access(path, os.R_OK)
    ]
    if problems:
        raise InvalidInput(problems)


def make_secrets(environment: Environment) -> None:
    """Make what is missing of the tokens, the signing key pair and Ray's token; what is there stays."""
    from slipway import signing, tokens

    tokens.prepare(environment)
    signing.prepare(environment)
    if not ray_token_file(environment).exists():
        write_atomically(ray_token_file(environment), secrets.token_urlsafe(32))


def migrate_ledger(environment: Environment) -> None:
    """Create the ledger or bring its tables up to this release."""
    from slipway.ledger import open_ledger

    open_ledger(environment)


def configure_gateway(environment: Environment) -> None:
    """Write the configuration that Envoy starts with."""
    from slipway.targets.local import traffic

    traffic.render(environment)


def start_supervisord(environment: Environment) -> None:
    """Forget the former processes' signs of life, then start supervisord, which starts all others."""
    shutil.rmtree(environment.state.run / "heartbeats", ignore_errors=True)
    shutil.rmtree(environment.state.sockets / "ray", ignore_errors=True)
    write_configuration(environment)
    launch(environment)


def _complete(environment: Environment, say: Say, report: Report) -> bool:
    """The platform runs: start what was stopped or given up, and wait for it."""
    if render_configuration(environment) != configuration_file(environment).read_text():
        say("the settings have changed since the start: `slipway down`, then `slipway up` applies them")
    wanted, supervisor = all_processes(environment), Supervisor(environment)
    statuses = supervisor.read_statuses()
    if all(read_readiness(wanted, statuses).values()):
        return False
    for process in wanted:
        if process.name not in statuses:
            supervisor.add(process.name)
        elif not statuses[process.name].is_alive:
            say(f"starting {process.name} again: it was {statuses[process.name].state}")
            supervisor.start(process.name)
    wait_until_ready(environment, awaited_processes(environment), report=report)
    return True


def _refuse_unreachable_supervisord(environment: Environment) -> None:
    process = find_supervisord(environment)
    if process:
        raise SlipwayError(
            f"supervisord runs (process {process.pid}) but does not answer in {environment.state.sockets}",
            hint="was TMPDIR another one at its start? `slipway down` ends it",
        )


# -- steps of stopping ------------------------------------------------------------------------------------------------


def _stop(environment: Environment, say: Say) -> None:
    for step in STOPPING:
        say(step.title)
        step.act(environment)


def stop_processes(environment: Environment) -> None:
    """SIGTERM level by level, those of one level at once; supervisord kills what does not end in its time."""
    supervisor = Supervisor(environment)
    if not supervisor.is_running():
        return
    known = supervisor.read_statuses()
    levels: dict[int, list[Process]] = {}
    for process in all_processes(environment):
        if process.name in known:
            levels.setdefault(process.order, []).append(process)
    for order in sorted(levels, reverse=True):
        for process in levels[order]:
            if process.before_stop:
                with suppress(NotReady):  # it may be hanging: that must not keep it from being stopped
                    process.before_stop(environment)
            supervisor.stop(process.name)
        limit = time.monotonic() + max(process.stop_timeout for process in levels[order]) + 10
        while any(supervisor.read_statuses()[process.name].pid for process in levels[order]):
            if time.monotonic() > limit:
                raise SlipwayError(f"{', '.join(process.name for process in levels[order])}: cannot be stopped")
            time.sleep(0.1)


def stop_supervisord(environment: Environment) -> None:
    """End supervisord, by its socket or, when that does not answer, by its process id."""
    process = find_supervisord(environment)
    supervisor = Supervisor(environment)
    if supervisor.is_running():
        supervisor.shut_down()
    elif process:
        process.terminate()
    if process:
        _, alive = psutil.wait_procs([process], timeout=60)
        if alive:
            raise SlipwayError(f"supervisord (process {process.pid}) does not end", hint=f"kill -9 {process.pid}")


def find_supervisord(environment: Environment) -> psutil.Process | None:
    """The supervisord of this environment, by its process id file and its command line."""
    try:
        process = psutil.Process(int(pid_file(environment).read_text()))
        return process if str(configuration_file(environment)) in process.cmdline() else None
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def remove_sockets(environment: Environment) -> None:
    """Remove the folder of sockets, Ray's temporary files in it included."""
    shutil.rmtree(environment.state.sockets, ignore_errors=True)
