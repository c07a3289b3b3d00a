"""Durations as people write them: `50ms`, `36h`, `14d`, `10m`.

Durations in a contract are of event time, except process time-outs (`deadline`, `latency_*`).
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")


def parse_duration(value: object) -> timedelta:
    """Read `36h` as a timedelta; a timedelta passes through.

    Raises ValueError for anything else, zero and negative durations included.
    """
    if isinstance(value, timedelta):
        return value
    match = _PATTERN.fullmatch(str(value).strip())
    if not match or float(match[1]) == 0:
        raise ValueError(f"{value!r} is not a duration (write a number and a unit: 50ms, 30s, 10m, 36h, 14d)")
    return float(match[1]) * _UNITS[match[2]]


def format_duration(value: timedelta) -> str:
    """Write a timedelta in the largest unit that needs no fraction."""
    for unit in ("d", "h", "m", "s"):
        count = value / _UNITS[unit]
        if count >= 1 and count == int(count):
            return f"{int(count)}{unit}"
    return f"{value / _UNITS['ms']:g}ms"


Duration = Annotated[timedelta, BeforeValidator(parse_duration), PlainSerializer(format_duration, when_used="json")]
