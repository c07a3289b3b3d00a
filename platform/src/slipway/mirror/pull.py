"""Fills a mirror: each item whole or not at all; what is there already is not fetched again."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml
from filelock import FileLock, Timeout

from slipway.errors import Conflict, SlipwayError
from slipway.files import write_atomically
from slipway.mirror.download import DigestDiffers, Downloads, FetchFailed, digest_of, digest_of_bytes
from slipway.mirror.layout import Layout
from slipway.mirror.pins import Pin, write_digests
from slipway.mirror.registry import CHART, Manifest, Repository

Say = Callable[[str], None]

_KUSTOMIZE_LIMIT = 600
"""Seconds that a build of a remote base may take."""


@dataclass(frozen=True)
class Failure:
    pin: Pin
    error: SlipwayError


def pull(folder: Path, pins: list[Pin], downloads: Downloads, say: Say, *, images: bool = True) -> list[Failure]:
    """Fetch what is missing, all of it: what failed comes back, the rest is there. Raises Conflict.

    Without `images` only their digests are looked up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    failures = []
    try:
        with FileLock(folder / ".lock", timeout=0):
            for pin in pins:
                try:
                    digest = _pull_one(folder, pin, downloads, say, images=images)
                    write_digests(folder, {pin.key: digest})
                except SlipwayError as error:
                    say(f"failed    {pin.key}")
                    failures.append(Failure(pin, error))
    except Timeout as error:
        raise Conflict(f"{folder}: somebody else is filling it", hint="wait until that has ended") from error
    return failures


def _pull_one(folder: Path, pin: Pin, downloads: Downloads, say: Say, *, images: bool) -> str:
    if pin.kind == "images":
        return _pull_image(Layout(folder / pin.file), pin, downloads, say, whole=images)
    file = folder / pin.file
    if pin.digest and file.is_file() and digest_of(file) == pin.digest:
        say(f"there     {pin.key} {pin.version}")
        return pin.digest
    if pin.kind == "charts":
        digest = _pull_chart(file, pin, downloads)
    elif pin.is_kustomize:
        digest = _build(file, pin)
    else:
        digest = downloads.fetch(pin.source, file, pin.digest)
    say(f"fetched   {pin.key} {pin.version} {digest}")
    return digest


def _pull_chart(file: Path, pin: Pin, downloads: Downloads) -> str:
    if pin.source.startswith("oci://"):
        repository = Repository(downloads, f"{pin.source.removeprefix('oci://')}/{pin.chart}")
        manifest = repository.manifest(pin.version)
        layers = [blob for blob in manifest.blobs() if blob.get("mediaType") == CHART]
        if not layers:
            raise FetchFailed(f"{pin.address}: is no chart", hint="correct its source in infra/versions.toml")
        found = str(layers[0]["digest"])
        if pin.digest and found != pin.digest:
            raise DigestDiffers(pin.address, pin.digest, found)
        file.parent.mkdir(parents=True, exist_ok=True)
        repository.fetch_blob(found, file)
        return found
    url, said = _find_in_index(pin, downloads)
    if pin.digest and said and said != pin.digest:
        raise DigestDiffers(pin.address, pin.digest, said)
    return downloads.fetch(url, file, pin.digest or said)


def _find_in_index(pin: Pin, downloads: Downloads) -> tuple[str, str]:
    """Address and digest of a chart's archive, as its repository's index says."""
    root = pin.source.rstrip("/")
    response = downloads.read(f"{root}/index.yaml")
    if response.status != httpx.codes.OK:
        raise FetchFailed(f"{root}/index.yaml: status {response.status}")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    entries = yaml.load(response.content, loader)["entries"].get(pin.chart, [])  # noqa: S506 -- both are safe loaders
    versions = {str(entry["version"]): entry for entry in entries}
    entry = versions.get(pin.version) or versions.get(pin.version.removeprefix("v"))
    if not entry:
        raise FetchFailed(f"{pin.address}: has no version {pin.version}", hint="correct it in infra/versions.toml")
    address = str(entry["urls"][0])
    said = str(entry.get("digest") or "").removeprefix("sha256:")
    return address if "://" in address else f"{root}/{address}", f"sha256:{said}" if said else ""


def _build(file: Path, pin: Pin) -> str:
    """A kustomize base on a remote repository: only a tool with git can read it."""
    tools = [name for name in ("kustomize", "kubectl") if shutil.which(name)]
    if not tools or not shutil.which("git"):
        raise FetchFailed(
            f"{pin.key}: needs {'git' if tools else 'kubectl or kustomize'} to build {pin.source}",
            hint="install it; `make tools` builds kubectl",
        )
    command = [tools[0], "build" if tools[0] == "kustomize" else "kustomize", pin.build]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_KUSTOMIZE_LIMIT, check=False)
    except subprocess.TimeoutExpired as error:
        raise FetchFailed(f"{pin.key}: {' '.join(command)} took more than {_KUSTOMIZE_LIMIT} s") from error
    if done.returncode != 0:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise FetchFailed(f"{pin.key}: {' '.join(command)} failed: {' '.join(last)}")
    found = digest_of_bytes(done.stdout)
    if pin.digest and found != pin.digest:
        raise DigestDiffers(pin.source, pin.digest, found)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, done.stdout, mode=0o644)
    return found


def _pull_image(layout: Layout, pin: Pin, downloads: Downloads, say: Say, *, whole: bool) -> str:
    if pin.digest and layout.images().get(pin.address) == pin.digest:
        say(f"there     {pin.key} {pin.version}")
        return pin.digest
    repository = Repository(downloads, pin.source)
    if not whole and pin.digest:
        say(f"known     {pin.key} {pin.version}")
        return pin.digest
    manifest = repository.manifest(pin.version, pin.digest)
    if whole:
        _pull_manifest(layout, repository, manifest)
        layout.add(pin.address, manifest)
    say(f"{'fetched' if whole else 'looked up':<9} {pin.key} {pin.version} {manifest.digest}")
    return manifest.digest


def _pull_manifest(layout: Layout, repository: Repository, manifest: Manifest) -> None:
    """Blobs first: a manifest that is there has all that it names."""
    for child in manifest.children():
        if not layout.blob(child["digest"]).is_file():
            _pull_manifest(layout, repository, repository.manifest("", child["digest"]))
    for blob in manifest.blobs():
        file = layout.blob(blob["digest"])
        if not file.is_file():
            repository.fetch_blob(blob["digest"], file)
    layout.write_manifest(manifest)
