"""Checks of the machine that stands the platform up: tools, limits, memory, registries. They start `--version` only."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from slipway.environment import Environment
from slipway.kubernetes_settings import KubernetesSettings
from slipway.targets.finding import Finding, finding

_GIB = 1 << 30
_WITHIN = 20
"""Seconds that a tool may take to say its version."""

MEMORY = {"core": 8, "full": 24}
"""GiB that must be free for a cluster on this machine, by profile."""

INOTIFY = {"max_user_instances": 512, "max_user_watches": 524_288}
"""Least limits under which a dozen operators can watch their files on one machine."""

PLACEHOLDERS = {"your-project", "00000000-0000-0000-0000-000000000000", "slipway.example.com"}
"""What the shipped environments say where only you know the answer."""


@dataclass(frozen=True)
class Tool:
    """A command line that a provider needs."""

    name: str
    remedy: str
    version: tuple[str, ...] = ("--version",)
    least: str = ""


PULUMI = Tool("pulumi", "make tools builds it, or: https://www.pulumi.com/docs/install/", ("version",), least="3.250.0")
KUBECTL = Tool(
    "kubectl",
    "make tools builds it, or: https://kubernetes.io/docs/tasks/tools/",
    ("version", "--client", "--output=yaml"),
    least="1.33.0",
)
GIT = Tool("git", "apt-get install git", least="2.20.0")
TOOLS: dict[str, tuple[Tool, ...]] = {
    "existing": (),
    "kind": (
        Tool("docker", "https://docs.docker.com/engine/install/", least="24.0.0"),
        Tool("kind", "https://kind.sigs.k8s.io/docs/user/quick-start/#installation", least="0.30.0"),
    ),
    "eks": (
        Tool("aws", "https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html", least="2.15.0"),
    ),
    "gke": (
        Tool("gcloud", "https://cloud.google.com/sdk/docs/install"),
        Tool("gke-gcloud-auth-plugin", "gcloud components install gke-gcloud-auth-plugin"),
    ),
    "aks": (
        Tool("az", "https://learn.microsoft.com/cli/azure/install-azure-cli", least="2.60.0"),
        Tool("kubelogin", "az aks install-cli"),
    ),
}

LOGINS: dict[str, tuple[tuple[str, ...], str]] = {
    "kind": (("docker", "info", "--format", "{{.ServerVersion}}"), "start Docker, and let your user speak to it"),
    "eks": (
        ("aws", "sts", "get-caller-identity", "--query", "Arn", "--output", "text"),
        "aws sso login, or aws configure",
    ),
    "gke": (("gcloud", "config", "get-value", "account"), "gcloud auth login && gcloud auth application-default login"),
    "aks": (("az", "account", "show", "--query", "user.name", "--output", "tsv"), "az login"),
}
"""Command that says as whom the provider knows us; it shows no secret."""


def check_tools(environment: Environment, settings: KubernetesSettings) -> Iterator[Finding]:
    """The command lines that this provider needs, in versions that are known to work."""
    needed = [PULUMI, KUBECTL, *TOOLS[settings.provider]]
    if settings.parts.pipelines.enabled and settings.parts.pipelines.engine == "kfp" and not settings.mirror.dir:
        needed.append(GIT)
    for tool in needed:
        yield _tool_finding(tool)


def check_login(environment: Environment, settings: KubernetesSettings) -> Iterator[Finding]:
    """Whether the provider knows who we are."""
    if settings.provider not in LOGINS:
        return
    command, remedy = LOGINS[settings.provider]
    said = _ask(command)
    yield finding(f"{command[0]} answers", bool(said), said.splitlines()[0] if said else "no", remedy)


def check_placeholders(environment: Environment, settings: KubernetesSettings) -> Iterator[Finding]:
    """Values of the shipped environments that only you can fill in."""
    if not settings.is_cloud:
        return
    given = {
        "domain": settings.domain,
        "network.project": settings.network.project,
        "network.subscription": settings.network.subscription,
    }
    left = [f"kubernetes.{key}" for key, value in given.items() if value in PLACEHOLDERS]
    yield finding("no placeholder is left", not left, ", ".join(left) or "none", f"set them in {environment.file}")


def check_inotify(environment: Environment, settings: KubernetesSettings) -> Iterator[Finding]:
    """On this machine's kernel all nodes of kind share one limit."""
    folder = Path("/proc/sys/fs/inotify")
    if settings.provider != "kind" or not folder.is_dir():
        return
    for name, least in INOTIFY.items():
        value = int((folder / name).read_text())
        yield finding(f"inotify {name}", value >= least, value, f"sudo sysctl fs.inotify.{name}={least}")


