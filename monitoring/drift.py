"""Input and prediction drift: how far a window's columns lie from the champion's training rows.

A column has drifted when its distance (Evidently: Wasserstein in units of the training standard deviation, PSI or
Jensen-Shannon) exceeds the contract's `warn_above` and a two-sample test says that chance alone does not make it, by
Holm's correction over all columns and a year of weekly windows. The distance says how much; the test only keeps small
windows of many columns from crying wolf (rows of one day are alike, so its p-values are too small, never too large).

Drift warns: weather and season always drift, and a model may stand that well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from monitoring.finding import Finding, inconclusive
from monitoring.reports import load_evidently, measure, quiet

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from slipway.contract import Contract

PREDICTION = "prediction"
LEVEL = 0.05 / 52
"""Chance of one false warning in a window: 5 % in a year of weekly ones."""
DRAWN = 10
"""Columns that the report shows: the prediction and those that moved most. The ledger keeps the numbers of all."""
LEAST_VALUES = 30
"""Values that a column needs, on both sides, to be compared."""


def compare(current: pd.DataFrame, reference: pd.DataFrame | None, contract: Contract) -> Finding:
    """Compare rows of the inference log with the training sample, over the columns that both have."""
    rule = contract.monitors.drift
    if reference is None or not len(reference):
        return inconclusive("the version has no sample of its training rows", rows=len(current))
    if len(current) < rule.min_rows:
        return inconclusive(f"{len(current)} rows, fewer than {rule.min_rows}", rows=len(current))
    numerical, categorical, left_out = choose_columns(current, reference, contract)
    if not numerical and not categorical:
        return inconclusive("log and training sample share no column", rows=len(current), not_compared=left_out)
    # Wasserstein needs an order, which categories have not.
    of_categories = "jensenshannon" if rule.statistic == "wasserstein" else rule.statistic
    methods = {**dict.fromkeys(numerical, rule.statistic), **dict.fromkeys(categorical, of_categories)}
    distances = _measure_distances(current, reference, methods, rule.warn_above)
    farthest = sorted(distances, key=lambda name: (name != PREDICTION, -distances[name]))[:DRAWN]
    run = _draw(current, reference, {name: methods[name] for name in farthest}, rule.warn_above)
    surprising = _reject_by_holm(
        {name: _p_value(current[name], reference[name], name in categorical) for name in distances}
    )
    columns = {
        name: {"distance": distance, "drifted": distance > rule.warn_above and name in surprising}
        for name, distance in sorted(distances.items(), key=lambda item: -item[1])
    }
    prediction = columns.pop(PREDICTION, None)
    drifted = [name for name, column in columns.items() if column["drifted"]]
    share = len(drifted) / len(columns) if columns else 0.0
    numbers = {
        "rows": len(current),
        "reference_rows": len(reference),
        "statistic": rule.statistic,
        "warn_above": rule.warn_above,
        "prediction": prediction,
        "drifted": drifted,
        "share": share,
        "columns": columns,
        "not_compared": left_out,
    }
    moved = (["the prediction"] if prediction and prediction["drifted"] else []) + drifted
    if moved:
        shown = ", ".join(moved[:4]) + (f" and {len(moved) - 4} more" if len(moved) > 4 else "")
        reason = f"{len(drifted)} of {len(columns)} inputs moved by more than {rule.warn_above:g}: {shown}"
        return Finding("warn", reason, share, numbers, run)
    return Finding("good", f"none of {len(columns)} inputs moved by more than {rule.warn_above:g}", share, numbers, run)


def choose_columns(
    current: pd.DataFrame, reference: pd.DataFrame, contract: Contract
) -> tuple[list[str], list[str], list[str]]:
    """Numerical and categorical columns to compare, and those of the training sample that cannot be.

    Moments grow by themselves and are left out, and so are whole numbers that only name the entity.
    """
    import pandas as pd

    kinds = {f"in_{field.name}": field.type for field in contract.request}
    names = {f"in_{key}" for key in contract.entity.keys if kinds[f"in_{key}"] in ("int", "timestamp")}
    names |= {name for name, kind in kinds.items() if kind == "timestamp"}
    numerical: list[str] = []
    categorical: list[str] = []
    left_out: list[str] = []
    for name in reference.columns:
        if name in names or not (name == PREDICTION or name.startswith(("in_", "ft_"))):
            continue
        enough = name in current and min(current[name].count(), reference[name].count()) >= LEAST_VALUES
        numeric = pd.api.types.is_numeric_dtype(reference[name])
        if not enough or (numeric and not pd.api.types.is_numeric_dtype(current[name])):
            left_out.append(str(name))
        else:
            (numerical if numeric else categorical).append(str(name))
    return numerical, categorical, left_out


def _measure_distances(
    current: pd.DataFrame, reference: pd.DataFrame, methods: Mapping[str, str], threshold: float
) -> dict[str, float]:
    """Each column's distance by Evidently's own statistic of that name."""
    load_evidently()
    import numpy as np
    from evidently import ColumnType
    from evidently.legacy.calculations.stattests.registry import get_registered_stattest
    from pandas.api.types import is_numeric_dtype

    distances = {}
    with quiet():
        for name, method in methods.items():
            kind = ColumnType.Numerical if is_numeric_dtype(reference[name]) else ColumnType.Categorical
            then, now = (side[name].replace([-np.inf, np.inf], np.nan).dropna() for side in (reference, current))
            found = get_registered_stattest(method, kind)(then, now, kind, threshold)
            distances[name] = float(found.drift_score)
    return distances


def _draw(current: pd.DataFrame, reference: pd.DataFrame, methods: Mapping[str, str], threshold: float) -> Any:
    """Evidently's report of these columns; drawing one takes twenty times as long as measuring it."""
    load_evidently()
    from evidently.metrics import ValueDrift
    from pandas.api.types import is_numeric_dtype

    numerical = [name for name in methods if is_numeric_dtype(reference[name])]
    categorical = [name for name in methods if name not in numerical]
    metrics = [ValueDrift(column=name, method=method, threshold=threshold) for name, method in methods.items()]
    with quiet():
        return measure(metrics, current, reference, numerical=numerical, categorical=categorical)[0]


def _p_value(current: pd.Series, reference: pd.Series, is_categorical: bool) -> float:
    """Kolmogorov-Smirnov for numbers, chi-square for categories."""
    import numpy as np
    from scipy import stats

    now, then = current.dropna(), reference.dropna()
    if not is_categorical:
        first, second = now.to_numpy(np.float64), then.to_numpy(np.float64)
        return float(stats.ks_2samp(first, second, method="asymp").pvalue)
    values = sorted({*now.unique(), *then.unique()}, key=str)
    counts: NDArray[np.int64] = np.array([side.value_counts().reindex(values, fill_value=0) for side in (now, then)])
    return 1.0 if len(values) < 2 else float(stats.chi2_contingency(counts).pvalue)


def _reject_by_holm(p_values: dict[str, float]) -> set[str]:
    """The columns whose difference is no chance, at LEVEL for all together. Source: Holm (1979)."""
    rejected: set[str] = set()
    for place, (name, p_value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if p_value > LEVEL / (len(p_values) - place):
            break
        rejected.add(name)
    return rejected
