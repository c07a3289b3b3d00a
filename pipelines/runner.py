"""The pipeline runner: takes runs from the ledger one at a time and brings each to its end.

The graph runs as processes of this machine, in a cluster as one Job, or as a run of Kubeflow Pipelines. Whatever dies,
the run stays `running` in the ledger, is taken up again at the next turn, finds the finished steps in the cache where
there is one, and registers at most one version, because registration is idempotent by the run's key. It never touches
production: it ends with a version and its gate record in the ledger, and the controller does the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from pipelines.groups import Line
from pipelines.jobs import JobEngine
from pipelines.kubeflow import KubeflowEngine
from pipelines.processes import GRAPH, POLL, Engine, ProcessEngine
from pipelines.task import Run
from slipway import logs
from slipway.environment import Environment
from slipway.errors import SlipwayError
from slipway.ledger import alarms, events, open_ledger, releases, runs, versions
from slipway.ledger.runs import MOST_ATTEMPTS
from slipway.ledger.schema import RunRow
from slipway.registry import Registry

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

        `graph` and `warm` are those of `ProcessEngine`. `pause` is the time in seconds before another attempt, times
        the number of the attempt.
        """
        self._environment = environment
        self._ledger = open_ledger(environment)
        self._stopping, self._beat = stopping, beat
        self._pause = pause
        self._engine = self._open_engine(graph, warm=warm)

    def turn(self) -> bool:
        """Work on the next run, if there is one; True when there was."""
        run, attempt = self._claim()
        if run is None:
            return False
        log = _log.bind(run=run.id, model=run.model, attempt=attempt)
        log.info("run_started", as_of=run.as_of.isoformat(), champion=run.champion)
        begun = time.monotonic()
        try:
            lines = self._run_graph(run, attempt)
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
        """End what the engine keeps between runs."""
        self._engine.close()

    def _open_engine(self, graph: Sequence[str], *, warm: bool) -> Engine:
        environment, stopping = self._environment, self._stopping
        if environment.settings.target == "local":
            return ProcessEngine(environment, stopping=stopping, wait=self._wait, graph=graph, warm=warm)
        cluster = environment.settings.kubernetes
        if cluster and cluster.parts.pipelines.engine == "kfp":
            return KubeflowEngine(environment, stopping=stopping, wait=self._wait)
        return JobEngine(environment, stopping=stopping, wait=self._wait)

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

    # --- the graph ------------------------------------------------------------------------------------------------

    def _run_graph(self, run: Run, attempt: int) -> list[Line] | None:
        """The run's progress, each step written to the ledger as it begins; None when the runner is stopping."""

        def heard(line: Line) -> None:
            if line["state"] == "begun":
                with self._ledger.transaction() as session:
                    runs.set_step(session, run.id, line["step"])

        return self._engine.run(run, attempt, heard)

    def _wait(self, seconds: float) -> None:
        limit = time.monotonic() + seconds
        while not self._stopping() and (left := limit - time.monotonic()) > 0:
            self._beat()
            time.sleep(min(left, POLL))


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
