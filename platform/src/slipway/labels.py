"""What turned out to be true: one label per prediction, corrections kept beside what they correct, never over it.

A label may come before the collector has taken its prediction: it is accepted as pending and counts once the prediction
is there; one whose prediction never comes stays listed as unmatched and is used by nobody. It judges nothing: which
labels count, and when, is the cohorts' business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Engine, Select, bindparam, insert, select, tuple_
from sqlalchemy.exc import OperationalError

from slipway.contract import load_contract
from slipway.environment import Environment
from slipway.errors import Problem, SlipwayError
from slipway.labels_schema import from_micros, insert_new, label_table, open_labels, prediction_table, to_micros

if TYPE_CHECKING:
    import pandas as pd

MAX_BATCH = 10_000
"""Labels in one call; a larger file is sent in parts."""
PREDICTION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{7,127}")
_CHUNK = 900  # SQLite once allowed 999 bound values in a statement, and some builds still do


@dataclass(frozen=True)
class Label:
    """What turned out to be true of one prediction, and since when that has been known."""

    model: str
    prediction_id: str
    value: int
    """1: it happened, 0: it did not."""
    known_at: datetime
    """Event time, with a time zone."""
    correction: bool = False
    """True to say something else than before; the earlier value stays on record."""


@dataclass(frozen=True)
class LabelOutcome:
    """What became of a batch: every label is accepted or has a problem, none is dropped silently."""

    accepted: int
    problems: list[Problem] = field(default_factory=list)
    repeated: int = 0
    """Of the accepted: said before in the same words, so nothing changed."""
    pending: int = 0
    """Of the accepted: their prediction has not been logged (yet)."""
    late: int = 0
    """Of the accepted: their cohort has been judged without them and is not judged again."""


@dataclass(frozen=True)
class _Known:
    """The last word on one prediction id."""

    revision: int
    value: int
    known_at: int


def judged_at(subject_time: datetime, longest_delay: timedelta) -> datetime:
    """When the cohort of `subject_time` (its UTC day) is due: the day's end plus the contract's delay."""
    day = subject_time.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day + timedelta(days=1) + longest_delay


class LabelStore:
    """The labels of one environment, in SQL tables of their own. Safe for several threads and processes."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._engine: Engine = open_labels(environment.state.labels_url)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """One transaction, whole or not at all. Raises SlipwayError when the disk is full or others write too long."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except OperationalError as error:
            raise SlipwayError(
                f"the labels could not be written: {error.orig}", hint="free disk space; try again"
            ) from error

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def _reading(self) -> Connection:
        return self._engine.connect().execution_options(slipway_reads=True)

    def add(
        self, labels: Sequence[Label], *, as_of: datetime, source: str, names: Sequence[str] | None = None
    ) -> LabelOutcome:
        """Take a batch in one transaction; labels with a mistake are left out and named, the others count.

        `as_of` is event time now and `source` says who sent them (`api`, `file labels.csv`, ...). Refused are: a
        value that is not 0 or 1, a time in the future or before the prediction, a second different label that is not
        flagged as a correction, a correction of nothing. `names` are what problems call the labels (`labels.0`, ...).
        Raises Unknown for a model without contract.
        """
        if len(labels) > MAX_BATCH:
            message = f"{len(labels)} labels in one batch"
            return LabelOutcome(0, [Problem("labels", message, f"send at most {MAX_BATCH} at a time")])
        delays = {model: load_contract(model).label.longest_delay for model in {label.model for label in labels}}
        with self._writing() as connection:
            names = names or [f"labels.{number}" for number in range(len(labels))]
            return _Batch(connection, labels, names, delays, as_of, source).take()

    def register(self, model: str, predictions: Iterable[tuple[str, datetime, datetime]]) -> None:
        """Remember predictions (id, event time, subject time), so that labels can be checked. Idempotent."""
        rows = [
            {"model": model, "prediction_id": id_, "event_time": to_micros(event), "subject_time": to_micros(subject)}
            for id_, event, subject in predictions
        ]
        if rows:
            with self._writing() as connection:
                connection.execute(insert_new(connection, prediction_table), rows)

    def read(
        self,
        model: str,
        *,
        ids: Sequence[str] | None = None,
        known_by: datetime,
        known_from: datetime | None = None,
    ) -> pd.DataFrame:
        """The last word on each prediction that had been received by `known_by`: columns id, value, known_at.

        `known_from` leaves out labels that were known before that moment, which a reader of one window can afford.
        """
        said = self.read_all(model, ids=ids, known_by=known_by, known_from=known_from)
        last = said.drop_duplicates("id", keep="last")
        return last[["id", "value", "known_at"]].reset_index(drop=True)

    def read_all(
        self,
        model: str,
        *,
        ids: Sequence[str] | None = None,
        known_by: datetime,
        known_from: datetime | None = None,
    ) -> pd.DataFrame:
        """Everything said by `known_by`, corrections included: columns id, revision, value, known_at, received.

        Sorted by id and revision. `received` is the event time at which it was said: what came after a cohort was
        judged can be told from what came before. A label known before its own prediction was made is left out.
        """
        import pandas as pd

        columns = ["id", "revision", "value", "known_at", "received"]
        table, prediction = label_table.c, prediction_table.c
        query = (
            select(table.prediction_id, table.revision, table.value, table.known_at, table.received)
            .select_from(
                label_table.outerjoin(
                    prediction_table,
                    (table.model == prediction.model) & (table.prediction_id == prediction.prediction_id),
                )
            )
            .where(table.model == model, table.received <= to_micros(known_by))
            .where(prediction.event_time.is_(None) | (table.known_at >= prediction.event_time))
        )
        if known_from is not None:
            query = query.where(table.known_at >= to_micros(known_from))
        with self._reading() as connection:
            if ids is None:
                rows = [tuple(row) for row in connection.execute(query)]
            else:
                chosen = query.where(table.prediction_id.in_(bindparam("ids", expanding=True)))
                rows = [
                    tuple(row)
                    for start in range(0, len(ids), _CHUNK)
                    for row in connection.execute(chosen, {"ids": list(ids[start : start + _CHUNK])})
                ]
        rows.sort(key=lambda row: row[:2])
        frame = pd.DataFrame(rows, columns=columns).astype({"id": "object", "revision": "int64", "value": "int64"})
        for name in ("known_at", "received"):
            frame[name] = pd.to_datetime(frame[name].astype("int64"), unit="us", utc=True).astype("datetime64[us, UTC]")
        return frame

    def unmatched(self, model: str, *, received_before: datetime) -> pd.DataFrame:
        """Labels for predictions that were never logged: columns id, value, known_at, received, source.

        A few are young (the collector has not taken the row yet); those received well before now are lost log rows or
        forged ids.
        """
        import pandas as pd

        table, prediction = label_table.c, prediction_table.c
        query = (
            select(table.prediction_id, table.value, table.known_at, table.received, table.source)
            .where(table.model == model, table.received < to_micros(received_before))
            .where(tuple_(table.model, table.prediction_id).not_in(select(prediction.model, prediction.prediction_id)))
            .order_by(table.received, table.prediction_id)
        )
        with self._reading() as connection:
            rows = [
                (row[0], row[1], from_micros(row[2]), from_micros(row[3]), row[4]) for row in connection.execute(query)
            ]
        return pd.DataFrame(rows, columns=["id", "value", "known_at", "received", "source"])

    def corrections(self, model: str) -> list[dict[str, object]]:
        """The audit of changed minds: every id that was said more than once, in the order in which it was said."""
        table = label_table.c
        changed = select(table.prediction_id).where(table.model == model, table.revision > 0)
        query = (
            select(label_table)
            .where(table.model == model, table.prediction_id.in_(changed))
            .order_by(table.prediction_id, table.revision)
        )
        with self._reading() as connection:
            return [
                {
                    "id": row["prediction_id"],
                    "revision": row["revision"],
                    "value": row["value"],
                    "known_at": from_micros(row["known_at"]),
                    "received": from_micros(row["received"]),
                    "source": row["source"],
                }
                for row in connection.execute(query).mappings()
            ]


