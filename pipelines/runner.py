"""The pipeline runner: takes runs from the ledger one at a time and brings each to its end.

The graph runs in a process group of its own, its steps in the warm step server. Whatever dies, the run stays `running`
in the ledger, is taken up again at the next turn, finds the finished steps in the cache, and registers at most one
version, because registration is idempotent by the run's key. It never touches production: it ends with a version and
its gate record in the ledger, and the controller does the rest.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from pipelines.execution import PROGRESS, SERVER
from pipelines.groups import Line, StepServer, end_group, read_lines, start_group
from pipelines.task import Run
from slipway import logs
from slipway.contract import load_contract
from slipway.environment import VARIABLE, Environment
from slipway.errors import SlipwayError
from slipway.ledger import alarms, events, open_ledger, releases, runs, versions
from slipway.ledger.runs import MOST_ATTEMPTS
from slipway.ledger.schema import RunRow
from slipway.registry import Registry

_POLL = 0.25
_BEYOND_DEADLINE = 1800.0
"""Seconds that a run may take beside its training job."""
GRAPH = (sys.executable, "-m", "pipelines.graph")
"""Command that runs the graph; it is given the run's folder."""

_log = logs.get_logger(__name__)


class Runner:
    """One environment's runner. There must be no second one: a run that is found running counts as left behind."""

    def __init__(
        self,
        environment: Environment,
        *,
        stopping: Callable[[], bool],
        beat: Callable[[], None],
        graph: Sequence[str] = GRAPH,
        warm: bool = True,
        pause: float = 5.0,
    ) -> None:
        """`stopping` says when to give up the present run; `beat` is called at least every second.

        `warm` keeps a step server; without it each step imports what it needs. `pause` is the time in seconds before
        another attempt, times the number of the attempt.
        """
        self._environment = environment
        self._ledger = open_ledger(environment)
        self._stopping, self._beat = stopping, beat
        self._graph, self._pause = graph, pause
        self._server = StepServer(environment, wait=self._wait) if warm else None

    def turn(self) -> bool:
        """Work on the next run, if there is one; True when there was."""
        run, attempt = self._claim()
        if run is None:
            return False
        log = _log.bind(run=run.id, model=run.model, attempt=attempt)
        log.info("run_started", as_of=run.as_of.isoformat(), champion=run.champion)
        begun = time.monotonic()
        try:
            lines = self._run_graph(run)
        except SlipwayError as error:
            # The contract is wrong, or the run took too long: neither gets better by itself.
            lines = [{"step": "", "state": "ended", "error": {"outcome": "failed", "message": str(error)}}]
        if lines is None:
            log.info("run_interrupted")
            return True
        outcome = _outcome_of(lines, round(time.monotonic() - begun, 1))
        if outcome["outcome"] == "again" and attempt < MOST_ATTEMPTS:
            log.warning("run_waits_for_another_attempt", message=outcome["message"])
            self._wait(self._pause * attempt)
            return True
        self._finish(run, outcome)
        log.info("run_ended", outcome=outcome["outcome"], message=outcome["message"], seconds=outcome["seconds"])
        return True

    def close(self) -> None:
        """End the step server."""
        if self._server is not None:
            self._server.close()

    # --- the ledger -----------------------------------------------------------------------------------------------

    def _claim(self) -> tuple[Run | None, int]:
        with self._ledger.read() as session:
            # Most turns find nothing, and must not take the ledger's write lock to find it.
            open_runs = select(RunRow.id).where(RunRow.state.in_(("waiting", "running"))).limit(1)
            if session.scalar(open_runs) is None:
                return None, 0
        with self._ledger.transaction() as session:
            left = session.scalars(select(RunRow).where(RunRow.state == "running")).all()
            row = runs.claim(session)
            for ended in left:
                if ended.state == "failed":
                    _raise_alarm(session, ended.id, ended.model, "failed", str(ended.outcome["message"]), ended.as_of)
            if row is None:
                return None, 0
            release = releases.read(session, row.model)
            champion = release.champion if release else None
            events.record(
                session,
                model=row.model,
                kind="run_started",
                actor="pipeline",
                as_of=row.as_of,
                run=row.id,
                attempt=row.attempts,
                champion=champion,
            )
            return Run(row.id, row.key, row.model, row.as_of, champion, dict(row.options)), row.attempts

    def _finish(self, run: Run, outcome: Line) -> None:
        """Write version and end of the run in one transaction."""
        registered = outcome.pop("registered", None)
        state = outcome["outcome"] if outcome["outcome"] != "again" else "failed"
        with self._ledger.transaction() as session:
            version = None
            if registered:
                version = int(registered["version"])
                row = versions.add(
                    session,
                    run.model,
                    version,
                    digest=registered["digest"],
                    gate=registered["gate"],
                    passed=registered["verdict"] == "passed",
                    as_of=run.as_of,
                )
                if row.state == "refused":
                    state = "refused"
                    reasons = registered["gate"]["reasons"]
                    outcome["message"] = "; ".join(reasons) or "this content was rolled back before"
            outcome["outcome"] = state
            runs.finish(session, run.id, state, version=version, outcome=outcome)
            if state == "failed" or version is None:
                # A version that the gate refused is everyday business; data that cannot be right are not.
                _raise_alarm(session, run.id, run.model, state, outcome["message"], run.as_of)
        if not registered:
            self._log_end(run, outcome)

    def _log_end(self, run: Run, outcome: Line) -> None:
        """A run that made no version gets an MLflow run all the same, as far as MLflow can be reached."""
        tags = {"slipway.outcome": outcome["outcome"], "slipway.reasons": outcome["message"]}
        params = {"as_of": run.as_of.isoformat()}
        try:
            Registry(self._environment).log_run(
                run.model, run.key, params=params, metrics={}, tags=tags, finished=False
            )
        except SlipwayError as error:
            _log.warning("run_not_logged", run=run.id, reason=error.message)

    # --- processes ------------------------------------------------------------------------------------------------

    def _run_graph(self, run: Run) -> list[Line] | None:
        """Run the graph and return its progress; None when the runner is stopping. Raises SlipwayError."""
        limit = load_contract(run.model).training.deadline.total_seconds() + _BEYOND_DEADLINE
        folder = self._environment.state.pipelines / "runs" / str(run.id)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        (folder / "run.json").write_text(json.dumps(run.to_json()))
        progress = folder / "progress.jsonl"
        variables = {VARIABLE: str(self._environment.file.resolve()), PROGRESS: str(progress)}
        if self._server is not None:
            variables[SERVER] = str(self._server.ensure())
        process = start_group([*self._graph, str(folder)], variables, log=folder / "graph.log")
        try:
            if not self._follow(process, run, progress, time.monotonic() + limit):
                return None
        finally:
            end_group(process)
            for name in ("artifacts", "tmp"):
                shutil.rmtree(folder / name, ignore_errors=True)
        lines = read_lines(progress)
        if process.returncode != 0 and not any("error" in line for line in lines):
            tail = "\n".join((folder / "graph.log").read_text(errors="replace").strip().splitlines()[-15:])
            error = {"outcome": "again", "message": f"the graph ended with {process.returncode}: {tail}"}
            lines.append({"step": lines[-1]["step"] if lines else "", "state": "ended", "error": error})
        return lines

    def _follow(self, process: subprocess.Popen[bytes], run: Run, progress: Path, limit: float) -> bool:
        """Write each step to the ledger as it begins; False when the runner is stopping."""
        step = ""
        while True:
            ended = process.poll() is not None
            begun = [line["step"] for line in read_lines(progress) if line["state"] == "begun"]
            if begun and begun[-1] != step:
                step = begun[-1]
                with self._ledger.transaction() as session:
                    runs.set_step(session, run.id, step)
            if ended:
                return True
            if self._stopping():
                return False
            if time.monotonic() > limit:
                raise SlipwayError(f"the run did not end in time and was stopped at step {step}")
            self._wait(_POLL)

    def _wait(self, seconds: float) -> None:
        limit = time.monotonic() + seconds
        while not self._stopping() and (left := limit - time.monotonic()) > 0:
            self._beat()
            time.sleep(min(left, _POLL))


