"""What a version is: a folder of five files, signed as a whole, that loads without running code.

    manifest.json   what it is, and the sha256 of the three files below
    model.txt       the booster in LightGBM's text format
    gate.json       the gate record it was judged by
    golden.json     requests with the answers that a server must give before it is ready
    slipway.sig     the signature over the four files above

Nothing here loads the model: a server does, from the path of a copy that was verified.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from slipway import signing
from slipway.contract_values import Name
from slipway.environment import Environment
from slipway.errors import Refused, SlipwayError

MANIFEST, MODEL, GATE, GOLDEN = "manifest.json", "model.txt", "gate.json", "golden.json"
_LIMITS = {MANIFEST: 4 << 20, MODEL: 1 << 30, GATE: 16 << 20, GOLDEN: 64 << 20, signing.SIGNATURE: 1 << 20}
"""The files a bundle has, no other, and the most bytes each may have."""
_MODEL_BEGINS = b"tree\nversion="
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class TrainingSpan(_Part):
    """Prediction moments of the training rows, from `start` up to but without `end`, UTC."""

    start: datetime
    end: datetime
    rows: int


class Golden(_Part):
    """Requests with their features and the probability that this model answers, in the order of `requests`."""

    requests: list[dict[str, Any]]
    """Request fields as a client sends them: moments in RFC 3339, null where missing."""
    features: list[dict[str, Any]]
    """`view__feature` columns as joined when the version was made; null where missing."""
    answers: list[float]
    tolerance: float = 1e-9


class Manifest(_Part):
    """All that is said about a version. `gate` and `golden` stand in files of their own on disk."""

    model: Name
    version: Annotated[int, Field(ge=1)]
    content_digest: str = ""
    """sha256 of what decides the answers (model, features, transforms, columns): the same under another number."""
    created_as_of: datetime
    feature_service: str
    transforms_hash: str
    columns: list[str]
    """Of the model's matrix, in order."""
    files: dict[str, _Digest] = {}
    code_hash: str
    lock_hash: str
    snapshot_id: str
    training: TrainingSpan
    metrics: dict[str, float]
    gate: Annotated[dict[str, Any], Field(exclude=True)] = {}
    golden: Annotated[Golden, Field(exclude=True)] = Golden(requests=[], features=[], answers=[])


def write_bundle(folder: Path, *, manifest: Manifest, files: dict[str, Path], private_key: Path) -> Manifest:
    """Write and sign a bundle that appears at `folder` whole or not at all; `files` holds the path of `model.txt`.

    Returns the manifest with its digests. Raises SlipwayError when the disk is full, Refused when `files` holds
    anything but the model or when `folder` exists.
    """
    if set(files) != {MODEL}:
        raise Refused(f"a bundle takes the file {MODEL}, not {', '.join(sorted(files)) or 'none'}")
    if folder.exists():
        raise Refused(f"{folder}: exists, and a bundle is never changed")
    with _whole_or_nothing(folder) as draft:
        shutil.copyfile(files[MODEL], draft / MODEL)
        _write_json(draft / GATE, manifest.gate)
        _write_json(draft / GOLDEN, manifest.golden.model_dump(mode="json"))
        digests = {name: _sha256(draft / name) for name in (MODEL, GATE, GOLDEN)}
        filled = manifest.model_copy(update={"files": digests})
        filled = filled.model_copy(update={"content_digest": _content_digest(filled)})
        _write_json(draft / MANIFEST, filled.model_dump(mode="json"))
        signing.sign_folder(draft, private_key)
        _check_files(draft)
    return filled


def content_digest(folder: Path) -> str:
    """The digest of what decides the answers of the (verified) bundle in `folder`."""
    return _content_digest(Manifest.model_validate_json((folder / MANIFEST).read_bytes()))


def read_gate(folder: Path) -> dict[str, Any]:
    """The gate record of the (verified) bundle in `folder`."""
    record: dict[str, Any] = json.loads((folder / GATE).read_bytes())
    return record


