"""Commands for monitors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Annotated, Any

import typer

from slipway.cli.operator import open_platform
from slipway.cli.output import Json, print_facts
from slipway.contract import load_contract
from slipway.environment import VARIABLE
from slipway.errors import InvalidInput, Problem, SlipwayError
from slipway.settings import REPOSITORY

LONGEST_LOOK = 300
"""Seconds; a look at all kinds takes about ten, most of them imports."""


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command()(monitor)


def monitor(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    window: Annotated[
        str, typer.Option(help="START/END in event time (2013-03-07/2013-03-14): show this span, store nothing.")
    ] = "",
    kind: Annotated[
        list[str] | None, typer.Option(help="Only this kind: performance, drift, quality, skew or freshness.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Examine the windows that are due now, or one span, and print what was found."""
    load_contract(model)
    environment = open_platform()
    command = [sys.executable, "-m", "monitoring", "--once", model]
    command += ["--window", window] if window else []
    command += [part for name in kind or [] for part in ("--kind", name)]
    # The monitors import Evidently and Feast, for seconds: a process of their own keeps every other command fast.
    try:
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env={**os.environ, VARIABLE: str(environment.file)},
            capture_output=True,
            text=True,
            timeout=LONGEST_LOOK,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SlipwayError(f"{model}: the monitors took longer than {LONGEST_LOOK} s") from error
    said = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("{"))
    if done.returncode == InvalidInput.exit_code:
        raise InvalidInput(Problem("monitor", said.strip()))
    if done.returncode:
        raise SlipwayError(f"{model}: the monitors failed: {said.strip()[-2000:]}", hint="slipway logs monitor")
    findings: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    shown = ("kind", "version", "window", "verdict", "metric", "reason", "stored")
    rows = findings if as_json else [{name: finding[name] for name in shown} for finding in findings]
    print_facts(f"{model}: what the monitors found", rows, as_json)
