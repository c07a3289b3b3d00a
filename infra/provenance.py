"""What an environment is made of: charts, manifests and images, and whether each is known, and there, by digest.

Nothing of it is installed before that is so. What is asked: the program itself, recorded without an engine.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from infra.recording import Recording, record
from slipway.environment import Environment
from slipway.errors import Problem
from slipway.mirror.check import check
from slipway.mirror.pins import Pin, read_pins
from slipway.mirror.versions import Versions, load_versions
from slipway.settings import Settings

_PLACE = "DIR"
"""For the mirror's folder, where the settings name none yet."""


def find_faults(environment: Environment) -> list[Problem]:
    """What is missing or not what was pinned, all of it; empty when everything may be installed."""
    settings = environment.settings
    mirror = settings.kubernetes.mirror.dir if settings.kubernetes else None
    used = list_used(settings)
    pins = [pin for pin in read_pins(mirror) if pin.key in used]
    return [*_without_digest(pins, mirror), *(_faults_of(mirror, pins) if mirror else ())]


def list_used(settings: Settings) -> set[str]:
    """Dotted keys of the pins that the settings' programs name, and of what those bring themselves."""
    kubernetes = settings.kubernetes
    versions = load_versions(mirror=kubernetes.mirror.dir if kubernetes else None)
    used: set[str] = set()
    # A cloud's own images are its own affair; a kind cluster is made of one of ours.
    made = kubernetes and kubernetes.provider == "kind"
    for project in ("cluster", "services") if made else ("services",):
        program = importlib.import_module(f"infra.{project}.program").stand_up
        recording = record(partial(program, settings), project=f"slipway-{project}")
        used |= set(_operators(recording))
        used |= set(_images(recording, versions, kubernetes.mirror.registry if kubernetes else ""))
    return used | {f"images.{name}" for name, pin in versions.images.items() if pin.brought_by in used}


def _operators(recording: Recording) -> Iterator[str]:
    for kind, table in (("HelmChart", "charts"), ("Manifest", "manifests")):
        for component in recording.components(kind):
            yield f"{table}.{component.inputs['pin']}"


def _images(recording: Recording, versions: Versions, registry: str) -> Iterator[str]:
    """Named in a pod, or in the values of a chart, where repository and tag may stand apart."""
    texts = {text for resource in recording.resources for text in _texts(resource.inputs)}
    named = texts | {text.partition("@")[0] for text in texts}
    for name, pin in versions.images.items():
        repository = pin.repository(registry)
        if named & {repository, f"{repository}:{pin.tag}", pin.repository()}:
            yield f"images.{name}"


_APART = (("registry", "repository"), ("repository", "image"))
"""How charts spell an image's repository in two."""


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for host, path in _APART:
            yield f"{value.get(host)}/{value.get(path)}"
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def _without_digest(pins: list[Pin], mirror: Path | None) -> Iterator[Problem]:
    unknown = [pin.key for pin in pins if not pin.digest]
    if unknown:
        remedy = f"slipway mirror pull {mirror or _PLACE} --no-images looks them up"
        yield Problem(
            "infra/versions.toml",
            f"no digest of {', '.join(unknown)}",
            remedy if mirror else f'{remedy}; then [kubernetes.mirror] dir = "{_PLACE}"',
        )


def _faults_of(mirror: Path, pins: list[Pin]) -> Iterator[Problem]:
    """What lies in the mirror; its images are the registry's."""
    for fault in check(mirror, [pin for pin in pins if pin.digest], images=False):
        remedy = f"slipway mirror pull {mirror}"
        if fault.state == "differs":
            remedy = f"find out who changed it; then remove {mirror / fault.pin.file}, and {remedy}"
        yield Problem(f"{fault.pin.key} in kubernetes.mirror.dir", fault.found, remedy)
