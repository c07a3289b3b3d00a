"""What a revision counts about itself, in Prometheus form beside KServe's own histograms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from slipway.spool import Spool

_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
STAGES = ("validate", "features", "transform", "predict", "log", "answer")


class Metrics:
    """One set per process; a registry of its own in tests."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.registry = registry
        self.answers = Counter(
            "slipway_answers", "Requests answered, by HTTP status.", ["status", "delivered"], registry=registry
        )
        self.rows = Counter("slipway_rows", "Rows predicted.", registry=registry)
        self.defaults = Counter(
            "slipway_feature_defaults",
            "Rows of a view that took its documented defaults: absent, timeout, error, or skipped after errors.",
            ["view", "reason"],
            registry=registry,
        )
        stage_seconds = Histogram(
            "slipway_stage_seconds", "Time of one request by stage.", ["stage"], buckets=_BUCKETS, registry=registry
        )
        self._stages = {stage: stage_seconds.labels(stage) for stage in STAGES}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage of a request."""
        started = perf_counter()
        try:
            yield
        finally:
            self._stages[name].observe(perf_counter() - started)

    def watch(self, spool: Spool) -> None:
        """Show the spool's counts whenever metrics are read."""
        self.registry.register(_SpoolCollector(spool))


class _SpoolCollector:
    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def collect(self) -> Iterator[Metric]:
        counts = self._spool.counts
        for name, value, text in (
            ("appended", counts.appended, "Rows that entered the log's buffer."),
            ("written", counts.written, "Rows written to the spool."),
            ("dropped", counts.dropped, "Rows lost because too many waited for the disk."),
            ("write_failures", counts.failures, "Writes to the spool that failed."),
        ):
            yield CounterMetricFamily(f"slipway_log_{name}", text, value=value)
        yield GaugeMetricFamily("slipway_log_waiting", "Rows that are in memory only.", value=self._spool.waiting)
