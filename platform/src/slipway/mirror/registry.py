"""Reads from container registries by the OCI distribution protocol: manifests and blobs, checked by digest.

Source: opencontainers/distribution-spec 1.1; the token dialogue is that of the Docker registry. Anonymous only, unless
the environment's Docker configuration holds a name and password for the registry.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from slipway.mirror.download import Answer, DigestDiffers, Downloads, FetchFailed, LoginDemanded, digest_of_bytes

MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
CHART = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"

_HOSTS = {"docker.io": "registry-1.docker.io"}
"""Where a registry answers under another name than its images carry."""


@dataclass(frozen=True)
class Manifest:
    """An image's manifest or index, as bytes that give its digest."""

    digest: str
    media_type: str
    content: bytes

    @property
    def document(self) -> Mapping[str, Any]:
        document: Mapping[str, Any] = json.loads(self.content)
        return document

    def children(self) -> list[Mapping[str, Any]]:
        """Of an index: one manifest for each platform."""
        return list(self.document.get("manifests") or [])

    def blobs(self) -> Iterator[Mapping[str, Any]]:
        """Configuration and layers; not those that only their own vendor may hand out."""
        for blob in (self.document.get("config"), *(self.document.get("layers") or [])):
            if blob and not blob.get("urls"):
                yield blob


class Repository:
    """One repository of one registry: `docker.io/mlflow/mlflow`."""

    def __init__(self, downloads: Downloads, reference: str) -> None:
        host, _, self._path = reference.partition("/")
        self._downloads = downloads
        self._reference = reference
        self._host = host
        self._root = f"https://{_HOSTS.get(host, host)}/v2/{self._path}"
        self._token: str | None = None

    def manifest(self, version: str, digest: str = "") -> Manifest:
        """By digest where one is known, by tag otherwise. Raises FetchFailed, DigestDiffers."""
        response = self._get(f"{self._root}/manifests/{digest or version}", {"Accept": ", ".join(MANIFESTS)})
        if response.status != httpx.codes.OK:
            raise FetchFailed(
                f"{self._reference}: the registry has no {digest or version}: status {response.status}",
                hint=_hint(response.status),
            )
        found = digest_of_bytes(response.content)
        if digest and found != digest:
            raise DigestDiffers(self._reference, digest, found)
        media_type = json.loads(response.content).get("mediaType") or response.headers.get("Content-Type", "")
        return Manifest(found, media_type, response.content)

    def fetch_blob(self, digest: str, file: Path) -> None:
        """Put a blob into `file`. Raises FetchFailed, DigestDiffers."""
        url = f"{self._root}/blobs/{digest}"
        try:
            self._downloads.fetch(url, file, digest, self._authorization())
        except LoginDemanded as error:
            # A token lives for minutes, a large image takes longer.
            self._token = self._ask_for_token(error.challenge)
            self._downloads.fetch(url, file, digest, self._authorization())

    def _get(self, url: str, headers: Mapping[str, str]) -> Answer:
        response = self._downloads.read(url, {**headers, **self._authorization()})
        if response.status != httpx.codes.UNAUTHORIZED:
            return response
        self._token = self._ask_for_token(response.headers.get("WWW-Authenticate", ""))
        return self._downloads.read(url, {**headers, **self._authorization()})

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": self._token} if self._token else {}

    def _ask_for_token(self, challenge: str) -> str:
        kind, _, rest = challenge.partition(" ")
        account = _account(self._host)
        if kind.lower() == "basic" and account:
            return account
        said = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        if kind.lower() != "bearer" or not said.get("realm", "").startswith("https://"):
            raise FetchFailed(f"{self._host}: asks for {kind or 'a login'}", hint=f"docker login {self._host}")
        query = {"service": said.get("service", ""), "scope": said.get("scope", f"repository:{self._path}:pull")}
        url = str(httpx.URL(said["realm"]).copy_merge_params(query))
        response = self._downloads.read(url, {"Authorization": account} if account else {})
        if response.status != httpx.codes.OK:
            raise FetchFailed(f"{self._host}: gave no token: status {response.status}", hint=_hint(401))
        answer = json.loads(response.content)
        return f"Bearer {answer.get('token') or answer.get('access_token')}"


def _account(host: str) -> str | None:
    """What `docker login` left for the registry; None when there is nothing, or only a helper knows."""
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        known = json.loads((folder / "config.json").read_text()).get("auths", {})
    except (OSError, ValueError):
        return None
    names = {host, f"https://{host}", *({"https://index.docker.io/v1/"} if host == "docker.io" else ())}
    found = next((known[name].get("auth") for name in names & set(known)), None)
    return f"Basic {found}" if found else None


def _hint(status: int) -> str:
    return {
        401: "docker login, if the repository is not public",
        404: "the version is gone, or was never there: correct infra/versions.toml",
        429: "too many requests: wait, or docker login, and run the same command again",
    }.get(status, "")
