"""Snapshot: the model's entities joined with their features as of the run's moment, kept by the hash of the content."""

from __future__ import annotations

import hashlib
import importlib

from feature_repo import history
from feature_repo.definitions import OFFLINE
from feature_repo.transforms import find_transforms
from pipelines.split import split_of
from pipelines.task import Task, Values
from pipelines.variations import apply_variations
from slipway.object_path import AnyPath, walk_files
from slipway.snapshots import keep_snapshot, write_rows


def facts(task: Task) -> Values:
    contract = task.contract
    state = task.environment.state
    return {
        "model": contract.model,
        "as_of": task.run.as_of.isoformat(),
        "entity": contract.entity.model_dump(mode="json"),
        "features": find_transforms(contract.features.service).hash,
        "label": contract.label.model_dump(mode="json"),
        "window": contract.training.window,
        "judged": contract.gate.model_dump(mode="json")["window"],
        "corrupt": task.run.options.get("corrupt"),
        "shuffled_by": contract.training.seed if task.run.options.get("shuffle_labels") else None,
        "published": [_listing_of(state.events), _listing_of(state.history / OFFLINE)],
    }


def perform(task: Task) -> Values:
    contract, as_of = task.contract, task.run.as_of
    split = split_of(contract, as_of)
    dataset = importlib.import_module(f"pipelines.{contract.model}.dataset")
    entities = dataset.entities(task.environment, start=split.start, end=split.judge_end, as_of=as_of)
    rows = history.join(task.environment, contract.features.service, entities)
    # Joins may give rows back in any order; the content's hash must not depend on it.
    order = ["event_timestamp", contract.entity.event_time, *contract.entity.keys]
    rows = rows.sort_values(order, kind="stable").reset_index(drop=True)
    rows = apply_variations(rows, split.training(contract, rows), task.run.options, contract.training.seed)
    write_rows(rows, task.outputs["rows"])
    return {"snapshot_id": keep_snapshot(task.environment, task.outputs["rows"]), "rows": len(rows)}


def _listing_of(folder: AnyPath) -> str:
    """sha256 over names, sizes and times of the files below a folder: it changes when anything is published."""
    digest = hashlib.sha256()
    for name, size, changed in sorted(walk_files(folder)):
        digest.update(f"{name}\0{size}\0{changed}\n".encode())
    return digest.hexdigest()
