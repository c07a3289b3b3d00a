"""KServe's model server where it is told to listen: a unix socket, or a pod's port; no gRPC, and a stop that loses no
request.

KServe binds all interfaces whatever it is told, and unloads its models before the last requests are answered; both are
replaced here. What it brings is kept: the model's life, the data plane, its metrics.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from types import FrameType

import uvicorn
from kserve import ModelServer
from kserve.model import BaseKServeModel

from serving.metrics import Metrics
from serving.routes import Application
from slipway.spool import Spool

LINGER = 0.5
"""Seconds between the wish to stop and the end of listening; each answer in between lets its connection go."""
LAST = 0.3
"""Seconds between the end of listening and the end of serving: connections that were made before get their answer."""
GRACE = 10
"""Seconds that requests in flight get then."""


class RevisionServer(ModelServer):  # type: ignore[misc] # KServe ships no types
    """Serves one revision."""

    def __init__(self, listener: socket.socket, spool: Spool, metrics: Metrics) -> None:
        super().__init__(workers=1, enable_grpc=False, enable_docs_url=False, enable_latency_logging=False)
        self._listener = listener
        self._spool = spool
        self._metrics = metrics

    def start(self, models: Sequence[BaseKServeModel]) -> None:
        """Serve until SIGTERM or SIGINT; returns when the last request is answered."""
        self._register_and_check_atleast_one_model_is_ready(list(models))
        (predictor,) = models
        application = Application(predictor, self.dataplane, self._spool, self._metrics)
        config = uvicorn.Config(
            application.asgi,
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            lifespan="off",
            timeout_keep_alive=75,
            timeout_graceful_shutdown=GRACE,
        )
        named = self._listener.family == socket.AF_UNIX
        name = Path(self._listener.getsockname()) if named else None
        try:
            _DrainingServer(config, application, name).run(sockets=[self._listener])
        finally:
            if name is not None:
                name.unlink(missing_ok=True)


class _DrainingServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, application: Application, name: Path | None) -> None:
        """`name` is the socket's in the file system; a port has none, and nobody is sent to a pod that is stopping."""
        super().__init__(config)
        self._application = application
        self._name = name
        self._stop_at = float("inf")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First wish: no longer ready, and stop after LINGER. A second one stops at once."""
        self._stop_at = monotonic() if self._application.draining else monotonic() + LINGER
        self._application.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end. Closing the listener would cut connections that wait to be accepted, so
        its name goes first, and nobody can connect any more."""
        if monotonic() >= self._stop_at and self._name is not None and self._name.exists():
            self._name.unlink()
            self._stop_at = monotonic() + LAST
        return await super().on_tick(counter) or monotonic() >= self._stop_at
