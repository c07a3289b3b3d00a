"""What the platform asks of the API server: apply, create, read, replace, list and delete objects of one namespace.

Every call has a time-out. A server that cannot be reached or refuses is NotReady, in its own words; nothing is retried
here, since whoever calls does so again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slipway.errors import Conflict, InvalidSettings, NotReady, Problem, Refused
from slipway.kubernetes_settings import KubernetesSettings

Object = dict[str, Any]

CALL_WITHIN = 20
FIELD_MANAGER = "slipway"
IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class ClusterApi:
    """A connection, opened at the first call: from a pod's account, or as the settings name the cluster."""

    def __init__(self, settings: KubernetesSettings, *, within: float = CALL_WITHIN) -> None:
        """`within` is the time-out of one call in seconds."""
        self._settings = settings
        self._within = within
        self._client: Any = None

    def apply(self, wanted: Object, plural: str) -> Object:
        """Server-side, and the only manager of the fields it sets. Raises Refused when the object is not accepted."""
        query = [("fieldManager", FIELD_MANAGER), ("force", "true"), ("fieldValidation", "Strict")]
        metadata = wanted["metadata"]
        path = self._path(wanted["apiVersion"], metadata["namespace"], plural, metadata["name"])
        return self._call("PATCH", path, query, wanted) or {}

    def create(self, wanted: Object, plural: str) -> Object | None:
        """None when there is one of that name already."""
        return self._write("POST", wanted, plural)

    def replace(self, wanted: Object, plural: str) -> Object | None:
        """Only what `metadata.resourceVersion` says it was read as; None when somebody has changed or removed it."""
        return self._write("PUT", wanted, plural)

    def _write(self, method: str, wanted: Object, plural: str) -> Object | None:
        metadata = wanted["metadata"]
        name = metadata["name"] if method == "PUT" else ""
        try:
            return self._call(
                method, self._path(wanted["apiVersion"], metadata["namespace"], plural, name), body=wanted
            )
        except Conflict:
            return None

    def read_log(self, namespace: str, pod: str, *, lines: int) -> str:
        """The last lines of what a pod of one container has printed; empty when it is gone."""
        path = f"{self._path('v1', namespace, 'pods', pod)}/log"
        found = self._send("GET", path, [("tailLines", str(lines))], None)
        return found.decode(errors="replace") if found else ""

    def read(self, api_version: str, namespace: str, plural: str, name: str) -> Object | None:
        """The object; None when it is not there."""
        return self._call("GET", self._path(api_version, namespace, plural, name))

    def find(self, api_version: str, namespace: str, plural: str, labels: Mapping[str, str]) -> list[Object]:
        """The objects that carry all these labels."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        found = self._call("GET", self._path(api_version, namespace, plural), [("labelSelector", selector)])
        if found is None:
            raise NotReady(f"the cluster knows no {plural} of {api_version}", hint="slipway up")
        return list(found["items"])

    def delete(self, api_version: str, namespace: str, plural: str, name: str) -> None:
        """Ask for its end and that of all it owns; returns before that."""
        self._call("DELETE", self._path(api_version, namespace, plural, name), [("propagationPolicy", "Foreground")])

    @staticmethod
    def _path(api_version: str, namespace: str, plural: str, name: str = "") -> str:
        root = "apis" if "/" in api_version else "api"
        path = f"/{root}/{api_version}/namespaces/{namespace}/{plural}"
        return f"{path}/{name}" if name else path

    def _call(
        self, method: str, path: str, query: list[tuple[str, str]] | None = None, body: Object | None = None
    ) -> Object | None:
        data = self._send(method, path, query or [], body)
        found: Object | None = json.loads(data) if data is not None else None
        return found

    def _send(self, method: str, path: str, query: list[tuple[str, str]], body: Object | None) -> bytes | None:
        """What the API server answers; None when there is no such thing."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        headers = {"Accept": "application/json"}
        if method == "PATCH":
            headers["Content-Type"] = "application/apply-patch+yaml"
        try:
            answer = self._connect().call_api(
                path, method, query_params=query, header_params=headers, body=body,
                auth_settings=["BearerToken"], _preload_content=False, _request_timeout=self._within,
            )  # fmt: skip
            data: bytes = answer[0].data
        except ApiException as error:
            if error.status == 404 and method not in ("PATCH", "POST"):
                return None
            raise _refusal(error, f"{method} {path}") from error
        except HTTPError as error:
            raise NotReady(f"the cluster does not answer: {error}", hint="slipway doctor") from error
        return data

    def _connect(self) -> Any:
        if self._client is None:
            from kubernetes import config

            file = self._settings.kubeconfig
            try:
                if file is None and IN_CLUSTER.exists():
                    self._client = _in_cluster()
                else:
                    self._client = config.new_client_from_config(
                        str(file) if file else None, context=self._settings.context or None
                    )
            except config.ConfigException as error:
                raise InvalidSettings(
                    Problem("kubernetes.kubeconfig", str(error), "name a kubeconfig and context that exist")
                ) from error
        return self._client


def _in_cluster() -> Any:
    from kubernetes import client, config

    configuration = client.Configuration()
    config.load_incluster_config(client_configuration=configuration)
    return client.ApiClient(configuration)


def _refusal(error: Any, call: str) -> NotReady | Refused | Conflict:
    try:
        message = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        message = str(error.reason)
    if error.status == 409:
        return Conflict(f"the cluster did not do {call}: {message}")
    if error.status in (400, 403, 422):
        return Refused(f"the cluster refused {call}: {message}")
    return NotReady(f"the cluster could not do {call}: {message}", hint="slipway doctor")
