"""Brings an environment back from a backup, into a folder that holds nothing yet.

The archive is treated as hostile: it is unpacked beside the state folder, nothing but plain files under known names is
taken from it, every digest and the signature are verified, and only then it is renamed into place. What fails, fails
whole. Tokens and keys are not in an archive: the next `slipway up` makes new ones.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from slipway.archive import (
    CLOCK,
    DATABASES,
    FOLDERS,
    MANIFEST,
    PUBLIC_KEY,
    SIGNATURE,
    ArchivedFile,
    ArchiveManifest,
    check_signature,
    fingerprint,
)
from slipway.environment import Environment
from slipway.errors import InvalidInput, Problem, Refused, SlipwayError
from slipway.files import sync_folder, write_atomically
from slipway.signing import trusted_key_file
from slipway.targets.local.lifecycle import find_supervisord

_MOST_FILES = 2_000_000
_LARGEST_DESCRIPTION = 512 << 20
"""Bytes of the manifest: it is read into memory."""
_CHUNK = 1 << 20

Report = Callable[[int, int], None]
"""Told how many files and bytes are unpacked by now."""


@dataclass(frozen=True)
class Restored:
    """What is there again."""

    environment: str
    """Name of the environment that the backup was made of."""
    made: datetime
    files: int
    size: int
    """Bytes, unpacked."""
    signer: str


def restore_backup(
    environment: Environment,
    file: Path,
    *,
    signer: str | None = None,
    report: Report = lambda files, size: None,
) -> Restored:
    """Unpack, verify, and put in place. Whoever restores an archive trusts its signer: bundles of that key will load.

    `signer`: the fingerprint that `slipway backup` printed; given, an archive by any other key is refused.
    Raises InvalidInput for a file that is none or a state folder in use, Refused for an archive that is not as it was
    written, SlipwayError when the disk fails.
    """
    _check_places(environment, file)
    root = environment.state.root
    root.parent.mkdir(parents=True, exist_ok=True)
    with _staging_beside(root) as staging:
        try:
            descriptions, found = _unpack(file, staging, report)
        except (tarfile.TarError, EOFError, zlib.error, UnicodeError) as error:
            raise Refused(f"{file}: not a whole backup: {error}") from error
        except OSError as error:
            raise SlipwayError(f"{file}: could not be unpacked: {error.strerror or error}") from error
        manifest = _verify(descriptions, found, signer)
        _verify_ledger(staging)
        public_key = descriptions[PUBLIC_KEY]
        key_file = trusted_key_file(staging / "secrets", fingerprint(public_key))
        key_file.parent.mkdir(mode=0o700)
        write_atomically(key_file, public_key)
        _put_in_place(staging, root)
    size = sum(item.size for item in found.values())
    return Restored(manifest.environment, manifest.made, len(found), size, fingerprint(public_key))


def _check_places(environment: Environment, file: Path) -> None:
    problems = []
    root = environment.state.root
    if not file.is_file():
        problems.append(Problem(str(file), "is no file", "name what `slipway backup` wrote"))
    if find_supervisord(environment):
        problems.append(Problem("environment", f"{environment.settings.name} is running", "slipway down"))
    elif root.exists() and any(path.is_file() for path in root.rglob("*")):
        hint = "restore into another environment, or delete the data first: slipway down --delete-data"
        problems.append(Problem("state_dir", f"{root} is not empty", hint))
    if problems:
        raise InvalidInput(problems)


@contextmanager
def _staging_beside(root: Path) -> Iterator[Path]:
    """A private folder on the same file system; what is still in it at the end is deleted."""
    staging = root.with_name(f".{root.name}.restoring-{os.getpid()}")
    staging.mkdir(mode=0o700)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


class _PlainFile(tarfile.TarInfo):
    """Refuses every kind of entry but a plain file before the library acts on it.

    Links, devices, folders, sparse files, and the extended headers that can hold any amount of memory.
    """

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise Refused(f"{self.name!r}: an entry that is no plain file")
        entry: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]  # the hook that the library calls
        return entry


def _unpack(file: Path, staging: Path, report: Report) -> tuple[dict[str, bytes], dict[str, ArchivedFile]]:
    """Write the archive's files below `staging`; returns the descriptions, and what each file really was."""
    descriptions: dict[str, bytes] = {}
    found: dict[str, ArchivedFile] = {}
    room = int(shutil.disk_usage(staging).free * 0.95)
    size = 0
    with tarfile.open(file, mode="r:gz", tarinfo=_PlainFile) as tar:
        for entry in tar:
            stream = tar.extractfile(entry)
            if stream is None or entry.size < 0:
                raise Refused(f"{entry.name!r}: an entry that is no plain file")
            if entry.name in (MANIFEST, PUBLIC_KEY, SIGNATURE):
                if entry.size > _LARGEST_DESCRIPTION or entry.name in descriptions:
                    raise Refused(f"{entry.name}: too large, or there twice")
                descriptions[entry.name] = stream.read()
                continue
            name = _check_name(entry.name)
            size += entry.size
            if name in found:
                raise Refused(f"{name!r}: is there twice")
            if len(found) >= _MOST_FILES or size > room:
                raise Refused(f"{name!r}: more files or bytes than this disk can take ({room >> 20} MiB)")
            found[name] = _write_file(stream.read, staging / name, entry.size)
            report(len(found), size)
    return descriptions, found


