"""Parquet files that appear whole or not at all, and say which files they replace."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.files import sync_folder

if TYPE_CHECKING:
    import pyarrow as pa

_REPLACES = b"slipway.replaces"


def write_parquet(file: Path, table: pa.Table, *, replaces: list[str] | None = None) -> None:
    """Write beside, flush to disk, rename. `replaces` names the files of the folder that this one stands for.

    Raises OSError when the disk is full; nothing partial is left then.
    """
    import pyarrow.parquet as pq

    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if replaces:
        table = table.replace_schema_metadata({_REPLACES: json.dumps(replaces).encode()})
    draft = file.with_name(f".{file.name}.draft")
    try:
        with draft.open("wb") as stream:
            pq.write_table(table, stream, compression="zstd", coerce_timestamps="us")
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(file.parent)


def replaced_by(file: Path) -> list[str]:
    """Names of the files that this one stands for."""
    import pyarrow.parquet as pq

    metadata = pq.read_schema(file).metadata or {}
    names: list[str] = json.loads(metadata.get(_REPLACES, b"[]"))
    return names
