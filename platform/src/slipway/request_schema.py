"""What a prediction request must look like: made from the contract's `request` part, for V1 and V2 bodies alike.

The server and the command line read requests through it, so both report the same mistakes in the same words, all at
once. Values are checked a column at a time; only a column with a mistake is looked at value by value.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np

from slipway.contract import Contract, RequestField
from slipway.errors import InvalidInput, Problem
from slipway.labels import PREDICTION_ID

MAX_ROWS = 1000
"""Rows in one request."""
MAX_PROBLEMS = 50
"""Mistakes that are spelled out; the rest is counted."""
_MAX_TEXT = 256
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d{1,9})?)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_FIRST, _LAST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
_INT64 = 1 << 63

_TYPES: dict[str, set[type]] = {
    "string": {str}, "int": {int}, "float": {int, float}, "bool": {bool}, "timestamp": {str},
}  # fmt: skip
_EXPECTED = {
    "string": f"a text of 1 to {_MAX_TEXT} printable characters",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "timestamp": "a moment with its time zone, as in 2013-03-01T14:05:00Z",
}
_DATATYPES = {
    "string": ("BYTES",),
    "int": ("INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8"),
    "float": ("FP64", "FP32", "FP16", "INT64", "INT32", "INT16", "INT8", "UINT64", "UINT32", "UINT16", "UINT8"),
    "bool": ("BOOL",),
    "timestamp": ("BYTES",),
}
_Column = list[Any] | np.ndarray


@dataclass(frozen=True)
class PredictionRequest:
    """A request that follows the contract."""

    length: int
    """Rows, at least one."""
    columns: dict[str, _Column]
    """Every request field. Texts and booleans: lists; numbers: int64 or float64 (NaN where missing is allowed);
    timestamps: datetime64[us] in UTC."""
    ids: list[str] | None = None
    """One prediction id for each row, when the client brought them."""
    name: str | None = None
    """The client's own name for the request (V2 `id`)."""


