"""Gate: may this version be a challenger? Judged on the scores alone; the record holds every number and limit.

A number that could not be measured fails its check. Whether a challenger then goes online is the controller's decision.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from pipelines.split import Split, split_of
from pipelines.task import Task, Values
from slipway import statistics
from slipway.contract import Contract
from slipway.ledger import open_ledger, versions
from slipway.snapshots import digest_of
from slipway.statistics import Interval

LEVEL = 0.95
SLICE_ROWS, SLICE_CLASS_ROWS = 300, 30
"""A slice is judged when it has so many rows, and so many of each class."""
DRAWS = 1000


@dataclass(frozen=True)
class Check:
    """One rule: what was measured, the limit it was held against, and why it passed or not."""

    name: str
    value: float | None
    limit: float
    passed: bool
    because: str


def facts(task: Task) -> None:
    """Never from the cache: how many versions were judged on the same window is read from the ledger."""


def perform(task: Task) -> Values:
    contract = task.contract
    split = split_of(contract, task.run.as_of)
    evaluation, training = task.read_json("evaluation"), task.read_json("training")
    record = judge(
        contract,
        pd.read_parquet(task.inputs["scores"]),
        champion=task.run.champion,
        latency_ratio=evaluation["latency_ratio"],
        size=task.inputs["model"].stat().st_size,
        judged_before=_count_judged(task, split),
    )
    record |= {
        "snapshot_id": digest_of(task.inputs["rows"]),
        "as_of": task.run.as_of.isoformat(),
        "run": task.run.key,
        "training": {name: training[name] for name in ("start", "end", "rows")},
    }
    record["window"] |= {
        "start": split.judge_start.isoformat(),
        "end": split.judge_end.isoformat(),
        "missing_labels": evaluation["judged"] - evaluation["labelled"],
    }
    task.write_json("record", record)
    return {"verdict": record["verdict"], "reasons": record["reasons"]}


def judge(
    contract: Contract,
    scores: pd.DataFrame,
    *,
    champion: int | None,
    latency_ratio: float | None,
    size: int,
    judged_before: int,
) -> dict[str, Any]:
    """The gate record. `scores` has a row for each labelled judged row: label, day, hour, challenger, baseline, the
    contract's slices, and champion when there is one.

    A window on which k versions were judged before is used for the k+1st time, so its interval is that much wider
    (Bonferroni): a worthless version must not pass because many were tried.
    """
    level = 1 - (1 - LEVEL) / (judged_before + 1)
    labels, days, new = scores["label"].to_numpy(), scores["day"].to_numpy(), scores["challenger"].to_numpy()
    interval = statistics.auc_interval(labels, new, days, draws=DRAWS) if len(scores) else None
    error = statistics.calibration_error(labels, new) if len(scores) else None
    old = scores["champion"].to_numpy() if champion else None
    rival = old if old is not None else scores["baseline"].to_numpy()
    difference = (
        statistics.paired_auc_difference(labels, rival, new, days, draws=DRAWS, level=level) if len(scores) else None
    )
    slices = _slices(contract, scores, "champion" if champion else None)
    gate = contract.gate
    checks = [_check_size(size, gate.max_bytes)]
    if old is None:
        value = interval.estimate if interval else None
        checks += [_at_least("auc_floor", value, gate.floors.auc), _beats_baseline(difference)]
        checks.append(_at_most("calibration_error", error, gate.floors.calibration_error))
    else:
        before = statistics.calibration_error(labels, old) if len(scores) else None
        checks += [_rule(contract, difference), *_check_slices(contract, slices)]
        # Where the world has moved, the floor may be out of reach for everyone: then not worse than the champion.
        checks.append(_at_most("calibration_error", error, max(gate.floors.calibration_error, before or 0.0)))
        checks.append(_at_most("latency_ratio", latency_ratio, gate.latency_ratio))
    reasons = [f"{check.name}: {check.because}" for check in checks if not check.passed]
    return {
        "verdict": "refused" if reasons else "passed",
        "reasons": reasons,
        "metric": gate.metric,
        "rule": gate.rule if champion else "floors",
        "value": interval.estimate if interval else None,
        "interval": [interval.low, interval.high] if interval else None,
        "calibration_error": error,
        "champion": champion,
        "champion_value": statistics.auc(labels, old) if old is not None else None,
        "baseline_value": statistics.auc(labels, scores["baseline"].to_numpy()),
        "difference": asdict(difference) if difference else None,
        "window": {"rows": len(scores), "days": int(scores["day"].nunique()), "positives": int(labels.sum())},
        "checks": [asdict(check) for check in checks],
        "slices": slices,
        "latency_ratio": latency_ratio,
        "bytes": size,
        "judged_on_this_window": judged_before + 1,
        "level": level,
    }


def _count_judged(task: Task, split: Split) -> int:
    """How many versions of the ledger were judged on a window that overlaps this one, this run's own not counted."""
    start, end = split.judge_start.isoformat(), split.judge_end.isoformat()
    with open_ledger(task.environment).read() as session:
        windows = [
            version.gate.get("window", {})
            for version in versions.list_all(session, task.run.model)
            if version.gate.get("run") != task.run.key
        ]
    return sum(window.get("start", end) < end and window.get("end", start) > start for window in windows)


