"""The loopback ports of an environment: chosen free once, kept in run/ports.json, so that addresses stay the same.

A port is chosen anew only when somebody else has taken it while the platform was down. It reserves nothing: between
the choice and the bind another program can be faster, and then the process fails to start and says so.
"""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Mapping

from slipway.environment import Environment
from slipway.errors import NotReady, SlipwayError
from slipway.files import write_atomically

NAMES = (
    "gateway",
    "registry",
    "ray",
    "ray_dashboard",
    "ray_client",
    "ray_agent",
    "ray_agent_grpc",
    "ray_runtime_env",
    "ray_metrics",
)

# Below the range from which kernels take the ports of outgoing connections (32768 up), above that of Ray's workers.
_RANGE = range(20_000, 32_000)


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # Without it, closed connections that the kernel still remembers would count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def choose_ports(wanted: int, known: Mapping[str, int], *, host: str = "127.0.0.1") -> dict[str, int]:
    """A free port for every name: the known one where it is still free, `wanted` (unless 0) for the gateway.

    Raises SlipwayError when the wanted port is taken.
    """
    if wanted and not is_free(wanted, host):
        raise SlipwayError(
            f"gateway.port: {wanted} is taken by another program",
            hint="end that program, or set gateway.port to another port, or to 0 for a free one",
        )
    chosen: dict[str, int] = {}
    candidates = iter(random.sample(_RANGE, len(_RANGE)))
    for name in NAMES:
        address = host if name == "gateway" else "127.0.0.1"
        port = wanted if name == "gateway" and wanted else known.get(name, 0)
        while not port or port in chosen.values() or not is_free(port, address):
            port = next(candidates)
        chosen[name] = port
    return chosen


def keep_ports(environment: Environment) -> dict[str, int]:
    """Choose the ports and write run/ports.json. Only for a platform that is down: a running one holds its ports."""
    file = environment.state.run / "ports.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    gateway = environment.settings.gateway
    host = "127.0.0.1" if gateway.host == "localhost" else gateway.host
    ports = choose_ports(gateway.port, known, host=host)
    if ports != known:
        write_atomically(file, json.dumps(ports, indent=2) + "\n")
    return ports


def read_ports(environment: Environment) -> dict[str, int]:
    """The ports in force. Raises NotReady before the first `slipway up`."""
    file = environment.state.run / "ports.json"
    try:
        ports: dict[str, int] = json.loads(file.read_text())
    except FileNotFoundError:
        raise NotReady(f"environment {environment.settings.name} was never started", hint="slipway up") from None
    return ports
