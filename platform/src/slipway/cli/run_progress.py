"""Follows a pipeline run on the screen: moving steps on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import typer

from slipway.contract import load_contract
from slipway.environment import Environment
from slipway.errors import NotReady
from slipway.heartbeat import read_beat
from slipway.ledger import Ledger, runs
from slipway.ledger.schema import RunRow

if TYPE_CHECKING:
    from rich.progress import Progress

_POLL = 0.3
_RUNNER_SILENT = 60.0
"""Seconds without a sign of life from the runner after which waiting makes no sense."""
_LONGEST = 3600.0
"""Seconds that are waited beside the contract's deadline for each attempt."""


class Screen(Protocol):
    def show(self, step: str, state: str) -> None:
        """Called at every change: the step that runs now, and the run's state."""
        ...


def follow_run(environment: Environment, ledger: Ledger, number: int, *, quiet: bool = False) -> RunRow:
    """Wait until the run has ended and return it. Raises NotReady when no runner works, or past the time limit."""
    with ledger.read() as session:
        model = runs.read(session, number).model
    limit = time.monotonic() + load_contract(model).training.deadline.total_seconds() + _LONGEST
    seen: tuple[str, str, int] | None = None
    with _screen(number, quiet) as screen:
        while True:
            with ledger.read() as session:
                run = runs.read(session, number)
                session.expunge(run)
            now = (run.state, run.step, run.attempts)
            if now != seen:
                seen = now
                screen.show(run.step, run.state)
            if run.state in runs.ENDS:
                return run
            _check_runner(environment, run)
            if time.monotonic() > limit:
                raise NotReady(f"run {number}: still at {run.step or 'its start'}", hint="slipway logs runner")
            time.sleep(_POLL)


def _check_runner(environment: Environment, run: RunRow) -> None:
    beat = read_beat(environment, "runner")
    if beat is None or beat.age > _RUNNER_SILENT:
        raise NotReady(f"run {run.id} is {run.state}, but no runner works", hint="slipway up")


class _Lines:
    def __init__(self, number: int) -> None:
        self._number = number
        self._begun = time.monotonic()

    def show(self, step: str, state: str) -> None:
        seconds = time.monotonic() - self._begun
        typer.echo(f"run {self._number}  {seconds:6.1f} s  {state}{f': {step}' if step else ''}")


class _Nothing:
    def show(self, step: str, state: str) -> None:
        """Facts are printed at the end, as JSON."""


@contextmanager
def _screen(number: int, quiet: bool) -> Iterator[Screen]:
    from rich.console import Console

    console = Console()
    if quiet:
        yield _Nothing()
    elif not console.is_terminal:
        yield _Lines(number)
    else:
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console) as bars:
            yield _Steps(bars, number)


class _Steps:
    """One line a step, the last one spinning."""

    def __init__(self, bars: Progress, number: int) -> None:
        self._bars = bars
        self._now = bars.add_task(f"run {number}: waiting", total=1)
        self._number = number

    def show(self, step: str, state: str) -> None:
        if state in runs.ENDS:
            mark = "[green]" if state == "succeeded" else "[red]"
            self._bars.update(self._now, completed=1)
            self._bars.add_task(f"{mark}run {self._number}: {state}", total=1, completed=1)
        elif step:
            self._bars.update(self._now, completed=1)
            self._now = self._bars.add_task(f"run {self._number}: {step}", total=1)
