"""Validate: a snapshot that breaks the contract or the model's own checks stops the run, with the columns named.

Drift never stops a run, since drift is what a retraining is for: it is written to the report as a warning.
"""

from __future__ import annotations

import importlib
from typing import Any

import pandas as pd

from pipelines.split import split_of
from pipelines.task import BadSnapshot, Task, Values
from slipway.contract import Contract
from slipway.errors import Problem


def facts(task: Task) -> Values:
    return {
        "model": task.contract.model,
        "as_of": task.run.as_of.isoformat(),
        "request": [field.model_dump(mode="json") for field in task.contract.request],
        "entity": task.contract.entity.model_dump(mode="json"),
        "gate": task.contract.gate.model_dump(mode="json"),
        "label": task.contract.label.model_dump(mode="json"),
        "window": task.contract.training.window,
    }


def perform(task: Task) -> Values:
    contract, as_of = task.contract, task.run.as_of
    rows = pd.read_parquet(task.inputs["rows"])
    dataset = importlib.import_module(f"pipelines.{contract.model}.dataset")
    problems = dataset.check(rows, as_of=as_of)
    named = {problem.where for problem in problems}
    problems += [problem for problem in check_request(contract, rows) if problem.where not in named]
    if problems:
        raise BadSnapshot(problems)
    split = split_of(contract, as_of)
    training, judged = rows[split.training(contract, rows)], rows[split.judged(contract, rows)]
    warnings = dataset.warnings(judged, training)
    report: Values = {
        "rows": len(rows),
        "training_rows": len(training),
        "judged_rows": len(judged),
        "warnings": [str(problem) for problem in warnings],
        "slices": describe_slices(contract, judged),
    }
    task.write_json("report", report)
    return {"rows": len(rows), "warnings": report["warnings"]}


def check_request(contract: Contract, rows: pd.DataFrame) -> list[Problem]:
    """What the contract says of request fields: that they are there, that nothing is missing, and their range."""
    problems = []
    for field in contract.request:
        if field.name not in rows.columns:
            problems.append(Problem(field.name, "is missing from the snapshot", "the contract names it under request"))
            continue
        values = rows[field.name]
        missing = int(values.isna().sum())
        if missing and field.missing == "reject":
            problems.append(Problem(field.name, f"{missing} rows without a value", "request says missing: reject"))
        if field.range is not None:
            low, high = field.range
            outside = values[(values < low) | (values > high)]
            if len(outside):
                said = f"{len(outside)} rows outside {low:g} ... {high:g}, such as {outside.iloc[0]:g}"
                problems.append(Problem(field.name, said, "look at the source, or at a changed unit"))
    return problems


def describe_slices(contract: Contract, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows and share of positives of every value of the contract's slices in the judged window."""
    table = []
    for column in contract.gate.slices:
        if column in rows.columns:
            for value, part in rows.groupby(column, sort=True):
                share = part["label"].mean()
                positives = None if pd.isna(share) else round(float(share), 4)
                table.append({"slice": column, "value": str(value), "rows": len(part), "positives": positives})
    return table
