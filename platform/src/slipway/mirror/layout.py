"""The folder of images: one OCI image layout, whose blobs the images share.

`skopeo copy --all oci:DIR/images:NAME docker://REGISTRY/NAME` and `crane` read it as it is.
Source: opencontainers/image-spec 1.1, image-layout.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slipway.files import write_atomically
from slipway.mirror.download import digest_of
from slipway.mirror.registry import Manifest

NAME = "org.opencontainers.image.ref.name"


class Layout:
    """Images by name; an image stands in the index only when all of it is there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def blob(self, digest: str) -> Path:
        """Where the blob is, or belongs."""
        algorithm, _, value = digest.partition(":")
        return self._folder / "blobs" / algorithm / value

    def images(self) -> dict[str, str]:
        """Name -> digest of what is complete."""
        return {
            entry["annotations"][NAME]: entry["digest"]
            for entry in self._entries()
            if entry.get("annotations", {}).get(NAME)
        }

    def write_manifest(self, manifest: Manifest) -> None:
        file = self.blob(manifest.digest)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, manifest.content, mode=0o644)

    def add(self, name: str, manifest: Manifest) -> None:
        """Enter an image whose blobs are all there."""
        write_atomically(self._folder / "oci-layout", '{"imageLayoutVersion":"1.0.0"}', mode=0o644)
        entry = {
            "mediaType": manifest.media_type,
            "digest": manifest.digest,
            "size": len(manifest.content),
            "annotations": {NAME: name},
        }
        others = [known for known in self._entries() if known.get("annotations", {}).get(NAME) != name]
        index = {"schemaVersion": 2, "manifests": [*others, entry]}
        write_atomically(self._folder / "index.json", json.dumps(index, indent=1), mode=0o644)

    def faults(self, digest: str) -> Iterator[str]:
        """What is missing or damaged of an image, read byte by byte."""
        file = self.blob(digest)
        if not file.is_file():
            yield f"{digest} is missing"
        elif digest_of(file) != digest:
            yield f"{digest} is damaged"
        else:
            manifest = Manifest(digest, "", file.read_bytes())
            for child in manifest.children():
                yield from self.faults(child["digest"])
            for blob in manifest.blobs():
                yield from self._blob_faults(blob["digest"])

    def _blob_faults(self, digest: str) -> Iterator[str]:
        file = self.blob(digest)
        if not file.is_file():
            yield f"{digest} is missing"
        elif digest_of(file) != digest:
            yield f"{digest} is damaged"

    def _entries(self) -> list[dict[str, Any]]:
        try:
            entries: list[dict[str, Any]] = json.loads((self._folder / "index.json").read_text())["manifests"]
        except FileNotFoundError:
            return []
        return entries
