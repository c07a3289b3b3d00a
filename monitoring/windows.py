"""Which spans of event time are examined: aligned to the epoch, so that no restart and no first row moves them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from slipway.errors import InvalidInput, Problem

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HINT = "write START/END: 2013-03-07/2013-03-14, or 2013-03-07T12:00:00Z/2013-03-08T00:00:00Z"


@dataclass(frozen=True, order=True)
class Window:
    """Event time from `start` up to but without `end`, UTC."""

    start: datetime
    end: datetime

    def __str__(self) -> str:
        return f"{_written(self.start)}/{_written(self.end)}"


def window_of(moment: datetime, length: timedelta) -> Window:
    """The aligned window of this length that holds `moment`."""
    start = EPOCH + (moment - EPOCH) // length * length
    return Window(start, start + length)


def ended_windows(length: timedelta, since: datetime, as_of: datetime) -> list[Window]:
    """The aligned windows, oldest first, that end after `since` and not after `as_of`."""
    found = []
    window = window_of(since, length)
    while window.end <= as_of:
        found.append(window)
        window = Window(window.end, window.end + length)
    return found


def parse_window(text: str) -> Window:
    """Read `START/END`, days or moments in RFC 3339; without a zone they are UTC. Raises InvalidInput."""
    parts = text.split("/")
    if len(parts) != 2:
        raise InvalidInput(Problem("window", f"{text!r} is not two moments", _HINT))
    try:
        start, end = (datetime.fromisoformat(part) for part in parts)
    except ValueError as error:
        raise InvalidInput(Problem("window", f"{text!r}: {error}", _HINT)) from error
    start, end = (moment if moment.tzinfo else moment.replace(tzinfo=UTC) for moment in (start, end))
    if start >= end:
        raise InvalidInput(Problem("window", f"{text!r} ends before it begins", _HINT))
    return Window(start.astimezone(UTC), end.astimezone(UTC))


def _written(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