class RequestSchema:
    """Reads request bodies of one model."""

    def __init__(self, contract: Contract) -> None:
        self.fields: dict[str, RequestField] = {field.name: field for field in contract.request}
        self._required = {field.name for field in contract.request if field.missing == "reject"}

    def read(self, document: object) -> PredictionRequest:
        """Read a V1 (`instances`) or V2 (`inputs`) body. Raises InvalidInput with every mistake by its dotted key."""
        if not isinstance(document, dict):
            raise InvalidInput(
                Problem("request", "is not a JSON object", 'V1: {"instances": [...]}; V2: {"inputs": [...]}')
            )
        if "instances" in document and "inputs" not in document:
            return self.read_v1(document)
        if "inputs" in document and "instances" not in document:
            return self.read_v2(document)
        hint = "give `instances` (V1) or `inputs` (V2), not both"
        raise InvalidInput(
            Problem("request", "holds no rows" if "inputs" not in document else "is V1 and V2 at once", hint)
        )

    def read_v1(self, document: object) -> PredictionRequest:
        """`{"instances": [{field: value, ...}, ...], "prediction_ids": [...]}`; the ids may be left out."""
        problems: list[Problem] = []
        body = _as_object(document, ("instances", "prediction_ids"), problems)
        rows = _as_rows(body.get("instances"), "instances", problems)
        known = self.fields.keys()
        for number, row in enumerate(rows):
            if not isinstance(row, dict):
                problems.append(Problem(f"instances.{number}", "is not an object", "one object per row, by field name"))
            elif not (self._required <= row.keys() <= known):
                problems += self._wrong_keys(f"instances.{number}.", row.keys())
        objects = [row if isinstance(row, dict) else {} for row in rows]
        columns: dict[str, _Column] = {}
        for name, field in self.fields.items():
            # A field that is not there has been reported above; null is reported by the column's own check.
            present = [number for number, row in enumerate(objects) if name in row]
            if field.missing == "allow":
                values = [row.get(name) for row in objects]
                present = list(range(len(objects)))
            else:
                values = [objects[number][name] for number in present]
            columns[name] = _read_column(field, values, partial(_row_key, present, name), problems)
        ids = _read_ids(body.get("prediction_ids"), "prediction_ids", len(rows), problems)
        _refuse(problems)
        return PredictionRequest(len(rows), columns, ids)

    def read_v2(self, document: object) -> PredictionRequest:
        """Open Inference Protocol, JSON tensors: one input of shape [n] or [n, 1] for each field.

        `parameters.prediction_ids` brings the ids: a list, or one text with commas, which is all that the protocol
        itself knows.
        """
        problems: list[Problem] = []
        body = _as_object(document, ("id", "parameters", "inputs", "outputs"), problems)
        inputs: dict[str, dict[str, Any]] = {}
        given = body.get("inputs")
        if not isinstance(given, list) or not given:
            problems.append(Problem("inputs", "is not a list of tensors", "one tensor for each request field"))
            given = []
        for number, tensor in enumerate(given):
            if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
                problems.append(
                    Problem(f"inputs.{number}", "is not a tensor with a name", "name, shape, datatype, data")
                )
            elif tensor["name"] in inputs:
                problems.append(Problem(f"inputs.{tensor['name'][:64]}", "is there twice", "leave one out"))
            else:
                inputs[tensor["name"]] = tensor
        problems += self._wrong_keys("inputs.", inputs.keys())
        lengths = {len(t["data"]) for t in inputs.values() if isinstance(t.get("data"), list)}
        length = max(lengths, default=0)
        if len(lengths) > 1:
            problems.append(
                Problem("inputs", f"tensors of {min(lengths)} and {length} values", "one value for each row")
            )
        _as_rows([None] * length, "inputs", problems)
        columns: dict[str, _Column] = {}
        for name, field in self.fields.items():
            tensor = inputs.get(name, {"data": [None] * length} if field.missing == "allow" else {"data": []})
            if name in inputs:
                _check_tensor(field, tensor, problems)
            values = tensor["data"] if isinstance(tensor.get("data"), list) and length <= MAX_ROWS else []
            columns[name] = _read_column(field, values, partial(_tensor_key, name), problems)
        parameters = body.get("parameters") or {}
        if not isinstance(parameters, dict):
            problems.append(Problem("parameters", "is not an object", 'as in {"prediction_ids": [...]}'))
            parameters = {}
        ids = parameters.get("prediction_ids")
        ids = ids.split(",") if isinstance(ids, str) else ids
        ids = _read_ids(ids, "parameters.prediction_ids", length, problems)
        name_given = body.get("id")
        if name_given is not None and not (isinstance(name_given, str) and len(name_given) <= _MAX_TEXT):
            problems.append(Problem("id", "is not a short text", f"at most {_MAX_TEXT} characters"))
        _refuse(problems)
        return PredictionRequest(length, columns, ids, name_given)

    def _wrong_keys(self, prefix: str, keys: Any) -> list[Problem]:
        known = list(self.fields)
        problems = [
            Problem(f"{prefix}{name}", "is missing", "add it") for name in known if name in self._required - keys
        ]
        for key in keys - self.fields.keys():
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"known fields: {', '.join(known)}"
            problems.append(Problem(f"{prefix}{str(key)[:64]}", "unknown field", hint))
        return problems


def _row_key(present: list[int], name: str, number: int) -> str:
    return f"instances.{present[number]}.{name}"


def _tensor_key(name: str, number: int) -> str:
    return f"inputs.{name}.data.{number}"


def _as_object(document: object, known: Sequence[str], problems: list[Problem]) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise InvalidInput(Problem("request", "is not a JSON object", f"an object with `{known[0]}`"))
    problems += [
        Problem(str(key)[:64], "unknown key", f"known keys: {', '.join(known)}") for key in document if key not in known
    ]
    return document


def _as_rows(value: object, where: str, problems: list[Problem]) -> list[Any]:
    if not isinstance(value, list):
        problems.append(Problem(where, "is missing" if value is None else "is not a list", "one entry for each row"))
        return []
    if not value:
        problems.append(Problem(where, "holds no row", "give at least one"))
    if len(value) > MAX_ROWS:
        problems.append(Problem(where, f"{len(value)} rows in one request", f"send at most {MAX_ROWS} at a time"))
        return []
    return value


