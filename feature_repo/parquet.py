"""Published rows as Parquet files: whole or absent, never half; timestamps in microseconds (DuckDB casts no finer).

A folder is one on disk or in an object store.
"""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from feature_repo.definitions import EVENT_TIME, WRITTEN
from feature_repo.view import KEY_KINDS, View
from slipway.files import write_atomically
from slipway.object_path import AnyPath, ObjectPath

_TYPES = {"string": pa.string(), "int": pa.int64(), "float": pa.float64()}
_MOMENT = pa.timestamp("us", tz="UTC")


def schema_of(view: View) -> pa.Schema:
    """Keys, features, event time and time of writing."""
    fields = [(key, _TYPES[KEY_KINDS[key]]) for key in view.keys]
    fields += [(feature.name, _TYPES[feature.kind]) for feature in view.features]
    return pa.schema([*fields, (EVENT_TIME, _MOMENT), (WRITTEN, _MOMENT)])


def write_rows(frame: pd.DataFrame, file: AnyPath, schema: pa.Schema) -> None:
    """Write `frame`'s columns of `schema` to `file`. Replaces a file of that name."""
    table = pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False, safe=False)
    write_table(table, file)


def write_table(table: pa.Table, file: AnyPath) -> None:
    """The same for a table."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, sink.getvalue().to_pybytes())


def open_files(folder: AnyPath, pattern: str, schema: pa.Schema | None = None) -> ds.Dataset:
    """The files right below `folder` whose names match, by name; no file is read before rows are asked for.

    Without `schema` it is that of the first file; there must be one then.
    """
    files = sorted(str(file) for file in folder.glob(pattern))
    store = folder.store if isinstance(folder, ObjectPath) else None
    return ds.dataset(files, schema=schema, filesystem=store, format="parquet")
