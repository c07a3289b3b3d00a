"""Looks for features that know what is not known yet.

One check changes everything that was published after a moment and computes the features of that moment again: those
that differ have looked ahead. The other looks for features that alone tell late flights from others better than any
single honest thing does an hour ahead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from feature_repo.definitions import EVENT_TIME, find_service
from feature_repo.flights.publications import compute
from feature_repo.flights.views import TICK
from feature_repo.view import View
from pipelines.flight_delay.events import ASKED_AHEAD, PUBLISHED_AHEAD
from pipelines.flight_delay.source import CANCELLED_AFTER
from slipway.statistics import auc

SEPARATES = 0.8
"""AUC of a single feature above which it is suspected; the strongest honest one here has 0.67."""
_JUDGED_ROWS = 20_000
_LATER = timedelta(hours=12)


def find_leaks(
    service: str, flights: pd.DataFrame, weather: pd.DataFrame, moments: Sequence[datetime], *, seed: int = 0
) -> list[str]:
    """Names (`view__feature`) that differ at any of `moments` when only what was published after it is changed.

    `flights` and `weather` as `source` reads them; `moments` are UTC.
    """
    rng = np.random.default_rng(seed)
    changed: dict[str, None] = {}
    for moment in moments:
        asked = flights["scheduled_departure"] - ASKED_AHEAD
        rows = flights[(asked >= moment) & (asked < moment + TICK)].assign(**{EVENT_TIME: pd.Timestamp(moment)})
        before = features_at(service, rows, flights, weather)
        other = change_after(moment, flights, weather, rng)
        after = features_at(service, rows, *other)
        for name in before.columns:
            left, right = before[name].to_numpy(), after[name].to_numpy()
            if not np.array_equal(left, right, equal_nan=True):
                changed[name] = None
    return list(changed)


def features_at(service: str, rows: pd.DataFrame, flights: pd.DataFrame, weather: pd.DataFrame) -> pd.DataFrame:
    """Features of `rows` at their `event_timestamp`, as the offline join would find them after some hours more."""
    start, end = rows[EVENT_TIME].min(), rows[EVENT_TIME].max() + _LATER
    views = find_service(service)
    frames = {view.name: compute(view, flights, weather, start - view.lifetime, end) for view in views}
    return join_frames(views, rows, frames)


def join_frames(views: Sequence[View], rows: pd.DataFrame, frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The point-in-time join of published rows that are still in memory: `view__feature` columns, index of `rows`."""
    joined = rows.assign(**{EVENT_TIME: rows[EVENT_TIME].astype("datetime64[us, UTC]")}).sort_values(EVENT_TIME)
    index = joined.index
    for view in views:
        frame = frames[view.name].rename(columns=view.qualified).drop(columns="published")
        keys = list(view.keys)
        joined = pd.merge_asof(
            joined, frame.sort_values(EVENT_TIME, kind="stable"), on=EVENT_TIME, by=keys, tolerance=view.lifetime
        )
    names = [name for view in views for name in view.qualified.values()]
    return joined[names].astype("float64").set_axis(index).reindex(rows.index)


def change_after(
    moment: datetime, flights: pd.DataFrame, weather: pd.DataFrame, rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The same world until `moment` and another one after it: other delays, cancellations, landings and weather.

    What is known at `moment` stays: a flight that had not left by then has not left by then here either.
    """
    cut = pd.Timestamp(moment)
    known = flights["scheduled_departure"] - PUBLISHED_AHEAD <= cut
    world = flights[known].copy()
    size = len(world)
    cancelled = world["outcome"] == "cancelled"
    # Departures that nobody knew of at the moment.
    open_departure = np.where(cancelled, world["known_at"] > cut, world["departed"] > cut)
    earliest = (cut - world["scheduled_departure"]).dt.total_seconds().to_numpy() // 60 + 1
    delay = np.maximum(rng.integers(-20, 400, size), earliest).astype("float64")
    world.loc[open_departure, "departure_delay"] = delay[open_departure]
    # An outcome that was open may be any other one, as long as it is still open at the moment.
    open_outcome = np.where(cancelled, open_departure, world["known_at"] > cut)
    may_cancel = open_departure & (world["scheduled_departure"] + CANCELLED_AFTER > cut).to_numpy()
    now_cancelled = may_cancel & (rng.random(size) < 0.3)
    world.loc[open_outcome, "outcome"] = "arrived"
    departed = world["scheduled_departure"] + pd.to_timedelta(world["departure_delay"], unit="min")
    world["departed"] = departed.astype("datetime64[us, UTC]")
    flown = world["departed"] + pd.to_timedelta(world["scheduled_minutes"] + rng.integers(-30, 60, size), unit="min")
    landing = flown.where(flown > cut, cut + timedelta(minutes=1)).astype("datetime64[us, UTC]")
    scheduled_arrival = world["scheduled_departure"] + pd.to_timedelta(world["scheduled_minutes"], unit="min")
    world.loc[open_outcome, "known_at"] = landing[open_outcome]
    arrival_delay = (landing - scheduled_arrival).dt.total_seconds() // 60
    world.loc[open_outcome, "arrival_delay"] = arrival_delay[open_outcome]
    world.loc[now_cancelled, "outcome"] = "cancelled"
    world.loc[now_cancelled, ["departure_delay", "arrival_delay"]] = np.nan
    world.loc[now_cancelled, "departed"] = pd.NaT
    world.loc[now_cancelled, "known_at"] = (world["scheduled_departure"] + CANCELLED_AFTER)[now_cancelled]
    late = (world["arrival_delay"] > 15) | world["arrival_delay"].isna()
    world.loc[open_outcome, "late"] = late[open_outcome].astype("int64")

    later = (weather["published"] > cut).to_numpy()
    other = weather.copy()
    readings = [name for name in weather.columns if name not in ("origin", "published")]
    other.loc[later, readings] = other.loc[later, readings] * rng.uniform(0.2, 3.0, (int(later.sum()), len(readings)))
    return world, other


def find_separating(rows: pd.DataFrame, *, limit: float = SEPARATES, seed: int = 0) -> dict[str, float]:
    """Features (`view__feature` columns) of `rows` whose AUC for `label` alone is above `limit`, either way round."""
    labelled = rows[rows["label"].notna()]
    if len(labelled) > _JUDGED_ROWS:
        labelled = labelled.sample(_JUDGED_ROWS, random_state=seed)
    labels = labelled["label"].to_numpy()
    found = {}
    for name in labelled.columns:
        if "__" not in str(name):
            continue
        values = labelled[name].to_numpy(dtype=np.float64, na_value=np.nan)
        known = ~np.isnan(values)
        value = auc(labels[known], values[known])
        if value is not None and max(value, 1 - value) > limit:
            found[str(name)] = max(value, 1 - value)
    return found
