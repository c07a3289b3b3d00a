"""Which flights ask for a prediction, under which id, and what became of each question.

Ids are the same for a flight whenever it is asked about (so that a killed replay may repeat itself) and nobody without
the environment's key can guess them.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.flight_delay.events import ASKED_AHEAD, KEYS
from slipway.environment import Environment
from slipway.files import write_atomically

REQUEST = ["carrier", "flight", "origin", "dest", "scheduled_departure", "scheduled_minutes", "distance"]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SCHEMA = """
create table if not exists question (
    id text primary key, known_at integer not null, value integer not null, asked_at integer not null,
    version integer, attempts integer not null, labelled integer not null default 0
) without rowid
"""


@dataclass(frozen=True)
class Question:
    """One flight's request and, unknown to the platform, its label."""

    id: str
    instance: dict[str, Any]
    asked_at: datetime
    known_at: datetime
    value: int


@dataclass(frozen=True)
class Truth:
    """A label that has become known."""

    id: str
    value: int
    known_at: datetime


def read_key(environment: Environment) -> bytes:
    """The environment's own key, made on first use."""
    file = environment.state.secrets / "replay_key"
    if not file.exists():
        write_atomically(file, secrets.token_hex(32))
    return file.read_text().strip().encode()


def choose(flights: pd.DataFrame, day: datetime, *, sample: float, key: bytes) -> list[Question]:
    """The questions asked on `day` (UTC), by the moment they are asked; `sample` is the share of flights that ask.

    `flights` by scheduled departure. A flight is in a larger sample whenever it is in a smaller one.
    """
    first = pd.Timestamp(day) + ASKED_AHEAD
    low, high = flights["scheduled_departure"].searchsorted([first, first + timedelta(days=1)])
    questions = []
    for row in flights.iloc[low:high][[*REQUEST, "known_at", "late"]].to_dict("records"):
        moment: pd.Timestamp = row["scheduled_departure"]
        spelled = "|".join(str(row[name]) for name in KEYS[:-1]) + "|" + moment.isoformat()
        digest = hmac.new(key, spelled.encode(), hashlib.sha256).digest()
        # The first bytes decide about the sample and are not part of the id.
        if int.from_bytes(digest[:8], "big") >= sample * 2**64:
            continue
        questions.append(
            Question(
                id=f"flight-{digest[8:24].hex()}",
                instance={
                    **{name: row[name] for name in REQUEST},
                    "scheduled_departure": moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
                },
                asked_at=(moment - ASKED_AHEAD).to_pydatetime(),
                known_at=row["known_at"].to_pydatetime(),
                value=int(row["late"]),
            )
        )
    return sorted(questions, key=lambda question: (question.asked_at, question.id))


class Book:
    """What was asked and answered, in a small database of the replay's own. A power cut may lose the last tick."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(file, isolation_level=None, timeout=5.0)
        self._connection.execute("pragma journal_mode = wal")
        self._connection.execute("pragma synchronous = normal")
        self._connection.execute(_SCHEMA)

    def unanswered(self, questions: Sequence[Question]) -> list[Question]:
        """Those of `questions` that have no answer yet."""
        marks = ",".join("?" * len(questions))
        query = f"select id from question where version is not null and id in ({marks})"  # noqa: S608 - marks only
        answered = {row[0] for row in self._connection.execute(query, [question.id for question in questions])}
        return [question for question in questions if question.id not in answered]

    def note(self, questions: Sequence[Question], version: int | None, attempts: int) -> None:
        """Record an answer by `version`, or with None that all attempts failed."""
        rows = [(q.id, _micros(q.known_at), q.value, _micros(q.asked_at), version, attempts) for q in questions]
        self._connection.execute("begin immediate")
        self._connection.executemany(
            "insert into question (id, known_at, value, asked_at, version, attempts) values (?, ?, ?, ?, ?, ?) "
            "on conflict (id) do update set version = coalesce(excluded.version, version), "
            "attempts = attempts + excluded.attempts",
            rows,
        )
        self._connection.execute("commit")

    def due(self, moment: datetime, limit: int) -> list[Truth]:
        """Labels of answered questions that are known by `moment` and not delivered yet, oldest first."""
        rows = self._connection.execute(
            "select id, value, known_at from question where labelled = 0 and version is not null and known_at <= ? "
            "order by known_at limit ?",
            (_micros(moment), limit),
        )
        return [Truth(id_, value, _EPOCH + timedelta(microseconds=known)) for id_, value, known in rows]

    def delivered(self, truths: Sequence[Truth]) -> None:
        self._connection.execute("begin immediate")
        self._connection.executemany("update question set labelled = 1 where id = ?", [(truth.id,) for truth in truths])
        self._connection.execute("commit")

    def counts(self) -> dict[str, Any]:
        """Since the environment began: questions, answers by version, failures, repeated attempts, labels delivered."""
        total = "select count(*), count(version), sum(attempts), sum(labelled) from question"
        asked, answered, attempts, labelled = self._connection.execute(total).fetchone()
        by_version = self._connection.execute(
            "select version, count(*) from question where version is not null group by version order by version"
        )
        return {
            "asked": asked,
            "answered": answered,
            "failed": asked - answered,
            "attempts": attempts or 0,
            "answered_by_version": {str(version): count for version, count in by_version},
            "labels_delivered": labelled or 0,
        }

    def close(self) -> None:
        self._connection.close()


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
