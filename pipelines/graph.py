"""Runs the training graph once with kfp.local: `python -m pipelines.graph RUN_FOLDER`, in a process group of its own.

Reads run.json from the folder and puts everything that KFP and its steps leave behind below it. Exits 0 when every step
succeeded; what a step had to say is in the progress file, since `kfp.local` itself only prints it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from slipway.environment import open_environment


def run_graph(folder: Path, run: dict[str, Any]) -> None:
    """Raises RuntimeError when a step failed."""
    temporary = folder / "tmp"
    temporary.mkdir(exist_ok=True)
    # KFP makes a temporary folder for every step and leaves it.
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    from kfp import local

    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "artifacts"))
    from pipelines.training import training

    training(environment=str(open_environment().file.resolve()), run=run)


def main() -> None:
    folder = Path(sys.argv[1])
    try:
        run_graph(folder, json.loads((folder / "run.json").read_text()))
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
