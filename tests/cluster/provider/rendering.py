"""Charts, YAML and kustomize folders as objects: rendered by helm and kubectl from local files, never fetched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

SHELF = "SLIPWAY_TEST_SHELF"
"""Folder that takes the place of the sources: `<chart>-<version>.tgz` or `<chart>/`, and manifests by file name."""
WITHIN = 120
"""Seconds for rendering one chart."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Takes a lone `=`, which definitions of Prometheus have among their values, for the word that it is."""


_Loader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: loader.construct_scalar(node))


class NotAvailable(Exception):
    """What should be rendered is not on this machine."""


def render_chart(inputs: Object, name: str) -> list[Object]:
    """As Helm v4 charts are: definitions included, hooks left out. Raises NotAvailable."""
    command = [
        *("helm", "template", inputs.get("name") or name, str(find_chart(inputs))),
        *("--namespace", inputs.get("namespace") or "default", "--no-hooks", "--values", "-"),
        *(("--skip-crds",) if inputs.get("skipCrds") else ("--include-crds",)),
    ]
    return [item for item in read_objects(_run(command, json.dumps(inputs.get("values") or {}))) if not _is_hook(item)]


def render_files(inputs: Object) -> list[Object]:
    """Of a ConfigFile or ConfigGroup: its files, its YAML text and its objects."""
    files = [inputs["file"]] if "file" in inputs else inputs.get("files", [])
    found: list[Object] = []
    for file in files:
        path = _shelf() / file.rpartition("/")[2] if "://" in file else Path(file)
        if not path.is_file():
            raise NotAvailable(f"{file} is not a file on this machine")
        found += read_objects(path.read_text())
    found += read_objects(inputs.get("yaml", ""))
    return found + list(inputs.get("objs", []))


def render_folder(inputs: Object) -> list[Object]:
    """A kustomize folder. Raises NotAvailable when something that it builds on lies elsewhere."""
    folder = Path(inputs["directory"])
    if not folder.is_dir():
        raise NotAvailable(f"{folder} is not a folder on this machine")
    for base in yaml.safe_load((folder / "kustomization.yaml").read_text()).get("resources") or []:
        if "://" in base:
            raise NotAvailable(f"its base {base} is not on this machine")
    return list(read_objects(_run(["kubectl", "kustomize", str(folder)], "")))


def find_chart(inputs: Object) -> Path:
    """The chart's folder or archive: as the path says, or by name and version in the folder of charts."""
    chart, version = str(inputs["chart"]), str(inputs.get("version") or "")
    name = chart.rpartition("/")[2]
    for candidate in (Path(chart), _shelf() / f"{name}-{version}.tgz", _shelf() / name):
        if candidate.exists():
            return candidate
    raise NotAvailable(f"chart {chart} {version} is not on this machine".replace("  ", " "))


def _shelf() -> Path:
    return Path(os.environ.get(SHELF) or "/nonexistent")


def read_objects(text: str) -> Iterator[Object]:
    """Of YAML text, lists taken apart."""
    for document in yaml.load_all(text, Loader=_Loader):
        if isinstance(document, dict):
            if document.get("kind") == "List":
                yield from document["items"]
            elif document:
                yield document


def _is_hook(item: Object) -> bool:
    return "helm.sh/hook" in ((item.get("metadata") or {}).get("annotations") or {})


def _run(command: list[str], text: str) -> str:
    if not shutil.which(command[0]):
        raise NotAvailable(f"{command[0]} is not on the PATH")
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=WITHIN, check=False)
    if done.returncode:
        raise ValueError(f"{' '.join(command[:4])}: {done.stderr.strip()}")
    return done.stdout
