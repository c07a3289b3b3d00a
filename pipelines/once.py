"""One run of the graph in a pod of its own: `python -m pipelines --once`, told by the variable that its Job sets.

It prints each progress line to standard output, for the runner that watches the Job, and writes nothing to the ledger.
"""

from __future__ import annotations

import json
import os
import sys
import threading

from pipelines.groups import Line
from pipelines.jobs import PROGRESS, RUN
from pipelines.processes import ProcessEngine
from pipelines.task import Run
from slipway.environment import Environment
from slipway.errors import InvalidInput, Problem


def read_run(text: str | None) -> Run:
    """Raises InvalidInput."""
    hint = 'a run as JSON: {"id", "key", "model", "as_of", "champion", "options"}'
    if not text:
        raise InvalidInput(Problem(RUN, "is not set", hint))
    try:
        return Run.from_json(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(Problem(RUN, f"is no run: {type(error).__name__}: {error}", hint)) from error


def run_once(environment: Environment, stop: threading.Event) -> int:
    """Exit code: 0 when every step succeeded, 1 when one failed or refused, 143 when told to stop."""
    run = read_run(os.environ.get(RUN))

    def wait(seconds: float) -> None:
        stop.wait(seconds)

    engine = ProcessEngine(environment, stopping=stop.is_set, wait=wait)
    told = 0

    def tell(line: Line) -> None:
        nonlocal told
        told += 1
        sys.stdout.write(json.dumps({PROGRESS: line}) + "\n")
        sys.stdout.flush()

    try:
        lines = engine.run(run, 1, tell)
    finally:
        engine.close()
    if lines is None:
        return 143
    for line in lines[told:]:
        tell(line)
    return 1 if any("error" in line for line in lines) else 0
