"""A bounded load of real requests: what the gateway answers while an operator changes the champion.

The requests are those that were really asked last, asked again under the same prediction ids, as clients do that retry:
a flight that is asked about twice is still one flight, so no monitor counts a label as missing because of this load.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from slipway.contract import Contract
from slipway.endpoints import gateway_url
from slipway.environment import Environment
from slipway.errors import SlipwayError
from slipway.tokens import read_token

VERSION_HEADER, PREDICTION_HEADER = "x-model-version", "x-prediction-id"
CLIENTS = 4
PAUSE = 0.01
"""Seconds between an answer and the next question of one client: some hundred requests a second in all."""
MOST_REQUESTS = 20_000
TIMEOUT = 10.0


@dataclass(frozen=True)
class Question:
    prediction_id: str
    instance: dict[str, Any]


@dataclass(frozen=True)
class Answered:
    """One request: when it was sent and answered (monotonic seconds), by which version, or why not."""

    sent: float
    answered: float
    version: int | None
    failure: str = ""


@dataclass
class Load:
    """Clients that ask one after the other, until they are stopped or have asked MOST_REQUESTS."""

    environment: Environment
    model: str
    questions: list[Question]
    answers: list[Answered] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Load:
        if not self.questions:
            raise SlipwayError("there are no logged requests to ask again")
        self._threads = [threading.Thread(target=self._ask, args=(i,), daemon=True) for i in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(TIMEOUT + 5)

    @property
    def failures(self) -> list[Answered]:
        return [answer for answer in self.answers if answer.failure]

    def first_answer_by(self, version: int, since: float) -> float | None:
        """When this version answered first to a request that was sent after `since`; None if it never did."""
        times = [a.answered for a in self.answers if a.version == version and a.sent >= since]
        return min(times, default=None)

    def last_answer_by(self, version: int) -> float | None:
        return max((a.answered for a in self.answers if a.version == version), default=None)

    def _ask(self, client_number: int) -> None:
        import httpx

        url = f"{gateway_url(self.environment)}/v1/models/{self.model}:predict"
        headers = {"authorization": f"Bearer {read_token(self.environment, 'predict')}"}
        with httpx.Client(timeout=TIMEOUT, headers=headers) as client:
            number = client_number
            while not self._stop.is_set() and len(self.answers) < MOST_REQUESTS:
                question = self.questions[number % len(self.questions)]
                number += CLIENTS
                sent = time.monotonic()
                try:
                    answer = client.post(
                        url,
                        json={"instances": [question.instance]},
                        headers={PREDICTION_HEADER: question.prediction_id},
                    )
                except httpx.HTTPError as error:
                    self.answers.append(Answered(sent, time.monotonic(), None, type(error).__name__))
                    continue
                version = answer.headers.get(VERSION_HEADER)
                failure = "" if answer.is_success and version else f"HTTP {answer.status_code}"
                self.answers.append(
                    Answered(sent, time.monotonic(), int(version) if version and not failure else None, failure)
                )
                self._stop.wait(PAUSE)


def last_questions(environment: Environment, contract: Contract, count: int = 400) -> list[Question]:
    """The newest logged requests, as their clients sent them."""
    from slipway import inference_log

    now = environment.clock.as_of()
    names = [field.name for field in contract.request]
    rows = inference_log.read_rows(
        environment, contract.model, now - timedelta(days=2), now + timedelta(hours=1), delivered=True,
        columns=["id", *(f"in_{name}" for name in names)],
    )  # fmt: skip
    newest = rows.drop_duplicates("id").tail(count)
    return [
        Question(str(row["id"]), {name: _sent(row[f"in_{name}"]) for name in names})
        for row in newest.to_dict(orient="records")
    ]


def _sent(value: Any) -> Any:
    """A logged value as JSON carries it; NaN was null."""
    if isinstance(value, datetime):
        return value.isoformat()
    return None if value is None or value != value else value
