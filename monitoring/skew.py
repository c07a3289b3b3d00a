"""Training-serving skew: the features that were online against the offline join for the very same rows.

Both come from one publication and one transform, so they are equal to the last bit or something is wrong: a late
publication that only the offline store took, a stale online row, a join that looks into the future.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from monitoring.finding import Finding, inconclusive

if TYPE_CHECKING:
    import pandas as pd

    from slipway.contract import Contract
    from slipway.environment import Environment

SAMPLE = 1000
"""Rows of a window that are joined again; drawn by id, so that the same window gives the same rows."""
LEAST_ROWS = 50
LEAST_EQUAL = 0.99
"""Share of rows that must be equal in every feature; what is published late for a past moment makes a few differ."""


def examine_skew(environment: Environment, rows: pd.DataFrame, contract: Contract, *, store: Any = None) -> Finding:
    """Join a sample of log rows offline, as of each row's event time, and compare. `store`: Feast's, already open."""
    if len(rows) < LEAST_ROWS:
        return inconclusive(f"{len(rows)} rows, fewer than {LEAST_ROWS}", rows=len(rows))
    sample = rows.sort_values("id").drop_duplicates("id")
    sample = sample.iloc[:: max(1, len(sample) // SAMPLE)].head(SAMPLE).reset_index(drop=True)
    from feature_repo.history import join

    entities = sample[[f"in_{field.name}" for field in contract.request]].rename(columns=lambda name: name[3:])
    entities["event_timestamp"] = sample["event_time"]
    joined = join(environment, contract.features.service, entities, store=store)
    return compare(sample, joined, contract.features.service)


def compare(logged: pd.DataFrame, joined: pd.DataFrame, service: str) -> Finding:
    """Compare row by row: `ft_<view>__<feature>` of the log with `<view>__<feature>` of the join, in the same order."""
    numbers = _count_unequal(logged, joined, service)
    equal = numbers["equal"]
    if equal is None:
        return inconclusive("the log holds none of the service's features", rows=len(logged))
    run = _draw(equal)
    if equal < LEAST_EQUAL:
        worst = max(numbers["columns"], key=lambda name: numbers["columns"][name])
        reason = f"{1 - equal:.1%} of {len(logged)} rows differ from the offline join, most in {worst}"
        return Finding("warn", reason, equal, numbers, run)
    return Finding("good", f"{equal:.1%} of {len(logged)} rows are equal offline in every feature", equal, numbers, run)


def _count_unequal(logged: pd.DataFrame, joined: pd.DataFrame, service: str) -> dict[str, Any]:
    """Shares of rows that are equal, and that differ by column; `equal` is None when no feature was logged.

    A value that is missing stands for its documented default on both sides. Where a view fell back (`age_<view>` is
    missing) although the join finds a value, the row counts as a fallback, not as skew: the store was out of reach.
    """
    import numpy as np

    from feature_repo.transforms import find_transforms

    transforms = find_transforms(service)
    unequal_rows = np.zeros(len(logged), dtype=bool)
    fallback_rows = np.zeros(len(logged), dtype=bool)
    columns: dict[str, float] = {}
    for view, features in transforms.views.items():
        fell_back = logged[f"age_{view}"].isna().to_numpy() if f"age_{view}" in logged else np.zeros(len(logged), bool)
        for name in (f"{view}__{feature}" for feature in features):
            if f"ft_{name}" not in logged:
                continue
            default = transforms.defaults[name]
            online = logged[f"ft_{name}"].to_numpy(np.float64)
            offline = joined[name].to_numpy(np.float64, na_value=np.nan)
            out_of_reach = fell_back & ~np.isnan(offline)
            different = np.where(np.isnan(online), default, online) != np.where(np.isnan(offline), default, offline)
            unequal = different & ~out_of_reach
            fallback_rows |= out_of_reach
            unequal_rows |= unequal
            columns[name] = float(unequal.mean())
    return {
        "rows": len(logged),
        "equal": float(1 - unequal_rows.mean()) if columns else None,
        "unequal_rows": int(unequal_rows.sum()),
        "fallback_rows": int(fallback_rows.sum()),
        "columns": {name: share for name, share in columns.items() if share > 0},
        "examples": logged.loc[unequal_rows, "id"].head(3).tolist(),
    }


def _draw(equal: float) -> Any:
    """Evidently's picture of one number, so that its page can draw it over time."""
    import pandas as pd

    from monitoring.reports import load_evidently, measure

    load_evidently()
    from evidently.metrics import MeanValue

    return measure([MeanValue(column="equal")], pd.DataFrame({"equal": [equal]}), None, numerical=["equal"])[0]
