"""Evaluate: score the new version, the champion and a simple baseline on the same untouched later rows.

Every version scores through its own transforms, on features joined by its own service. Nothing is judged here.
"""

from __future__ import annotations

import importlib
import statistics
import time

import pandas as pd

from feature_repo import history
from feature_repo.transforms import find_transforms
from pipelines.scoring import Scorer, open_model, open_version
from pipelines.split import split_of
from pipelines.task import Task, Values
from slipway.contract import Contract

LATENCY_ROUNDS = 101


def facts(task: Task) -> Values | None:
    contract = task.contract
    champion = task.run.champion
    return {
        "as_of": task.run.as_of.isoformat(),
        "features": find_transforms(contract.features.service).hash,
        "window": contract.gate.model_dump(mode="json")["window"],
        "slices": contract.gate.slices,
        "training": contract.training.window,
        "delay": contract.label.model_dump(mode="json")["longest_delay"],
        "champion": open_version(task.environment, contract.model, champion)[1].content_digest if champion else None,
    }


def perform(task: Task) -> Values:
    contract = task.contract
    rows = pd.read_parquet(task.inputs["rows"])
    split = split_of(contract, task.run.as_of)
    judged = rows[split.judged(contract, rows)].reset_index(drop=True)
    labelled = judged[judged["label"].notna()].reset_index(drop=True)
    challenger = open_model(task.inputs["model"], contract.features.service)
    scores = labelled[[*dict.fromkeys([*contract.gate.slices, contract.entity.event_time]), "label"]].copy()
    scores["day"] = labelled[contract.entity.event_time].dt.strftime("%Y-%m-%d")
    scores["hour"] = labelled[contract.entity.event_time].dt.hour
    scores["challenger"] = challenger.score(labelled)
    scores["baseline"] = importlib.import_module(f"pipelines.{contract.model}.training").baseline(
        rows[split.training(contract, rows)], labelled
    )
    latency = None
    if task.run.champion:
        champion, _ = open_version(task.environment, contract.model, task.run.champion)
        seen = _rows_of(task, contract, champion, labelled)
        scores["champion"] = champion.score(seen)
        latency = measure_latency_ratio(champion, seen, challenger, labelled)
    scores.to_parquet(task.outputs["scores"], index=False)
    evaluation: Values = {"judged": len(judged), "labelled": len(labelled), "latency_ratio": latency}
    task.write_json("evaluation", evaluation)
    return evaluation


def _rows_of(task: Task, contract: Contract, champion: Scorer, rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows with the features of the champion's service."""
    service = champion.transforms.service
    if service == contract.features.service:
        return rows
    own = [name for name in rows.columns if "__" not in str(name)]
    return history.join(task.environment, service, rows[own])


def measure_latency_ratio(
    champion: Scorer, champion_rows: pd.DataFrame, challenger: Scorer, rows: pd.DataFrame
) -> float | None:
    """Median time of the challenger to score one row, over the champion's; the two take turns. None without rows."""
    if rows.empty:
        return None
    seconds: dict[str, list[float]] = {"champion": [], "challenger": []}
    for turn in range(LATENCY_ROUNDS):
        place = turn % len(rows)
        pairs = [("champion", champion, champion_rows), ("challenger", challenger, rows)]
        for name, scorer, table in pairs if turn % 2 else reversed(pairs):
            begun = time.perf_counter()
            scorer.score(table.iloc[[place]])
            seconds[name].append(time.perf_counter() - begun)
    return statistics.median(seconds["challenger"]) / statistics.median(seconds["champion"])
