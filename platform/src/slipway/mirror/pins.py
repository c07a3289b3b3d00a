"""What is to be fetched: each pin in the form that all kinds share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from slipway.files import write_atomically
from slipway.mirror.versions import (
    DIGESTS,
    FILE,
    ChartPin,
    ImagePin,
    ManifestPin,
    chart_file,
    is_kustomize,
    load_versions,
    manifest_file,
    read_digests,
)

Kind = Literal["charts", "manifests", "images"]
KINDS: tuple[Kind, ...] = ("charts", "manifests", "images")


@dataclass(frozen=True)
class Pin:
    """One thing to fetch."""

    kind: Kind
    name: str
    source: str
    """A chart's repository, a manifest's address, an image's registry and repository."""
    version: str
    digest: str = ""
    """Of the chart's archive, of the manifest, of the image's manifest; empty: nobody has looked yet."""
    chart: str = ""
    """Name of the chart in its repository."""
    overlay: str = ""
    """Folder below infra/components with our kustomization on top of a remote base."""

    @property
    def key(self) -> str:
        return f"{self.kind}.{self.name}"

    @property
    def is_kustomize(self) -> bool:
        return self.kind == "manifests" and is_kustomize(self.source)

    @property
    def build(self) -> str:
        """What kustomize is to build: ours where there is one, since the base alone ships passwords."""
        return str(FILE.with_name("components") / self.overlay) if self.overlay else self.source

    @property
    def address(self) -> str:
        """What people read: source and version."""
        if self.kind == "manifests":
            return self.source
        return f"{self.source.rstrip('/')}/{self.chart}" if self.chart else f"{self.source}:{self.version}"

    @property
    def file(self) -> PurePosixPath:
        """Below the mirror's folder; an image shares the layout with the others."""
        if self.kind == "charts":
            return chart_file(self.chart, self.version)
        if self.kind == "images":
            return PurePosixPath("images")
        return manifest_file(self.source, self.version)


def read_pins(folder: Path | None = None, file: Path = FILE) -> list[Pin]:
    """All pins, digests completed by the mirror's in `folder`. Raises InvalidSettings, as `load_versions` does."""
    return [_pin(key, pin) for key, pin in load_versions(file, mirror=folder).pins()]


def write_digests(folder: Path, digests: dict[str, str]) -> None:
    """Add what was found, by dotted key, to the mirror's own; what stands there for other keys stays."""
    known = read_digests(folder)
    for key, digest in digests.items():
        kind, _, name = key.partition(".")
        known.setdefault(kind, {})[name] = digest
    lines = ["# Written by `slipway mirror pull`: the digests of what it fetched."]
    for kind in KINDS:
        if known.get(kind):
            lines += ["", f"[{kind}]", *(f'{name} = "{digest}"' for name, digest in sorted(known[kind].items()))]
    write_atomically(folder / DIGESTS, "\n".join(lines) + "\n", mode=0o644)


def _pin(key: str, pin: ChartPin | ManifestPin | ImagePin) -> Pin:
    name = key.partition(".")[2]
    if isinstance(pin, ImagePin):
        return Pin("images", name, pin.reference, pin.tag, pin.digest)
    if isinstance(pin, ChartPin):
        return Pin("charts", name, pin.source, pin.version, pin.digest, chart=pin.name)
    return Pin("manifests", name, pin.source, pin.version, pin.digest, overlay=pin.overlay)
