"""The processes of the local target: what each one runs, what it is told, how it says that it is ready.

Nothing is started here; `supervision` does that. The list is the documentation: read it from top to bottom, it is the
order of starting, and backwards the order of stopping.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from slipway.endpoints import ray_address, ray_token_file, revision_socket, socket_of
from slipway.environment import VARIABLE, Environment
from slipway.targets.local import envoy
from slipway.targets.local.ports import read_ports
from slipway.targets.local.probes import Beats, Gateway, Http, Probe

MARKER = "SLIPWAY_STATE"
"""Set for every process of an environment and for all that they start: what is left over is found by it."""

_PYTHON = sys.executable


def limit_threads(count: int) -> dict[str, str]:
    """What keeps numeric libraries from starting a thread for every core in every process."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_MAX_THREADS", "ARROW_NUM_THREADS")
    return {name: str(count) for name in names}


@dataclass(frozen=True)
class Process:
    """One program that supervisord keeps."""

    name: str
    command: tuple[str, ...]
    probe: Probe
    order: int
    """Started in rising order, stopped in falling order."""
    stop_timeout: int = 15
    """Seconds between SIGTERM and SIGKILL."""
    environment: Mapping[str, str] = field(default_factory=lambda: limit_threads(1))
    """Beside what `shared_environment` gives to all. Ray sets the threads of its workers itself."""
    before_stop: Callable[[Environment], None] | None = None
    """Called before SIGTERM when the whole platform stops."""


def list_processes(environment: Environment) -> list[Process]:
    """Everything but the revisions, in the order of starting. Needs run/ports.json."""

    def http(name: str, path: str) -> Http:
        return Http(path, socket=socket_of(environment, name))

    # This Ray and no other: RAY_ADDRESS from somebody's shell would win over the address that the client is given.
    runner_environment = {
        "RAY_API_SERVER_ADDRESS": ray_address(environment),
        **limit_threads(environment.settings.ray.cpus),
    }
    return [
        # Stores.
        Process("mlflow", _module("slipway.registry_server"), http("mlflow", "/health"), 10),
        Process("reports", _module("slipway.reports_server"), http("reports", "/api/version"), 10),
        ray_head(environment),
        # Those who work on what is stored. The collector ends after the revisions (40), whose last rows it takes up.
        Process("collector", _module("slipway.collector"), Beats(environment, "collector"), 20, 30),
        Process("monitor", _module("monitoring"), Beats(environment, "monitor"), 20),
        Process("runner", _module("pipelines"), Beats(environment, "runner"), 30, environment=runner_environment),
        # The doors.
        Process("portal", _module("slipway.portal"), http("portal", "/"), 50),
        Process("envoy", tuple(envoy.command(environment)), Gateway(environment), 60, before_stop=envoy.drain),
        # It ends first, or it would take the stopping of a revision for a fault and act on it.
        Process("controller", _module("slipway.controller"), Beats(environment, "controller"), 70),
    ]


def ray_head(environment: Environment) -> Process:
    """Ray on loopback. Needs run/ports.json."""
    ready = Http("/api/gcs_healthz", port=read_ports(environment)["ray_dashboard"])
    return Process("ray", _ray_command(environment), ready, 10, 25, _ray_environment(environment))


def revision_process(environment: Environment, model: str, version: int) -> Process:
    """The server of one version; SIGTERM lets it finish what it is answering."""
    return Process(
        f"revision-{model}-{version}",
        _module("serving", "--model", model, "--version", str(version)),
        Http(f"/v2/models/{model}/ready", socket=revision_socket(environment, model, version)),
        order=40,
        stop_timeout=30,
    )


def shared_environment(environment: Environment) -> dict[str, str]:
    """Environment variables of every process: what it works in, how many threads it may use, and no telemetry."""
    return {
        VARIABLE: str(environment.file.resolve()),
        MARKER: str(environment.state.root.resolve()),
        "PATH": os.pathsep.join([str(Path(_PYTHON).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
        "MALLOC_ARENA_MAX": "2",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        # MLflow's job execution is seven processes and 850 MB that nothing here uses.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "GIT_PYTHON_REFRESH": "quiet",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "FEAST_USAGE": "False",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Despite its name: anything but 0 makes Ray listen on the machine's own address, whatever address it is given.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(ray_token_file(environment)),
    }


def _module(name: str, *arguments: str) -> tuple[str, ...]:
    return (_PYTHON, "-m", name, *arguments)


def _ray_environment(environment: Environment) -> dict[str, str]:
    return {
        # Nobody waits for a drain: a job that is cut is submitted again by its run.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "2",
        "RAY_TMPDIR": str(environment.state.sockets),
    }


def _ray_command(environment: Environment) -> tuple[str, ...]:
    settings, ports = environment.settings.ray, read_ports(environment)
    options = {
        "node-ip-address": "127.0.0.1",
        "port": ports["ray"],
        "num-cpus": settings.cpus,
        "num-gpus": 0,
        "object-store-memory": settings.object_store_memory,
        # Ray makes this folder writable for everyone; the one above it is 0700.
        "temp-dir": environment.state.sockets / "ray",
        "include-dashboard": "true",
        "dashboard-host": "127.0.0.1",
        "dashboard-port": ports["ray_dashboard"],
        "dashboard-agent-listen-port": ports["ray_agent"],
        "dashboard-agent-grpc-port": ports["ray_agent_grpc"],
        "runtime-env-agent-port": ports["ray_runtime_env"],
        "metrics-export-port": ports["ray_metrics"],
        # Cannot be switched off while grpc is installed; it asks for the token too.
        "ray-client-server-port": ports["ray_client"],
        # Any free port.
        "min-worker-port": 0,
        "max-worker-port": 0,
    }
    if environment.pod is not None:
        # A container's /dev/shm is smaller than Ray's smallest store, and Ray would look for another place.
        options["plasma-directory"] = environment.state.run
    ray = str(Path(_PYTHON).parent / "ray")
    return (ray, "start", "--head", "--block", "--disable-usage-stats", *(f"--{k}={v}" for k, v in options.items()))
