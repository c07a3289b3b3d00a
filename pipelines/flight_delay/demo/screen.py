"""What a person sees while the story runs: a live panel on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

QUIET = 30.0
"""Seconds after which a line is printed even when nothing happened, where no panel can be drawn."""


@dataclass
class Screen:
    """Shows acts, the day, the champion and the time; `say` adds a line that stays."""

    titles: Sequence[str]
    start: datetime
    end: datetime
    console: Console = field(default_factory=lambda: Console(highlight=False))
    begun: float = field(default_factory=time.monotonic)
    _act: int = -1
    _states: dict[int, bool] = field(default_factory=dict)
    _day: datetime | None = None
    _champion: str = "none"
    _memory: float = 0.0
    _live: Live | None = None
    _spoken: float = 0.0

    @contextmanager
    def shown(self) -> Iterator[Screen]:
        """Draw the panel while the block runs."""
        if not self.console.is_terminal:
            yield self
            return
        with Live(get_renderable=self._draw, console=self.console, refresh_per_second=2) as live:
            self._live = live
            try:
                yield self
            finally:
                self._live = None

    def begin(self, act: int) -> None:
        """Open an act, counted from 0."""
        self._act = act
        self.say(f"act {act + 1} of {len(self.titles)}: {self.titles[act]}", style="bold")

    def finish(self, act: int, happened: bool) -> None:
        self._states[act] = happened
        words = "happened" if happened else "DID NOT HAPPEN"
        self.say(f"act {act + 1} {words}", style="green" if happened else "bold red")

    def say(self, words: str, *, style: str = "") -> None:
        """One line, with the time since the start."""
        self._spoken = time.monotonic()
        self.console.print(Text(f"{self._elapsed()}  {words}", style=style), soft_wrap=True)

    def show(self, day: datetime | None, champion: int | None, memory: float) -> None:
        """The world as it is now: event time, who is champion, GiB taken."""
        self._day, self._memory = day, memory
        self._champion = f"version {champion}" if champion else "none"
        if self._live is None and time.monotonic() - self._spoken > QUIET:
            self.say(self._status())

    def _elapsed(self) -> str:
        seconds = int(time.monotonic() - self.begun)
        return f"{seconds // 60:2d}:{seconds % 60:02d}"

    def _status(self) -> str:
        day = f"{self._day:%d %b %Y}" if self._day else "before the first day"
        return f"{day}, champion {self._champion}, {self._memory:.1f} GiB"

    def _draw(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for i, title in enumerate(self.titles):
            state = self._states.get(i)
            sign = Text("▸" if i == self._act else " ") if state is None else Text("✓" if state else "✕")
            sign.stylize("green" if state else "red" if state is False else "cyan")
            table.add_row(sign, Text(title, style="bold" if i == self._act else "dim"))
        share = (self._day - self.start) / (self.end - self.start) if self._day else 0.0
        bar = ProgressBar(total=1.0, completed=min(max(share, 0.0), 1.0), width=60)
        return Group(Text(""), table, bar, Text(f"{self._elapsed()}  {self._status()}"))
