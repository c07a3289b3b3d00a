"""How flight_delay is trained: LightGBM on the service's matrix; and the simple rule that it must beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from feature_repo.flights.transforms import LOCAL

if TYPE_CHECKING:
    from lightgbm import Booster

_PSEUDO_FLIGHTS = 50.0


def fit(
    matrix: pd.DataFrame,
    labels: pd.Series,
    *,
    parameters: Mapping[str, Any],
    rounds: int,
    seed: int,
    categorical: Sequence[str],
    network: Mapping[str, Any] | None = None,
) -> Booster:
    """Train `rounds` trees on `matrix` (float64) and `labels` (0 or 1).

    The same input gives the same bytes. `network` holds LightGBM's network parameters when several workers train one
    model, each on its share of the rows.
    """
    import lightgbm

    settings = {
        "objective": "binary",
        "verbose": -1,
        **parameters,
        **(network or {}),
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
    }
    if network:
        settings.setdefault("tree_learner", "data")
    data = lightgbm.Dataset(
        matrix, label=labels.to_numpy(dtype=np.float64), categorical_feature=list(categorical), free_raw_data=True
    )
    booster: Booster = lightgbm.train(settings, data, num_boost_round=rounds)
    return booster


def baseline(train: pd.DataFrame, rows: pd.DataFrame) -> np.ndarray:
    """Scores of `rows` by the simplest rule that is no nonsense: the late share of the carrier in the hour of the day.

    `train` holds request fields and `label`; shares of few flights are shrunk towards the share of all.
    """
    groups = pd.DataFrame({"carrier": train["carrier"], "hour": _hour(train), "label": train["label"]})
    overall = float(groups["label"].mean())
    table = groups.groupby(["carrier", "hour"])["label"].agg(["sum", "count"])
    share = (table["sum"] + overall * _PSEUDO_FLIGHTS) / (table["count"] + _PSEUDO_FLIGHTS)
    wanted = pd.MultiIndex.from_arrays([rows["carrier"], _hour(rows)])
    return share.reindex(wanted).fillna(overall).to_numpy()


def _hour(rows: pd.DataFrame) -> pd.Series:
    return pd.Series(rows["scheduled_departure"].dt.tz_convert(LOCAL).dt.hour)
