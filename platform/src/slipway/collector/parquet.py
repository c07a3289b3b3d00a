"""Parquet files that appear whole or not at all, and say which files they replace."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from slipway.files import sync_folder
from slipway.object_path import AnyPath, ObjectPath

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_REPLACES = b"slipway.replaces"


def write_parquet(file: AnyPath, table: pa.Table, *, replaces: list[str] | None = None) -> None:
    """Write beside, flush to disk, rename. `replaces` names the files of the folder that this one stands for.

    Raises OSError when the disk is full; nothing partial is left then.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if replaces:
        table = table.replace_schema_metadata({_REPLACES: json.dumps(replaces).encode()})
    if isinstance(file, ObjectPath):
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", coerce_timestamps="us")
        file.write_bytes(sink.getvalue().to_pybytes())
        return
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


def open_parquet(file: AnyPath) -> pq.ParquetFile:
    """Its schema; what is read later is read from there."""
    import pyarrow.parquet as pq

    if isinstance(file, ObjectPath):
        return pq.ParquetFile(str(file), filesystem=file.store)
    return pq.ParquetFile(file)


def replaced_by(file: AnyPath) -> list[str]:
    """Names of the files that this one stands for."""
    with open_parquet(file) as opened:
        metadata = opened.schema_arrow.metadata or {}
    names: list[str] = json.loads(metadata.get(_REPLACES, b"[]"))
    return names
