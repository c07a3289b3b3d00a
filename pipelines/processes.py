"""A run as processes of this machine: the graph in a process group of its own, its steps in the warm step server."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from pipelines.execution import PROGRESS, SERVER
from pipelines.groups import Line, StepServer, end_group, read_lines, start_group
from pipelines.task import Run
from slipway.contract import load_contract
from slipway.environment import VARIABLE, Environment
from slipway.errors import SlipwayError

POLL = 0.25
GRAPH = (sys.executable, "-m", "pipelines.graph")
"""Command that runs the graph; it is given the run's folder."""
BEYOND_DEADLINE = 1800.0
"""Seconds that a run may take beside its training job."""
TAIL = 15
"""Lines of a graph's log that say why it ended."""


class Engine(Protocol):
    """What brings a run's graph to its end."""

    def run(self, run: Run, attempt: int, heard: Callable[[Line], None]) -> list[Line] | None:
        """All progress lines, each told to `heard` when it comes; None when the runner is stopping.

        Raises SlipwayError for what gets no better by itself: a wrong contract, or a run that took too long.
        """
        ...

    def close(self) -> None: ...


class ProcessEngine:
    """On this machine, or in the one pod of a run's Job."""

    def __init__(
        self,
        environment: Environment,
        *,
        stopping: Callable[[], bool],
        wait: Callable[[float], None],
        graph: Sequence[str] = GRAPH,
        warm: bool = True,
    ) -> None:
        """`wait` sleeps, at most until `stopping`. `warm` keeps a step server; without it each step imports anew."""
        self._environment = environment
        self._stopping, self._wait, self._graph = stopping, wait, graph
        self._server = StepServer(environment, wait=wait) if warm else None

    def run(self, run: Run, attempt: int, heard: Callable[[Line], None]) -> list[Line] | None:
        limit = longest(run)
        kept = self._environment.state.pipelines / "runs"
        # A step that has outlived a killed runner writes into the folder of its own attempt, or nowhere.
        for left in kept.glob(f"{run.id}-*"):
            shutil.rmtree(left, ignore_errors=True)
        folder = kept / f"{run.id}-{attempt}"
        folder.mkdir(parents=True, mode=0o700)
        (folder / "run.json").write_text(json.dumps(run.to_json()))
        progress = folder / "progress.jsonl"
        variables = {VARIABLE: str(self._environment.file.resolve()), PROGRESS: str(progress)}
        if self._server is not None:
            variables[SERVER] = str(self._server.ensure())
        process = start_group([*self._graph, str(folder)], variables, log=folder / "graph.log")
        try:
            if not self._follow(process, progress, time.monotonic() + limit, heard):
                return None
        finally:
            end_group(process)
            for name in ("artifacts", "tmp"):
                shutil.rmtree(folder / name, ignore_errors=True)
        lines = read_lines(progress)
        if process.returncode != 0 and not any("error" in line for line in lines):
            log = (folder / "graph.log").read_text(errors="replace")
            lines.append(lost(lines, f"the graph ended with {process.returncode}", log))
        return lines

    def close(self) -> None:
        """End the step server."""
        if self._server is not None:
            self._server.close()

    def _follow(
        self, process: subprocess.Popen[bytes], progress: Path, limit: float, heard: Callable[[Line], None]
    ) -> bool:
        """False when the runner is stopping."""
        told = 0
        while True:
            ended = process.poll() is not None
            lines = read_lines(progress)
            for line in lines[told:]:
                heard(line)
            told = len(lines)
            if ended:
                return True
            if self._stopping():
                return False
            if time.monotonic() > limit:
                raise SlipwayError(f"the run did not end in time and was stopped at step {present_step(lines)}")
            self._wait(POLL)


def longest(run: Run) -> float:
    """Seconds that a run may take. Raises InvalidContract."""
    return load_contract(run.model).training.deadline.total_seconds() + BEYOND_DEADLINE


def present_step(lines: Sequence[Line]) -> str:
    """The step that began last; empty before the first."""
    begun = [str(line["step"]) for line in lines if line["state"] == "begun"]
    return begun[-1] if begun else ""


def lost(lines: Sequence[Line], how: str, log: str) -> Line:
    """A progress line for a graph that ended without a word: worth another attempt."""
    tail = "\n".join(log.strip().splitlines()[-TAIL:])
    error = {"outcome": "again", "message": f"{how}: {tail}" if tail else how}
    return {"step": lines[-1]["step"] if lines else "", "state": "ended", "error": error}
