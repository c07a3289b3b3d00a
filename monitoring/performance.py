"""Performance on predictions whose labels are all due: is the champion still as good as the gate found it?

The rule. Let w be the metric of the window and g that of the champion's gate window, each with its 95 % interval by day
bootstrap. The window is

- **bad** when w lies below g by more than the contract's `drop`, and the interval of w - g lies wholly below zero;
- **good** when w does not lie below g by more than `drop`;
- **inconclusive** otherwise (a drop that chance alone could make), and whenever there are too few labels, one class,
  or so many missing labels that those present say little.

So `drop` says how large a decay matters, and the interval that it is one. Asking for the whole interval to lie below
`g - drop` would be stricter, but a week of flights has an interval of about +-0.02: a true decay of 0.05 would be
called good half of the time. The interval of the difference takes both samples as uncertain (MOVER: Zou and Donner,
"Construction of confidence intervals about effect measures", 2008).

A prediction whose label is missing after the contract's delay is counted and shown; it is never taken as correct.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from monitoring.finding import Finding, inconclusive
from slipway.statistics import Interval, auc, auc_interval, calibration_error

if TYPE_CHECKING:
    import pandas as pd

    from slipway.contract import Contract

MOST_MISSING = 0.1
"""Share of missing labels above which those that came are no fair sample: what is late is what is missing."""
LEAST_SLICE = 200
"""Labels below which a slice's metric is not shown."""


def gate_interval(gate: dict[str, Any]) -> Interval | None:
    """The champion's metric in its gate window, from the gate record; None when the record has none."""
    value = gate.get("value")
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    bounds = gate.get("interval")
    if isinstance(bounds, dict):
        bounds = [bounds.get("low"), bounds.get("high")]
    if not bounds or any(not isinstance(bound, int | float) for bound in bounds):
        return Interval(float(value), float(value), float(value))
    return Interval(float(bounds[0]), float(value), float(bounds[1]))


def judge(rows: pd.DataFrame, version: int, gate: dict[str, Any], contract: Contract) -> Finding:
    """Judge the champion on its own rows of one window.

    `rows` are judged rows of all versions (`slipway.cohorts.judged_rows`): version, delivered, event_time,
    subject_time, prediction, label (NaN: missing), and `in_<slice>` for each slice of the contract's gate.
    """
    rule = contract.monitors.performance
    own = rows[rows["version"] == version]
    labelled = own[own["label"].notna()]
    numbers: dict[str, Any] = {
        "rows": len(own),
        "labels": len(labelled),
        "missing_labels": len(own) - len(labelled),
        "positives": int(labelled["label"].sum()),
        "drop": rule.drop,
        "delivered": _describe_delivered(rows),
    }
    expected = gate_interval(gate)
    if expected is not None:
        numbers["gate"] = {"value": expected.estimate, "low": expected.low, "high": expected.high}
    if not len(own):
        return inconclusive(f"version {version} has no judged rows in this window", **numbers)
    if len(labelled) < rule.min_labels:
        return inconclusive(f"{len(labelled)} labels, fewer than {rule.min_labels}", **numbers)
    share = numbers["missing_labels"] / len(own)
    if share > MOST_MISSING:
        return inconclusive(f"{share:.0%} of the labels are missing, more than {MOST_MISSING:.0%}", **numbers)
    found = auc_interval(labelled["label"], labelled["prediction"], _days(labelled))
    if found is None:
        return inconclusive("the labels hold one class, or one day", **numbers)
    numbers |= {
        "auc": found.estimate,
        "low": found.low,
        "high": found.high,
        "calibration_error": calibration_error(labelled["label"], labelled["prediction"]),
        "prevalence": float(labelled["label"].mean()),
        "mean_prediction": float(labelled["prediction"].mean()),
        "slices": _describe_slices(labelled, contract),
    }
    if expected is None:
        return Finding(
            "inconclusive", "the champion's gate record names no value to compare with", found.estimate, numbers
        )
    difference = found.estimate - expected.estimate
    highest = difference + math.hypot(found.high - found.estimate, expected.estimate - expected.low)
    numbers |= {"difference": difference, "difference_high": highest}
    compared = (
        f"{rule.metric} {found.estimate:.3f} ({found.low:.3f} to {found.high:.3f}) against {expected.estimate:.3f}"
    )
    if difference >= -rule.drop:
        return Finding("good", f"{compared} at the gate: not lower by more than {rule.drop:g}", found.estimate, numbers)
    if highest >= 0:
        reason = f"{compared} at the gate: lower by more than {rule.drop:g}, but chance alone could do that"
        return Finding("inconclusive", reason, found.estimate, numbers)
    return Finding("bad", f"{compared} at the gate: lower by more than {rule.drop:g}", found.estimate, numbers)


def _days(rows: pd.DataFrame) -> Any:
    """UTC days of the entities' event times: what is drawn together."""
    return rows["subject_time"].dt.floor("D").astype("int64").to_numpy()


def _describe_delivered(rows: pd.DataFrame) -> dict[str, Any]:
    """What clients got, by whichever version: the same when one version answered all of them."""
    delivered = rows[rows["delivered"]]
    labelled = delivered[delivered["label"].notna()]
    by_version = delivered["version"].value_counts().sort_index()
    return {
        "rows": len(delivered),
        "labels": len(labelled),
        "auc": auc(labelled["label"], labelled["prediction"]),
        "by_version": {str(version): int(count) for version, count in by_version.items()},
    }


def _describe_slices(labelled: pd.DataFrame, contract: Contract) -> dict[str, dict[str, Any]]:
    """AUC with its interval by slice; slices that are too small to judge have a count only."""
    slices: dict[str, dict[str, Any]] = {}
    for name in contract.gate.slices:
        column = f"in_{name}"
        if column not in labelled:
            continue
        for value, rows in labelled.groupby(column, observed=True):
            described: dict[str, Any] = {"labels": len(rows), "positives": int(rows["label"].sum())}
            if len(rows) >= LEAST_SLICE:
                found = auc_interval(rows["label"], rows["prediction"], _days(rows))
                if found is not None:
                    described |= {"auc": found.estimate, "low": found.low, "high": found.high}
            slices[f"{name}={value}"] = described
    return slices
