"""Questions to an API server, as the kubeconfig's user. Reads, and asks what it may do; changes nothing."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config
from urllib3.exceptions import HTTPError

from slipway.errors import InvalidInput, Problem, SlipwayError
from slipway.kubernetes_settings import KubernetesSettings

WITHIN = 10
"""Seconds for one answer."""


_REMEDIES = {
    401: "log in again: the kubeconfig's credentials are not taken",
    403: "a context of a cluster administrator",
}


class Unreachable(SlipwayError):
    """The API server does not answer, or not to us."""


class ExaminedCluster:
    """One cluster."""

    def __init__(self, client: client.ApiClient, context: str, file: str) -> None:
        self._client = client
        self.context = context
        self.file = file
        self.server = str(client.configuration.host)

    def __str__(self) -> str:
        return f"context {self.context} of {self.file} ({self.server})"

    def get(self, path: str) -> dict[str, Any]:
        """The JSON at `path`; empty where there is none. Raises Unreachable."""
        return self._call("GET", path, None)

    def may(self, verb: str, group: str, resource: str) -> bool:
        """Whether this user has the right in all namespaces, by SelfSubjectAccessReview. Raises Unreachable."""
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {"verb": verb, "group": group, "resource": resource}},
        }
        answer = self._call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
        return bool(answer.get("status", {}).get("allowed"))

    def read_identity(self) -> str:
        """What tells this cluster from every other, whatever its address. Raises Unreachable."""
        return str(self.get("/api/v1/namespaces/kube-system").get("metadata", {}).get("uid", ""))

    def _call(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = self._client.call_api(
                path,
                method,
                header_params={"Accept": "application/json", "Content-Type": "application/json"},
                body=body,
                auth_settings=["BearerToken"],
                response_type="object",
                _return_http_data_only=True,
                _request_timeout=WITHIN,
            )
        except client.ApiException as error:
            if error.status == 404:
                return {}
            hint = _REMEDIES.get(error.status, "slipway doctor")
            raise Unreachable(f"{self.server}{path}: {error.status} {error.reason}", hint=hint) from error
        except (HTTPError, OSError) as error:
            cause = getattr(error, "reason", None) or error
            reason = str(cause).rpartition(": ")[2] or type(cause).__name__
            hint = "is the cluster up, and reachable from here?"
            if "CERTIFICATE_VERIFY_FAILED" in str(cause):
                hint = "is this the cluster's address, and certificate-authority-data in the kubeconfig its authority?"
            raise Unreachable(f"{self.server} does not answer: {reason}", hint=hint) from error
        return answer or {}


def open_cluster(settings: KubernetesSettings, made: Path) -> ExaminedCluster:
    """The cluster that the settings mean; `made` is the kubeconfig of a cluster of ours.

    Connects to nothing. Raises InvalidInput: no such file, not a kubeconfig, no such context.
    """
    ours = settings.provider != "existing"
    file = str(made if ours else settings.kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config")
    paths = [Path(path).expanduser() for path in file.split(os.pathsep)]
    if not any(path.is_file() for path in paths):
        remedy = "make up: it makes the cluster" if ours else "set kubernetes.kubeconfig, or KUBECONFIG"
        raise InvalidInput(Problem("kubernetes.kubeconfig", f"{file} is not there", remedy))
    files = os.pathsep.join(map(str, paths))
    try:
        contexts, current = config.list_kube_config_contexts(files)
        known = {str(item["name"]) for item in contexts}
        name = settings.context or str(current["name"])
        if name not in known:
            remedy = f"one of: {', '.join(sorted(known))}"
            raise InvalidInput(Problem("kubernetes.context", f"{name} is not in {file}", remedy))
        with _overhear() as complaints:
            api = config.new_client_from_config(files, context=name)
    except (config.ConfigException, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "a kubeconfig that `kubectl config view` can read"
        raise InvalidInput(Problem("kubernetes.kubeconfig", f"{file}: {error}", remedy)) from error
    if complaints:
        problem = f"{file}: nobody is logged in by context {name}: {complaints[-1]}"
        raise InvalidInput(
            Problem("kubernetes.kubeconfig", problem, f"kubectl --context {name} get nodes should answer")
        )
    api.configuration.retries = False
    return ExaminedCluster(api, name, file)


@contextmanager
def _overhear() -> Iterator[list[str]]:
    """What the library writes into the log where it raises nothing: that a login's program is missing, or failed."""
    complaints: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            complaints.append(record.getMessage())

    listener = Listener(logging.ERROR)
    logging.getLogger().addHandler(listener)
    try:
        yield complaints
    finally:
        logging.getLogger().removeHandler(listener)
