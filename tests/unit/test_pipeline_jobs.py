"""A run as a Job: what is made of the template, and what its log and its end say. No cluster is asked."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from pipelines import jobs
from pipelines.once import read_run
from pipelines.task import Run
from slipway.errors import InvalidInput

RUN = Run(7, "flight_delay/1", "flight_delay", datetime(2026, 3, 2, tzinfo=UTC), 3, {"corrupt": {"distance": 2}})
QUEUE = {jobs.QUEUE_LABEL: "models"}


def _template(labels: dict[str, str]) -> dict[str, Any]:
    container = {"name": "pipeline-run", "image": "x@sha256:1", "env": [{"name": "HOME", "value": "/tmp"}]}
    pod = {"metadata": {"labels": {"app.kubernetes.io/name": "pipeline-run"}}, "spec": {"containers": [container]}}
    job = {"metadata": {"labels": {"slipway.dev/team": "platform"}}, "spec": {"backoffLimit": 6, "template": pod}}
    return {"metadata": {"labels": labels}, "spec": {"jobTemplate": job}}


def test_a_job_is_told_its_run_and_nothing_of_the_template_is_lost() -> None:
    job = jobs.describe(RUN, 2, 5400.7, _template(QUEUE))
    assert job["metadata"]["name"] == "run-7-2"
    labels = job["metadata"]["labels"]
    assert (labels[jobs.RUN_LABEL], labels[jobs.QUEUE_LABEL], labels["slipway.dev/team"]) == ("7", "models", "platform")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    told = {each["name"]: each["value"] for each in container["env"]}
    assert told["HOME"] == "/tmp"
    assert read_run(told[jobs.RUN]) == RUN
    assert job["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"] == "pipeline-run"
    assert (job["spec"]["activeDeadlineSeconds"], job["spec"]["backoffLimit"]) == (5400, 0)


def test_only_a_job_with_a_queue_waits_for_it() -> None:
    assert jobs.describe(RUN, 1, 60, _template(QUEUE))["spec"]["suspend"] is True
    assert "suspend" not in jobs.describe(RUN, 1, 60, _template({}))["spec"]


def test_progress_is_found_among_whatever_else_was_printed() -> None:
    begun, ended = {"step": "snapshot", "state": "begun"}, {"step": "snapshot", "state": "ended", "seconds": 1.0}
    lines = ["a library's chatter", json.dumps({"event": "x"}), json.dumps({jobs.PROGRESS: begun}), "[1, 2]", "null"]
    text = "\n".join([*lines, json.dumps({jobs.PROGRESS: ended})])
    assert jobs.read_progress(text) == [begun], "the last line is still being written"
    assert jobs.read_progress(text + "\n") == [begun, ended]


@pytest.mark.parametrize(
    ("status", "end"),
    [
        ({}, None),
        ({"conditions": [{"type": "Suspended", "status": "True"}]}, None),
        ({"conditions": [{"type": "Complete", "status": "True"}]}, ""),
        ({"conditions": [{"type": "Failed", "status": "True", "message": "too long"}]}, "failed: too long"),
    ],
)
def test_a_job_ends_as_its_conditions_say(status: dict[str, Any], end: str | None) -> None:
    assert jobs.end_of({"status": status}) == end


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"id": 1, "key": "k", "model": "m", "as_of": "soon"}'])
def test_a_pod_that_is_told_no_run_says_so(text: str | None) -> None:
    with pytest.raises(InvalidInput, match="SLIPWAY_RUN"):
        read_run(text)
