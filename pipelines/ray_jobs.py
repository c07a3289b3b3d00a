"""Jobs on Ray through its Jobs API: submitted, watched under two time limits, and stopped when nobody waits any more.

The token is found by Ray itself in the file that RAY_AUTH_TOKEN_PATH names; it is in no argument and no job.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from slipway.endpoints import ray_address, ray_token_file
from slipway.environment import Environment
from slipway.errors import NotReady, SlipwayError

_POLL = 0.25
_LOG_LINES = 15
_COLOUR = r"(?:\x1b\[[0-9;]*m)*"
_MARKS = re.compile(
    rf"^{_COLOUR}\([^()]*pid=[^()]*\){_COLOUR} ?"
    rf"|{_COLOUR} *\[repeated \d+x across cluster\].*$"
    r"|\x1b\[[0-9;]*m"
)
"""What Ray writes around the lines of workers."""
_ERROR = re.compile(r"(\w+\.)*\w*(Error|Exception)\b.*: \S")
_ANSWER_LIMIT = 20.0
"""Seconds after which a Jobs API that keeps failing counts as gone."""


def run_job(environment: Environment, command: Sequence[str], *, key: str, deadline: timedelta) -> None:
    """Run a command as a Ray job and wait for its end; jobs that a killed run left under the same key are stopped.

    Raises NotReady when Ray is away or does not start the job in `ray.start_timeout`, SlipwayError when the job fails
    (with the end of its log) or runs past `deadline` (it is stopped).
    """
    client = _connect(environment)
    _stop_leftovers(client, key)
    # Ray makes the name of a log file of it, and the keys of runs hold slashes.
    name = f"{re.sub('[^A-Za-z0-9_]+', '-', key)}-{uuid.uuid4().hex[:8]}"
    begun = time.monotonic()
    start_limit = environment.settings.ray.start_timeout.total_seconds()
    _submit(client, name, command, key, begun + start_limit)
    with _stopped_unless_ended(client, name) as ended:
        state = _wait(client, name, lambda state: state != "PENDING", begun + start_limit)
        if state == "PENDING":
            raise NotReady(
                f"ray: the job did not start in {start_limit:g} s",
                hint="is another job holding all CPUs? slipway status shows Ray's dashboard",
            )
        state = _wait(client, name, lambda state: state in _ENDS, begun + deadline.total_seconds())
        if state not in _ENDS:
            raise SlipwayError(
                f"ray: the job ran past training.deadline ({deadline.total_seconds():g} s) and was stopped",
                hint="raise training.deadline, or give the job more workers",
            )
        ended.append(name)
        if state != "SUCCEEDED":
            raise SlipwayError(f"ray: the job {state.lower()}: {_end_of_log(client, name)}")


_ENDS = ("SUCCEEDED", "FAILED", "STOPPED")


def tell_token(environment: Environment) -> None:
    """Say to Ray's client where the token is; it looks once, when it is imported."""
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(ray_token_file(environment))


def _connect(environment: Environment) -> Any:
    tell_token(environment)
    from ray.job_submission import JobSubmissionClient

    address = ray_address(environment)
    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        raise NotReady(f"ray: no answer at {address}: {error}", hint="slipway status") from error


def _submit(client: Any, name: str, command: Sequence[str], key: str, limit: float) -> None:
    """A head that has just started answers before its agent does, which takes the jobs: asked again until the limit."""
    while True:
        try:
            client.submit_job(
                entrypoint=shlex.join([sys.executable, *command]), submission_id=name, metadata={"slipway_key": key}
            )
            return
        except RuntimeError as error:
            if "No available agent" not in str(error):
                raise
            if time.monotonic() > limit:
                raise NotReady(f"ray: nobody takes jobs: {error}", hint="raise ray.start_timeout") from error
        time.sleep(_POLL)


def _wait(client: Any, name: str, done: Callable[[str], bool], limit: float) -> str:
    """The first state that is `done`, or the present one at the limit (monotonic seconds)."""
    answered = time.monotonic()
    state = "PENDING"
    while True:
        try:
            state = str(client.get_job_status(name).value)
            answered = time.monotonic()
        except (ConnectionError, RuntimeError, OSError) as error:
            if time.monotonic() - answered > _ANSWER_LIMIT:
                raise NotReady(
                    f"ray: stopped answering while job {name} ran: {error}", hint="slipway status"
                ) from error
        if done(state) or time.monotonic() > limit:
            return state
        time.sleep(_POLL)


@contextmanager
def _stopped_unless_ended(client: Any, name: str) -> Iterator[list[str]]:
    """Stop the job when the block is left, by an error or a signal, before the job has ended."""
    ended: list[str] = []
    try:
        yield ended
    finally:
        if not ended:
            _stop(client, name)


def _stop_leftovers(client: Any, key: str) -> None:
    for job in client.list_jobs():
        if (job.metadata or {}).get("slipway_key") == key and str(job.status.value) not in _ENDS:
            _stop(client, job.submission_id)


def _stop(client: Any, name: str) -> None:
    try:
        client.stop_job(name)
        _wait(client, name, lambda state: state in _ENDS, time.monotonic() + 15)
    except (ConnectionError, RuntimeError, OSError, NotReady):
        return  # Ray is gone, and its jobs with it


def _end_of_log(client: Any, name: str) -> str:
    """The last error that the job's log names, or its last lines; without Ray's colours and prefixes."""
    try:
        lines = [_MARKS.sub("", line) for line in str(client.get_job_logs(name)).strip().splitlines()]
    except (ConnectionError, RuntimeError, OSError) as error:
        return f"its log cannot be read: {error}"
    errors = [line for line in lines if _ERROR.match(line)]
    return errors[-1] if errors else "\n".join(lines[-_LOG_LINES:]) or "its log is empty"
