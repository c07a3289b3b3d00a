"""The offline join: features as they were known at each row's moment, through Feast's historical retrieval."""

from __future__ import annotations

from typing import Any

import pandas as pd

from feature_repo.definitions import EVENT_TIME, find_service
from feature_repo.store import open_store
from slipway.environment import Environment
from slipway.errors import InvalidInput, Problem


def join(environment: Environment, service: str, entity_rows: pd.DataFrame, *, store: Any = None) -> pd.DataFrame:
    """`entity_rows` with `view__feature` columns added (float64, NaN where nothing was known), same order and index.

    `entity_rows` needs the request fields that are keys of the service's views and `event_timestamp` (the moment of
    prediction, time zone UTC). Values are the newest published at or before that moment and no older than their view's
    lifetime. Raises Unknown for the service and InvalidInput for missing columns.
    """
    views = find_service(service)
    keys = list(dict.fromkeys(key for view in views for key in view.keys))
    absent = [name for name in [*keys, EVENT_TIME] if name not in entity_rows.columns]
    if absent:
        raise InvalidInput([Problem(f"entity_rows.{name}", "is missing", "add the column") for name in absent])
    if not isinstance(entity_rows[EVENT_TIME].dtype, pd.DatetimeTZDtype):
        raise InvalidInput(Problem(f"entity_rows.{EVENT_TIME}", "needs a time zone", "use UTC"))
    names = [name for view in views for name in view.qualified.values()]
    if entity_rows.empty:
        return entity_rows.assign(**{name: pd.Series(dtype="float64") for name in names})
    store = store or open_store(environment)
    asked = entity_rows[[*keys, EVENT_TIME]].reset_index(drop=True)
    asked[EVENT_TIME] = asked[EVENT_TIME].astype("datetime64[us, UTC]")
    answer = store.get_historical_features(
        entity_df=asked, features=store.get_feature_service(service), full_feature_names=True
    ).to_df()
    values: pd.DataFrame = answer[names].astype("float64").set_axis(entity_rows.index)
    return pd.concat([entity_rows, values], axis=1)
