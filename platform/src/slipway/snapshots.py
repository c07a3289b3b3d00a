"""Data snapshots: the rows that a training run saw, kept as Parquet files named by the hash of their content.

The same rows are the same snapshot, whenever they were taken.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

from slipway.environment import Environment
from slipway.errors import Refused, Unknown
from slipway.files import write_atomically
from slipway.object_path import AnyPath

if TYPE_CHECKING:
    import pandas as pd


def write_rows(frame: pd.DataFrame, file: Path) -> None:
    """Write rows as Parquet whose bytes depend on the rows alone; moments in microseconds."""
    frame.reset_index(drop=True).to_parquet(file, index=False, compression="zstd", coerce_timestamps="us")


def digest_of(file: Path) -> str:
    """sha256 of the file's bytes: the id of the snapshot that it holds."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def keep_snapshot(environment: Environment, file: Path) -> str:
    """Keep the file as a snapshot and return its id; nothing is written when it is kept already."""
    snapshot_id = digest_of(file)
    target = _file_of(environment, snapshot_id)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(target, file.read_bytes())
    return snapshot_id


def read_snapshot(environment: Environment, snapshot_id: str, columns: list[str] | None = None) -> pd.DataFrame:
    """The rows of a snapshot. Raises Unknown when it is not kept, Refused when its content is not what its id says."""
    import pandas as pd

    if not re.fullmatch(r"[0-9a-f]{64}", snapshot_id):
        raise Unknown("snapshot", snapshot_id)
    try:
        content = _file_of(environment, snapshot_id).read_bytes()
    except FileNotFoundError:
        raise Unknown("snapshot", snapshot_id) from None
    if hashlib.sha256(content).hexdigest() != snapshot_id:
        raise Refused(f"snapshot {snapshot_id[:12]}: the file was changed")
    return pd.read_parquet(io.BytesIO(content), columns=columns)


def _file_of(environment: Environment, snapshot_id: str) -> AnyPath:
    return environment.state.snapshots / f"{snapshot_id}.parquet"
