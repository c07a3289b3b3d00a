"""The collector: takes what servers have spooled and keeps it as Parquet by model and event date.

A kill at any point leaves neither a gap nor, for readers of `slipway.inference_log`, a row twice: a file is written
whole under a name that follows from its source, and a source is removed only after that. One collector works at a time.
"""

from slipway.collector.collection import Collection

__all__ = ["Collection"]
