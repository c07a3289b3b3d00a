"""A run as one Kubernetes Job: made from the template that the infrastructure left, watched, and read from its log.

The Job's pod runs the whole graph (`python -m pipelines --once`) and prints its progress. A runner that starts anew
takes up the Job that another has left; a Job that failed is never started again by Kubernetes, since attempts are the
ledger's. While Kueue holds a Job back for its quota, its time does not count.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pipelines.groups import Line
from pipelines.processes import longest, lost, present_step
from pipelines.task import Run
from slipway import logs
from slipway.environment import Environment
from slipway.errors import InvalidSettings, NotReady, Problem, Refused, SlipwayError
from slipway.targets.kubernetes.cluster_api import ClusterApi, Object
from slipway.targets.kubernetes.names import MODEL_LABEL

NAMESPACE, TEMPLATE = "slipway-training", "pipeline-run"
"""Where runs are, and the CronJob whose template each is made from; it never starts by itself."""
RUN = "SLIPWAY_RUN"
"""Variable of the pod: the run, as `pipelines.task.Run` writes it."""
RUN_LABEL, QUEUE_LABEL = "slipway.dev/run", "kueue.x-k8s.io/queue-name"
PROGRESS = "slipway_progress"
"""Key of the log lines that are progress."""
_API, _JOBS, _CRON_JOBS = "batch/v1", "jobs", "cronjobs"
_POLL = 2.0
_KEPT = 86_400
"""Seconds for which an ended Job stays, with its log."""
_LOG_LINES = 20_000

_log = logs.get_logger(__name__)


class JobEngine:
    """Runs in the cluster that the settings name."""

    def __init__(
        self,
        environment: Environment,
        *,
        stopping: Callable[[], bool],
        wait: Callable[[float], None],
        poll: float = _POLL,
    ) -> None:
        settings = environment.settings.kubernetes
        if settings is None:
            raise InvalidSettings(Problem("target", "Jobs need the table [kubernetes]", 'provider = "existing"'))
        self._api = ClusterApi(settings)
        self._stopping, self._wait, self._poll = stopping, wait, poll

    def run(self, run: Run, attempt: int, heard: Callable[[Line], None]) -> list[Line] | None:
        limit = longest(run)
        name = self._adopt(run) or self._create(run, attempt, limit)
        told = 0
        while True:
            job = self._api.read(_API, NAMESPACE, _JOBS, name)
            if job is None:
                return [lost([], f"Job {NAMESPACE}/{name} was deleted", "")]
            log = self._read_log(name)
            lines = read_progress(log)
            for line in lines[told:]:
                heard(line)
            told = max(told, len(lines))
            end = end_of(job)
            if end is not None:
                if not any("error" in line for line in lines) and (end or not lines):
                    lines.append(lost(lines, f"Job {NAMESPACE}/{name} {end or 'left no log'}", log))
                return lines
            if self._stopping():
                # It goes on by itself; the next runner takes it up.
                return None
            if _seconds(job) > limit:
                self._api.delete(_API, NAMESPACE, _JOBS, name)
                step = present_step(lines)
                raise SlipwayError(f"the run did not end in time and was stopped at step {step or 'start'}")
            self._wait(self._poll)

    def close(self) -> None:
        """Jobs go on without us."""

    def _adopt(self, run: Run) -> str | None:
        """A Job of this run that another runner left, and that works or waits."""
        left = self._api.find(_API, NAMESPACE, _JOBS, {RUN_LABEL: str(run.id)})
        names = [job["metadata"]["name"] for job in left if end_of(job) is None and not _is_going(job)]
        if names:
            _log.info("job_taken_up", run=run.id, job=names[-1])
        return names[-1] if names else None

    def _create(self, run: Run, attempt: int, limit: float) -> str:
        template = self._api.read(_API, NAMESPACE, _CRON_JOBS, TEMPLATE)
        if template is None:
            raise NotReady(f"there is no CronJob {NAMESPACE}/{TEMPLATE} to make runs from", hint="slipway up")
        job = describe(run, attempt, limit, template)
        self._api.create(job, _JOBS)
        name = str(job["metadata"]["name"])
        _log.info("job_created", run=run.id, job=name)
        return name

    def _read_log(self, name: str) -> str:
        """What the Job's pod has printed; empty while it has none, or while its node does not answer."""
        pods = self._api.find("v1", NAMESPACE, "pods", {"batch.kubernetes.io/job-name": name})
        started = [pod for pod in pods if (pod.get("status") or {}).get("phase") not in (None, "Pending")]
        if not started:
            return ""
        try:
            return self._api.read_log(NAMESPACE, started[-1]["metadata"]["name"], lines=_LOG_LINES)
        except (NotReady, Refused) as error:
            # The Job's own end is what counts; its log may come later.
            _log.warning("job_log_not_read", job=name, reason=error.message)
            return ""


def describe(run: Run, attempt: int, limit: float, template: Object) -> Object:
    """The Job of one attempt. Its name is the same for the same attempt, so that it is made once."""
    given = template["spec"]["jobTemplate"]
    queue = template["metadata"].get("labels", {}).get(QUEUE_LABEL)
    labels = {**(given.get("metadata") or {}).get("labels", {}), RUN_LABEL: str(run.id), MODEL_LABEL: run.model}
    pod = given["spec"]["template"]
    told = {"name": RUN, "value": json.dumps(run.to_json(), sort_keys=True)}
    (container,) = pod["spec"]["containers"]
    return {
        "apiVersion": _API,
        "kind": "Job",
        "metadata": {
            "name": f"run-{run.id}-{attempt}",
            "namespace": NAMESPACE,
            "labels": labels | ({QUEUE_LABEL: queue} if queue else {}),
        },
        "spec": {
            # Kueue lets it go when there is room.
            **({"suspend": True} if queue else {}),
            "backoffLimit": 0,
            "activeDeadlineSeconds": int(limit),
            "ttlSecondsAfterFinished": _KEPT,
            "template": {
                "metadata": {
                    **pod.get("metadata", {}),
                    "labels": {**pod.get("metadata", {}).get("labels", {}), RUN_LABEL: str(run.id)},
                },
                "spec": {
                    **pod["spec"],
                    "restartPolicy": "Never",
                    "containers": [{**container, "env": [*container.get("env", []), told]}],
                },
            },
        },
    }


def read_progress(log: str) -> list[Line]:
    """The progress lines of a log; whatever else was printed is left out, and so is a line that is being written."""
    lines: list[Line] = []
    for text in log[: log.rfind("\n") + 1].splitlines():
        try:
            document: Any = json.loads(text)
        except ValueError:
            continue
        if isinstance(document, dict) and isinstance(document.get(PROGRESS), dict):
            lines.append(document[PROGRESS])
    return lines


def end_of(job: Object) -> str | None:
    """How it ended, in words; empty when well, None while it works or waits."""
    conditions = {each["type"]: each for each in (job.get("status") or {}).get("conditions") or []}
    for kind, well in (("Complete", True), ("Failed", False)):
        found = conditions.get(kind, {})
        if found.get("status") == "True":
            return "" if well else f"failed: {found.get('message') or found.get('reason') or 'no reason given'}"
    return None


def _is_going(job: Object) -> bool:
    return bool(job["metadata"].get("deletionTimestamp"))


def _seconds(job: Object) -> float:
    """How long it has worked."""
    started = (job.get("status") or {}).get("startTime")
    return (datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds() if started else 0.0
