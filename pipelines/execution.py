"""How a component of the graph runs its step: in the warm step server when there is one, otherwise right here.

Importing Feast, LightGBM and Ray takes longer than most steps. On one machine the runner keeps a process that has
them imported (`step_server`), and the component's process only asks it; in a cluster's container there is no such
server, and the step runs in the component's own process. Either way `execute` does the work, and the one who waits for
the run hears of it.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.steps import STEPS
from slipway.errors import InvalidInput, NotReady, Refused, SlipwayError
from slipway.pod import find_pod

SERVER = "SLIPWAY_STEP_SERVER"
"""Path of the step server's socket; unset: steps run in the process that asks."""
PROGRESS = "SLIPWAY_STEP_PROGRESS"
"""File that takes a JSON line when a step begins and one when it ends; unset: nothing is written."""
ATTEMPT = "SLIPWAY_RUN_ATTEMPT"
"""Where each step has a pod of its own, the name under which these lines are kept as objects instead."""

Answer = dict[str, Any]
"""`values` and `reused` (from the cache), or `error`; `seconds` either way."""


def perform(
    step: str, environment: str, run: Mapping[str, Any], inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> dict[str, Any]:
    """Run a step for a component and return its values. Raises SystemExit with the reason when it failed."""
    request = {"step": step, "environment": environment, "run": run, "inputs": inputs, "outputs": outputs}
    _note({"step": step, "state": "begun"})
    server = os.environ.get(SERVER)
    answer = _ask(server, request) if server else execute(request)
    _note({"step": step, "state": "ended", **answer})
    if "error" in answer:
        raise SystemExit(f"{step}: {answer['error']['message']}")
    values: dict[str, Any] = answer["values"]
    return values


def execute(request: Mapping[str, Any]) -> Answer:
    """Run the step that the request names; an error becomes part of the answer."""
    from pipelines.cache import run_or_reuse
    from pipelines.task import Task

    begun = time.monotonic()
    try:
        task = Task.from_json(request)
        module = importlib.import_module(f"pipelines.steps.{_known(task.step)}")
        values, reused = run_or_reuse(task, module.facts(task), module.perform)
        answer: Answer = {"values": values, "reused": reused}
    except Exception as error:
        answer = {"error": describe(error)}
    return {**answer, "seconds": round(time.monotonic() - begun, 3)}


def describe(error: Exception) -> dict[str, Any]:
    """`outcome`: refused (a rule said no), again (something was not there: worth another attempt), or failed."""
    from pipelines.task import BadSnapshot

    outcome = "failed"
    if isinstance(error, BadSnapshot | Refused):
        outcome = "refused"
    elif isinstance(error, NotReady):
        outcome = "again"
    problems = [str(problem) for problem in error.problems] if isinstance(error, InvalidInput) else []
    expected = isinstance(error, SlipwayError)
    return {
        "outcome": outcome,
        "message": str(error) if expected else f"{type(error).__name__}: {error}",
        "problems": problems,
        "traceback": "" if expected else "".join(traceback.format_exception(error)),
    }


def _known(step: str) -> str:
    if step not in STEPS:
        raise SlipwayError(f"{step} is no step", hint=f"one of: {', '.join(STEPS)}")
    return step


def _ask(server: str, request: Mapping[str, Any]) -> Answer:
    """Send the request as one JSON line and read the answer as one; the connection is the request's life."""
    begun = time.monotonic()
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(server)
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as stream:
                line = stream.readline()
    except OSError as error:
        line, reason = b"", str(error)
    else:
        reason = "it ended without an answer"
    if line:
        answer: Answer = json.loads(line)
        return answer
    lost = NotReady(f"the step server at {server} is gone: {reason}", hint="the runner starts it again")
    return {"error": describe(lost), "seconds": round(time.monotonic() - begun, 3)}


def _note(line: Mapping[str, Any]) -> None:
    file = os.environ.get(PROGRESS)
    if file:
        with Path(file).open("a") as stream:
            stream.write(json.dumps(line) + "\n")
    attempt = os.environ.get(ATTEMPT)
    if attempt and (pod := find_pod()):
        from pipelines.step_notes import folder_of, write_note

        write_note(folder_of(pod, attempt), line)
