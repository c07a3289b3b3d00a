"""Data quality of the requests and features that the champion saw: what is missing, unheard of or gone.

Warns, by limits that are absolute, so that a slow change cannot move them along with itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from monitoring.drift import choose_columns
from monitoring.finding import Finding, inconclusive
from monitoring.reports import load_evidently, measure, quiet

if TYPE_CHECKING:
    import pandas as pd

    from slipway.contract import Contract

MISSING_RISE = 0.1
"""Rise of a column's missing share over that of the training rows."""
FALLBACKS = 0.01
"""Share of rows in which at least one view fell back to its defaults, above that of missing values in training."""
UNHEARD_OF = 0.05
"""Share of values of a category that stand nowhere in the training sample."""
MOST_GAPS = 0.001
"""Rows that a server numbered and that are not there (lost, or repeated under one id), as a share of those that are."""
VOLUME = 0.5
"""Rows, as a share of the median of the earlier windows of the same length."""


def inspect(
    current: pd.DataFrame, reference: pd.DataFrame | None, contract: Contract, earlier_rows: Sequence[int]
) -> Finding:
    """Inspect one window's log rows; `earlier_rows` counts those of the champion's earlier windows."""
    if not len(current):
        return inconclusive("no rows in this window", rows=0)
    columns = [name for name in current.columns if name.startswith(("in_", "ft_"))]
    run, values = _count(current, reference, contract, columns)
    missing = {name: values["MissingValueCount", name]["share"] for name in columns}
    expected = {name: float(reference[name].isna().mean()) for name in columns if name in reference} if (
        reference is not None
    ) else {}  # fmt: skip
    warnings = []
    for name, share in missing.items():
        rise = share - expected.get(name, 0.0)
        if rise > MISSING_RISE:
            warnings.append(f"{name} is missing in {share:.0%} of the rows ({expected.get(name, 0.0):.0%} in training)")
    fallbacks = float((current["defaults"] > 0).mean()) if "defaults" in current else 0.0
    unavoidable = max((share for name, share in expected.items() if name.startswith("ft_")), default=0.0)
    if fallbacks > FALLBACKS + unavoidable:
        warnings.append(f"{fallbacks:.1%} of the rows were answered with default features")
    unheard = _share_unheard_of(current, reference, contract)
    warnings += [
        f"{share:.0%} of the values of {name} were never heard of in training"
        for name, share in unheard.items()
        if share > UNHEARD_OF
    ]
    gaps = _count_gaps(current)
    if gaps > MOST_GAPS * len(current):
        warnings.append(f"{gaps} rows that a server numbered are not in the log")
    usual = sorted(earlier_rows)[len(earlier_rows) // 2] if earlier_rows else None
    if usual and len(current) < VOLUME * usual:
        warnings.append(f"{len(current)} rows, where {usual} are usual")
    numbers = {
        "rows": len(current),
        "usual_rows": usual,
        "missing": {name: share for name, share in missing.items() if share > 0},
        "missing_in_training": {name: share for name, share in expected.items() if share > 0},
        "fallbacks": fallbacks,
        "unheard_of": unheard,
        "gaps": gaps,
        "warnings": warnings,
    }
    metric = sum(missing.values()) / len(missing) if missing else 0.0
    if warnings:
        return Finding("warn", "; ".join(warnings[:3]), metric, numbers, run)
    return Finding("good", f"{len(current)} rows, {metric:.1%} of all values missing", metric, numbers, run)


def _count(
    current: pd.DataFrame, reference: pd.DataFrame | None, contract: Contract, columns: list[str]
) -> tuple[Any, dict[tuple[str, str | None], Any]]:
    load_evidently()
    import pandas as pd
    from evidently.metrics import DatasetMissingValueCount, MissingValueCount, RowCount

    numerical = [name for name in columns if pd.api.types.is_numeric_dtype(current[name])]
    metrics = [RowCount(), DatasetMissingValueCount(), *(MissingValueCount(column=name) for name in columns)]
    with quiet():
        return measure(
            metrics,
            current,
            None,
            numerical=numerical,
            categorical=[name for name in columns if name not in numerical],
        )


def _count_gaps(current: pd.DataFrame) -> int:
    """Numbers missing between the first and the last row of each start of a server."""
    if "sequence" not in current:
        return 0
    numbers = current.groupby("server")["sequence"].agg(["min", "max", "nunique"])
    return int((numbers["max"] - numbers["min"] + 1 - numbers["nunique"]).sum())


def _share_unheard_of(current: pd.DataFrame, reference: pd.DataFrame | None, contract: Contract) -> dict[str, float]:
    """By categorical column, the share of values that the training sample does not hold."""
    if reference is None:
        return {}
    _, categorical, _ = choose_columns(current, reference, contract)
    shares = {}
    for name in categorical:
        values = current[name].dropna()
        shares[name] = float((~values.isin(reference[name].unique())).mean()) if len(values) else 0.0
    return shares
