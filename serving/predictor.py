"""KServe's model of one revision: validate, join features, transform, score, log.

The same revision answers V1 and V2; a request is parsed once. Nothing that is merely recorded (log, metrics) can fail a
prediction, and neither can the feature store.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

import numpy as np
from kserve import Model

from serving.features import FeatureSource, Joined
from serving.metrics import Metrics
from serving.revision import Revision
from slipway.clock import Clock
from slipway.errors import InvalidInput, NotReady, Problem
from slipway.labels import PREDICTION_ID
from slipway.logs import get_logger
from slipway.request_schema import PredictionRequest
from slipway.spool import Spool
from slipway.targets.kubernetes.routes import ANSWERED_BY

VERSION_HEADER = "x-model-version"
DEFAULTS_HEADER = "x-feature-defaults"
PREDICTION_HEADER = "x-prediction-id"
REQUEST_HEADER = "x-request-id"
"""Made by the gateway for every request, before it is copied; names a prediction that nobody else has named."""
MIRRORED_HEADER = "x-slipway-mirrored"
_IDS_IN_HEADER = 32
_LONGEST_ID = 120

_log = get_logger(__name__)


@dataclass(frozen=True)
class Incoming:
    """A parsed body as it came in."""

    document: object
    protocol: int
    """1 or 2."""
    started: float
    """perf_counter when the request arrived."""


@dataclass(frozen=True)
class Question:
    """A request that may be answered."""

    request: PredictionRequest
    protocol: int
    started: float
    ids: list[str]
    id_header: str
    delivered: bool
    as_of: datetime
    received: datetime


@dataclass(frozen=True)
class Answer:
    question: Question
    joined: Joined
    defaults: np.ndarray
    scores: np.ndarray


class Predictor(Model):  # type: ignore[misc] # KServe ships no types
    """Ready from the start: the revision it is given has answered its golden requests."""

    def __init__(
        self, revision: Revision, features: FeatureSource, spool: Spool, clock: Clock, metrics: Metrics
    ) -> None:
        super().__init__(revision.manifest.model, return_response_headers=True)
        self.revision = revision
        self._features = features
        self._spool = spool
        self._clock = clock
        self._metrics = metrics
        self._views = list(revision.transforms.views)
        self._feature_columns = [f"ft_{name}" for name in revision.feature_names]
        self._event_time = revision.contract.entity.event_time
        self._rejects_missing = revision.contract.features.on_missing == "reject"
        self.ready = True

    def load(self) -> bool:
        """Loading is over before the server starts; KServe asks again when a model is not ready."""
        return bool(self.ready)

    def get_input_types(self) -> list[dict[str, Any]]:
        datatypes = {"string": "BYTES", "int": "INT64", "float": "FP64", "bool": "BOOL", "timestamp": "BYTES"}
        return [
            {"name": field.name, "datatype": datatypes[field.type], "shape": [-1]}
            for field in self.revision.contract.request
        ]

    def get_output_types(self) -> list[dict[str, Any]]:
        return [
            {"name": "prediction", "datatype": "FP64", "shape": [-1]},
            {"name": "prediction_id", "datatype": "BYTES", "shape": [-1]},
        ]

    def delivers(self, headers: Mapping[str, str]) -> bool:
        """Whether the client gets this answer, or another version's while this one scores a copy.

        One gateway marks copies; another can only write on the request who answers, before it copies it.
        """
        own = str(self.revision.manifest.version)
        return MIRRORED_HEADER not in headers and headers.get(ANSWERED_BY, own) == own

    def preprocess(self, payload: Incoming, headers: dict[str, str]) -> Question:
        """Check the request against the contract. Raises InvalidInput with every mistake."""
        with self._metrics.stage("validate"):
            schema = self.revision.schema
            read = schema.read_v1 if payload.protocol == 1 else schema.read_v2
            request = read(payload.document)
            ids, id_header = _name_rows(request, headers)
            return Question(
                request=request,
                protocol=payload.protocol,
                started=payload.started,
                ids=ids,
                id_header=id_header,
                delivered=self.delivers(headers),
                as_of=self._clock.as_of(),
                received=datetime.now(UTC),
            )

    async def predict(self, payload: Question, headers: dict[str, str], response_headers: dict[str, str]) -> Answer:
        """Raises NotReady when features are missing and the contract says to reject such requests."""
        request = payload.request
        with self._metrics.stage("features"):
            joined = await self._features.read(request.columns, request.length, payload.as_of)
            defaults = joined.defaults
            if defaults.any():
                self._count_defaults(joined)
        with self._metrics.stage("transform"):
            matrix = self.revision.transform(request.columns, joined.features)
        with self._metrics.stage("predict"):
            scores = self.revision.score(matrix)
        self._metrics.rows.inc(request.length)
        return Answer(payload, joined, defaults, scores)

    def postprocess(self, result: Answer, headers: dict[str, str], response_headers: dict[str, str]) -> dict[str, Any]:
        """The response body; the rows go to the log."""
        question, manifest = result.question, self.revision.manifest
        response_headers[VERSION_HEADER] = str(manifest.version)
        response_headers[DEFAULTS_HEADER] = str(int(result.defaults.sum()))
        response_headers[PREDICTION_HEADER] = question.id_header
        scores = result.scores.tolist()
        if question.protocol == 1:
            body: dict[str, Any] = {"predictions": scores, "prediction_ids": question.ids}
        else:
            shape = [len(scores)]
            body = {
                "model_name": manifest.model,
                "model_version": str(manifest.version),
                "id": question.request.name or question.ids[0],
                "outputs": [
                    {"name": "prediction", "datatype": "FP64", "shape": shape, "data": scores},
                    {"name": "prediction_id", "datatype": "BYTES", "shape": shape, "data": question.ids},
                ],
            }
        with self._metrics.stage("log"):
            self._log_rows(result)
        return body

    def _log_rows(self, answer: Answer) -> None:
        question = answer.question
        columns: dict[str, Any] = {
            "id": question.ids,
            "delivered": question.delivered,
            "event_time": question.as_of,
            "subject_time": question.request.columns[self._event_time],
            "received": question.received,
            "latency_ms": (perf_counter() - question.started) * 1000,
            "defaults": answer.defaults,
            "prediction": answer.scores,
            "row": np.arange(question.request.length),
        }
        columns |= {f"in_{name}": values for name, values in question.request.columns.items()}
        columns |= zip(self._feature_columns, answer.joined.features.T, strict=True)
        columns |= {f"age_{view}": ages for view, ages in zip(self._views, answer.joined.ages.T, strict=True)}
        try:
            self._spool.append(columns, question.request.length)
        except Exception:
            _log.exception("a row could not be logged")

    def _count_defaults(self, joined: Joined) -> None:
        if self._rejects_missing:
            raise NotReady(
                f"features are missing ({joined.reason or 'absent'})", hint="features.on_missing is `reject`"
            )
        for view, missing in zip(self._views, np.isnan(joined.ages).sum(axis=0).tolist(), strict=True):
            if missing:
                self._metrics.defaults.labels(view, joined.reason or "absent").inc(missing)


def _name_rows(request: PredictionRequest, headers: Mapping[str, str]) -> tuple[list[str], str]:
    """Prediction ids of the rows, and what the response's header says.

    Ids in the body win; otherwise the header's id (or the gateway's of the request, or a new unguessable one) names a
    single row, and is the base of `<base>-<row>` for several.
    """
    if request.ids:
        shown = request.ids[:_IDS_IN_HEADER]
        return request.ids, ",".join(shown)
    given = headers.get(PREDICTION_HEADER)
    if given is not None and not _is_id(given):
        hint = "8 to 120 letters, digits and . _ : -, unguessable"
        raise InvalidInput(Problem(PREDICTION_HEADER, f"{given[:40]!r} is not a prediction id", hint))
    # The gateway's is nobody's mistake: when it names nothing, a new one does.
    asked = headers.get(REQUEST_HEADER, "")
    base = given or (asked if _is_id(asked) else str(uuid.uuid4()))
    if request.length == 1:
        return [base], base
    return [f"{base}-{row}" for row in range(request.length)], base


def _is_id(text: str) -> bool:
    return len(text) <= _LONGEST_ID and PREDICTION_ID.fullmatch(text) is not None
