"""The one clock: as_of, the event time up to which the world is known.

A replay sets it (a file, replaced by rename); a live platform derives it from UTC here and nowhere else. No feature,
split or monitor reads the wall clock.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

from slipway.errors import SlipwayError


class Clock(Protocol):
    def as_of(self) -> datetime:
        """Event time, time zone UTC."""
        ...


class UtcClock:
    """Event time is now."""

    def as_of(self) -> datetime:
        return datetime.now(UTC)


class ReplayClock:
    """Event time is what the replay wrote last; it never goes back."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._seen: tuple[int, int] | None = None
        self._value = datetime.min.replace(tzinfo=UTC)

    def as_of(self) -> datetime:
        """Raises SlipwayError before the first `set`."""
        try:
            stat = self.file.stat()
        except FileNotFoundError:
            raise SlipwayError("the clock is not set", hint="slipway replay MODEL --from T sets event time") from None
        if self._seen != (stat.st_mtime_ns, stat.st_ino):
            self._value = datetime.fromisoformat(self.file.read_text().strip())
            self._seen = (stat.st_mtime_ns, stat.st_ino)
        return self._value

    def set(self, moment: datetime) -> None:
        """Move event time forward; going back raises ValueError."""
        if moment.tzinfo is None:
            raise ValueError("event time needs a time zone")
        if self.file.exists() and moment < self.as_of():
            raise ValueError(f"event time cannot go back from {self.as_of().isoformat()} to {moment.isoformat()}")
        draft = self.file.with_name(f"{self.file.name}.{os.getpid()}")
        draft.write_text(moment.astimezone(UTC).isoformat() + "\n")
        draft.replace(self.file)


def open_clock(source: Literal["replay", "utc"], file: Path) -> Clock:
    """The clock that the environment's `clock.source` names."""
    return UtcClock() if source == "utc" else ReplayClock(file)
