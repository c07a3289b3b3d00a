"""Freshness: how old the features were when they were used, and whether labels still arrive.

A value is stale once it is older than the contract's `warn_after`; one that is published seldom by design (a daily
view) only once it has used up a third of its view's lifetime. A dead feed shows here within a day, weeks before the
performance that it spoils.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from monitoring.finding import Finding, inconclusive

if TYPE_CHECKING:
    import pandas as pd

    from slipway.contract import Contract

WINDOW = timedelta(days=1)
MOST_STALE = 0.25
"""Share of rows in which a view may be stale or absent; above it the feed itself is late."""
MOST_UNLABELLED = 0.5
"""Share of labels that may be missing among those due; above it the feed of labels itself is late."""
LEAST_ROWS = 20


def examine_freshness(rows: pd.DataFrame, due: pd.DataFrame, contract: Contract) -> Finding:
    """`rows` are the window's log rows; `due` judged rows (`label`) of the cohorts that became due in it."""
    if len(rows) < LEAST_ROWS:
        return inconclusive(f"{len(rows)} rows, fewer than {LEAST_ROWS}", rows=len(rows))
    limits = _limits(contract)
    views: dict[str, dict[str, Any]] = {}
    warnings = []
    for view, limit in limits.items():
        if f"age_{view}" not in rows:
            continue
        ages = rows[f"age_{view}"]
        stale = float(((ages > limit) | ages.isna()).mean())
        views[view] = {
            "limit_s": limit,
            "p50_s": _quantile(ages, 0.5),
            "p95_s": _quantile(ages, 0.95),
            "absent": float(ages.isna().mean()),
            "stale": stale,
        }
        if stale > MOST_STALE:
            warnings.append(f"{view} was stale or absent in {stale:.0%} of the rows")
    unlabelled = float(due["label"].isna().mean()) if len(due) >= LEAST_ROWS else None
    if unlabelled is not None and unlabelled > MOST_UNLABELLED:
        warnings.append(f"{unlabelled:.0%} of {len(due)} labels that were due have not come")
    worst = max((view["stale"] for view in views.values()), default=0.0)
    numbers = {"rows": len(rows), "views": views, "due": len(due), "unlabelled": unlabelled, "warnings": warnings}
    if warnings:
        return Finding("warn", "; ".join(warnings[:3]), worst, numbers)
    return Finding("good", f"at most {worst:.0%} of the rows had a stale view", worst, numbers)


def _limits(contract: Contract) -> dict[str, float]:
    """Seconds after which a value of each view is stale."""
    from feature_repo.transforms import find_transforms

    warn_after = contract.monitors.freshness.warn_after
    return {
        view.name: max(warn_after, view.lifetime / 3).total_seconds()
        for view in find_transforms(contract.features.service).members
    }


def _quantile(ages: pd.Series, level: float) -> float | None:
    known = ages.dropna()
    return float(known.quantile(level)) if len(known) else None
