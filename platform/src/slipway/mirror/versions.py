"""What is fetched from elsewhere, as pinned in infra/versions.toml: charts, manifests, images; where a mirror keeps it.

Reads and checks; fetches nothing (`pull` does) and knows nothing of Kubernetes.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from slipway.errors import InvalidSettings, Problem, Unknown
from slipway.section import Section
from slipway.settings import REPOSITORY
from slipway.validation import problems_of

FILE = REPOSITORY / "infra" / "versions.toml"
DIGESTS = "digests.toml"
"""In a mirror's folder: `[charts]`, `[manifests]`, `[images]`, each `name = "sha256:..."`, for the empty ones here."""

RETIRED = {
    "bitnami": "its images are no longer maintained in the open",
    "minio": "its community edition is no longer maintained",
    "ingress-nginx": "retired; the Gateway API takes its place",
    "k8s.gcr.io": "frozen; registry.k8s.io takes its place",
}
"""Part of a source or name -> why it may not be used."""

FLOORS: dict[str, tuple[int, ...]] = {
    "kserve": (0, 17),
    "kserve_crds": (0, 17),
    "kserve_crds_minimal": (0, 17),
    "kserve_controller": (0, 17),
    "mlflow": (3, 10),
    "feast_operator": (0, 66),
    "ray": (2, 54),
    "kuberay": (1, 5, 1),
    "kubeflow_pipelines": (2, 17),
}
"""Lowest version without a known hole. Argo's is Kubeflow Pipelines': 2.17.0 brings 4.0.5, whose hole is closed."""

Digest = Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")]
_NAMED = re.compile(
    r"(?<![\w./:@-])[a-z0-9][a-z0-9.-]*(?::\d+)?(?:/[a-z0-9._-]+)*:\w[\w.-]*(?:@sha256:[0-9a-f]{64})?(?![\w/:@])"
)
"""What may be an image with its tag, within other text. An address of the web has a slash before its host."""
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Reason = Annotated[str, Field(min_length=10)]


def is_kustomize(source: str) -> bool:
    """Whether a manifest's source is a base that has to be built."""
    return "?ref=" in source


def chart_file(name: str, version: str) -> PurePosixPath:
    """Where a mirror keeps a chart's archive, below the mirror's folder."""
    return PurePosixPath("charts", f"{name}-{version}.tgz")


def manifest_file(source: str, version: str) -> PurePosixPath:
    """Where a mirror keeps a manifest, below the mirror's folder."""
    project = "-".join(re.sub(r"^https://(raw\.githubusercontent|github)\.com/", "", source).split("/")[:2])
    return PurePosixPath("manifests", f"{project}-{version}.yaml")


class ChartPin(Section):
    """A Helm chart."""

    source: str = Field(pattern=r"^(oci|https)://\S+$")
    """Repository: `oci://` with a folder of charts, or `https://` with an index."""
    name: str
    version: Version
    digest: Digest = ""
    """Of the chart's archive (.tgz)."""
    why: Reason

    @property
    def is_oci(self) -> bool:
        return self.source.startswith("oci://")

    @property
    def mirror_file(self) -> PurePosixPath:
        """Where a mirror keeps it, below the mirror's folder."""
        return chart_file(self.name, self.version)


class ManifestPin(Section):
    """YAML at an address, or a kustomize base when the address has a `ref`."""

    source: str = Field(pattern=r"^https://\S+$")
    version: Version
    digest: Digest = ""
    """Of the file; of a kustomize base: of what building it gives."""
    overlay: str = ""
    """Folder below infra/components with our kustomization on top of it: what is built, and kept by a mirror."""
    why: Reason

    @property
    def is_kustomize(self) -> bool:
        return is_kustomize(self.source)

    @property
    def mirror_file(self) -> PurePosixPath:
        """Where a mirror keeps it, below the mirror's folder; a kustomize base is kept as what building it gives."""
        return manifest_file(self.source, self.version)


class ImagePin(Section):
    """A container image."""

    reference: str = Field(pattern=r"^[a-z0-9.-]+\.[a-z]+(/[a-z0-9._-]+)+$")
    """Registry and repository, always with the registry."""
    tag: Version
    digest: Digest = ""
    brought_by: str = ""
    """Pin (`charts.kserve`) of the chart or manifest that names it by itself; empty: our own objects or values do."""
    why: Reason

    def address(self, mirror: str = "") -> str:
        """What a pod names: tag and, once it is known, digest; below `mirror` instead of its registry when given."""
        pinned = f"{self.repository(mirror)}:{self.tag}"
        return f"{pinned}@{self.digest}" if self.digest else pinned

    def repository(self, mirror: str = "") -> str:
        """Without tag, for charts that take both apart."""
        return f"{mirror}/{self.reference.partition('/')[2]}" if mirror else self.reference


