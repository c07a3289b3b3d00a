"""Fetches one file over HTTPS: whole or not at all, by digest where one is known, resumed where it broke off."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from slipway.errors import SlipwayError
from slipway.files import sync_folder

ATTEMPTS = 4
_TIMEOUT = httpx.Timeout(60, connect=15)
_CHUNK = 1 << 20
_SMALL = 64 << 20
"""Most bytes of an answer that is kept in memory."""


class FetchFailed(SlipwayError):
    """A source did not give what was asked for."""


class LoginDemanded(FetchFailed):
    """The source answered 401; `challenge` says how to log in."""

    def __init__(self, url: str, challenge: str) -> None:
        super().__init__(f"{url}: asks for a login")
        self.challenge = challenge


class DigestDiffers(SlipwayError):
    """What came is not what was pinned; nothing of it is kept."""

    def __init__(self, where: str, wanted: str, found: str) -> None:
        super().__init__(
            f"{where}: is {found}, but {wanted} is pinned",
            hint="somebody moved the version: read what changed before you pin the new digest in infra/versions.toml",
        )


@dataclass(frozen=True)
class Answer:
    """A small answer, read whole."""

    status: int
    headers: httpx.Headers
    content: bytes


class Downloads:
    """HTTPS, and only that; redirects are followed to other HTTPS addresses."""

    def __init__(self, client: httpx.Client, pause: float = 1.0) -> None:
        self._client = client
        self._pause = pause
        """Seconds before the second attempt; doubled before each further one."""

    def read(self, url: str, headers: Mapping[str, str] | None = None) -> Answer:
        """What is at `url`, whatever its status below 500. Raises FetchFailed."""
        for attempt in range(ATTEMPTS):
            try:
                with self._stream(url, headers or {}) as response:
                    if response.status_code < 500:
                        return Answer(response.status_code, response.headers, _read_small(response, url))
                    cause: object = f"status {response.status_code}"
            except httpx.TransportError as error:
                cause = error
            self._wait(attempt)
        raise _failed(url, cause)

    def fetch(self, url: str, file: Path, digest: str = "", headers: Mapping[str, str] | None = None) -> str:
        """Put what is at `url` into `file` and return its digest. Raises FetchFailed, DigestDiffers."""
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.part")
        if not digest:
            part.unlink(missing_ok=True)  # only a digest tells whether two halves belong together
        for attempt in range(ATTEMPTS):
            try:
                self._continue(url, part, headers or {})
                break
            except httpx.TransportError as error:
                cause = error
            self._wait(attempt)
        else:
            raise _failed(url, cause)
        found = digest_of(part)
        if digest and found != digest:
            part.unlink()
            raise DigestDiffers(url, digest, found)
        part.chmod(0o644)
        part.replace(file)
        sync_folder(file.parent)
        return found

    def _continue(self, url: str, part: Path, headers: Mapping[str, str]) -> None:
        offset = part.stat().st_size if part.exists() else 0
        wanted = {**headers, "Range": f"bytes={offset}-"} if offset else dict(headers)
        with self._stream(url, wanted) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
                return  # all of it was there; the digest decides
            if response.status_code == httpx.codes.UNAUTHORIZED:
                raise LoginDemanded(url, response.headers.get("WWW-Authenticate", ""))
            if response.status_code >= 500:
                raise httpx.ReadError(f"status {response.status_code}")
            if response.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
                raise _failed(url, f"status {response.status_code}")
            mode = "ab" if response.status_code == httpx.codes.PARTIAL_CONTENT else "wb"
            with part.open(mode) as stream:
                for chunk in response.iter_raw(_CHUNK):
                    stream.write(chunk)
                stream.flush()
                os.fsync(stream.fileno())

    @contextmanager
    def _stream(self, url: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        with self._client.stream("GET", url, headers=headers, follow_redirects=True) as response:
            if response.url.scheme != "https":
                raise FetchFailed(f"{url}: leads to {response.url}, which is not HTTPS")
            yield response

    def _wait(self, attempt: int) -> None:
        if attempt + 1 < ATTEMPTS:
            time.sleep(self._pause * 2**attempt)


@contextmanager
def open_downloads() -> Iterator[Downloads]:
    """With the machine's own proxies and certificates."""
    # Bytes as they are stored: what a server compresses on the way would have another digest.
    with httpx.Client(timeout=_TIMEOUT, headers={"Accept-Encoding": "identity"}) as client:
        yield Downloads(client)


def digest_of(file: Path) -> str:
    """`sha256:` and the hexadecimal digest of the file."""
    with file.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def digest_of_bytes(data: bytes) -> str:
    """`sha256:` and the hexadecimal digest."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _read_small(response: httpx.Response, url: str) -> bytes:
    content = bytearray()
    for chunk in response.iter_raw(_CHUNK):
        content += chunk
        if len(content) > _SMALL:
            raise FetchFailed(f"{url}: answers more than {_SMALL >> 20} MiB where a document was expected")
    return bytes(content)


def _failed(url: str, cause: object) -> FetchFailed:
    return FetchFailed(f"{url}: {cause}", hint="run the same command again: it goes on where it stopped")
