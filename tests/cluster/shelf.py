"""What Go's module cache has of the pinned charts and manifests, laid out where the test provider looks for them.

What no module carries is not invented: the provider reports it by name, and its objects are missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from infra.components.hardening import Hardening
from slipway.mirror.versions import Versions
from tests.cluster.lab.control_plane import ControlPlane
from tests.cluster.provider import rendering
from tests.cluster.tools.build import module_folder

# Folder of pins, module, and where in it the charts are.
_CHARTS = (
    ("kserve", "github.com/kserve/kserve", "charts"),
    ("kueue", "sigs.k8s.io/kueue", "charts"),
    ("envoy-gateway", "github.com/envoyproxy/gateway", "charts"),
)
ABSENT_GROUPS = ("feast.dev",)
"""Their definitions are in no module: Feast's operator is part of a repository that is none."""


def fill(shelf: Path, versions: Versions) -> None:
    """Copy charts and manifests. Envoy Gateway's chart gets its values from the template that its release fills in."""
    shelf.mkdir(parents=True)
    for pins, module, folder in _CHARTS:
        for chart in sorted((module_folder(pins, module) / folder).glob("*/Chart.yaml")):
            _copy(chart.parent, shelf / chart.parent.name)
    image = f"docker.io/envoyproxy/gateway:{versions.chart('envoy_gateway').version}"
    for template in shelf.glob("*/values.tmpl.yaml"):
        text = template.read_text().replace("${GatewayImagePullPolicy}", "IfNotPresent")
        template.with_name("values.yaml").write_text(text.replace("${GatewayImage}", image))
    manifest = versions.manifest("cloudnative_pg")
    source = _at_version("github.com/cloudnative-pg/cloudnative-pg", manifest.version)
    name = manifest.source.rpartition("/")[2]
    shutil.copyfile(source / "releases" / name, shelf / name)


def definitions(versions: Versions) -> Iterator[Path]:
    """Definitions whose operator's chart is in no module, from the sources of the operator itself."""
    certificates = _at_version("github.com/cert-manager/cert-manager", versions.chart("cert_manager").version)
    yield from sorted((certificates / "deploy" / "crds").glob("*.yaml"))
    ray = module_folder("kuberay", "github.com/ray-project/kuberay/ray-operator")
    yield from sorted((ray / "config" / "crd" / "bases").glob("*.yaml"))
    # The release that the pinned chart carries.
    prometheus = _at_version("github.com/prometheus-operator/prometheus-operator", "v0.93.0")
    yield from sorted((prometheus / "example" / "prometheus-operator-crd").glob("*.yaml"))


def prepare(control_plane: ControlPlane, versions: Versions, namespaces: tuple[str, ...]) -> None:
    """What the missing charts and manifests would have brought, and others need: definitions, their own namespaces."""
    hardening = Hardening(labels={})
    texts = (file.read_text() for file in definitions(versions))
    control_plane.apply(hardening.apply(item) for text in texts for item in rendering.read_objects(text))
    for namespace in namespaces:
        control_plane.create_namespace(namespace)


def _at_version(module: str, version: str) -> Path:
    return module_folder("kubernetes", f"{module}@v{version.removeprefix('v')}")


def _copy(source: Path, target: Path) -> None:
    # The module cache is read-only; a copy must not be, or nobody could remove it.
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    for folder in (target, *(path for path in target.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