def _outcome_of(lines: list[Line], seconds: float) -> Line:
    """What the ledger keeps of a run: its end in words, and what each step took and found."""
    ended = [line for line in lines if line["state"] == "ended"]
    outcome: Line = {"outcome": "failed", "message": "the graph ended without a registered version", "seconds": seconds}
    outcome["steps"] = [
        {"step": line["step"], "seconds": line.get("seconds"), "reused": line.get("reused", False)} for line in ended
    ]
    for line in ended:
        error = line.get("error")
        if error:
            outcome |= {"outcome": error["outcome"], "message": error["message"]}
            outcome["problems"] = error.get("problems", [])
            if error.get("traceback"):
                outcome["traceback"] = error["traceback"][-4000:]
        elif line["step"] == "validate":
            outcome["warnings"] = line["values"]["warnings"]
        elif line["step"] == "snapshot":
            outcome["snapshot_id"] = line["values"]["snapshot_id"]
        elif line["step"] == "register":
            outcome |= {"outcome": "succeeded", "message": "", "registered": line["values"]}
    return outcome


def _raise_alarm(session: Session, run_id: int, model: str, end: str, message: str, as_of: datetime) -> None:
    alarms.raise_alarm(
        session,
        key=f"run-{run_id}-{end}",
        model=model,
        kind=f"run_{end}",
        message=f"run {run_id} {end}: {message}",
        as_of=as_of,
    )
