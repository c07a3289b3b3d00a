"""Writes a pipeline as KFP YAML for a cluster: `python -m pipelines.compile training FILE`."""

from __future__ import annotations

import sys


def compile_training(file: str) -> None:
    """The definition that `pipelines.graph` runs here, compiled."""
    from kfp import compiler

    from pipelines.training import training

    compiler.Compiler().compile(training, file)


if __name__ == "__main__":
    compile_training(sys.argv[2])
