"""Pipelines: the training graph and its steps, the runner that works on them, and one folder for each model."""
