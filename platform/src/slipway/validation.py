"""Turns pydantic's errors into problems that name the dotted key and say what to type."""

from __future__ import annotations

import difflib
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from slipway.errors import Problem

HINT = "\nhint: "
"""Between what is wrong and what to do, in the ValueError of a validator."""


_SPOKEN = {"tuple_type": "not a list", "path_type": "not a path in quotes"}
"""For what pydantic says in the words of Python."""


class BrokenRules(ValueError):
    """Rules between keys of one table, all of them: (key below the table, what is wrong, what to do)."""

    def __init__(self, rules: list[tuple[str, str, str]]) -> None:
        super().__init__("; ".join(f"{key}: {message}" for key, message, _ in rules))
        self.rules = rules


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """Every mistake in `error`, one Problem each, in the order of the document."""
    problems = []
    for detail in error.errors(include_url=False):
        where = ".".join(str(part) for part in detail["loc"]) or model.__name__.lower()
        kind, given = detail["type"], detail.get("input")
        broken = detail.get("ctx", {}).get("error")
        if isinstance(broken, BrokenRules):
            above = "".join(f"{part}." for part in detail["loc"])
            problems += [Problem(f"{above}{key}", message, hint) for key, message, hint in broken.rules]
            continue
        if kind == "extra_forbidden":
            known = _keys_at(model, detail["loc"][:-1])
            close = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"known keys: {', '.join(known)}"
            problems.append(Problem(where, "unknown key", hint))
        elif kind == "missing":
            meaning = _meaning_at(model, detail["loc"])
            problems.append(Problem(where, "is missing", f"add it: {meaning}" if meaning else "add it"))
        elif kind in ("model_type", "model_attributes_type"):
            known = _keys_at(model, detail["loc"])
            problems.append(Problem(where, f"{given!r} stands where keys belong", f"known keys: {', '.join(known)}"))
        else:
            spoken = _SPOKEN.get(kind, detail["msg"])
            message, _, hint = spoken.removeprefix("Value error, ").partition(HINT)
            shown = f"{given!r}: " if isinstance(given, str | int | float | bool) and repr(given) not in message else ""
            problems.append(
                Problem(where, f"{shown}{message[:1].lower()}{message[1:]}", hint or _meaning_at(model, detail["loc"]))
            )
    return problems


def _meaning_at(model: Any, path: tuple[int | str, ...]) -> str:
    """What the key at `path` is for, in the words of its docstring; empty where there are none."""
    field = None
    for part in _keys_of(path):
        field = getattr(model, "model_fields", {}).get(part)
        model = _table_of(field.annotation) if field else None
    return " ".join((field.description or "").split()) if field else ""


def _keys_at(model: Any, path: tuple[int | str, ...]) -> list[str]:
    """The keys that `model` knows at `path`; empty where the path leads through a union."""
    for part in _keys_of(path):
        field = getattr(model, "model_fields", {}).get(part)
        model = _table_of(field.annotation) if field else None
    return sorted(getattr(model, "model_fields", {}))


def _keys_of(path: tuple[int | str, ...]) -> list[str]:
    """Without the places in lists: all entries of a list follow one rule."""
    return [part for part in path if isinstance(part, str)]


def _table_of(annotation: Any) -> Any:
    """The model of a key that may be left out (`X | None`), or of a list's entries, is X."""
    return next((item for item in get_args(annotation) if item is not type(None)), annotation)
