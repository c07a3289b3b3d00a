"""Files in an object store, as paths: what the platform needs of `pathlib.Path`, and no more.

An object appears whole or not at all, so nothing is written beside and renamed; a folder is where objects are and needs
no making. Every failure of the store is an OSError, as a disk's would be.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyarrow.fs import S3FileSystem

CONNECT_WITHIN, ANSWER_WITHIN = 5.0, 30.0
_LARGE = 5 * 2**20
"""Bytes from which on an object is sent in parts."""


@dataclass(frozen=True)
class Size:
    """What `stat` tells."""

    st_size: int


@dataclass(frozen=True)
class ObjectStore:
    """A store as one of its users asks it."""

    files: S3FileSystem
    """Sends an object when it is whole, a small one by one request."""
    large: S3FileSystem
    """Asks first whether the store takes an object of parts. Where that is asked with the first of them and refused,
    the stream is closed, and that makes an empty object.
    """


class ObjectPath:
    """`bucket/key` in one store. Two are equal when they name the same object."""

    def __init__(self, objects: ObjectStore, path: str | PurePosixPath) -> None:
        self._objects = objects
        self._path = PurePosixPath(path)

    @property
    def store(self) -> S3FileSystem:
        """For who reads many files at a time."""
        return self._objects.files

    def __str__(self) -> str:
        return str(self._path)

    def __repr__(self) -> str:
        return f"ObjectPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectPath) and self._path == other._path

    def __hash__(self) -> int:
        return hash(self._path)

    def __lt__(self, other: ObjectPath) -> bool:
        return self._path < other._path

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(self._objects, self._path / name)

    @property
    def name(self) -> str:
        return self._path.name

    @property
    def stem(self) -> str:
        return self._path.stem

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self._objects, self._path.parent)

    def with_name(self, name: str) -> ObjectPath:
        return ObjectPath(self._objects, self._path.with_name(name))

    def with_suffix(self, suffix: str) -> ObjectPath:
        return ObjectPath(self._objects, self._path.with_suffix(suffix))

    def mkdir(self, **_: Any) -> None:
        """There is nothing to make."""

    def rmdir(self) -> None:
        """Removes what the store may have put there to mark an empty folder."""
        if self.is_dir():
            self.store.delete_dir(str(self))

    def iterdir(self) -> Iterator[ObjectPath]:
        """Objects and folders right below."""
        from pyarrow.fs import FileSelector

        found = self.store.get_file_info(FileSelector(str(self), allow_not_found=True))
        yield from (self / each.base_name for each in found)

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """Names right below that match; no pattern of ours goes deeper."""
        return (each for each in self.iterdir() if fnmatch.fnmatchcase(each.name, pattern))

    def is_dir(self) -> bool:
        from pyarrow.fs import FileType

        return bool(self.store.get_file_info(str(self)).type == FileType.Directory)

    def exists(self) -> bool:
        from pyarrow.fs import FileType

        return bool(self.store.get_file_info(str(self)).type != FileType.NotFound)

    def stat(self) -> Size:
        """Raises FileNotFoundError."""
        from pyarrow.fs import FileType

        found = self.store.get_file_info(str(self))
        if found.type == FileType.NotFound:
            raise FileNotFoundError(str(self))
        return Size(found.size or 0)

    def read_bytes(self) -> bytes:
        """Raises FileNotFoundError."""
        with self.store.open_input_stream(str(self)) as stream:
            return bytes(stream.read())

    def write_bytes(self, content: bytes) -> None:
        """Replaces what was there, whole; what was there stays when it fails."""
        store = self._objects.large if len(content) >= _LARGE else self._objects.files
        with store.open_output_stream(str(self)) as stream:
            stream.write(content)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            self.store.delete_file(str(self))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def replace(self, target: ObjectPath) -> None:
        """Not at once: for a moment there are both."""
        self.store.move(str(self), str(target))


AnyPath = Path | ObjectPath


def walk_files(folder: AnyPath) -> Iterator[tuple[str, int, int]]:
    """Every file below, at any depth: its path, its bytes, and when it changed (nanoseconds since 1970)."""
    if isinstance(folder, ObjectPath):
        from pyarrow.fs import FileSelector, FileType

        # One request for a thousand objects.
        for found in folder.store.get_file_info(FileSelector(str(folder), allow_not_found=True, recursive=True)):
            if found.type == FileType.File:
                yield found.path, found.size or 0, found.mtime_ns or 0
        return
    for file in folder.rglob("*"):
        if file.is_file():
            status = file.stat()
            yield str(file), status.st_size, status.st_mtime_ns


def open_store(url: str, *, region: str, key_id: str, key: str, authority: str = "") -> ObjectStore:
    """The store that answers at `url`. Connects when it is first asked.

    `authority` is the file of whom the store's certificate must be signed by; empty: one that this machine trusts.
    """
    from pyarrow.fs import S3FileSystem

    scheme, _, host = url.partition("://")

    def connect(*, ask_first: bool) -> S3FileSystem:
        return S3FileSystem(
            access_key=key_id,
            secret_key=key,
            region=region,
            scheme=scheme,
            endpoint_override=host,
            connect_timeout=CONNECT_WITHIN,
            request_timeout=ANSWER_WITHIN,
            # Otherwise a part that is refused is left out, and the others become the object.
            background_writes=True,
            tls_ca_file_path=authority or None,
            allow_delayed_open=not ask_first,
        )

    return ObjectStore(connect(ask_first=False), connect(ask_first=True))
