"""`POST /api/labels`: takes `{"labels": [{"model", "prediction_id", "value", "known_at", "correction"?}, ...]}`.

Labels that are in order count even when others in the same call are not; every mistake is answered with the text that
the command line would print. The gateway has checked the token; what a label may say, the label store checks.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from slipway.contract import list_models
from slipway.environment import Environment
from slipway.errors import InvalidInput, Problem
from slipway.labels import MAX_BATCH, Label, LabelOutcome, LabelStore
from slipway.validation import problems_of

BODY_LIMIT = 8 << 20
"""Bytes."""
SHOWN = 100
"""Problems told in one answer; their number is always told."""


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    model: Annotated[str, Field(max_length=63)]
    prediction_id: Annotated[str, Field(max_length=128)]
    value: Annotated[int, Field(ge=0, le=1)]
    known_at: Annotated[AwareDatetime, Field(strict=False)]
    """RFC 3339, with a time zone."""
    correction: bool = False


def take_labels(environment: Environment, store: LabelStore, body: bytes) -> LabelOutcome:
    """Read the body and hand its labels to the store. Raises InvalidInput when it is no such document at all."""
    labels, problems = _read(body)
    known = set(list_models())
    unknown = {label.model for _, label in labels} - known
    for position, label in labels:
        if label.model in unknown:
            hint = f"one of: {', '.join(sorted(known))}"
            problems.append(Problem(f"labels.{position}.model", f"{label.model!r} does not exist", hint))
    good = [(position, label) for position, label in labels if label.model not in unknown]
    if not good:
        return LabelOutcome(0, problems)
    names = [f"labels.{position}" for position, _ in good]
    outcome = store.add([label for _, label in good], as_of=environment.clock.as_of(), source="api", names=names)
    return LabelOutcome(
        outcome.accepted, [*problems, *outcome.problems], outcome.repeated, outcome.pending, outcome.late
    )


def as_answer(outcome: LabelOutcome) -> tuple[int, dict[str, Any]]:
    """HTTP status and JSON: 200 when at least one label counts or none was given, 422 when all are wrong."""
    document = {
        "accepted": outcome.accepted,
        "repeated": outcome.repeated,
        "pending": outcome.pending,
        "late": outcome.late,
        "refused": len(outcome.problems),
        "problems": [problem_document(problem) for problem in outcome.problems[:SHOWN]],
    }
    return (422 if outcome.problems and not outcome.accepted else 200), document


def problem_document(problem: Problem) -> dict[str, str]:
    """A problem as JSON; `text` is what the command line prints."""
    return {"where": problem.where, "message": problem.message, "hint": problem.hint, "text": str(problem)}


def _read(body: bytes) -> tuple[list[tuple[int, Label]], list[Problem]]:
    """The labels that are well-formed with their positions, and what is wrong with the others."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(Problem("body", f"not JSON: {error}", 'send {"labels": [...]}')) from error
    if not isinstance(document, dict) or not isinstance(document.get("labels"), list) or len(document) != 1:
        raise InvalidInput(Problem("body", "is not an object with the one key `labels`", 'send {"labels": [...]}'))
    given = document["labels"]
    if len(given) > MAX_BATCH:
        raise InvalidInput(Problem("labels", f"{len(given)} in one call", f"send at most {MAX_BATCH} at a time"))
    labels: list[tuple[int, Label]] = []
    problems: list[Problem] = []
    for position, entry in enumerate(given):
        try:
            label = _Given.model_validate(entry)
        except ValidationError as error:
            problems += [
                Problem(f"labels.{position}.{found.where}", found.message, found.hint)
                for found in problems_of(error, _Given)
            ]
            continue
        moment: datetime = label.known_at.astimezone(UTC)
        labels.append(
            (position, Label(label.model, label.prediction_id, label.value, moment, correction=label.correction))
        )
    return labels, problems
