"""The HTTP surface of a revision: inference, its own model's facts, metrics, and the collector's flush.

KServe's own application has more: loading and unloading models, an API description, routes for other kinds of models.
None of that is served. Mistakes are answered as `{"error": text, "problems": [...]}` in the words of the command line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

import orjson
from kserve.protocol.dataplane import DataPlane
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from serving.metrics import Metrics
from serving.predictor import Incoming, Predictor
from slipway.errors import InvalidInput, NotReady, Problem, SlipwayError, Unknown
from slipway.logs import get_logger
from slipway.spool import Spool

MAX_BODY = 2 << 20
"""Bytes, as at the gateway."""

_log = get_logger(__name__)
_JSON = "application/json"


class Application:
    """The routes of one revision. `draining` is set when the server is asked to stop: it still answers, is no longer
    ready, and lets clients go by closing each connection after its answer."""

    def __init__(self, predictor: Predictor, dataplane: DataPlane, spool: Spool, metrics: Metrics) -> None:
        self.draining = False
        self._predictor = predictor
        self._dataplane = dataplane
        self._spool = spool
        self._metrics = metrics
        # KServe finds the name by itself; here it is a literal, so another model is no route at all.
        model = predictor.name
        self.asgi = Starlette(
            routes=[
                Route(f"/v1/models/{model}:predict", self._answering(1), methods=["POST"]),
                Route(f"/v2/models/{model}/infer", self._answering(2), methods=["POST"]),
                Route(f"/v1/models/{model}", self._ready_v1, methods=["GET"]),
                Route(f"/v2/models/{model}/ready", self._ready_v2, methods=["GET"]),
                Route(f"/v2/models/{model}", self._facts, methods=["GET"]),
                Route("/v2/health/live", self._live, methods=["GET"]),
                Route("/v2/health/ready", self._ready_v2, methods=["GET"]),
                Route("/metrics", self._show_metrics, methods=["GET"]),
                Route("/flush", self._flush, methods=["POST"]),
                Route("/{path:path}", self._unknown, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
            ]
        )

    def _answering(self, protocol: int) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            started = perf_counter()
            try:
                response = await self._predict(request, protocol, started)
            except SlipwayError as error:
                response = _refusal(error)
            except ClientDisconnect:
                response = Response(status_code=499)
            except Exception:
                _log.exception("a prediction failed")
                response = _json({"error": "the server failed to answer; its log says why"}, 500)
            delivered = str(self._predictor.delivers(request.headers)).lower()
            self._metrics.answers.labels(str(response.status_code), delivered).inc()
            return self._closing(response)

        return answer

    async def _predict(self, request: Request, protocol: int, started: float) -> Response:
        body = await _read_body(request)
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise _NotJson(Problem("request", f"is not JSON: {error}", "send one JSON object")) from error
        answer, headers = await self._dataplane.infer(
            self._predictor.name, Incoming(document, protocol, started), dict(request.headers)
        )
        with self._metrics.stage("answer"):
            return _json(answer, 200, headers)

    def _closing(self, response: Response) -> Response:
        if self.draining:
            response.headers["connection"] = "close"
        return response

    async def _ready_v1(self, _: Request) -> Response:
        return _json({"name": self._predictor.name, "ready": self._is_ready()}, 200 if self._is_ready() else 503)

    async def _ready_v2(self, _: Request) -> Response:
        return _json({"name": self._predictor.name, "ready": self._is_ready()}, 200 if self._is_ready() else 503)

    async def _live(self, _: Request) -> Response:
        return _json({"live": True}, 200)

    async def _facts(self, _: Request) -> Response:
        facts = await self._dataplane.model_metadata(self._predictor.name)
        manifest = self._predictor.revision.manifest
        facts |= {"platform": "lightgbm", "versions": [str(manifest.version)]}
        facts["parameters"] = {
            "content_digest": manifest.content_digest,
            "feature_service": manifest.feature_service,
        }
        return _json(facts, 200)

    async def _show_metrics(self, _: Request) -> Response:
        return Response(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def _flush(self, _: Request) -> Response:
        """Write what the log has in memory; 503 when the disk does not take it."""
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._spool.flush)
        except OSError as error:
            return _json({"error": f"the log could not be written: {error}"}, 503)
        return _json({"written": self._spool.counts.written, "dropped": self._spool.counts.dropped}, 200)

    async def _unknown(self, request: Request) -> Response:
        return _refusal(Unknown("route", f"{request.method} {request.url.path[:100]}"))

    def _is_ready(self) -> bool:
        return bool(self._predictor.ready) and not self.draining


class _NotJson(InvalidInput):
    """HTTP 400: there is nothing to check against the contract."""


class _TooLarge(InvalidInput):
    """HTTP 413."""


def _refusal(error: SlipwayError) -> Response:
    statuses = ((_NotJson, 400), (_TooLarge, 413), (Unknown, 404), (InvalidInput, 422), (NotReady, 503))
    status = next((status for kind, status in statuses if isinstance(error, kind)), 503)
    body: dict[str, Any] = {"error": str(error)}
    if isinstance(error, InvalidInput):
        body["problems"] = [vars(problem) for problem in error.problems]
    return _json(body, status)


async def _read_body(request: Request) -> bytes:
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise _TooLarge(Problem("request", f"is larger than {MAX_BODY} bytes", "send fewer rows at a time"))
        parts.append(part)
    return b"".join(parts)


def _json(body: object, status: int, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, media_type=_JSON)
