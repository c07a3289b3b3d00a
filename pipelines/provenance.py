"""Which code and which locked environment a run used: two hashes that stand in every bundle and every cache key."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from slipway.settings import REPOSITORY

_CODE = ("pipelines", "feature_repo", "platform/src/slipway")
_ENDINGS = (".py", ".yaml")


@cache
def code_hash() -> str:
    """sha256 over the names and bytes of the code that can change a run's outcome."""
    digest = hashlib.sha256()
    for folder in _CODE:
        for file in sorted((REPOSITORY / folder).rglob("*")):
            if file.suffix in _ENDINGS and file.is_file():
                digest.update(f"{file.relative_to(REPOSITORY)}\0{_digest(file)}\n".encode())
    return digest.hexdigest()


@cache
def lock_hash() -> str:
    """sha256 of the hash-locked list of packages."""
    return _digest(REPOSITORY / "requirements.lock")


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
