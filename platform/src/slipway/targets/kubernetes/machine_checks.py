"""Checks of the machine that stands the platform up: tools, limits, memory, registries. They start `--version` only."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psutil

from slipway.environment import Environment
from slipway.kubernetes_settings import KubernetesSettings
from slipway.targets.finding import Finding, finding
from slipway.targets.kubernetes.requirements import ROOM

_GIB = 1 << 30
_WITHIN = 20
"""Seconds that a tool may take to say its version."""

CONTROL_PLANE = 2.0
"""GiB that the control plane of a kind cluster takes besides. Source: kubernetes.io, "Installing kubeadm"."""

INOTIFY = {"max_user_instances": 512, "max_user_watches": 524_288}
"""Least limits for a cluster on one machine. Source: kind.sigs.k8s.io, "Known issues", too many open files."""

KINDS = {"1.34": "0.30.0", "1.35": "0.31.0", "1.36": "0.32.0"}
"""Kubernetes -> the kind that its pinned node image was released with. Source: infra/versions.toml."""

DISK = {"core": 50, "full": 140}
"""GiB: what a profile's volumes claim (docs/requests.md), and 20 for images: an estimate, no kind was filled here."""

PLUGIN_SOURCE = "get.pulumi.com"
PLUGINS = {"eks": ("aws",), "gke": ("gcp",), "aks": ("azure-native",)}
"""Provider -> Pulumi's providers that its cluster is made with, besides that for Kubernetes."""

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
    "kubectl", "make tools builds it, or: https://kubernetes.io/docs/tasks/tools/", ("version", "--client", "-o=yaml")
)
GIT = Tool("git", "apt-get install git")
TOOLS: dict[str, tuple[Tool, ...]] = {
    "existing": (),
    "kind": (
        Tool("docker", "https://docs.docker.com/engine/install/"),
        Tool("kind", "https://kind.sigs.k8s.io/docs/user/quick-start/#installation"),
    ),
    # Kubeconfigs of EKS speak v1beta1 of the login protocol. Source: Amazon EKS user guide, "Create kubeconfig".
    "eks": (
        Tool("aws", "https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html", least="2.12.3"),
    ),
    "gke": (
        Tool("gcloud", "https://cloud.google.com/sdk/docs/install"),
        Tool("gke-gcloud-auth-plugin", "gcloud components install gke-gcloud-auth-plugin"),
    ),
    "aks": (
        Tool("az", "https://learn.microsoft.com/cli/azure/install-azure-cli"),
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
    needed = [PULUMI, _fitting(KUBECTL, settings), *(_fitting(tool, settings) for tool in TOOLS[settings.provider])]
    if settings.parts.pipelines.enabled and settings.parts.pipelines.engine == "kfp" and not settings.mirror.dir:
        needed.append(GIT)
    for tool in needed:
        yield _tool_finding(tool)


def _fitting(tool: Tool, settings: KubernetesSettings) -> Tool:
    """In the version that this Kubernetes needs."""
    if tool.name == "kind":
        return replace(tool, least=KINDS[settings.version])
    if tool is KUBECTL:
        # One minor version older than the API server still works. Source: kubernetes.io, "Version skew policy".
        major, minor = settings.version.split(".")
        return replace(tool, least=f"{major}.{int(minor) - 1}.0")
    return tool


def check_plugins(environment: Environment, settings: KubernetesSettings) -> Iterator[Finding]:
    """Pulumi's providers, in the versions of the Python packages; Pulumi fetches those that are missing."""
    home = Path(os.environ.get("PULUMI_HOME") or Path.home() / ".pulumi")
    reachable: bool | None = None
    for name in ("kubernetes", *PLUGINS.get(settings.provider, ())):
        try:
            version = importlib.metadata.version(f"pulumi-{name}")
        except importlib.metadata.PackageNotFoundError:
            continue  # check_packages has said so
        command = f"pulumi plugin install resource {name} v{version}"
        if (home / "plugins" / f"resource-{name}-v{version}" / f"pulumi-resource-{name}").is_file():
            yield finding(f"Pulumi's {name} {version}", True, "installed", "")
            continue
        reachable = _answers(PLUGIN_SOURCE) if reachable is None else reachable
        said = f"not installed, and {PLUGIN_SOURCE} does not answer"
        yield finding(
            f"Pulumi's {name} {version}",
            reachable,
            "fetched by the first `up`" if reachable else said,
            f"{command}; without the internet: docs/operations.md, Air gap",
        )


def check_login(environment: Environment, settings: KubernetesSettings) -> Iterator[Finding]:
    """Whether the provider knows who we are."""
    if settings.provider not in LOGINS:
        return
    command, remedy = LOGINS[settings.provider]
    said = _ask(command)
    yield finding(f"{command[0]} answers", bool(said), said.splitlines()[0] if said else "no", remedy)


def list_placeholders(settings: KubernetesSettings) -> dict[str, str]:
    """Key -> value, where a cloud's file still says what the shipped one does, and only you know the answer."""
    given = {
        "domain": settings.domain,
        "network.project": settings.network.project,
        "network.subscription": settings.network.subscription,
    }
    left = given.items() if settings.is_cloud else ()
    return {f"kubernetes.{key}": value for key, value in left if value in PLACEHOLDERS}


def check_placeholders(environment: Environment, settings: KubernetesSettings) -> Iterator[Finding]:
    """Values of the shipped environments that only you can fill in."""
    if not settings.is_cloud:
        return
    left = list_placeholders(settings)
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
    least, free = ROOM[settings.profile][1] + CONTROL_PLANE, psutil.virtual_memory().available / _GIB
    remedy = "end other programs" if settings.profile == "core" else 'end other programs, or profile = "core"'
    yield finding(f"{least:.0f} GiB of free memory", free >= least, f"{free:.1f} GiB", remedy)


def check_disk(environment: Environment, settings: KubernetesSettings) -> Iterator[Finding]:
    """Images and volumes of a kind cluster; the state alone elsewhere."""
    least = DISK[settings.profile] if settings.provider == "kind" else 1
    folder = environment.state.root
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        yield finding("state_dir", False, f"nothing can be made in {folder}", f"ls -ld {folder}, or set state_dir")
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
    remedy = f"slipway mirror pull {folder} --no-images; up demands only what the environment uses"
    yield finding("mirror is complete", not lacking, found, remedy)


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
    check_plugins,
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
