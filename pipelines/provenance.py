"""Which code and which locked environment a run used: two hashes that stand in every bundle and every cache key."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from slipway.settings import REPOSITORY

_PATTERNS = (
    "pipelines/*.py",
    "pipelines/steps/*.py",
    "pipelines/{model}/*.py",
    "feature_repo/**/*.py",
)
_SHARED = ("bundle", "contract", "snapshots", "statistics")
"""Files whose change can change what a run makes. Contracts count by their parts that a step uses."""


@cache
def code_hash(model: str) -> str:
    """sha256 over the names and bytes of the code that can change the outcome of this model's runs."""
    digest = hashlib.sha256()
    for file in sorted(_list_files(model)):
        digest.update(f"{file.relative_to(REPOSITORY)}\0{_digest(file)}\n".encode())
    return digest.hexdigest()


@cache
def lock_hash() -> str:
    """sha256 of the hash-locked list of packages."""
    return _digest(REPOSITORY / "requirements.lock")


def _list_files(model: str) -> set[Path]:
    shared = [REPOSITORY / "platform" / "src" / "slipway" / f"{name}.py" for name in _SHARED]
    found = (file for pattern in _PATTERNS for file in REPOSITORY.glob(pattern.format(model=model)))
    return {*shared, *found}


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
