"""A run as a run of Kubeflow Pipelines: the graph is submitted, watched, and read from what its steps say.

Each step is a pod of its own, with those Secrets alone that it needs. A runner that starts anew takes up what another
has submitted, by its name, which is that of the attempt; nothing is submitted under a name that is there already.
While the server is away the run goes on, and so does the wait for it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime

from pipelines.groups import Line
from pipelines.kubeflow_api import KubeflowApi, Submitted
from pipelines.kubeflow_spec import describe
from pipelines.processes import longest, lost, present_step
from pipelines.step_notes import folder_of, forget_notes, read_notes
from pipelines.task import Run
from slipway import logs
from slipway.environment import VARIABLE, Environment
from slipway.errors import NotReady, SlipwayError
from slipway.object_path import ObjectPath
from slipway.step_pods import read_step_pods

_POLL = 3.0
_SUBMIT_WITHIN = 300.0

_log = logs.get_logger(__name__)


class KubeflowEngine:
    """Runs in the Kubeflow Pipelines that the runner's pod is told of."""

    def __init__(
        self,
        environment: Environment,
        *,
        stopping: Callable[[], bool],
        wait: Callable[[float], None],
        poll: float = _POLL,
        submit_within: float = _SUBMIT_WITHIN,
    ) -> None:
        """`submit_within`: seconds for which a server that is away is asked to take a run. Raises NotReady."""
        self._environment = environment
        self._pods = read_step_pods(environment.pod)
        self._api = KubeflowApi(self._pods.server)
        self._stopping, self._wait, self._poll = stopping, wait, poll
        self._submit_within = submit_within

    def run(self, run: Run, attempt: int, heard: Callable[[Line], None]) -> list[Line] | None:
        limit = longest(run)
        try:
            taken = self._take(run, attempt, limit)
        except (NotReady, OSError) as error:
            return [lost([], f"the run could not be submitted: {_said(error)}", "")]
        return None if taken is None else self._follow(*taken, limit, heard)

    def close(self) -> None:
        """Runs go on without us."""

    def _take(self, run: Run, attempt: int, limit: float) -> tuple[Submitted, ObjectPath] | None:
        """What counts for this run, and where its steps write; None when the runner is stopping."""
        give_up, away = time.monotonic() + self._submit_within, False
        while True:
            try:
                return self._adopt(run, attempt) or self._submit(run, attempt, limit)
            except (NotReady, OSError) as error:
                # It may have been accepted all the same, so the next turn looks again before it submits.
                if time.monotonic() > give_up:
                    raise
                if not away:
                    _log.warning("run_not_submitted", run=run.id, reason=_said(error))
                away = True
            if self._stopping():
                return None
            self._wait(self._poll)

    def _adopt(self, run: Run, attempt: int) -> tuple[Submitted, ObjectPath] | None:
        """The last submission of this run: this attempt's, or an earlier one that works or has ended for good."""
        attempts = {name_of(run, number): number for number in range(1, attempt + 1)}
        first: dict[int, Submitted] = {}
        for each in self._api.find(list(attempts)):
            number = attempts.get(each.name)
            if number is None:
                continue
            if first.setdefault(number, each) is not each and each.end is None:
                # Accepted twice: an answer came so late that nobody waited for it.
                self._api.stop(each.id)
        if not first:
            return None
        number = max(first)
        left, folder = first[number], self._folder(run, number)
        if number < attempt and left.end is not None:
            lines = close_lines(read_notes(folder), left)
            if any(line["error"]["outcome"] == "again" for line in lines if "error" in line):
                return None
        _log.info("run_taken_up", run=run.id, submitted=left.id, name=left.name)
        return left, folder

    def _submit(self, run: Run, attempt: int, limit: float) -> tuple[Submitted, ObjectPath]:
        folder = self._folder(run, attempt)
        forget_notes(folder)
        spec = describe(run, _folder_name(run, attempt), limit, self._pods)
        arguments = {"environment": self._pods.variables[VARIABLE], "run": run.to_json()}
        submitted = self._api.submit(name_of(run, attempt), spec, arguments)
        _log.info("run_submitted", run=run.id, submitted=submitted.id, name=submitted.name)
        return submitted, folder

    def _follow(
        self, submitted: Submitted, folder: ObjectPath, limit: float, heard: Callable[[Line], None]
    ) -> list[Line] | None:
        lines: list[Line] = []
        told, away = 0, False
        while True:
            try:
                present = self._api.read(submitted.id)
                # After the state: of a run that has ended, these are all.
                lines = read_notes(folder)
            except (NotReady, OSError) as error:
                if not away:
                    _log.warning("run_not_read", submitted=submitted.id, reason=_said(error))
                away = True
            else:
                away = False
                for line in lines[told:]:
                    heard(line)
                told = max(told, len(lines))
                if present is None:
                    return [*lines, lost(lines, f"{submitted.name} was deleted from Kubeflow Pipelines", "")]
                if present.end is not None:
                    return close_lines(lines, present)
            if self._stopping():
                # It goes on by itself; the next runner takes it up.
                return None
            if (datetime.now(UTC) - submitted.since).total_seconds() > limit:
                # A server that is away has ended it by itself: it was submitted with this limit.
                with contextlib.suppress(NotReady):
                    self._api.stop(submitted.id)
                raise SlipwayError(
                    f"the run did not end in time and was stopped at step {present_step(lines) or 'start'}"
                )
            self._wait(self._poll)

    def _folder(self, run: Run, attempt: int) -> ObjectPath:
        pod = self._environment.pod
        if pod is None:
            raise NotReady("there is no pod")
        return folder_of(pod, _folder_name(run, attempt))


def name_of(run: Run, attempt: int) -> str:
    """What Kubeflow Pipelines shows, and what makes an attempt one and the same."""
    return f"{run.key}, attempt {attempt}"


def close_lines(lines: list[Line], ended: Submitted) -> list[Line]:
    """The lines of a run that has ended, with one more where no step says why it failed."""
    if any("error" in line for line in lines) or (lines and not ended.end):
        return lines
    how = f"{ended.end} without a word of its steps" if ended.end else "left no word of its steps"
    return [*lines, lost(lines, f"{ended.name} {how} (kubectl -n kubeflow get pods -l pipeline/runid={ended.id})", "")]


def _folder_name(run: Run, attempt: int) -> str:
    return f"{run.id}-{attempt}"


def _said(error: Exception) -> str:
    return error.message if isinstance(error, SlipwayError) else str(error)
