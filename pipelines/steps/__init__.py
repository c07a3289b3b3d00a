"""The steps of the training pipeline, one module each.

Every module has `facts(task)`, what decides its outcome beside its input files (None: never taken from the cache), and
`perform(task)`, which writes the output files and returns small facts. A step decides nothing about the next one.
"""

STEPS = ("snapshot", "validate", "train", "evaluate", "gate", "register")
"""In the order of the graph."""