def _check_name(name: str) -> str:
    """A relative path in its simplest form below a folder of the archive, or one of its single files."""
    path = PurePosixPath(name)
    simple = str(path) == name and not path.is_absolute() and ".." not in path.parts and name.isprintable()
    known = name in (*DATABASES, CLOCK) or (len(path.parts) > 1 and path.parts[0] in FOLDERS)
    if not simple or "\\" in name or not known:
        raise Refused(f"{name!r}: not a name that a backup has")
    return name


def _write_file(read: Callable[[int], bytes], path: Path, size: int) -> ArchivedFile:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    sha256, left = hashlib.sha256(), size
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as stream:
        while left:
            data = read(min(_CHUNK, left))
            if not data:
                raise EOFError(f"{path.name} ends too early")
            sha256.update(data)
            stream.write(data)
            left -= len(data)
        stream.flush()
        os.fsync(stream.fileno())
    return ArchivedFile(sha256=sha256.hexdigest(), size=size)


def _verify(descriptions: dict[str, bytes], found: dict[str, ArchivedFile], signer: str | None) -> ArchiveManifest:
    missing = {MANIFEST, PUBLIC_KEY, SIGNATURE} - descriptions.keys()
    if missing:
        raise Refused(f"{', '.join(sorted(missing))}: missing; the archive is not whole")
    actual = fingerprint(descriptions[PUBLIC_KEY])
    if signer and signer.lower() != actual:
        raise Refused(f"the archive was signed by {actual}, not by {signer}")
    check_signature(descriptions[MANIFEST], descriptions[SIGNATURE], descriptions[PUBLIC_KEY])
    try:
        manifest = ArchiveManifest.model_validate_json(descriptions[MANIFEST])
    except ValidationError as error:
        raise Refused(f"{MANIFEST}: {error.errors()[0]['msg']}") from error
    for name in sorted(manifest.files.keys() | found.keys()):
        if name not in found:
            raise Refused(f"{name}: named in the manifest, missing from the archive")
        if manifest.files.get(name) != found[name]:
            raise Refused(f"{name}: not as the manifest describes it")
    if DATABASES[0] not in found:
        raise Refused(f"{DATABASES[0]}: missing")
    return manifest


def _verify_ledger(staging: Path) -> None:
    """The chain of events must be whole, or the history was rewritten before the backup was made."""
    from sqlalchemy.exc import SQLAlchemyError

    from slipway.ledger import Ledger, events

    ledger = Ledger(f"sqlite:///{staging / DATABASES[0]}")
    try:
        with ledger.read() as session:
            problems = events.verify(session)
    except SQLAlchemyError as error:
        raise Refused(f"{DATABASES[0]}: not a ledger: {error}") from error
    finally:
        ledger.close()
    if problems:
        raise Refused("\n".join(str(problem) for problem in problems[:5]))


def _put_in_place(staging: Path, root: Path) -> None:
    for folder, _, _ in os.walk(staging, topdown=False):
        sync_folder(Path(folder))
    if root.exists():
        shutil.rmtree(root)  # it holds no file
    staging.rename(root)
    sync_folder(root.parent)
