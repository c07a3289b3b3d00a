"""What the runner asks of Kubeflow Pipelines: find, submit, read and stop a run, over its REST API (v2beta1).

Through the client that `kfp.Client` is made of, and not through that itself: it asks without a time-out, and a server
that hangs would take the runner with it. Nothing is asked again here, since whoever calls knows whether that is safe.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from slipway.errors import NotReady, Refused

CALL_WITHIN = (5.0, 30.0)
"""Seconds to connect, and to answer."""
_MOST = 100
_ENDS = {"SUCCEEDED": "", "SKIPPED": "", "FAILED": "failed", "CANCELED": "was stopped"}


@dataclass(frozen=True)
class Submitted:
    """A run as Kubeflow Pipelines has it; `since` is when it was submitted, by the server's clock (UTC)."""

    id: str
    name: str
    since: datetime
    end: str | None
    """How it ended; empty when well, None while it works or waits. The server does not say why."""


class KubeflowApi:
    """A server; connections are opened at the first call. It asks for no login: network policies stand before it."""

    def __init__(self, url: str, *, within: tuple[float, float] = CALL_WITHIN) -> None:
        self._url, self._within = url, within
        self._client: Any = None

    def find(self, names: Sequence[str]) -> list[Submitted]:
        """The runs with one of these names, in the order in which they were submitted."""
        predicate = {"key": "display_name", "operation": "IN", "string_values": {"values": list(names)}}
        with self._asked("list runs"):
            found = self._runs().run_service_list_runs(
                filter=json.dumps({"predicates": [predicate]}),
                sort_by="created_at asc",
                page_size=_MOST,
                _request_timeout=self._within,
            )
        return [_submitted(run) for run in found.runs or []]

    def submit(self, name: str, spec: Mapping[str, Any], arguments: Mapping[str, Any]) -> Submitted:
        """Raises Refused for what the server does not accept; after NotReady it may have accepted all the same."""
        from kfp_server_api import V2beta1Run, V2beta1RuntimeConfig

        run = V2beta1Run(
            display_name=name, pipeline_spec=dict(spec), runtime_config=V2beta1RuntimeConfig(parameters=dict(arguments))
        )
        with self._asked("submit a run"):
            return _submitted(self._runs().run_service_create_run(run, _request_timeout=self._within))

    def read(self, run_id: str) -> Submitted | None:
        """None when it was deleted."""
        from kfp_server_api import ApiException

        with self._asked("read a run"):
            try:
                return _submitted(self._runs().run_service_get_run(run_id, _request_timeout=self._within))
            except ApiException as error:
                if error.status == 404:
                    return None
                raise

    def stop(self, run_id: str) -> None:
        """Ask for its end; returns before that. A run that ended meanwhile is left as it is."""
        from kfp_server_api import ApiException

        with self._asked("stop a run"):
            try:
                self._runs().run_service_terminate_run(run_id, _request_timeout=self._within)
            except ApiException as error:
                if error.status not in (400, 404):
                    raise

    def _runs(self) -> Any:
        from kfp_server_api import ApiClient, Configuration, RunServiceApi

        if self._client is None:
            configuration = Configuration(host=self._url)
            configuration.retries = False
            self._client = ApiClient(configuration)
        return RunServiceApi(self._client)

    @contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        from kfp_server_api import ApiException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ApiException as error:
            message = f"Kubeflow Pipelines could not {what}: {_message_of(error)}"
            if 400 <= error.status < 500 and error.status not in (408, 429):
                raise Refused(message) from error
            raise NotReady(message, hint="slipway status") from error
        except HTTPError as error:
            raise NotReady(
                f"Kubeflow Pipelines does not answer at {self._url}: {error}", hint="slipway status"
            ) from error


def _submitted(run: Any) -> Submitted:
    return Submitted(id=run.run_id, name=run.display_name, since=run.created_at, end=_ENDS.get(str(run.state)))


def _message_of(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"