def _rule(contract: Contract, difference: Interval | None) -> Check:
    """not_worse: the low end of (new - champion) lies above -margin; better: above +margin."""
    gate = contract.gate
    limit = -gate.margin if gate.rule == "not_worse" else gate.margin
    if difference is None:
        return Check(gate.rule, None, limit, False, "not measured: too few labelled days, or one class only")
    said = f"auc differs by {difference.estimate:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
    passed = difference.low > limit
    return Check(gate.rule, difference.low, limit, passed, f"{said}; low end above {limit:+.4f} is asked for")


def _beats_baseline(difference: Interval | None) -> Check:
    if difference is None:
        return Check("better_than_baseline", None, 0.0, False, "not measured: too few labelled days, or one class only")
    said = f"auc above the baseline's by {difference.estimate:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
    return Check(
        "better_than_baseline", difference.low, 0.0, difference.low > 0, f"{said}; low end above 0 is asked for"
    )


def _at_least(name: str, value: float | None, limit: float) -> Check:
    if value is None:
        return Check(name, None, limit, False, "not measured")
    return Check(name, value, limit, value >= limit, f"{value:.4f}, at least {limit:g} is asked for")


def _at_most(name: str, value: float | None, limit: float) -> Check:
    if value is None:
        return Check(name, None, limit, False, "not measured")
    return Check(name, value, limit, value <= limit, f"{value:.4f}, at most {limit:.4g} is allowed")


def _check_size(size: int, limit: int) -> Check:
    return Check("bytes", size, limit, 0 < size <= limit, f"{size} bytes, at most {limit} are allowed")


def _check_slices(contract: Contract, slices: list[dict[str, Any]]) -> list[Check]:
    """A slice of the contract fails when it lost more than slice_drop and its interval says that it lost at all."""
    limit = -contract.gate.slice_drop
    checks = []
    for row in slices:
        difference = row.get("difference")
        if difference and row["slice"] in contract.gate.slices:
            failed = difference["estimate"] < limit and difference["high"] < 0
            said = f"auc differs by {difference['estimate']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]"
            checks.append(
                Check(f"slice.{row['slice']}={row['value']}", difference["estimate"], limit, not failed, said)
            )
    return checks


def _slices(contract: Contract, scores: pd.DataFrame, rival: str | None) -> list[dict[str, Any]]:
    """Rows, share of positives and AUC of every value of the contract's slices and of the hour of day."""
    table = []
    for column in dict.fromkeys([*contract.gate.slices, "hour"]):
        for value, part in scores.groupby(column, sort=True):
            labels, positives = part["label"].to_numpy(), int(part["label"].sum())
            entry: dict[str, Any] = {
                "slice": column,
                "value": str(value),
                "rows": len(part),
                "positives": positives,
                "auc": statistics.auc(labels, part["challenger"].to_numpy()),
            }
            large = len(part) >= SLICE_ROWS and min(positives, len(part) - positives) >= SLICE_CLASS_ROWS
            if rival and large:
                days, old, new = part["day"].to_numpy(), part[rival].to_numpy(), part["challenger"].to_numpy()
                entry["champion_auc"] = statistics.auc(labels, old)
                difference = statistics.paired_auc_difference(labels, old, new, days)
                entry["difference"] = asdict(difference) if difference else None
            table.append(entry)
    return table