def _check_tensor(field: RequestField, tensor: dict[str, Any], problems: list[Problem]) -> None:
    where, data = f"inputs.{field.name}", tensor.get("data")
    for key in tensor.keys() - {"name", "shape", "datatype", "data", "parameters"}:
        problems.append(Problem(f"{where}.{str(key)[:64]}", "unknown key", "known keys: name, shape, datatype, data"))
    if tensor.get("datatype") not in _DATATYPES[field.type]:
        allowed = ", ".join(_DATATYPES[field.type])
        problems.append(Problem(f"{where}.datatype", f"{str(tensor.get('datatype'))[:20]!r} does not fit", allowed))
    if not isinstance(data, list):
        hint = "JSON values; the binary tensor extension is not served"
        problems.append(Problem(f"{where}.data", "is not a list", hint))
    elif tensor.get("shape") not in ([len(data)], [len(data), 1]):
        problems.append(Problem(f"{where}.shape", "does not fit the data", f"[{len(data)}]"))


def _read_ids(value: object, where: str, length: int, problems: list[Problem]) -> list[str] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != length:
        problems.append(Problem(where, "is not one id for each row", f"a list of {length}"))
        return None
    wrong = [n for n, item in enumerate(value) if not (isinstance(item, str) and PREDICTION_ID.fullmatch(item))]
    hint = "8 to 128 letters, digits and . _ : -, unguessable"
    problems += [Problem(f"{where}.{n}", f"{_shown(value[n])} is not a prediction id", hint) for n in wrong]
    if not wrong and len(set(value)) < len(value):
        problems.append(Problem(where, "an id is there twice", "each row needs its own"))
    return value


def _read_column(
    field: RequestField, values: list[Any], key_of: Callable[[int], str], problems: list[Problem]
) -> _Column:
    """The column as PredictionRequest has it; its mistakes are added to `problems`."""
    kinds = set(map(type, values))
    if field.missing == "allow":
        kinds.discard(type(None))
    if kinds <= _TYPES[field.type]:
        column = _convert(field, values)
        if column is not None:
            return column
    for number, value in enumerate(values):
        mistake = _mistake(field, value)
        if mistake:
            problems.append(Problem(key_of(number), *mistake))
    return []


def _convert(field: RequestField, values: list[Any]) -> _Column | None:
    """The whole column at once; None when any value breaks a rule."""
    if field.type == "bool":
        return values
    if field.type == "string":
        fine = all(v is None or (0 < len(v) <= _MAX_TEXT and v.isprintable()) for v in values)
        return values if fine else None
    if field.type == "timestamp":
        moments = [None if value is None else _moment(value) for value in values]
        if any(moment is None and value is not None for moment, value in zip(moments, values, strict=True)):
            return None
        naive = [None if moment is None else moment.replace(tzinfo=None) for moment in moments]
        return np.array(naive, dtype="datetime64[us]")
    whole = field.type == "int" and None not in values
    try:
        numbers = np.array(values, dtype=np.int64 if whole else np.float64)
    except OverflowError:
        return None
    low, high = field.range or (-np.inf, np.inf)
    given = numbers if whole else numbers[[value is not None for value in values]]
    fine = bool(np.all((given >= low) & (given <= high) & np.isfinite(given)))
    return numbers if fine else None


def _mistake(field: RequestField, value: Any) -> tuple[str, str] | None:
    """What is wrong with one value, and what to give instead."""
    expected = _EXPECTED[field.type]
    if value is None:
        return None if field.missing == "allow" else ("is missing", f"give {expected}")
    wrong = (f"{_shown(value)} is not {expected}", f"give {expected}")
    if type(value) not in _TYPES[field.type]:
        return wrong
    if field.type == "string":
        return None if 0 < len(value) <= _MAX_TEXT and value.isprintable() else wrong
    if field.type == "timestamp":
        return None if _moment(value) else wrong
    if field.type in ("int", "float"):
        if value != value or abs(value) == float("inf") or (field.type == "int" and not -_INT64 <= value < _INT64):
            return wrong
        low, high = field.range or (-np.inf, np.inf)
        if not low <= value <= high:
            return f"{_shown(value)} is outside {low:g} to {high:g}", f"between {low:g} and {high:g}"
    return None


def _moment(text: str) -> datetime | None:
    """RFC 3339 with a time zone, between 1900 and 2200; as UTC."""
    if not _MOMENT.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if _FIRST <= moment < _LAST else None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _refuse(problems: list[Problem]) -> None:
    if len(problems) > MAX_PROBLEMS:
        rest = len(problems) - MAX_PROBLEMS
        problems = [*problems[:MAX_PROBLEMS], Problem("request", f"{rest} more mistakes", "mend these first")]
    if problems:
        raise InvalidInput(problems)
