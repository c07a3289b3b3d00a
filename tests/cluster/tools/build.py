"""Builds the programs that the cluster tests run: `python -m tests.cluster.tools.build`, or `make tools`.

Each folder beside this file pins one module and all that it needs by go.mod and go.sum. The programs lie in one folder
whose name is the hash of those files, so that other pins never meet old programs. What is on the PATH in the pinned
version is linked instead of built. It starts nothing and deletes nothing, other versions included.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from slipway.errors import InvalidInput, NotReady, Problem, SlipwayError

PINS = Path(__file__).parent
FOLDER = "SLIPWAY_TOOLS"
"""Names the folder of programs; unset: below ~/.cache, by the hash of all pins."""
BUILD_WITHIN = 3600
ASK_WITHIN = 30
GO = "1.26"


@dataclass(frozen=True)
class Program:
    """One command line."""

    name: str
    built_as: str = ""
    """What `go build` names it where that says too little."""
    ask: tuple[str, ...] = ()
    """Arguments that make it print its version; none: it cannot say, and is never taken from the PATH."""


@dataclass(frozen=True)
class Tool:
    """A folder of pins and the programs that come from it."""

    folder: str
    module: str
    programs: tuple[Program, ...]
    stamps: tuple[str, ...] = ()
    """Variables that the linker sets; `{version}` is the pinned one."""

    @property
    def path(self) -> Path:
        return PINS / self.folder

    @property
    def version(self) -> str:
        """As go.mod requires it, `v1.2.3`."""
        found = re.search(rf"^(?:require)?\s+{re.escape(self.module)} (v\S+)", (self.path / "go.mod").read_text(), re.M)
        if not found:
            raise InvalidInput(Problem(str(self.path / "go.mod"), f"does not require {self.module}"))
        return found[1]


_KUBERNETES = "k8s.io/component-base/version"
TOOLS = (
    Tool("etcd", "go.etcd.io/etcd/server/v3", (Program("etcd", "server", ("--version",)),)),
    Tool(
        "kubernetes",
        "k8s.io/kubernetes",
        (
            Program("kube-apiserver", ask=("--version",)),
            Program("kube-controller-manager", ask=("--version",)),
            Program("kube-scheduler", ask=("--version",)),
            Program("kubelet", ask=("--version",)),
            Program("kubectl", ask=("version", "--client")),
        ),
        # Without them the API server says v0.0.0, and clients refuse it.
        (f"{_KUBERNETES}.gitVersion={{version}}", f"{_KUBERNETES}.gitMajor=1", f"{_KUBERNETES}.gitMinor=35"),
    ),
    Tool("kwok", "sigs.k8s.io/kwok", (Program("kwok", ask=("--version",)),)),
    Tool("helm", "helm.sh/helm/v3", (Program("helm", ask=("version", "--short")),)),
    Tool(
        "pulumi",
        "github.com/pulumi/pulumi/pkg/v3",
        (Program("pulumi", ask=("version",)),),
        ("github.com/pulumi/pulumi/sdk/v3/go/common/version.Version={version}",),
    ),
    Tool("kserve", "github.com/kserve/kserve", (Program("kserve-manager", "manager"),)),
    Tool("kuberay", "github.com/ray-project/kuberay/ray-operator", (Program("kuberay-operator", "ray-operator"),)),
    Tool("cloudnative-pg", "github.com/cloudnative-pg/cloudnative-pg", (Program("cnpg-manager", "manager"),)),
    Tool("kueue", "sigs.k8s.io/kueue", (Program("kueue-manager", "kueue"),)),
    Tool("prometheus", "github.com/prometheus/prometheus", (Program("promtool"),)),
    # Its numbered releases are tags that no module can have; the pinned one is of the release that versions.toml names.
    Tool("seaweedfs", "github.com/seaweedfs/seaweedfs", (Program("weed"),)),
    Tool("envoy-gateway", "github.com/envoyproxy/gateway", (Program("envoy-gateway"),)),
)


def tools_folder() -> Path:
    """Where the programs are, or will be."""
    if named := os.environ.get(FOLDER):
        return Path(named).absolute()
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for tool in TOOLS:
        for file in ("go.mod", "go.sum"):
            digest.update((tool.path / file).read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "slipway" / "tools" / digest.hexdigest()[:16]


def find_program(name: str) -> Path:
    """The path of a built program. Raises InvalidInput when it is not there."""
    path = tools_folder() / name
    if not path.is_file():
        raise InvalidInput(Problem(name, f"is not in {path.parent}", "make tools"))
    return path


def module_folder(folder: str, module: str) -> Path:
    """The sources of a module in the pinned version, fetched when they are not in Go's cache: charts, definitions."""
    command = ["go", "mod", "download", "-json", module]
    _require_go()
    done = subprocess.run(command, cwd=PINS / folder, capture_output=True, text=True, timeout=600, check=False)
    found = re.search(r'"Dir": "([^"]+)"', done.stdout)
    if not found:
        raise InvalidInput(Problem(module, done.stderr.strip() or done.stdout.strip()))
    return Path(found[1])


