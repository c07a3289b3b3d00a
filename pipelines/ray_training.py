"""What runs inside Ray: trains one booster with Ray Train, `python -m pipelines.ray_training JOB.json`.

Each worker reads its share of the training matrix from the file, not through Ray Data, which doubles the time. Ray
Train is version 2: version 1 keeps a CPU for its trainer and waits for ever when the workers need all. Nothing here
knows features, gates or versions: rows go in, a model file comes out.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, TypedDict

MODEL_FILE = "model.txt"
LABEL = "__label"
"""Column of the matrix file that holds the label."""


class Job(TypedDict):
    """The job file. Paths are on a file system that all workers share."""

    name: str
    module: str
    """Has the function `fit`."""
    matrix: str
    output: str
    storage: str
    parameters: dict[str, Any]
    rounds: int
    seed: int
    categorical: list[str]
    workers: int
    start_timeout: float
    """Seconds to wait for the workers to be placed."""


def train_share(job: Job) -> None:
    """One worker: fit on every n-th row, together with the others; the first one reports the model."""
    import pandas as pd
    import ray.train
    from ray.train.lightgbm import get_network_params

    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    matrix = pd.read_parquet(job["matrix"]).iloc[rank::workers]
    labels = matrix.pop(LABEL)
    booster = importlib.import_module(job["module"]).fit(
        matrix,
        labels,
        parameters=job["parameters"],
        rounds=job["rounds"],
        seed=job["seed"],
        categorical=job["categorical"],
        # A worker that is alone opens no socket.
        network=get_network_params() if workers > 1 else None,
    )
    with tempfile.TemporaryDirectory() as folder:
        booster.save_model(str(Path(folder) / MODEL_FILE))
        checkpoint = ray.train.Checkpoint.from_directory(folder) if rank == 0 else None
        ray.train.report({"rows": len(matrix)}, checkpoint=checkpoint)


def train(job: Job) -> None:
    """Run the workers and put the model at `output`, whole or not at all."""
    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(job["start_timeout"])
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.lightgbm import LightGBMTrainer

    trainer = LightGBMTrainer(
        train_share,
        train_loop_config=dict(job),
        scaling_config=ScalingConfig(num_workers=job["workers"], resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name=job["name"],
            storage_path=job["storage"],
            # Both default to retrying, the second one without end.
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    result = trainer.fit()
    with result.checkpoint.as_directory() as folder:
        output = Path(job["output"])
        draft = output.with_name(f".{output.name}.draft")
        shutil.copyfile(Path(folder) / MODEL_FILE, draft)
        draft.replace(output)


if __name__ == "__main__":
    train(json.loads(Path(sys.argv[1]).read_text()))
