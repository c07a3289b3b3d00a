"""Register: the very bytes that were judged become a signed bundle, and the bundle a version in the registry.

A version that the gate refused is registered all the same, for audit; the ledger will never offer it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from pipelines import provenance
from pipelines.scoring import Scorer, open_model, plain_rows
from pipelines.split import split_of
from pipelines.task import Task, Values
from slipway.bundle import MODEL, Golden, Manifest, TrainingSpan, content_digest, read_gate, write_bundle
from slipway.registry import Registry
from slipway.signing import private_key_of
from slipway.snapshots import digest_of

GOLDEN_ROWS = 20


def facts(task: Task) -> None:
    """Never from the cache: the registry itself answers a repeated key with the same version."""


def perform(task: Task) -> Values:
    contract, run = task.contract, task.run
    rows = pd.read_parquet(task.inputs["rows"])
    split = split_of(contract, run.as_of)
    record, training = task.read_json("record"), task.read_json("training")
    scorer = open_model(task.inputs["model"], contract.features.service)
    metrics = {
        name: float(record[name])
        for name in ("value", "calibration_error", "champion_value", "baseline_value", "latency_ratio")
        if record.get(name) is not None
    }
    golden = make_golden(task, scorer, rows[split.judged(contract, rows)])
    folder = task.outputs["version"].with_name("bundle")

    def build(version: int) -> Path:
        shutil.rmtree(folder, ignore_errors=True)
        manifest = Manifest(
            model=contract.model,
            version=version,
            created_as_of=run.as_of,
            feature_service=contract.features.service,
            transforms_hash=scorer.transforms.hash,
            columns=list(scorer.transforms.columns),
            code_hash=provenance.code_hash(contract.model),
            lock_hash=provenance.lock_hash(),
            snapshot_id=digest_of(task.inputs["rows"]),
            training=TrainingSpan(start=training["start"], end=training["end"], rows=training["rows"]),
            metrics=metrics,
            gate=record,
            golden=golden,
        )
        write_bundle(
            folder, manifest=manifest, files={MODEL: task.inputs["model"]}, private_key=private_key_of(task.environment)
        )
        return folder

    registry = Registry(task.environment)
    _log(task, registry, record, training, metrics)
    version = registry.register(contract.model, run.key, build)
    if not folder.exists():
        # The registry knew this run already: a retry after a lost answer. Its bundle is the one that counts.
        folder.mkdir(parents=True)
        registry.download(contract.model, version, folder)
    # The gate record of the registered bundle, which after a retry is the one of the first attempt.
    gate = read_gate(folder)
    registered = {"version": version, "digest": content_digest(folder), "verdict": gate["verdict"], "gate": gate}
    task.write_json("version", registered)
    return registered


def make_golden(task: Task, scorer: Scorer, judged: pd.DataFrame) -> Golden:
    """Requests spread over the judged window, with the answers of these very bytes to what a client would send."""
    places = np.linspace(0, max(len(judged) - 1, 0), min(GOLDEN_ROWS, len(judged))).astype(int)
    chosen = judged.iloc[places]
    requests, features = plain_rows(task.contract, chosen, list(scorer.transforms.defaults))
    plain = pd.concat([pd.DataFrame(requests), pd.DataFrame(features, dtype="float64")], axis=1)
    answers = scorer.score(plain).tolist() if len(plain) else []
    return Golden(requests=requests, features=features, answers=answers)


def _log(task: Task, registry: Registry, record: Values, training: Values, metrics: dict[str, float]) -> None:
    """What the run was given and what it found, in its MLflow run."""
    contract = task.contract
    params = {
        **contract.training.parameters,
        "rounds": contract.training.rounds,
        "workers": contract.training.workers,
        "seed": contract.training.seed,
        "feature_service": contract.features.service,
        "training_rows": training["rows"],
        "training_start": training["start"],
        "training_end": training["end"],
        "judged_start": record["window"]["start"],
        "judged_end": record["window"]["end"],
        "as_of": task.run.as_of.isoformat(),
    }
    tags = {
        "slipway.snapshot_id": record["snapshot_id"],
        "slipway.code_hash": provenance.code_hash(contract.model),
        "slipway.lock_hash": provenance.lock_hash(),
        "slipway.gate": record["verdict"],
        "slipway.reasons": "; ".join(record["reasons"]),
        "slipway.champion": record["champion"] or "none",
    }
    found = {"auc" if name == "value" else name: value for name, value in metrics.items()}
    registry.log_run(task.run.model, task.run.key, params=params, metrics=found, tags=tags, finished=True)
