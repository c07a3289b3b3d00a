"""Train: the contract's model on the rows whose labels were known before the judged window, as a job on Ray."""

from __future__ import annotations

import json
import shutil

import pandas as pd

from feature_repo.transforms import find_transforms
from pipelines.ray_head import running_ray
from pipelines.ray_jobs import run_job
from pipelines.ray_training import LABEL, Job
from pipelines.split import split_of
from pipelines.task import Task, Values
from slipway.errors import Refused


def facts(task: Task) -> Values:
    contract = task.contract
    return {
        "model": contract.model,
        "as_of": task.run.as_of.isoformat(),
        "features": find_transforms(contract.features.service).hash,
        "training": contract.training.model_dump(mode="json", exclude={"deadline"}),
        "delay": contract.label.model_dump(mode="json")["longest_delay"],
        "judged": contract.gate.model_dump(mode="json")["window"],
    }


def perform(task: Task) -> Values:
    contract = task.contract
    settings = contract.training
    rows = pd.read_parquet(task.inputs["rows"])
    rows = rows[split_of(contract, task.run.as_of).training(contract, rows)]
    if len(rows) < settings.min_rows:
        raise Refused(
            f"training.min_rows: {len(rows)} labelled rows before the judged window, {settings.min_rows} are asked for",
            hint="wait for more data, or lower training.min_rows or gate.window in the contract",
        )
    transforms = find_transforms(contract.features.service)
    # Everything that the workers read or write lies beside the output, where the run's folder is cleaned up whole.
    folder = task.outputs["model"].with_name("ray")
    folder.mkdir(parents=True, exist_ok=True)
    matrix = transforms.matrix(rows)
    matrix[LABEL] = rows["label"].astype("int8")
    matrix.to_parquet(folder / "matrix.parquet", index=False, compression="zstd")
    job = Job(
        name=task.run.key,
        module=f"pipelines.{contract.model}.training",
        matrix=str(folder / "matrix.parquet"),
        output=str(task.outputs["model"]),
        storage=str(folder),
        parameters=settings.parameters,
        rounds=settings.rounds,
        seed=settings.seed,
        categorical=list(transforms.categorical),
        workers=settings.workers,
        start_timeout=task.environment.settings.ray.start_timeout.total_seconds(),
    )
    (folder / "job.json").write_text(json.dumps(job))
    try:
        with running_ray(task.environment):
            run_job(
                task.environment,
                ["-m", "pipelines.ray_training", str(folder / "job.json")],
                key=task.run.key,
                deadline=settings.deadline,
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    moments = rows["event_timestamp"]
    trained: Values = {
        "rows": len(rows),
        "start": moments.min().isoformat(),
        "end": moments.max().isoformat(),
        "positives": int(rows["label"].sum()),
        "columns": list(transforms.columns),
        "bytes": task.outputs["model"].stat().st_size,
    }
    task.write_json("training", trained)
    return trained
