"""Writes a backup of an environment while it runs: consistent databases first, then the files that they speak of.

It needs no process of the platform and stops none. The archive is readable by this user only, and is there whole or
not at all.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from slipway import signing
from slipway.archive import (
    CLOCK,
    DATABASES,
    EXCLUDED,
    FOLDERS,
    MANIFEST,
    PUBLIC_KEY,
    SIGNATURE,
    ArchivedFile,
    ArchiveManifest,
    fingerprint,
    sign,
)
from slipway.environment import Environment
from slipway.errors import InvalidInput, Problem, SlipwayError
from slipway.files import sync_folder

_SQLITE = b"SQLite format 3\x00"
_PASSES = 20
"""How often folders are read anew because files in them were merged or moved while they were read."""

Report = Callable[[int, int], None]
"""Told how many files and bytes are in the archive by now."""


@dataclass(frozen=True)
class Backup:
    """What was written."""

    file: Path
    files: int
    size: int
    """Bytes of the archive."""
    signer: str
    """Fingerprint of the key that signed it; `slipway restore --signer` compares it."""


def write_backup(environment: Environment, file: Path, *, report: Report = lambda files, size: None) -> Backup:
    """Write the archive. Raises InvalidInput when `file` cannot be one, SlipwayError when there is nothing to back up.

    A file that the collector merges into another while the backup runs may be in it twice, in both forms: rows of the
    inference log are unique by prediction id, so that readers see them once.
    """
    root = environment.state.root.resolve()
    _check_place(file, root)
    if not (root / DATABASES[0]).exists():
        raise SlipwayError(f"environment {environment.settings.name} has no ledger yet", hint="slipway up")
    public_key = signing.public_key_of(environment).read_bytes()
    draft = file.with_name(f".{file.name}.{os.getpid()}.draft")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as raw:
            with (
                gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=1, mtime=0) as packed,
                tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
            ):
                contents = _add_contents(tar, environment, report)
                manifest = _describe(environment, contents)
                signature = sign(manifest, signing.private_key_of(environment).read_bytes())
                for name, data in ((MANIFEST, manifest), (PUBLIC_KEY, public_key), (SIGNATURE, signature)):
                    _add(tar, name, io.BytesIO(data), len(data))
            raw.flush()
            os.fsync(raw.fileno())
        draft.rename(file)
        sync_folder(file.resolve().parent)
    except OSError as error:
        raise SlipwayError(f"{file}: the backup could not be written: {error.strerror or error}") from error
    finally:
        draft.unlink(missing_ok=True)
    return Backup(file, len(contents), file.stat().st_size, fingerprint(public_key))


def _check_place(file: Path, root: Path) -> None:
    problems = []
    if file.exists():
        problems.append(Problem(str(file), "is there already", "name a new file: a backup is never overwritten"))
    if not file.resolve().parent.is_dir():
        problems.append(Problem(str(file.parent), "is no folder", "mkdir it first"))
    if file.resolve().is_relative_to(root):
        problems.append(Problem(str(file), f"is inside the state folder {root}", "name a file elsewhere"))
    if problems:
        raise InvalidInput(problems)


def _describe(environment: Environment, contents: dict[str, ArchivedFile]) -> bytes:
    name = environment.settings.name
    return ArchiveManifest(environment=name, made=datetime.now(UTC), files=contents).model_dump_json(indent=1).encode()


def _add_contents(tar: tarfile.TarFile, environment: Environment, report: Report) -> dict[str, ArchivedFile]:
    root = environment.state.root.resolve()
    written: dict[str, ArchivedFile] = {}
    size = 0
    with tempfile.TemporaryDirectory(dir=environment.state.run, prefix="backup-") as scratch:
        for name in _list_until_steady(root, written):
            try:
                written[name] = _add_file(tar, name, root / name, Path(scratch))
            except FileNotFoundError:
                continue  # merged into another since it was listed: the next pass finds that one
            size += written[name].size
            report(len(written), size)
    return written


def _list_until_steady(root: Path, written: dict[str, ArchivedFile]) -> Iterator[str]:
    """Names to archive: databases, the clock, the folders; folders again as long as listed files vanish unread."""
    yield from (name for name in (*DATABASES, CLOCK) if (root / name).exists())
    for _ in range(_PASSES):
        listed = [name for name in _list_files(root) if name not in written]
        yield from listed
        if all(name in written for name in listed):
            return
    raise SlipwayError("files vanish faster than they can be read", hint="try again when less is going on")


def _list_files(root: Path) -> Iterator[str]:
    """Everything in the folders of the archive but drafts, locks, links and what can be made again."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root).as_posix()
            hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
            companion = path.suffix in (".lock", ".draft") or path.name.endswith(("-wal", "-shm", "-journal"))
            if hidden or companion or name.startswith(tuple(f"{part}/" for part in EXCLUDED)):
                continue
            if path.is_file() and not path.is_symlink():
                yield name


def _add_file(tar: tarfile.TarFile, name: str, path: Path, scratch: Path) -> ArchivedFile:
    with path.open("rb") as stream:
        if stream.read(len(_SQLITE)) == _SQLITE:
            copy = scratch / "copy.db"
            _copy_database(path, copy)
            with copy.open("rb") as copied:
                result = _add(tar, name, copied, copy.stat().st_size)
            copy.unlink()
            return result
        stream.seek(0)
        # What is appended to the file from now on is not in the archive.
        return _add(tar, name, stream, os.fstat(stream.fileno()).st_size)


def _copy_database(path: Path, copy: Path) -> None:
    """One consistent moment of a database that others write to, by SQLite's own backup."""
    with (
        closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
        # The copy must not ask for a -wal file beside it.
        target.execute("PRAGMA journal_mode=DELETE")


class _Hashing:
    """Reads through to a stream and hashes what passes."""

    def __init__(self, stream: BinaryIO | io.BytesIO) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.sha256.update(data)
        return data


def _add(tar: tarfile.TarFile, name: str, stream: BinaryIO | io.BytesIO, size: int) -> ArchivedFile:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    hashing = _Hashing(stream)
    try:
        tar.addfile(entry, hashing)
    except ValueError as error:
        raise SlipwayError(f"{name}: does not fit into a tar file: {error}") from error
    return ArchivedFile(sha256=hashing.sha256.hexdigest(), size=size)