def verify_bundle(folder: Path, *, model: str, version: int, public_key: Path) -> Manifest:
    """Check a bundle before anything of it is used. Raises Refused, naming the first rule that is broken.

    In this order: the exact list of plain files, their sizes and formats, the signature over all of them, the
    digests, then name and number. `folder` must be a private copy (`fetch_bundle`, `copy_bundle`), or what was
    verified may not be what is loaded.
    """
    _check_files(folder)
    signing.verify_folder(folder, public_key)
    try:
        manifest = Manifest.model_validate(
            {
                **json.loads((folder / MANIFEST).read_bytes()),
                "gate": json.loads((folder / GATE).read_bytes()),
                "golden": json.loads((folder / GOLDEN).read_bytes()),
            }
        )
    except (ValidationError, ValueError, TypeError) as error:
        raise Refused(f"{folder.name}: the manifest is not one: {error}") from error
    if set(manifest.files) != {MODEL, GATE, GOLDEN}:
        raise Refused(f"{folder.name}: the manifest lists other files than the bundle has")
    for name, digest in manifest.files.items():
        if _sha256(folder / name) != digest:
            raise Refused(f"{folder.name}: {name} is not what the manifest says")
    if manifest.content_digest != _content_digest(manifest):
        raise Refused(f"{folder.name}: the content digest is not that of the content")
    if (manifest.model, manifest.version) != (model, version):
        raise Refused(f"{folder.name}: this is {manifest.model} {manifest.version}, not {model} {version}")
    return manifest


def copy_bundle(source: Path, folder: Path) -> None:
    """Copy the files of a bundle, which may be hostile, to a private place: plain files of the known names only."""
    _check_files(source)
    with _whole_or_nothing(folder) as draft:
        for name, limit in _LIMITS.items():
            (draft / name).write_bytes(_read_plain(source / name, limit))


def fetch_bundle(environment: Environment, model: str, version: int) -> Path:
    """The verified copy of a version in `state.bundles`, taken from the registry when it is not there yet.

    A kept copy is verified each time and serves while the registry is down. Raises Refused, Unknown or NotReady.
    """
    folder = environment.state.bundles / model / str(version)
    public_key = signing.public_key_of(environment)
    if not folder.exists():
        from slipway.registry import Registry

        incoming = folder.with_name(f".fetch-{version}-{uuid.uuid4().hex}")
        try:
            with _disk_errors(incoming):
                incoming.mkdir(parents=True, mode=0o700)
                Registry(environment).download(model, version, incoming)
            verify_bundle(incoming, model=model, version=version, public_key=public_key)
            _publish(incoming, folder)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
    try:
        verify_bundle(folder, model=model, version=version, public_key=public_key)
    except Refused as error:
        raise Refused(error.message, hint=f"when {folder} is removed, it is fetched again") from error
    return folder


def _content_digest(manifest: Manifest) -> str:
    decides = {
        "model": manifest.files[MODEL],
        "feature_service": manifest.feature_service,
        "transforms": manifest.transforms_hash,
        "columns": manifest.columns,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _check_files(folder: Path) -> None:
    """Names, kinds, sizes and first bytes; nothing is followed, opened for writing, or parsed."""
    if folder.is_symlink() or not folder.is_dir():
        raise Refused(f"{folder}: is not a folder")
    found = {entry.name: entry.stat(follow_symlinks=False) for entry in os.scandir(folder)}
    for name, status in sorted(found.items()):
        if not stat.S_ISREG(status.st_mode):
            raise Refused(f"{folder.name}: {name} is not a plain file (links, folders and devices are refused)")
        if name not in _LIMITS:
            raise Refused(f"{folder.name}: {name} does not belong in a bundle")
        if status.st_size > _LIMITS[name]:
            raise Refused(f"{folder.name}: {name} is larger than {_LIMITS[name]} bytes")
    missing = sorted(set(_LIMITS) - set(found))
    if missing:
        raise Refused(f"{folder.name}: {', '.join(missing)} is missing")
    with (folder / MODEL).open("rb") as stream:
        if stream.read(len(_MODEL_BEGINS)) != _MODEL_BEGINS:
            raise Refused(f"{folder.name}: {MODEL} is not in LightGBM's text format")


@contextmanager
def _whole_or_nothing(folder: Path) -> Iterator[Path]:
    """A draft folder beside `folder` that becomes it at the end, flushed to disk; removed when anything fails."""
    draft = folder.with_name(f".draft-{folder.name}-{uuid.uuid4().hex}")
    try:
        with _disk_errors(folder):
            draft.mkdir(parents=True, mode=0o700)
            yield draft
            _publish(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        message = f"{folder}: the bundle could not be written: {error.strerror}"
        raise SlipwayError(message, hint="free space on that disk; nothing partial was left") from error


def _publish(draft: Path, folder: Path) -> None:
    for entry in draft.iterdir():
        _flush(entry)
    _flush(draft)
    try:
        draft.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return  # another process was first; the caller verifies what is there
    _flush(folder.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_plain(file: Path, limit: int) -> bytes:
    """Between the look at a folder and this, a name could have become a link or a pipe: neither is followed."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise Refused(f"{file}: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Refused(f"{file}: is not a plain file")
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise Refused(f"{file}: is larger than {limit} bytes")
    return content


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")