def build() -> Iterator[str]:
    """Bring every program into the folder; yields what was done, one line a tool. Raises InvalidInput and NotReady."""
    folder = tools_folder()
    folder.mkdir(parents=True, exist_ok=True)
    # Two builds at a time would compile everything twice.
    with FileLock(folder / ".lock", timeout=BUILD_WITHIN):
        for position, tool in enumerate(TOOLS, 1):
            head = f"[{position}/{len(TOOLS)}] {tool.folder} {tool.version}"
            missing = [program for program in tool.programs if not (folder / program.name).is_file()]
            if not missing:
                yield f"{head}: there"
            elif linked := _link_installed(tool, missing, folder):
                yield f"{head}: taken from {linked}"
            else:
                yield f"{head}: building ..."
                started = time.monotonic()
                _compile(tool, folder)
                yield f"{head}: built in {time.monotonic() - started:.0f} s"


def _link_installed(tool: Tool, programs: list[Program], folder: Path) -> str:
    """Link what the PATH has in the pinned version; empty unless it has all of them."""
    found = {program: shutil.which(program.name) for program in programs if program.ask}
    if len(found) < len(programs):
        return ""
    wanted = re.compile(rf"(?<![\d.]){re.escape(tool.version.removeprefix('v'))}(?![\d.-])")
    for program, path in found.items():
        if path is None or not wanted.search(_say_version(path, program)):
            return ""
    for program, path in found.items():
        (folder / program.name).symlink_to(str(path))
    return ", ".join(sorted({str(Path(str(path)).parent) for path in found.values()}))


def _say_version(path: str, program: Program) -> str:
    try:
        done = subprocess.run(
            [path, *program.ask], capture_output=True, text=True, timeout=ASK_WITHIN, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def _compile(tool: Tool, folder: Path) -> None:
    _require_go()
    stamps = " ".join(f"-X {stamp.format(version=tool.version)}" for stamp in tool.stamps)
    flags = ["-trimpath", "-mod=readonly", f"-ldflags=-s -w {stamps}".rstrip()]
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as output:
        command = ["go", "build", *flags, "-o", f"{output}/", "tool"]
        environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
        try:
            done = subprocess.run(
                command, cwd=tool.path, env=environment, capture_output=True, text=True, timeout=BUILD_WITHIN
            )
        except subprocess.TimeoutExpired as error:
            raise NotReady(f"building {tool.folder} took longer than {BUILD_WITHIN} s") from error
        if done.returncode:
            last = "\n".join(done.stderr.strip().splitlines()[-15:])
            raise SlipwayError(f"building {tool.folder} {tool.version} failed:\n{last}", hint=f"cd {tool.path}")
        # By rename, and only when all are built: a program is there whole or not at all.
        for program in tool.programs:
            (Path(output) / (program.built_as or program.name)).replace(folder / program.name)


def _require_go() -> None:
    if not shutil.which("go"):
        problem = Problem("go", "is not on the PATH", f"install Go {GO} or newer: https://go.dev/doc/install")
        raise InvalidInput(problem)


def main() -> int:
    try:
        for line in build():
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    except SlipwayError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write(f"export {FOLDER}={tools_folder()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
