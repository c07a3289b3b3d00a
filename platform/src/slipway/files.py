"""Files that are either there whole or not at all: written beside, flushed to disk, then renamed."""

from __future__ import annotations

import os
from pathlib import Path

from slipway.object_path import AnyPath, ObjectPath


def write_atomically(file: AnyPath, content: str | bytes, *, mode: int = 0o600) -> None:
    """Replace `file` by `content`; after a crash it holds the old content or the new one, never a part."""
    data = content.encode() if isinstance(content, str) else content
    if isinstance(file, ObjectPath):
        file.write_bytes(data)
        return
    draft = file.with_name(f".{file.name}.{os.getpid()}.draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        draft.chmod(mode)
        draft.replace(file)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
