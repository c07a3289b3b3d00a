"""Puts one revision's parts together in the order in which they depend on one another, and takes them apart again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from filelock import FileLock, Timeout

from serving.features import FeatureSource, Lookup
from serving.metrics import Metrics
from serving.revision import Revision, load_revision
from slipway.endpoints import revision_socket
from slipway.environment import Environment
from slipway.errors import Conflict
from slipway.inference_log import row_schema
from slipway.listening import bind
from slipway.logs import get_logger
from slipway.spool import Spool

STORE_LIMIT = 30.0
"""Seconds that a start waits for the feature store; a server without it starts with defaults and tries again."""

_log = get_logger(__name__)


def serve(environment: Environment, model: str, version: int) -> None:
    """Verify, load, open the store, then answer until SIGTERM. Raises Refused before anything of a bad bundle runs."""
    started = monotonic()
    if environment.pod is not None:
        # On one machine the folders are made before any process starts.
        environment.state.prepare()
    with _only_server(environment, model, version):
        revision = load_revision(environment, model, version)
        features = open_features(environment, revision)
        metrics = Metrics()
        spool = open_spool(environment, revision)
        metrics.watch(spool)

        from serving.predictor import Predictor
        from serving.server import RevisionServer

        predictor = Predictor(revision, features, spool, environment.clock, metrics)
        server = RevisionServer(bind(environment, f"{model}-{version}"), spool, metrics)
        _log.info("ready", model=model, version=version, seconds=round(monotonic() - started, 2))
        try:
            server.start([predictor])
        finally:
            spool.close()
            features.close()
    _log.info("stopped", rows=spool.counts.written, dropped=spool.counts.dropped)


def open_features(environment: Environment, revision: Revision) -> FeatureSource:
    """The source of online features, opened when the store can be."""
    transforms = revision.transforms

    def open_lookup() -> Lookup:
        from feature_repo.lookup import FeatureLookup

        return FeatureLookup(environment, transforms.service)

    keys = list(dict.fromkeys(key for keys in transforms.entity_of.values() for key in keys))
    timeout = revision.contract.features.timeout.total_seconds()
    features = FeatureSource(open_lookup, transforms.views, keys, timeout=timeout)
    if not features.open(STORE_LIMIT):
        _log.error("the feature store is not open; predictions use defaults until it is")
    return features


def open_spool(environment: Environment, revision: Revision) -> Spool:
    """The request log's buffer and files."""
    manifest, transforms = revision.manifest, revision.transforms
    spool = Spool(
        environment.state.spool / f"{manifest.model}-{manifest.version}",
        row_schema(revision.contract, dict.fromkeys(transforms.defaults, float), list(transforms.views)),
        constants={"model": manifest.model, "version": manifest.version, "service": manifest.feature_service},
        interval=environment.settings.log.flush_interval.total_seconds(),
    )
    spool.open()
    return spool


@contextmanager
def _only_server(environment: Environment, model: str, version: int) -> Iterator[None]:
    """Two servers of one revision would take each other's socket. Raises Conflict."""
    lock = FileLock(revision_socket(environment, model, version).with_suffix(".lock"))
    try:
        lock.acquire(timeout=15)
    except Timeout as error:
        raise Conflict(f"another server of {model} {version} is running", hint="slipway status") from error
    with lock:
        yield
