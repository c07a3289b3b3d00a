"""Online features of requests: what the online store holds at the moment of prediction.

The service and its views are resolved once; a look-up then is one query a view. A row older than its view's lifetime
counts as absent, as it does offline.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from feature_repo.definitions import find_service
from feature_repo.publishing import serialize_key
from feature_repo.store import open_online, open_store
from feature_repo.view import View
from slipway.environment import Environment

_KEY_BATCH = 65_536
_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Found:
    """Both with the index of the requests."""

    features: pd.DataFrame
    """`view__feature` columns, float64; NaN where nothing is known."""
    ages: pd.DataFrame
    """One float64 column a view: seconds between as_of and the values' event time; NaN where the view had no row."""


class FeatureLookup:
    """Reads one feature service. Safe to use from several threads."""

    def __init__(self, environment: Environment, service: str, *, store: Any = None) -> None:
        store = store or open_store(environment)
        self.views = find_service(service)
        self._config = store.config
        self._online = open_online(store)
        self._tables = {view.name: store.get_feature_view(view.name) for view in self.views}
        self._keys: dict[tuple[str, tuple[Hashable, ...]], bytes] = {}

    def read(self, rows: pd.DataFrame, *, as_of: datetime) -> Found:
        """Features of `rows`, which hold the views' keys as request fields.

        Raises sqlite3.Error or redis.RedisError when the store is out of reach; the caller then uses the transforms'
        defaults.
        """
        keys = {name: rows[name].to_list() for view in self.views for name in view.keys}
        features, ages = self.read_columns(keys, as_of=as_of)
        names = [name for view in self.views for name in view.qualified.values()]
        return Found(
            pd.DataFrame(features, columns=names, index=rows.index),
            pd.DataFrame(ages, columns=[view.name for view in self.views], index=rows.index),
        )

    def read_columns(self, keys: Mapping[str, Sequence[Hashable]], *, as_of: datetime) -> tuple[np.ndarray, np.ndarray]:
        """The same from lists and as arrays, for a server: (rows x features, rows x views), views in their order."""
        now = (as_of - _EPOCH) // _MICROSECOND
        parts = [self._read_view(view, keys, now) for view in self.views]
        return np.column_stack([values for values, _ in parts]), np.column_stack([age for _, age in parts])

    def _read_view(
        self, view: View, given: Mapping[str, Sequence[Hashable]], now: int
    ) -> tuple[np.ndarray, np.ndarray]:
        keys = [self._key(view, key) for key in zip(*(given[name] for name in view.keys), strict=True)]
        values = np.full((len(keys), len(view.columns)), np.nan)
        age = np.full(len(keys), np.nan)
        held = self._online.read_packed(self._config, self._tables[view.name], keys) if keys else {}
        lifetime = view.lifetime // _MICROSECOND
        known = {
            key: (_in_order(view, names, packed), (now - event) / 1e6)
            for key, (names, packed, event) in held.items()
            if now - event <= lifetime
        }
        for position, key in enumerate(keys):
            if key in known:
                values[position], age[position] = known[key]
        return values, age

    def _key(self, view: View, key: tuple[Hashable, ...]) -> bytes:
        spelled = self._keys.get((view.name, key))
        if spelled is None:
            spelled = serialize_key(view, key, self._config.entity_key_serialization_version)
            if len(self._keys) >= _KEY_BATCH:
                self._keys.clear()
            self._keys[view.name, key] = spelled
        return spelled


def _in_order(view: View, names: list[str], packed: bytes) -> np.ndarray:
    """The stored values in the order of the view; NaN for a feature that the stored row lacks."""
    values = np.frombuffer(packed, dtype="<f8")
    if names == view.columns:
        return values
    by_name = dict(zip(names, values, strict=True))
    return np.array([by_name.get(name, np.nan) for name in view.columns])
