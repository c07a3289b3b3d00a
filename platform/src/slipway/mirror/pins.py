"""What is to be fetched: the pins of infra/versions.toml, and where a mirror keeps each."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from slipway.errors import InvalidSettings, Problem
from slipway.settings import REPOSITORY

FILE = REPOSITORY / "infra" / "versions.toml"
DIGESTS = "digests.toml"
"""In the mirror's folder; the program that installs the stack reads it, too."""

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
        return self.kind == "manifests" and "?ref=" in self.source

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
            return PurePosixPath("charts", f"{self.chart}-{self.version}.tgz")
        if self.kind == "images":
            return PurePosixPath("images")
        project = "-".join(re.sub(r"^https://(raw\.githubusercontent|github)\.com/", "", self.source).split("/")[:2])
        return PurePosixPath("manifests", f"{project}-{self.version}.yaml")


def read_pins(folder: Path | None = None, file: Path = FILE) -> list[Pin]:
    """All pins, digests completed by the mirror's; a pin's own digest wins. Raises InvalidSettings."""
    document = _read(file)
    found = _read(folder / DIGESTS) if folder and (folder / DIGESTS).is_file() else {}
    pins, problems = [], []
    for kind in KINDS:
        for name, table in document.get(kind, {}).items():
            try:
                pin = _pin(kind, name, table)
            except (KeyError, TypeError) as error:
                problems.append(Problem(f"{kind}.{name}", f"has no {error}", f"add it to {file}"))
                continue
            pins.append(pin if pin.digest else replace(pin, digest=str(found.get(kind, {}).get(name, ""))))
    if problems:
        raise InvalidSettings(problems)
    return pins


def write_digests(folder: Path, digests: dict[str, str]) -> None:
    """Add what was found, by dotted key, to the mirror's own; what stands there for other keys stays."""
    from slipway.files import write_atomically

    known = _read(folder / DIGESTS) if (folder / DIGESTS).is_file() else {}
    for key, digest in digests.items():
        kind, _, name = key.partition(".")
        known.setdefault(kind, {})[name] = digest
    lines = ["# Written by `slipway mirror pull`: the digests of what it fetched."]
    for kind in KINDS:
        if known.get(kind):
            lines += ["", f"[{kind}]", *(f'{name} = "{digest}"' for name, digest in sorted(known[kind].items()))]
    write_atomically(folder / DIGESTS, "\n".join(lines) + "\n", mode=0o644)


def _pin(kind: Kind, name: str, table: dict[str, Any]) -> Pin:
    image = kind == "images"
    return Pin(
        kind=kind,
        name=name,
        source=str(table["reference" if image else "source"]),
        version=str(table["tag" if image else "version"]),
        digest=str(table.get("digest", "")),
        chart=str(table["name"]) if kind == "charts" else "",
        overlay=str(table.get("overlay", "")),
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except FileNotFoundError:
        raise InvalidSettings(Problem(str(file), "is not there", "work in a checkout of the platform")) from None
    except tomllib.TOMLDecodeError as error:
        raise InvalidSettings(Problem(str(file), f"not TOML: {error}")) from error
