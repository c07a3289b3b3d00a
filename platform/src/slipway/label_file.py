"""Files of labels: CSV with a header, or one JSON object a line, with prediction_id, value, known_at and correction."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from slipway.errors import InvalidInput, Problem
from slipway.labels import Label
from slipway.validation import problems_of


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid")

    prediction_id: str
    value: Annotated[int, Field(ge=0, le=1)]
    known_at: AwareDatetime
    """RFC 3339, with a time zone."""
    correction: bool = False


@dataclass
class LabelFile:
    """What a file holds: labels with the names of their lines, and what is wrong with the other lines."""

    labels: list[Label] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    """`labels.csv:12`, for messages."""
    problems: list[Problem] = field(default_factory=list)


def read_labels(file: Path, model: str) -> LabelFile:
    """Read all lines. Raises InvalidInput when the file is not there or of another kind."""
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl}
    if file.suffix not in readers:
        raise InvalidInput(Problem("file", f"{file.name} is neither .csv nor .jsonl", "name it by what it holds"))
    found = LabelFile()
    try:
        for number, document in readers[file.suffix](file):
            name = f"{file.name}:{number}"
            if not isinstance(document, dict):
                found.problems.append(Problem(name, "is not a JSON object", "one object a line"))
                continue
            try:
                line = _Line.model_validate(document)
            except ValidationError as error:
                found.problems += [
                    Problem(f"{name}.{problem.where}", problem.message, problem.hint)
                    for problem in problems_of(error, _Line)
                ]
                continue
            found.names.append(name)
            found.labels.append(Label(model, line.prediction_id, line.value, line.known_at, line.correction))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(Problem("file", f"{file} cannot be read: {error}")) from error
    return found


def _read_csv(file: Path) -> Iterator[tuple[int, Any]]:
    with file.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream, restkey="more", strict=True)
        for row in reader:
            yield reader.line_num, {key: value for key, value in row.items() if value not in (None, "")}


def _read_jsonl(file: Path) -> Iterator[tuple[int, Any]]:
    with file.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, None
