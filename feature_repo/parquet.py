"""Published rows as Parquet files: whole or absent, never half; timestamps in microseconds (DuckDB casts no finer)."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.definitions import EVENT_TIME, WRITTEN
from feature_repo.view import KEY_KINDS, View
from slipway.files import sync_folder

_TYPES = {"string": pa.string(), "int": pa.int64(), "float": pa.float64()}
_MOMENT = pa.timestamp("us", tz="UTC")


def schema_of(view: View) -> pa.Schema:
    """Keys, features, event time and time of writing."""
    fields = [(key, _TYPES[KEY_KINDS[key]]) for key in view.keys]
    fields += [(feature.name, _TYPES[feature.kind]) for feature in view.features]
    return pa.schema([*fields, (EVENT_TIME, _MOMENT), (WRITTEN, _MOMENT)])


def write_rows(frame: pd.DataFrame, file: Path, schema: pa.Schema) -> None:
    """Write `frame`'s columns of `schema` to `file`: draft, fsync, rename. Replaces a file of that name."""
    table = pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False, safe=False)
    write_table(table, file)


def write_table(table: pa.Table, file: Path) -> None:
    """The same for a table."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with draft.open("wb") as stream:
            pq.write_table(table, stream, compression="zstd")
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(file.parent)
