"""The asking half of the replay: predictions and labels through the gateway, as any client would."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType

import httpx

from pipelines.flight_delay.replay.questions import Book, Question, Truth
from slipway import endpoints, tokens
from slipway.environment import Environment
from slipway.errors import SlipwayError

MODEL = "flight_delay"
VERSION_HEADER = "x-model-version"
CONCURRENCY = 8
ATTEMPTS = 3
"""Tries for one request; a question without an answer after them has failed, and is counted."""
PAUSE_SECONDS = 0.2
TIMEOUT_SECONDS = 10.0
LABELS_AT_ONCE = 5_000


class Client:
    """Asks and delivers; use it with `async with`."""

    def __init__(
        self, environment: Environment, book: Book, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._environment = environment
        self._book = book
        self._predict = {"authorization": f"Bearer {tokens.read_token(environment, 'predict')}"}
        self._label = {"authorization": f"Bearer {tokens.read_token(environment, 'labels')}"}
        certificate = environment.settings.gateway.tls_certificate
        self._http = httpx.AsyncClient(
            base_url=endpoints.gateway_url(environment),
            timeout=TIMEOUT_SECONDS,
            limits=httpx.Limits(max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY),
            verify=str(certificate) if certificate else True,
            transport=transport,
            trust_env=False,
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def ask(self, questions: Sequence[Question], *, batch: int) -> int:
        """Ask those that have no answer yet, `batch` rows in a request. Returns how many failed."""
        open_questions = self._book.unanswered(questions) if questions else []
        parts = [open_questions[start : start + batch] for start in range(0, len(open_questions), batch)]
        return sum(await asyncio.gather(*(self._ask_part(part) for part in parts)))

    async def _ask_part(self, part: Sequence[Question]) -> int:
        body = {
            "instances": [question.instance for question in part],
            "prediction_ids": [question.id for question in part],
        }
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = await self._http.post(f"/v1/models/{MODEL}:predict", json=body, headers=self._predict)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code == 200:
                self._book.note(part, int(answer.headers[VERSION_HEADER]), attempt)
                return 0
            if answer is not None and answer.status_code in (400, 401, 403, 422):
                # A mistake of this client or of the contract: repeating cannot help, and going on would hide it.
                raise SlipwayError(
                    f"the gateway refused a prediction request with {answer.status_code}: {answer.text[:300]}",
                    hint="slipway predict flight_delay --file shows the same answer",
                )
            if attempt < ATTEMPTS:
                await asyncio.sleep(PAUSE_SECONDS * attempt)
        self._book.note(part, None, ATTEMPTS)
        return len(part)

    async def deliver(self, as_of: datetime) -> int:
        """Deliver every label that is known by as_of. Returns how many. Raises SlipwayError when they are refused."""
        delivered = 0
        while truths := self._book.due(as_of, LABELS_AT_ONCE):
            await self._deliver_part(truths)
            self._book.delivered(truths)
            delivered += len(truths)
        return delivered

    async def _deliver_part(self, truths: Sequence[Truth]) -> None:
        labels = [
            {"model": MODEL, "prediction_id": t.id, "value": t.value, "known_at": t.known_at.isoformat()}
            for t in truths
        ]
        said = "no answer"
        for attempt in range(1, ATTEMPTS + 1):
            try:
                answer = await self._http.post("/api/labels", json={"labels": labels}, headers=self._label)
            except httpx.TransportError as error:
                said = f"{type(error).__name__}: {error}"
            else:
                refused = answer.json().get("refused", 0) if answer.status_code == 200 else 0
                if answer.status_code == 200 and not refused:
                    return
                said = f"{answer.status_code}, {refused or 'all'} refused: {answer.text[:300]}"
            await asyncio.sleep(PAUSE_SECONDS * attempt)
        raise SlipwayError(f"labels could not be delivered: {said}", hint="slipway status; then repeat the command")
