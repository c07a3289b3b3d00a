"""Values as people write them in a contract: names, shares, `2 of 3`, a schedule. Each says what it takes instead."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from slipway.durations import format_duration, parse_duration
from slipway.validation import HINT


def _as_name(value: object) -> object:
    if isinstance(value, str) and not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", value):
        raise ValueError(f"is no name{HINT}lower-case letters, digits and _, at most 63, a letter first")
    return value


Name = Annotated[str, BeforeValidator(_as_name)]
Share = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(min_length=1)]


def _as_fraction(value: object) -> tuple[int, int]:
    """Read `2 of 3`; a pair of numbers passes through."""
    spelled = f"{value[0]} of {value[1]}" if isinstance(value, tuple | list) and len(value) == 2 else str(value)
    match = re.fullmatch(r"(\d+) of (\d+)", spelled)
    if not match or not 0 < int(match[1]) <= int(match[2]):
        raise ValueError(f"{value!r} is not `N of M` with 0 < N <= M")
    return int(match[1]), int(match[2])


Fraction = Annotated[
    tuple[int, int], BeforeValidator(_as_fraction), PlainSerializer(lambda v: f"{v[0]} of {v[1]}", when_used="json")
]


def _as_schedule(value: object) -> object:
    return value if value == "none" else parse_duration(value)


Schedule = Annotated[
    Literal["none"] | timedelta,
    BeforeValidator(_as_schedule),
    PlainSerializer(lambda v: v if v == "none" else format_duration(v), when_used="json"),
]