def check_memory(environment: Environment, settings: KubernetesSettings) -> Iterator[Finding]:
    """What a kind cluster takes, it takes from here."""
    if settings.provider != "kind":
        return
    least, free = MEMORY[settings.profile], psutil.virtual_memory().available / _GIB
    remedy = "end other programs" if settings.profile == "core" else 'end other programs, or profile = "core"'
    yield finding(f"{least} GiB of free memory", free >= least, f"{free:.1f} GiB", remedy)


def check_disk(environment: Environment, settings: KubernetesSettings) -> Iterator[Finding]:
    """Images and volumes of a kind cluster; the state alone elsewhere."""
    least = 30 if settings.provider == "kind" else 1
    folder = environment.state.root
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / _GIB
    yield finding(
        f"{least} GiB of free disk", free >= least, f"{free:.1f} GiB at {folder}", "free some, or set state_dir"
    )


def check_passphrase(environment: Environment, settings: KubernetesSettings) -> Iterator[Finding]:
    """The file that opens the state's secrets."""
    file = settings.backend.passphrase_file
    if not file:
        return
    if not file.is_file():
        yield finding("passphrase", False, f"{file} is not there", "put it back: without it the state cannot be read")
        return
    private = not file.stat().st_mode & 0o077 and file.stat().st_uid == os.getuid()
    yield finding("passphrase is private", private, file, f"chmod 600 {file}")


def check_mirror(environment: Environment, settings: KubernetesSettings) -> Iterator[Finding]:
    """What the mirror's folder has; its images are the registry's."""
    from slipway.mirror.check import is_there
    from slipway.mirror.pins import read_pins

    folder = settings.mirror.dir
    if not folder:
        return
    pins = [pin for pin in read_pins(folder) if pin.kind != "images"]
    lacking = [pin.key for pin in pins if not is_there(folder, pin)]
    found = f"{len(pins)} charts and manifests" if not lacking else f"lacks {', '.join(lacking)}"
    yield finding("mirror is complete", not lacking, found, f"slipway mirror pull {folder} --no-images")


def check_registries(environment: Environment, settings: KubernetesSettings) -> Iterator[Finding]:
    """Whether the registries of the images answer from here; nodes may see another network."""
    from slipway.mirror.pins import read_pins

    images = [pin.source for pin in read_pins() if pin.kind == "images"]
    hosts = {settings.mirror.registry.partition("/")[0]} if settings.mirror.registry else {
        source.partition("/")[0] for source in images
    }  # fmt: skip
    with ThreadPoolExecutor(max_workers=8) as pool:
        silent = [
            host for host, answers in zip(sorted(hosts), pool.map(_answers, sorted(hosts)), strict=True) if not answers
        ]
    found = f"{len(hosts)} answer" if not silent else f"no answer from {', '.join(silent)}"
    yield finding(
        "image registries",
        not silent,
        found,
        "a proxy, or kubernetes.mirror.registry with your own (slipway mirror pull)",
    )


CHECKS: tuple[Callable[[Environment, KubernetesSettings], Iterator[Finding]], ...] = (
    check_tools,
    check_login,
    check_placeholders,
    check_inotify,
    check_memory,
    check_disk,
    check_passphrase,
    check_mirror,
    check_registries,
)


def _tool_finding(tool: Tool) -> Finding:
    path = find_tool(tool.name)
    if not path:
        return finding(tool.name, False, "is not installed", tool.remedy)
    match = re.search(r"\d+\.\d+(\.\d+)?", _ask((path, *tool.version)))
    if not match:
        # A build from the module does not know its version; what stands in that folder is pinned all the same.
        built = bool(os.environ.get("SLIPWAY_TOOLS")) and path.startswith(os.environ["SLIPWAY_TOOLS"])
        return finding(tool.name, built or not tool.least, "built here" if built else "says no version", tool.remedy)
    ok = not tool.least or _order(match[0]) >= _order(tool.least)
    return finding(f"{tool.name} {tool.least}".strip(), ok, match[0], f"a newer one: {tool.remedy}")


def find_tool(name: str) -> str | None:
    """In the folder that `make tools` filled, or on the PATH."""
    folder = os.environ.get("SLIPWAY_TOOLS")
    return (shutil.which(name, path=folder) if folder else None) or shutil.which(name)


def _ask(command: tuple[str, ...]) -> str:
    """What the command prints; empty when it is missing, fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_WITHIN, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _answers(host: str) -> bool:
    address = {"docker.io": "registry-1.docker.io"}.get(host, host)
    try:
        return httpx.get(f"https://{address}/v2/", timeout=5).status_code < 500
    except httpx.HTTPError:
        return False


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
