"""Publishing: what became known goes to the offline files and to the online store, in event-time order.

A row of the future (its event time lies after as_of) is put aside in quarantine/<view>/ and counted; a late row never
replaces a newer one online, and is counted. Rows may be published twice with the same result.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from feature_repo.definitions import EVENT_TIME, OFFLINE, WRITTEN, find_view
from feature_repo.parquet import schema_of, write_rows
from feature_repo.store import open_online
from feature_repo.view import KEY_KINDS, View
from slipway.environment import Environment
from slipway.errors import InvalidInput, Problem
from slipway.object_path import AnyPath

if TYPE_CHECKING:
    from feast import FeatureStore

_KEY_BATCH = 65_536


@dataclass(frozen=True)
class Published:
    """How many rows were given, how many of them were late online, and how many were put aside."""

    rows: int
    late: int
    quarantined: int


def publish(
    environment: Environment, store: FeatureStore, view: str, frame: pd.DataFrame, *, as_of: datetime, name: str = ""
) -> Published:
    """Publish `frame` (keys, features, `event_timestamp` in UTC) offline and online.

    `name` names the offline file and makes a repetition replace it; without it the content does. Offline comes first:
    a crash between the two leaves nothing online that the history lacks. Raises Unknown or InvalidInput.
    """
    known, quarantined = publish_offline(environment, view, frame, as_of=as_of, name=name)
    late = OnlinePublisher(store, view).write(known, as_of=as_of).late
    return Published(len(frame), late, quarantined)


def publish_offline(
    environment: Environment, view: str, frame: pd.DataFrame, *, as_of: datetime, name: str = ""
) -> tuple[pd.DataFrame, int]:
    """Write the history file. Returns the rows that are not of the future, and how many were."""
    known, future = _split(find_view(view), frame, as_of)
    folder = environment.state.history
    if len(future):
        _write(folder / "quarantine" / view, view, future, as_of, name)
    if len(known):
        _write(folder / OFFLINE / view, view, known, as_of, name)
    return known, len(future)


@dataclass(frozen=True)
class Encoded:
    """Rows of one view as the online store keeps them, in the order of the frame they were made from."""

    keys: list[bytes]
    packed: list[bytes]
    events: list[int]
    """Event times, microseconds since the epoch, UTC."""

    def part(self, start: int, stop: int) -> Encoded:
        return Encoded(self.keys[start:stop], self.packed[start:stop], self.events[start:stop])


class OnlinePublisher:
    """Writes one view's rows to the online store; resolve it once and use it for every tick."""

    def __init__(self, store: FeatureStore, view: str) -> None:
        self.view = find_view(view)
        self._table = store.get_feature_view(view)
        self._config = store.config
        self._online = open_online(store)
        self._keys: dict[tuple[object, ...], bytes] = {}

    def write(self, frame: pd.DataFrame, *, as_of: datetime) -> Published:
        """Write the newest row of each key; rows of the future are left out and counted as quarantined."""
        known, future = _split(self.view, frame, as_of)
        known = known.sort_values(EVENT_TIME, kind="stable").drop_duplicates(list(self.view.keys), keep="last")
        late = self.write_encoded(self.encode(known), as_of=as_of)
        return Published(len(frame), late, len(future))

    def encode(self, frame: pd.DataFrame) -> Encoded:
        """Spell many ticks' rows at once; their parts are then written tick by tick."""
        numbers = np.ascontiguousarray(frame[self.view.columns].to_numpy(dtype="<f8", na_value=np.nan))
        moments = frame[EVENT_TIME].dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
        return Encoded(
            keys=[self._key(key) for key in zip(*(frame[name].to_list() for name in self.view.keys), strict=True)],
            packed=[row.tobytes() for row in numbers],
            events=moments.astype("datetime64[us]").astype(np.int64).tolist(),
        )

    def write_encoded(self, rows: Encoded, *, as_of: datetime) -> int:
        """Write checked rows. Returns how many were late. Raises ValueError when one is of the future."""
        written = pd.Timestamp(as_of).value // 1000
        if rows.events and max(rows.events) > written:
            raise ValueError(f"{self.view.name}: rows later than {as_of.isoformat()} must be put aside, not written")
        late: int = self._online.write_packed(
            self._config,
            self._table,
            self.view.columns,
            [(*row, written) for row in zip(rows.keys, rows.packed, rows.events, strict=True)],
        )
        return late

    def _key(self, key: tuple[object, ...]) -> bytes:
        if key not in self._keys:
            if len(self._keys) >= _KEY_BATCH:
                self._keys.clear()
            self._keys[key] = serialize_key(self.view, key, self._config.entity_key_serialization_version)
        return self._keys[key]


def serialize_key(view: View, key: tuple[object, ...], version: int) -> bytes:
    """A key as Feast's online stores spell it; `key` in the order of the view's keys."""
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    values = [
        Value(int64_val=int(str(part))) if KEY_KINDS[name] == "int" else Value(string_val=str(part))
        for name, part in zip(view.keys, key, strict=True)
    ]
    spelled: bytes = serialize_entity_key(
        EntityKey(join_keys=list(view.keys), entity_values=values), entity_key_serialization_version=version
    )
    return spelled


def _split(view: View, frame: pd.DataFrame, as_of: datetime) -> tuple[pd.DataFrame, pd.DataFrame]:
    absent = [name for name in [*view.keys, *view.columns, EVENT_TIME] if name not in frame.columns]
    if absent:
        raise InvalidInput([Problem(f"{view.name}.{name}", "is missing from the published rows") for name in absent])
    if not isinstance(frame[EVENT_TIME].dtype, pd.DatetimeTZDtype):
        raise InvalidInput(Problem(f"{view.name}.{EVENT_TIME}", "needs a time zone", "publish times in UTC"))
    nameless = [name for name in [*view.keys, EVENT_TIME] if frame[name].isna().any()]
    if nameless:
        raise InvalidInput([Problem(f"{view.name}.{name}", "is null in a published row") for name in nameless])
    future = frame[EVENT_TIME] > pd.Timestamp(as_of)
    if future.any():
        return frame[~future], frame[future]
    return frame, frame.iloc[:0]


def _write(folder: AnyPath, view: str, frame: pd.DataFrame, as_of: datetime, name: str) -> None:
    definition = find_view(view)
    stem = name or f"{as_of:%Y%m%dT%H%M%S}-{_content(frame, definition)}"
    rows = frame.assign(**{WRITTEN: pd.Timestamp(as_of).as_unit("us")})
    write_rows(rows, folder / f"{stem}.parquet", schema_of(definition))


def _content(frame: pd.DataFrame, view: View) -> str:
    columns = [*view.keys, *view.columns, EVENT_TIME]
    hashes = pd.util.hash_pandas_object(frame[columns], index=False).to_numpy()
    return hashlib.sha256(hashes.tobytes()).hexdigest()[:16]