class _Batch:
    """One call of `add`, inside its transaction."""

    def __init__(
        self,
        connection: Connection,
        labels: Sequence[Label],
        names: Sequence[str],
        delays: dict[str, timedelta],
        as_of: datetime,
        source: str,
    ) -> None:
        self.connection = connection
        self.labels = labels
        self.names = names
        self.delays = delays
        self.as_of = as_of
        self.received = to_micros(as_of)
        self.source = source[:200]
        keys = [(label.model, label.prediction_id) for label in labels]
        self.known = self._read_known(keys)
        self.predictions = self._read_predictions(keys)

    def take(self) -> LabelOutcome:
        problems: list[Problem] = []
        rows: list[dict[str, object]] = []
        repeated = pending = late = 0
        for name, label in zip(self.names, self.labels, strict=True):
            found = self._mistakes(name, label)
            if found:
                problems += found
                continue
            key = (label.model, label.prediction_id)
            known_at = to_micros(label.known_at)
            before = self.known.get(key)
            if before and (before.value, before.known_at) == (label.value, known_at):
                repeated += 1
                continue
            revision = before.revision + 1 if before else 0
            self.known[key] = _Known(revision, int(label.value), known_at)
            prediction = self.predictions.get(key)
            pending += prediction is None
            late += prediction is not None and self.as_of > judged_at(prediction[1], self.delays[label.model])
            rows.append(
                {
                    "model": label.model,
                    "prediction_id": label.prediction_id,
                    "revision": revision,
                    "value": int(label.value),
                    "known_at": known_at,
                    "received": self.received,
                    "source": self.source,
                }
            )
        if rows:
            self.connection.execute(insert(label_table), rows)
        return LabelOutcome(len(rows) + repeated, problems, repeated, pending, late)

    def _mistakes(self, name: str, label: Label) -> list[Problem]:
        def problem(key: str, message: str, hint: str = "") -> Problem:
            return Problem(f"{name}.{key}", message, hint)

        found = []
        if not PREDICTION_ID.fullmatch(label.prediction_id):
            found.append(
                problem(
                    "prediction_id",
                    f"{label.prediction_id[:40]!r} is not a prediction id",
                    "take it from the answer: 8 to 128 letters, digits and . _ : -",
                )
            )
        if label.value not in (0, 1):
            found.append(problem("value", f"{label.value!r} is neither 0 nor 1", "1: it happened, 0: it did not"))
        if label.known_at.tzinfo is None:
            hint = "add it: 2013-03-01T14:05:00Z"
            return [*found, problem("known_at", f"{label.known_at.isoformat()} has no time zone", hint)]
        if label.known_at > self.as_of:
            message = f"{_written(label.known_at)} is in the future"
            found.append(problem("known_at", message, f"event time is {_written(self.as_of)}"))
        prediction = self.predictions.get((label.model, label.prediction_id))
        if prediction and label.known_at < prediction[0]:
            message = f"{_written(label.known_at)} is before the prediction"
            found.append(problem("known_at", message, f"it was made at {_written(prediction[0])}"))
        before = self.known.get((label.model, label.prediction_id))
        same = before and (before.value, before.known_at) == (label.value, to_micros(label.known_at))
        if before and not same and not label.correction:
            message = f"{label.prediction_id} has the label {before.value} already"
            found.append(problem("prediction_id", message, "set `correction` to true if that was wrong"))
        if label.correction and not before:
            message = f"{label.prediction_id} has no label to correct"
            found.append(problem("correction", message, "leave `correction` out"))
        return found

    def _read_known(self, keys: list[tuple[str, str]]) -> dict[tuple[str, str], _Known]:
        table = label_table.c
        query = select(table.model, table.prediction_id, table.revision, table.value, table.known_at).order_by(
            table.revision
        )
        rows = self._select(query, table.model, table.prediction_id, keys)
        return {(row[0], row[1]): _Known(row[2], row[3], row[4]) for row in rows}

    def _read_predictions(self, keys: list[tuple[str, str]]) -> dict[tuple[str, str], tuple[datetime, datetime]]:
        table = prediction_table.c
        query = select(table.model, table.prediction_id, table.event_time, table.subject_time)
        rows = self._select(query, table.model, table.prediction_id, keys)
        return {(row[0], row[1]): (from_micros(row[2]), from_micros(row[3])) for row in rows}

    def _select(
        self,
        query: Select[Any],
        model_column: ColumnElement[str],
        id_column: ColumnElement[str],
        keys: list[tuple[str, str]],
    ) -> Iterator[tuple[Any, ...]]:
        chosen = query.where(model_column == bindparam("model"), id_column.in_(bindparam("ids", expanding=True)))
        for model in self.delays:
            ids = list({key[1] for key in keys if key[0] == model})
            for start in range(0, len(ids), _CHUNK):
                found = self.connection.execute(chosen, {"model": model, "ids": ids[start : start + _CHUNK]})
                yield from (tuple(row) for row in found)


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
