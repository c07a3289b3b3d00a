"""supervisord's configuration files: one for the platform's own processes, one for each revision in conf.d."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from slipway.endpoints import socket_of
from slipway.environment import Environment
from slipway.errors import InvalidInput, Problem
from slipway.files import write_atomically
from slipway.settings import REPOSITORY
from slipway.targets.local import lifeline, processes
from slipway.targets.local.processes import Process

_UNSPEAKABLE = ('"', "\n", "%", " ;", " #")


def configuration_file(environment: Environment) -> Path:
    return environment.state.run / "supervisord.conf"


def pid_file(environment: Environment) -> Path:
    """Where supervisord writes its process id, before it starts anything."""
    return environment.state.run / "supervisord.pid"


def revision_file(environment: Environment, name: str) -> Path:
    """The file that makes supervisord start a revision; it outlives `slipway down`."""
    return environment.state.run / "conf.d" / f"{name}.conf"


def log_file(environment: Environment, name: str) -> Path:
    return environment.state.logs / f"{name}.log"


def render_configuration(environment: Environment) -> str:
    """supervisord.conf with every process but the revisions, which stand in conf.d."""
    settings = environment.settings.processes
    sections = [
        _section("unix_http_server", {"file": socket_of(environment, "supervisor"), "chmod": "0600"}),
        _section("supervisord", {
            "logfile": log_file(environment, "supervisord"), "logfile_maxbytes": settings.log_size,
            "logfile_backups": settings.log_files, "pidfile": pid_file(environment), "umask": "077",
            "identifier": f"slipway-{environment.settings.name}", "directory": REPOSITORY, "nocleanup": "true",
            "strip_ansi": "true", "minfds": 1024, "minprocs": 64,
            "environment": _assignments(processes.shared_environment(environment)),
        }),
        _section("rpcinterface:supervisor",
                 {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"}),
        *(render_program(environment, process) for process in processes.list_processes(environment)),
        # Relative to this file: a space in an absolute path would end the pattern.
        _section("include", {"files": "conf.d/*.conf"}),
    ]  # fmt: skip
    return "\n".join(sections)


def render_program(environment: Environment, process: Process) -> str:
    """One `[program]`: restarted for ever, its whole group killed when SIGTERM does not end it in time."""
    settings = environment.settings.processes
    command = lifeline.tie(process.command, parent=pid_file(environment))
    return _section(f"program:{process.name}", {
        "command": shlex.join(command), "priority": process.order, "directory": REPOSITORY,
        "environment": _assignments(process.environment),
        "autostart": "true", "autorestart": "true", "startsecs": 1, "startretries": 20,
        "stopsignal": "TERM", "stopwaitsecs": process.stop_timeout, "killasgroup": "true",
        "redirect_stderr": "true", "stdout_logfile": log_file(environment, process.name),
        "stdout_logfile_maxbytes": settings.log_size, "stdout_logfile_backups": settings.log_files,
    })  # fmt: skip


def _section(name: str, values: Mapping[str, object]) -> str:
    lines = [f"[{name}]"]
    for key, value in values.items():
        text = str(value)
        if key != "environment":
            text = _check(text)
        if text:
            lines.append(f"{key} = {text}")
    return "\n".join(lines) + "\n"


def _check(text: str) -> str:
    """Text as it is. Raises InvalidInput for what supervisord's file format cannot hold: it would misread it."""
    if any(part in text for part in _UNSPEAKABLE):
        raise InvalidInput(
            Problem(
                repr(text),
                "holds a quote, a line break, `%`, ` ;` or ` #`",
                "move the repository or state_dir to a folder without such characters",
            )
        )
    return text


def _assignments(variables: Mapping[str, str]) -> str:
    return ",".join(f'{name}="{_check(value)}"' for name, value in variables.items())


def write_configuration(environment: Environment) -> None:
    """Write supervisord.conf."""
    revision_file(environment, "any").parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(configuration_file(environment), render_configuration(environment))