class Versions(Section):
    """All pins, by the names that components use."""

    charts: dict[str, ChartPin]
    manifests: dict[str, ManifestPin]
    images: dict[str, ImagePin]

    def chart(self, name: str) -> ChartPin:
        return _find("chart", name, self.charts)

    def manifest(self, name: str) -> ManifestPin:
        return _find("manifest", name, self.manifests)

    def image(self, name: str) -> ImagePin:
        return _find("image", name, self.images)

    def pinned(self, image: str, mirror: str = "") -> str:
        """What to run for an image that a chart names: by digest where it is pinned here, from the mirror if any."""
        address = canonical(image)
        if mirror and address.startswith(f"{mirror}/"):
            return image  # our values named it
        named = address.partition("@")[0]
        for pin in self.images.values():
            # A digest that the chart names itself stays where none is pinned.
            if named == f"{pin.reference}:{pin.tag}" and (pin.digest or named == address):
                return pin.address(mirror)
        return f"{mirror}/{address.partition('/')[2]}" if mirror else image

    def pinned_in(self, text: str, mirror: str = "") -> str:
        """The same text, each pinned image that it names replaced by what to run: in arguments, variables, JSON."""

        def replace(found: re.Match[str]) -> str:
            image = found[0]
            return self.pinned(image, mirror) if canonical(image).partition("@")[0] in self._addresses else image

        return _NAMED.sub(replace, text)

    @cached_property
    def _addresses(self) -> frozenset[str]:
        return frozenset(f"{pin.reference}:{pin.tag}" for pin in self.images.values())

    def pins(self) -> Iterator[tuple[str, ChartPin | ManifestPin | ImagePin]]:
        """(dotted key, pin) in the order of the file."""
        for table in ("charts", "manifests", "images"):
            for name, pin in getattr(self, table).items():
                yield f"{table}.{name}", pin


Pin = TypeVar("Pin", ChartPin, ManifestPin, ImagePin)


def load_versions(file: Path = FILE, mirror: Path | None = None) -> Versions:
    """Read the pins, digests completed by the mirror's. Raises InvalidSettings with every mistake by its dotted key."""
    document = _read(file)
    if mirror:
        document = _with_digests(document, read_digests(mirror))
    try:
        versions = Versions.model_validate(document)
    except ValidationError as error:
        raise InvalidSettings(problems_of(error, Versions)) from error
    problems = [problem for key, pin in versions.pins() for problem in _broken_rules(key, pin)]
    known = dict(versions.pins())
    for name, image in versions.images.items():
        if image.brought_by and image.brought_by not in known:
            problems.append(Problem(f"images.{name}.brought_by", f"{image.brought_by!r} is no pin", "as charts.kserve"))
    if problems:
        raise InvalidSettings(problems)
    return versions


def read_digests(mirror: Path) -> dict[str, dict[str, str]]:
    """What a mirror has found, by table and name; nothing where it has not begun. Raises InvalidSettings."""
    file = mirror / DIGESTS
    return _read(file) if file.is_file() else {}


def canonical(image: str) -> str:
    """An image's name with its registry: what has none is Docker Hub's, which adds `library/` to a single word."""
    host, slash, _ = image.partition("/")
    if not slash:
        return f"docker.io/library/{image}"
    return image if "." in host or ":" in host or host == "localhost" else f"docker.io/{image}"


def _broken_rules(key: str, pin: ChartPin | ManifestPin | ImagePin) -> Iterator[Problem]:
    version = pin.tag if isinstance(pin, ImagePin) else pin.version
    origin = pin.reference if isinstance(pin, ImagePin) else pin.source
    name = f"{origin}/{pin.name}" if isinstance(pin, ChartPin) else origin
    for retired, why in RETIRED.items():
        # A word of the name, not part of one: `dominion` is not MinIO.
        if re.search(rf"(^|[/.-]){re.escape(retired)}([/.:-]|$)", name.lower()):
            yield Problem(key, f"{name} is a retired source: {why}", "choose a maintained one")
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:3])
    if not numbers:
        yield Problem(key, f"{version!r} is not a version: it moves", "a released version, as 1.2.3")
    elif numbers < FLOORS.get(key.partition(".")[2], ()):
        floor = ".".join(str(number) for number in FLOORS[key.partition(".")[2]])
        yield Problem(key, f"{version} has a known hole", f"at least {floor}")
    if isinstance(pin, ManifestPin) and pin.version not in pin.source:
        yield Problem(key, f"source does not name version {pin.version}", "an address that cannot change")


def _find(kind: str, name: str, pins: Mapping[str, Pin]) -> Pin:
    if name not in pins:
        raise Unknown(kind, name, sorted(pins))
    return pins[name]


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except FileNotFoundError:
        raise InvalidSettings(Problem(str(file), "is not there", "work in a checkout of the platform")) from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidSettings(Problem(str(file), f"not TOML: {error}")) from error


def _with_digests(document: dict[str, Any], digests: dict[str, dict[str, str]]) -> dict[str, Any]:
    """A pin's own digest wins: what a mirror holds cannot replace what was reviewed."""
    return {
        table: {
            name: pin | {"digest": pin.get("digest") or digests.get(table, {}).get(name, "")}
            for name, pin in pins.items()
        }
        for table, pins in document.items()
    }
